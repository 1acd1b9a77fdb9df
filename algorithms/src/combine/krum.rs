//! Krum's score: the sum of the squared distances to the `k − f − 2` closest other updates. An update
//! far from the crowd scores high, whatever it says.

use super::Distances;

/// The `keep` updates with the lowest scores, lowest first; equal scores in order.
pub(super) fn best(distances: &Distances, byzantine: usize, keep: usize) -> Vec<usize> {
    let all: Vec<usize> = (0..distances.updates()).collect();
    let mut scored: Vec<(f64, usize)> =
        all.iter().map(|i| (score(*i, &all, distances, byzantine), *i)).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.into_iter().take(keep).map(|(_, i)| i).collect()
}

/// Bulyan's selection: the best update is taken out, and again from those that are left.
pub(super) fn repeated(distances: &Distances, byzantine: usize, keep: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..distances.updates()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < keep && !left.is_empty() {
        let scores: Vec<f64> = left.iter().map(|i| score(*i, &left, distances, byzantine)).collect();
        let best = (0..left.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        chosen.push(left.remove(best.expect("there is one left")));
    }
    chosen.sort_unstable();
    chosen
}

fn score(i: usize, among: &[usize], distances: &Distances, byzantine: usize) -> f64 {
    let others = among.iter().filter(|j| **j != i);
    let mut squares: Vec<f64> = others.map(|j| distances.squared(i, *j)).collect();
    squares.sort_by(f64::total_cmp);
    squares.iter().take(among.len().saturating_sub(byzantine + 2).max(1)).sum()
}
