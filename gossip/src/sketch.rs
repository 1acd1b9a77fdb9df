//! How far nodes are apart, without anybody seeing a model: every node sends a short linear sketch of its
//! own, and distances between sketches are distances between models.
//!
//! CountSketch (Charikar, Chen and Farach-Colton 2002): each coordinate goes with a drawn sign into a drawn
//! bucket. Squared lengths are right in expectation; of k buckets the relative standard deviation is at most
//! `√(2/k)`: 4.4 % here, less for the mean over nodes.

use crate::{kernel::Scalar, predict::Pilot, seed::Stream};

/// Buckets of a sketch, k.
pub const BUCKETS: usize = 1024;

/// The sketch of d parameters; nodes of one run use one seed.
pub fn sketch<T: Scalar>(seed: u64, x: &[T]) -> Vec<f32> {
    let mut buckets = vec![0.0_f64; BUCKETS];
    let mut stream = Stream::new(seed, "sketch", &[]);
    // Five coordinates a word: ten bits for the bucket and one for the sign of each.
    for part in x.chunks(5) {
        let mut word = stream.word();
        for x in part {
            let (bucket, sign) = ((word & 0x3ff) as usize, word & 0x400);
            buckets[bucket] += if sign == 0 { x.wide() } else { -x.wide() };
            word >>= 11;
        }
    }
    buckets.into_iter().map(|value| value as f32).collect()
}

/// `(1/n) Σ‖s_i − s̄‖²`, which estimates the consensus distance of the models; 0 without nodes.
pub fn spread(sketches: &[Vec<f32>]) -> f64 {
    let n = sketches.len().max(1) as f64;
    let centred = centred(sketches);
    centred.iter().map(|row| dot(row, row)).sum::<f64>() / n
}

/// `‖Σ s_i‖ / Σ ‖s_i‖`: 0 for vectors that sum up to nothing, 1 for those of one direction, 0 without any.
pub fn gap(sketches: &[&[f32]]) -> f64 {
    let mut sum = vec![0.0; sketches.first().map_or(0, |sketch| sketch.len())];
    let mut lengths = 0.0;
    for sketch in sketches {
        sum.iter_mut().zip(*sketch).for_each(|(sum, x)| *sum += f64::from(*x));
        lengths += sketch.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    }
    if lengths > 0.0 { dot(&sum, &sum).sqrt() / lengths } else { 0.0 }
}

/// What changes of several rounds tell (outer: rounds, inner: nodes), for
/// [`crate::predict::consensus_distance`]. `None` with fewer than two rounds.
pub fn pilot(rounds: &[Vec<Vec<f32>>]) -> Option<Pilot> {
    let nodes = rounds.first()?.len();
    if rounds.len() < 2 || nodes == 0 || rounds.iter().any(|round| round.len() != nodes) {
        return None;
    }
    let count = rounds.len() as f64;
    let mean = |node: usize| {
        let mut mean = vec![0.0; rounds[0][node].len()];
        for round in rounds {
            mean.iter_mut().zip(&round[node]).for_each(|(mean, x)| *mean += f64::from(*x) / count);
        }
        mean
    };
    let means: Vec<Vec<f64>> = (0..nodes).map(mean).collect();
    let off = |round: &Vec<Vec<f32>>, node: usize| -> f64 {
        round[node].iter().zip(&means[node]).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum()
    };
    let total: f64 = rounds.iter().map(|round| (0..nodes).map(|node| off(round, node)).sum::<f64>()).sum();
    let noise = total / (count - 1.0) / nodes as f64;
    let narrow: Vec<Vec<f32>> = means.iter().map(|mean| mean.iter().map(|x| *x as f32).collect()).collect();
    let centred = centred(&narrow);
    let n = nodes as f64;
    // The mean of a few rounds still has a part of the noise in it.
    let left = |i, j| noise / count * (f64::from(u8::from(i == j)) - 1.0 / n);
    let entry = |i: usize, j: usize| dot(&centred[i], &centred[j]) - left(i, j);
    let gram = (0..nodes).map(|i| (0..nodes).map(|j| entry(i, j)).collect()).collect();
    Some(Pilot { gram, noise })
}

fn centred(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let n = rows.len().max(1) as f64;
    let mut mean = vec![0.0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / n);
    }
    let off = |row: &Vec<f32>| row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean).collect();
    rows.iter().map(off).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, length: usize) -> Vec<f32> {
        let mut stream = Stream::new(seed, "test", &[]);
        (0..length).map(|_| (stream.unit() - 0.5) as f32).collect()
    }

    fn exact(models: &[Vec<f32>]) -> f64 {
        let centred = centred(models);
        centred.iter().map(|row| dot(row, row)).sum::<f64>() / models.len() as f64
    }

    #[test]
    fn distances_survive_the_sketch() {
        let models: Vec<Vec<f32>> = (0..8).map(|node| drawn(node, 20_003)).collect();
        let sketches: Vec<Vec<f32>> = models.iter().map(|model| sketch(1, model)).collect();
        let ratio = spread(&sketches) / exact(&models);
        assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
        assert_eq!(spread(&[sketches[0].clone(), sketches[0].clone()]), 0.0);
        assert_eq!(spread(&[]), 0.0);
        // A single coordinate is exact.
        let mut one = vec![0.0; 100];
        one[7] = 3.0_f32;
        assert!((spread(&[sketch(2, &one), sketch(2, &vec![0.0_f32; 100])]) - 2.25).abs() < 1e-6);
    }

    #[test]
    fn what_sums_up_to_nothing_has_no_gap() {
        let (a, b) = (sketch(1, &drawn(1, 500)), sketch(1, &drawn(2, 500)));
        let rest: Vec<f32> = a.iter().zip(&b).map(|(a, b)| -a - b).collect();
        assert!(gap(&[&a, &b, &rest]) < 1e-6 && gap(&[&a, &b]) > 0.3);
        assert_eq!((gap(&[&a, &a]), gap(&[])), (1.0, 0.0));
    }

    #[test]
    fn a_pilot_tells_drift_from_noise() {
        // Node i drifts by i in the first coordinate; noise has variance 1/12 in each of 600.
        let change = |round: u64, node: u64| {
            let mut change = drawn(1_000 * round + node, 600);
            change[0] += node as f32;
            sketch(3, &change)
        };
        let rounds: Vec<Vec<Vec<f32>>> =
            (0..40).map(|round| (0..4).map(|node| change(round, node)).collect()).collect();
        let Pilot { gram, noise } = pilot(&rounds).unwrap();
        assert!((noise / 50.0 - 1.0).abs() < 0.1, "{noise}");
        // Σ (i − 1.5)² = 5.
        let trace: f64 = (0..4).map(|i| gram[i][i]).sum();
        assert!((trace - 5.0).abs() < 1.5, "{trace}");
        assert!(pilot(&rounds[..1]).is_none());
    }
}
