//! Held-out examples with a client's own mix of labels: what its personal model is for.

use super::super::{
    dataset::Dataset,
    random::{shuffle, stream},
};

/// Fewest examples that are looked for: FedSLR's protocol.
const LEAST: usize = 100;

/// A client's part of a held-out set among `clients`, drawn so that labels are mixed as in `histogram` (its
/// training examples of each class): of `max(held-out / clients, 100)` examples each label's share of the
/// histogram, rounded down, and at least one of the most frequent label; never more of a label than there are.
/// Clients may share examples. `key` (the run's seed and the client's number) decides which. Ascending.
///
/// Empty for text, which has no labels.
pub fn matched(held_out: &Dataset, histogram: &[usize], clients: usize, key: &[u64]) -> Vec<usize> {
    let Some(labels) = held_out.labels() else { return Vec::new() };
    let size = (held_out.len() / clients.max(1)).max(LEAST).min(held_out.len());
    let total = histogram.iter().sum::<usize>().max(1);
    let most = (0..histogram.len()).max_by_key(|class| (histogram[*class], usize::MAX - class));
    let mut pools: Vec<Vec<usize>> = vec![Vec::new(); histogram.len()];
    for (example, label) in labels.iter().enumerate() {
        if let Some(pool) = pools.get_mut(*label as usize) {
            pool.push(example);
        }
    }
    let mut rng = stream("matched", key);
    let mut found = Vec::new();
    for (class, mut pool) in pools.into_iter().enumerate() {
        let due = (size * histogram[class] / total).max(usize::from(Some(class) == most));
        shuffle(&mut pool, &mut rng);
        found.extend(pool.into_iter().take(due));
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(labels: &[u32]) -> Dataset {
        Dataset::of_features((1, 2), vec![0.5; labels.len()], labels.to_vec(), vec![0; labels.len()])
    }

    #[test]
    fn labels_are_mixed_as_in_training() {
        let held_out = set(&[0, 1].repeat(500));
        let count = |found: &[usize]| held_out.subset(found).class_histogram();
        assert_eq!(count(&matched(&held_out, &[30, 10], 4, &[7, 0])), [187, 62]);
        assert_eq!(count(&matched(&held_out, &[1, 0], 1, &[7, 0])), [500, 0], "as many as there are");
        assert_eq!(count(&matched(&held_out, &[30, 10], 500, &[7, 0])), [75, 25], "at least a hundred");
        let one = matched(&held_out, &[30, 10], 4, &[7, 0]);
        assert!(one.is_sorted_by(|a, b| a < b), "none twice");
        assert_eq!(one, matched(&held_out, &[30, 10], 4, &[7, 0]));
        assert_ne!(one, matched(&held_out, &[30, 10], 4, &[7, 1]));
        assert_eq!(matched(&set(&[1, 1]), &[0, 3], 9, &[1, 1]).len(), 2);
    }
}
