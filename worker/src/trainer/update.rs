//! From a finished local run to what leaves the worker and what it keeps. The one place that daemons
//! and simulation share: whatever is done to an update before it is sent is done here.

use super::{Seal, TrainError};
use algorithms::{Algorithm, Finished, LocalRun, MODEL, Vectors, personal::Own};
use std::sync::Arc;

/// Elements that stay in the cache from one look at them to the next.
const BLOCK: usize = 32 * 1024;

/// Upload and next client state of a local run of that round. `seen` gets the upload, vector after vector,
/// block after block, while it is in the cache. `seal`: what a run that promises privacy asks for. Where an
/// answer must not tell that a local run failed, one that did counts as zero and leaves the state.
///
/// # Errors
/// That of the local run, or if a vector is not finite.
pub fn finish(
    algorithm: &dyn Algorithm,
    trained: Result<LocalRun, TrainError>,
    (down, state): (&Vectors, &Vectors),
    ((round, seal), own): ((u64, Seal<'_>), Option<(&Own, &Vectors)>),
    seen: &mut dyn FnMut(&[f32]),
) -> Result<Finished, TrainError> {
    let finished = trained.and_then(|run| {
        let lr = run.lr;
        let finished = algorithm.finish(run, down, state);
        all_finite(&finished.next, (round, lr)).map(|()| (finished, lr))
    });
    let (mut finished, lr) = match finished {
        Err(TrainError::Training(_)) if seal.hides_failure() => (nothing(algorithm, down, state), 0.0),
        finished => finished?,
    };
    if let Some((own, _)) = own {
        own.blank(&mut finished.upload);
    }
    seal.close(&mut finished.upload)?;
    for (name, vector) in &finished.upload {
        for block in vector.chunks(BLOCK) {
            if !is_finite(block) {
                return Err(not_finite(name, (round, lr)));
            }
            seen(block);
        }
    }
    Ok(finished)
}

fn nothing(algorithm: &dyn Algorithm, down: &Vectors, state: &Vectors) -> Finished {
    let zero = |(name, length): (&str, usize)| (name.to_owned(), Arc::new(vec![0.0; length]));
    let upload = algorithm.upload(down[MODEL].len()).into_iter().map(zero).collect();
    Finished { upload, next: state.clone() }
}

fn all_finite(vectors: &Vectors, run: (u64, f32)) -> Result<(), TrainError> {
    let bad = vectors.iter().find(|(_, vector)| !vector.chunks(BLOCK).all(is_finite));
    bad.map_or(Ok(()), |(name, _)| Err(not_finite(name, run)))
}

fn not_finite(name: &str, (round, lr): (u64, f32)) -> TrainError {
    TrainError::Training(format!("vector `{name}` of round {round} is not finite (learning rate {lr})"))
}

/// Without an early end within a block, which would cost more than it saves.
fn is_finite(block: &[f32]) -> bool {
    block.iter().fold(true, |finite, value| finite & value.is_finite())
}
