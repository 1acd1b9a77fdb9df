//! Updates of the open round in a file, for combiners that must see all of them at once.
//!
//! Memory holds a block of coordinates of each update, whatever the model's size. The file has no name: it
//! is gone when the round is committed or given up, and when the process dies; a round that was open is
//! then collected again. Updates are taken in the order of their workers' names and blocks in theirs, so
//! that arrival and threads cannot change a bit.

use algorithms::{
    Vector, Vectors,
    combine::{Choice, CombineError, Combiner, Distances, Needs},
    fold::{Fold, UploadFacts},
};
use rayon::prelude::*;
use std::{collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc};

/// Scalars of all updates together that a thread has in memory.
const BLOCK: usize = 1 << 20;
/// Coordinates of a block, at least and at most.
const COORDINATES: Range<usize> = 1_024..16_384;

/// The updates of a round.
#[derive(Debug)]
pub struct Spool {
    file: File,
    /// Names and lengths of the vectors of an upload.
    shapes: Vec<(&'static str, usize)>,
    /// Updates in the file.
    written: u64,
    /// By worker and draw: where its update lies, and its scalars.
    updates: BTreeMap<(String, usize), (u64, UploadFacts)>,
}

/// Why updates cannot be combined.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file failed.
    #[error("the round's updates on disk: {0}")]
    File(#[from] io::Error),
    /// The combiner refuses them.
    #[error("the round's updates cannot be combined: {0}")]
    Combine(#[from] CombineError),
}

/// What a fold sees of the updates: where its vector begins in each, what multiplies it, and how much it
/// counts.
struct View {
    updates: Vec<(u64, f64)>,
    weights: Vec<f64>,
    length: usize,
    step: usize,
}

impl Spool {
    /// An empty one, in a folder that is made if it is missing.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn create(folder: &Path, shapes: Vec<(&'static str, usize)>) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { file: tempfile::tempfile_in(folder)?, shapes, written: 0, updates: BTreeMap::new() })
    }

    /// Adds a vetted update, which counts as often as its worker was drawn: its vectors in the order of their
    /// names, in any number of parts.
    ///
    /// # Errors
    /// If it cannot be written; then it is not there.
    pub fn add(
        &mut self,
        worker: &str,
        (facts, draws): (UploadFacts, usize),
        parts: &[&[f32]],
    ) -> io::Result<()> {
        let start = self.written * self.bytes();
        let mut at = start;
        for part in parts {
            let bytes: &[u8] = bytemuck::cast_slice(part);
            self.file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
        }
        self.written += 1;
        for draw in 0..draws {
            self.updates.insert((worker.to_owned(), draw), (start, facts));
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.shapes.iter().map(|(_, length)| *length as u64 * 4).sum()
    }

    /// What the folds' means are by this combiner. `centre`: the last aggregate of a fold's name, zero
    /// before the first.
    ///
    /// # Errors
    /// If the file fails, or there are too few updates.
    pub fn combine(
        &self,
        combiner: &Combiner,
        folds: &[Fold],
        centre: impl Fn(&str) -> Option<Vector>,
    ) -> Result<Vectors, SpoolError> {
        let mut means = Vectors::new();
        for fold in folds {
            let view = self.view(fold);
            let centre = centre(fold.into).filter(|centre| centre.len() == view.length);
            let centre = centre.as_ref().map(|centre| centre.as_slice());
            let distances = match combiner.needs() {
                Needs::Distances => self.distances(&view, centre)?,
                Needs::All | Needs::Each => Distances::new(view.updates.len()),
            };
            let choice = combiner.choose(&view.weights, &distances)?;
            means.insert(fold.into.to_owned(), Arc::new(self.apply(&view, &choice, centre)?));
        }
        Ok(means)
    }

    fn view(&self, fold: &Fold) -> View {
        let at = self.shapes.iter().position(|(name, _)| *name == fold.from);
        let at = at.expect("a fold reads what its rule uploads");
        let start: u64 = self.shapes[..at].iter().map(|(_, length)| *length as u64 * 4).sum();
        let update = |(slot, facts): &(u64, UploadFacts)| (slot + start, fold.factor(facts));
        let updates: Vec<(u64, f64)> = self.updates.values().map(update).collect();
        View {
            weights: self.updates.values().map(|(_, facts)| fold.weight(facts) as f64).collect(),
            length: self.shapes[at].1,
            step: (BLOCK / updates.len().max(1)).clamp(COORDINATES.start, COORDINATES.end),
            updates,
        }
    }

    /// The same coordinates of each update.
    fn block(&self, view: &View, range: &Range<usize>) -> io::Result<Vec<Vec<f32>>> {
        let read = |(start, factor): &(u64, f64)| {
            let mut values = vec![0.0_f32; range.len()];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
            self.file.read_exact_at(bytes, start + range.start as u64 * 4)?;
            if *factor != 1.0 {
                for value in &mut values {
                    *value = (f64::from(*value) * factor) as f32;
                }
            }
            Ok(values)
        };
        view.updates.iter().map(read).collect()
    }

    fn distances(&self, view: &View, centre: Option<&[f32]>) -> Result<Distances, SpoolError> {
        let mut sum = Distances::new(view.updates.len());
        let starts: Vec<usize> = (0..view.length).step_by(view.step).collect();
        // As many at a time as there are threads, added up in order.
        for some in starts.chunks(rayon::current_num_threads().max(1)) {
            let of = |start: &usize| {
                let range = *start..(start + view.step).min(view.length);
                let block = self.block(view, &range)?;
                let rows: Vec<&[f32]> = block.iter().map(Vec::as_slice).collect();
                let mut part = Distances::new(rows.len());
                part.add(&rows, centre.map(|centre| &centre[range]));
                Ok::<_, SpoolError>(part)
            };
            let parts: Vec<Distances> = some.par_iter().map(of).collect::<Result<_, _>>()?;
            for part in &parts {
                sum.merge(part);
            }
        }
        Ok(sum)
    }

    fn apply(&self, view: &View, choice: &Choice, centre: Option<&[f32]>) -> Result<Vec<f32>, SpoolError> {
        let mut out = vec![0.0; view.length];
        out.par_chunks_mut(view.step).enumerate().try_for_each(|(number, out)| {
            let range = number * view.step..number * view.step + out.len();
            let block = self.block(view, &range)?;
            let rows: Vec<&[f32]> = block.iter().map(Vec::as_slice).collect();
            choice.apply(&rows, centre.map(|centre| &centre[range]), out);
            Ok::<_, SpoolError>(())
        })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use algorithms::{
        fold::{Scale, Weighting},
        seed,
    };

    const D: usize = 40_000;
    const FOLDS: [Fold; 2] = [
        Fold { into: "delta", from: "delta", weighting: Weighting::Examples, scale: Scale::One },
        Fold { into: "direction", from: "delta", weighting: Weighting::Uniform, scale: Scale::InverseSteps },
    ];

    fn update(worker: u64) -> (String, UploadFacts, Vec<f32>) {
        let value = |at: u64| seed::unit(seed::mix(worker << 32 | at)) as f32 - 0.5 + worker as f32 * 0.01;
        let facts = UploadFacts { examples: worker + 1, steps: 2, lr: 0.1 };
        (format!("w{worker}"), facts, (0..D as u64).map(value).collect())
    }

    fn spooled(order: &[u64]) -> Spool {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&folder.path().join("new"), vec![("delta", D)]).unwrap();
        for worker in order {
            let (name, facts, values) = update(*worker);
            let (head, tail) = values.split_at(D / 3);
            spool.add(&name, (facts, 1), &[head, tail]).unwrap();
        }
        spool
    }

    fn all() -> [Combiner; 8] {
        [
            Combiner::WeightedMean {},
            Combiner::Median {},
            Combiner::TrimmedMean { trim: 0.2 },
            Combiner::Krum { byzantine: 1 },
            Combiner::MultiKrum { byzantine: 1, keep: None },
            Combiner::Bulyan { byzantine: 1 },
            Combiner::GeometricMedian { iterations: 4, smoothing: 1e-6 },
            Combiner::CentredClipping { radius: 1.0, iterations: 2 },
        ]
    }

    #[test]
    fn blocks_on_disk_are_the_vectors_in_memory() {
        let order: Vec<u64> = (0..7).collect();
        let updates: Vec<Vec<f32>> = order.iter().map(|worker| update(*worker).2).collect();
        let rows: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
        let weights: Vec<f64> = (1..8).map(f64::from).collect();
        let centre = Arc::new(vec![0.02_f32; D]);
        for combiner in all() {
            let spool = spooled(&order);
            let means = spool.combine(&combiner, &FOLDS[..1], |_| Some(Arc::clone(&centre))).unwrap();
            let whole = combiner.combine(&rows, &weights, Some(&centre)).unwrap();
            let near = means["delta"].iter().zip(&whole).all(|(a, b)| (a - b).abs() <= 1e-6);
            assert!(near, "{combiner:?}");
        }
    }

    #[test]
    fn order_and_threads_change_nothing() {
        for combiner in all() {
            let of = |order: &[u64], threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let spool = spooled(order);
                pool.install(|| spool.combine(&combiner, &FOLDS, |_| None).unwrap())
            };
            let one = of(&[0, 1, 2, 3, 4, 5, 6], 1);
            assert_eq!(one, of(&[6, 2, 0, 5, 1, 4, 3], 3), "{combiner:?}");
            assert_ne!(one["delta"], one["direction"]);
        }
    }

    #[test]
    fn too_few_are_named() {
        let error = spooled(&[0, 1]).combine(&Combiner::Krum { byzantine: 1 }, &FOLDS, |_| None);
        assert!(error.unwrap_err().to_string().contains("`krum` needs at least 5 updates"));
    }
}
