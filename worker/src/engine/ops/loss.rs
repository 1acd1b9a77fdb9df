//! Softmax cross-entropy: loss, hits and the gradient of the logits in one pass.
//!
//! Not a graph node: training starts its backward pass from the gradient that is computed here, so
//! that loss and hits can be summed in f64 and integers.

use super::math;

/// Sums over the rows of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::engine) struct Tally {
    /// Sum of the rows' cross-entropies, natural logarithm.
    pub(in crate::engine) loss: f64,
    /// Rows whose largest logit (the first of equals) is the label.
    pub(in crate::engine) correct: u64,
}

/// `logits` has one row of `classes` per label, each label below `classes`. Where `gradient` is given
/// it is overwritten by `scale` times the gradient of the loss's sum.
pub(in crate::engine) fn cross_entropy(
    logits: &[f32],
    labels: &[u32],
    gradient: Option<(&mut [f32], f32)>,
) -> Tally {
    let classes = logits.len() / labels.len().max(1);
    let mut tally = Tally::default();
    let mut row = vec![0.0; classes];
    let (mut out, scale) = gradient.map_or((None, 0.0), |(g, scale)| (Some(g), scale));
    for (i, (logits, &label)) in logits.chunks_exact(classes.max(1)).zip(labels).enumerate() {
        let label = label as usize;
        let mut best = 0;
        for (j, v) in logits.iter().enumerate() {
            if *v > logits[best] {
                best = j;
            }
        }
        let largest = logits[best];
        let sum = math::vectorised(
            #[inline(always)]
            || {
                for (e, v) in row.iter_mut().zip(logits) {
                    *e = math::exp(v - largest);
                }
                math::sum(&row)
            },
        );
        tally.loss += libm::log(f64::from(sum)) + f64::from(largest) - f64::from(logits[label]);
        tally.correct += u64::from(best == label && !largest.is_nan());
        if let Some(out) = out.as_deref_mut() {
            let out = &mut out[i * classes..(i + 1) * classes];
            let factor = scale / sum;
            for (o, e) in out.iter_mut().zip(&row) {
                *o = e * factor;
            }
            out[label] -= scale;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{assert_close, numbers, shapes};

    fn check(rows: usize, classes: usize, spread: f32) {
        let logits: Vec<f32> = numbers(rows * classes, 5).iter().map(|v| v * spread).collect();
        let labels: Vec<u32> = (0..rows).map(|r| (r * 7 % classes) as u32).collect();
        let reference = |x: &[f64]| -> f64 {
            let row = |r: usize| &x[r * classes..(r + 1) * classes];
            (0..rows)
                .map(|r| row(r).iter().map(|v| v.exp()).sum::<f64>().ln() - row(r)[labels[r] as usize])
                .sum()
        };
        let mut x: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
        let mut gradient = vec![f32::NAN; logits.len()];
        let tally = cross_entropy(&logits, &labels, Some((&mut gradient, 0.5)));
        assert!((tally.loss - reference(&x)).abs() < 1e-5 * reference(&x).abs().max(1.0));
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let centre = x[i];
                x[i] = centre + 1e-6;
                let above = reference(&x);
                x[i] = centre - 1e-6;
                let below = reference(&x);
                x[i] = centre;
                0.5 * (above - below) / 2e-6
            })
            .collect();
        assert_close(&gradient, &want, 1e-6);
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        for (rows, classes) in [(1, 2), (4, 10), (3, 33)] {
            check(rows, classes, 6.0);
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        shapes(24, &(1..=6_usize, 1..=40_usize, 1..=20_u8), |(rows, classes, spread)| {
            check(rows, classes, f32::from(spread));
        });
    }

    #[test]
    fn hits_count_the_first_of_equals() {
        let tally = cross_entropy(&[1.0, 3.0, 2.0, 5.0, 5.0, 0.0, 1.0, 1.0, 9.0], &[1, 1, 2], None);
        assert_eq!(tally.correct, 2);
        assert!(cross_entropy(&[f32::NAN, 1.0], &[0], None).loss.is_nan());
        assert_eq!(cross_entropy(&[f32::NAN, 1.0], &[0], None).correct, 0);
    }
}
