//! What a batch's logits say: softmax in `f64`, the most likely classes and their probabilities.

use super::Assessment;

/// Reads `logits`, one row of `classes` for each label, each label below `classes`; looks at the `top` most
/// likely classes, at least 1 and at most `classes`.
pub fn read(logits: &[f32], labels: &[u32], (classes, top): (usize, usize)) -> Assessment {
    let mut out = Assessment::new(classes, top);
    let mut row = vec![0.0_f64; classes];
    let mut order: Vec<usize> = Vec::with_capacity(classes);
    for (logits, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
        let label = label as usize;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (e, v) in row.iter_mut().zip(logits) {
            *e = (f64::from(*v) - f64::from(largest)).exp();
        }
        let sum: f64 = row.iter().sum();
        // The first of equals, as the engine counts hits.
        order.clear();
        order.extend(0..classes);
        order.select_nth_unstable_by(top - 1, |a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        order.truncate(top);
        order.sort_unstable_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        out.predictions += 1;
        out.loss_sum += sum.ln() + f64::from(largest) - f64::from(logits[label]);
        if sum.is_finite() {
            out.correct += u64::from(order[0] == label);
            out.confusion.counts[label * classes + order[0]] += 1;
            let rank = order.iter().position(|class| *class == label);
            out.sample.push(order.iter().map(|class| row[*class] / sum), rank);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_defined() {
        let logits = [0.0, 2.0, 1.0, 3.0, 3.0, 0.0];
        let seen = read(&logits, &[1, 2], (3, 2));
        assert_eq!((seen.predictions, seen.correct), (2, 1));
        // Label 1 taken for 1; label 2 for the first of the equals, 0.
        assert_eq!(seen.confusion.counts, [0, 0, 0, 0, 1, 0, 1, 0, 0]);
        let loss = |row: &[f64], label: usize| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label];
        let want = loss(&[0.0, 2.0, 1.0], 1) + loss(&[3.0, 3.0, 0.0], 2);
        assert!((seen.loss_sum - want).abs() < 1e-12);
    }

    #[test]
    fn numbers_that_are_none_are_no_hits() {
        let seen = read(&[f32::NAN, 1.0], &[1], (2, 1));
        assert_eq!((seen.predictions, seen.correct), (1, 0));
        assert!(seen.loss_sum.is_nan());
    }
}
