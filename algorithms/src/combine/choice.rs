//! What a combiner decided, and how it is done to a block of coordinates.

/// How updates are combined, coordinate by coordinate.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// `Σ a_i x_i + b · centre`.
    Weighted {
        /// One for each update.
        weights: Vec<f64>,
        /// Of the centre.
        centre: f64,
    },
    /// The mean without the `trim` smallest and the `trim` largest values.
    Trimmed {
        /// Values cut at each end; fewer than half.
        trim: usize,
    },
    /// The mean of the `keep` values closest to the median of the chosen updates.
    Closest {
        /// Indices of updates.
        chosen: Vec<usize>,
        /// Values that are averaged.
        keep: usize,
    },
}

impl Choice {
    pub(super) fn weighted(weights: Vec<f64>) -> Self {
        Self::Weighted { weights, centre: 0.0 }
    }

    pub(super) fn mean_of(chosen: &[usize], k: usize) -> Self {
        let mut weights = vec![0.0; k];
        for i in chosen {
            weights[*i] = 1.0 / chosen.len() as f64;
        }
        Self::weighted(weights)
    }

    /// Combines the same coordinates of each update, and of the centre (absent: zero), into `out`.
    ///
    /// # Panics
    /// If lengths differ, or the choice was made for another number of updates.
    pub fn apply(&self, block: &[&[f32]], centre: Option<&[f32]>, out: &mut [f32]) {
        assert!(block.iter().all(|update| update.len() == out.len()), "combine: lengths differ");
        let mut column = Vec::with_capacity(block.len());
        for (at, out) in out.iter_mut().enumerate() {
            column.clear();
            column.extend(block.iter().map(|update| f64::from(update[at])));
            *out = match self {
                Self::Weighted { weights, centre: own } => {
                    assert_eq!(weights.len(), column.len(), "combine: another number of updates");
                    let start = centre.map_or(0.0, |centre| own * f64::from(centre[at]));
                    weights.iter().zip(&column).fold(start, |sum, (a, x)| sum + a * x)
                }
                Self::Trimmed { trim } => {
                    column.sort_by(f64::total_cmp);
                    mean(&column[*trim..column.len() - trim])
                }
                Self::Closest { chosen, keep } => {
                    let mut values: Vec<f64> = chosen.iter().map(|i| column[*i]).collect();
                    values.sort_by(f64::total_cmp);
                    closest(&values, *keep)
                }
            } as f32;
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean of the `keep` neighbours in a sorted list that are closest to its median.
fn closest(sorted: &[f64], keep: usize) -> f64 {
    let trim = (sorted.len() - 1) / 2;
    let median = mean(&sorted[trim..sorted.len() - trim]);
    let far = |window: &&[f64]| (median - window[0]).max(window[window.len() - 1] - median);
    let best = sorted.windows(keep.clamp(1, sorted.len())).min_by(|a, b| far(a).total_cmp(&far(b)));
    mean(best.expect("a window of at most the list's length exists"))
}
