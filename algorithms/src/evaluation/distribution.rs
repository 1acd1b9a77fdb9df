//! How a model fares across clients: the mean hides whom it fails.

use super::Confusion;
use serde::{Deserialize, Serialize};

/// The distribution of a value over clients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Clients counted.
    pub clients: usize,
    /// Every client counts alike.
    pub mean: f64,
    /// Mean over the tenth of the clients (rounded up) that fares worst.
    pub worst_decile: f64,
    /// Mean squared distance from the mean.
    pub variance: f64,
}

impl Spread {
    /// Of values of which larger is better; `None` without any.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        Self::sorted(values, f64::total_cmp)
    }

    /// Of values of which smaller is better; `None` without any.
    pub fn of_losses(values: Vec<f64>) -> Option<Self> {
        Self::sorted(values, |a, b| b.total_cmp(a))
    }

    /// The worst comes first.
    fn sorted(mut values: Vec<f64>, order: impl Fn(&f64, &f64) -> std::cmp::Ordering) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        values.sort_unstable_by(order);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let centre = mean(&values);
        let squares: Vec<f64> = values.iter().map(|value| (value - centre).powi(2)).collect();
        let worst = values.len().div_ceil(10);
        Some(Self {
            clients: values.len(),
            mean: centre,
            worst_decile: mean(&values[..worst]),
            variance: mean(&squares),
        })
    }
}

/// The accuracy to expect on each client's own mix of labels: held-out accuracy by class, weighted by the
/// labels that the client holds. Exact where clients differ in their labels only (Dirichlet, pathological,
/// IID, size); an approximation where they differ otherwise. Labels that the held-out set lacks are left
/// out; so are clients that hold no other.
pub fn expected_accuracies(confusion: &Confusion, histograms: impl Iterator<Item = Vec<u32>>) -> Vec<f64> {
    let recalls = confusion.recalls();
    let expected = |histogram: Vec<u32>| {
        let known =
            recalls.iter().zip(&histogram).filter_map(|(recall, n)| Some(((*recall)?, f64::from(*n))));
        let (sum, weight) =
            known.fold((0.0, 0.0), |(sum, weight), (recall, n)| (sum + recall * n, weight + n));
        (weight > 0.0).then(|| sum / weight)
    };
    histograms.filter_map(expected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_by_hand() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let spread = Spread::of(values).unwrap();
        assert_eq!((spread.clients, spread.mean, spread.worst_decile), (20, 10.5, 1.5));
        assert!((spread.variance - 33.25).abs() < 1e-12);
        assert_eq!(Spread::of(vec![0.5]).unwrap().worst_decile, 0.5);
        let losses = Spread::of_losses((1..=20).map(f64::from).collect()).unwrap();
        assert_eq!((losses.mean, losses.worst_decile), (10.5, 19.5));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn clients_are_weighted_by_their_labels() {
        // Class 0 is always right, class 1 half of the time, class 2 was never held out.
        let confusion = Confusion { classes: 3, counts: vec![4, 0, 0, 1, 1, 0, 0, 0, 0] };
        let histograms = [vec![5, 0, 0], vec![0, 7, 3], vec![1, 3, 0], vec![0, 0, 9]];
        assert_eq!(expected_accuracies(&confusion, histograms.into_iter()), [1.0, 0.5, 0.625]);
    }
}
