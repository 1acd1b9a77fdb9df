//! How k updates of a round become one vector: the mean, and rules that survive lying workers.
//!
//! A robust rule is two steps, so that a driver can hold k updates on disk and a block of each in
//! memory. [`Distances`] takes the updates block by block; [`Combiner::choose`] makes a [`Choice`] of
//! them, which is data; [`Choice::apply`] combines block by block. [`Combiner::combine`] does all of it
//! for updates that fit into memory. Distances are Euclidean over the whole vector.
//!
//! Updates come in the order of their workers' names, so that sums have the same bits whatever the
//! order of arrival, and are finite: vetting comes before.

pub mod attacks;
mod choice;
mod clipping;
mod distances;
mod geometric;
mod krum;
#[cfg(test)]
mod tests;

pub use choice::Choice;
pub use distances::Distances;

use serde::{Deserialize, Serialize};

/// What a combiner must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// One update after the other, each with its own norm: it folds as it comes.
    Each,
    /// All k at once, coordinate by coordinate.
    All,
    /// All k at once, and their distances before that.
    Distances,
}

/// How updates become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Combiner {
    /// Every update counts alike.
    Mean {},
    /// Updates count by their weights (examples).
    WeightedMean {},
    /// The weighted mean of `x_i · min(1, bound / ‖x_i‖)` (Sun et al. 2019, "Can You Really Backdoor
    /// Federated Learning?").
    NormBounded {
        /// Largest norm that an update keeps.
        bound: f64,
    },
    /// The median of each coordinate; of an even number the mean of the middle two (Yin et al. 2018,
    /// arXiv:1803.01498).
    Median {},
    /// The mean of each coordinate without its smallest and largest values (Yin et al. 2018).
    TrimmedMean {
        /// Share that is cut at each end, at least 0 and below 0.5; rounded down to whole updates.
        trim: f64,
    },
    /// The update with the closest neighbours (Blanchard et al. 2017, arXiv:1703.02757). Needs
    /// `2 byzantine + 3` updates.
    Krum {
        /// Lying workers that are expected at most.
        byzantine: usize,
    },
    /// The mean of the `keep` best updates by Krum's score (Blanchard et al. 2017).
    MultiKrum {
        /// Lying workers that are expected at most.
        byzantine: usize,
        /// How many are averaged; absent: all but `byzantine`.
        #[serde(default)]
        keep: Option<usize>,
    },
    /// Repeated Krum, then in each coordinate the mean of the values closest to the median (El Mhamdi
    /// et al. 2018, arXiv:1802.07927). Needs `4 byzantine + 3` updates.
    Bulyan {
        /// Lying workers that are expected at most.
        byzantine: usize,
    },
    /// The point with the least weighted sum of distances, by smoothed Weiszfeld steps (Pillutla et al.
    /// 2022, RFA, arXiv:1912.13445).
    GeometricMedian {
        /// Steps; RFA uses 3.
        #[serde(default = "default_weiszfeld")]
        iterations: u32,
        /// Distances below this count as this, above 0.
        #[serde(default = "default_smoothing")]
        smoothing: f64,
    },
    /// `v ← v + mean of (x_i − v) · min(1, radius / ‖x_i − v‖)`, from the last aggregate (Karimireddy et
    /// al. 2021, arXiv:2012.10333).
    CentredClipping {
        /// Clipping radius τ, above 0.
        radius: f64,
        /// Steps.
        #[serde(default = "default_clippings")]
        iterations: u32,
    },
}

fn default_weiszfeld() -> u32 {
    8
}
fn default_smoothing() -> f64 {
    1e-6
}
fn default_clippings() -> u32 {
    3
}

/// Why updates cannot be combined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Too few for what the combiner promises.
    #[error("`{combiner}` needs at least {needed} updates, there are {got}")]
    TooFew {
        /// The combiner.
        combiner: &'static str,
        /// What it needs.
        needed: usize,
        /// What there is.
        got: usize,
    },
    /// A key is out of its range.
    #[error("`{key}` is {value}, expected {expected}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Updates and weights do not fit together.
    #[error("{0}")]
    Shape(String),
}

impl Combiner {
    /// What it must see before it can combine.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Mean {} | Self::WeightedMean {} | Self::NormBounded { .. } => Needs::Each,
            Self::Median {} | Self::TrimmedMean { .. } => Needs::All,
            Self::Krum { .. }
            | Self::MultiKrum { .. }
            | Self::Bulyan { .. }
            | Self::GeometricMedian { .. }
            | Self::CentredClipping { .. } => Needs::Distances,
        }
    }

    /// Updates that it needs at least.
    pub fn needed(&self) -> usize {
        match *self {
            Self::Krum { byzantine } | Self::MultiKrum { byzantine, .. } => {
                byzantine.saturating_mul(2).saturating_add(3)
            }
            Self::Bulyan { byzantine } => byzantine.saturating_mul(4).saturating_add(3),
            _ => 1,
        }
    }

    /// Checks the range of every key.
    ///
    /// # Errors
    /// [`CombineError::Range`] names the key.
    pub fn check(&self) -> Result<(), CombineError> {
        let above_0 = |key, value: f64| {
            let holds = value.is_finite() && value > 0.0;
            range(holds, key, value, "a finite number above 0")
        };
        let counts = |key, value: u32| range((1..=1_000).contains(&value), key, value, "1 to 1000");
        match *self {
            Self::NormBounded { bound } => above_0("bound", bound),
            Self::TrimmedMean { trim } => {
                range((0.0..0.5).contains(&trim), "trim", trim, "at least 0 and below 0.5")
            }
            Self::MultiKrum { keep: Some(0), .. } => range(false, "keep", 0_u32, "at least 1"),
            Self::GeometricMedian { iterations, smoothing } => {
                counts("iterations", iterations)?;
                above_0("smoothing", smoothing)
            }
            Self::CentredClipping { radius, iterations } => {
                counts("iterations", iterations)?;
                above_0("radius", radius)
            }
            _ => Ok(()),
        }
    }

    /// The factor on an update of that norm, for combiners that fold ([`Needs::Each`]); 1 for others.
    pub fn factor(&self, norm: f64) -> f64 {
        match *self {
            Self::NormBounded { bound } if norm > bound => bound / norm,
            _ => 1.0,
        }
    }

    /// As [`Self::factor`], of the update itself.
    pub fn factor_of(&self, x: &[f32]) -> f64 {
        match self {
            Self::NormBounded { .. } => self.factor(crate::local::norm(x)),
            _ => 1.0,
        }
    }

    /// How the updates are to be combined, from their weights and distances. Only
    /// [`Needs::Distances`] and [`Combiner::NormBounded`] look at distances.
    ///
    /// # Errors
    /// If there are too few updates, or as many weights as distances are not given.
    pub fn choose(&self, weights: &[f64], distances: &Distances) -> Result<Choice, CombineError> {
        let k = weights.len();
        self.check()?;
        enough("updates", 1, k)?;
        if distances.updates() != k || weights.iter().any(|weight| !(weight.is_finite() && *weight > 0.0)) {
            let detail = format!("{k} weights for {} updates, all finite and above 0", distances.updates());
            return Err(CombineError::Shape(detail));
        }
        let even = vec![1.0 / k as f64; k];
        Ok(match *self {
            Self::Mean {} => Choice::weighted(even),
            Self::WeightedMean {} => Choice::weighted(normalised(weights)),
            Self::NormBounded { .. } => {
                let factor = |(i, weight): (usize, f64)| weight * self.factor(distances.norm(i));
                Choice::weighted(normalised(weights).into_iter().enumerate().map(factor).collect())
            }
            Self::Median {} => Choice::Trimmed { trim: (k - 1) / 2 },
            Self::TrimmedMean { trim } => Choice::Trimmed { trim: (trim * k as f64) as usize },
            Self::Krum { byzantine } => {
                enough("krum", self.needed(), k)?;
                Choice::mean_of(&krum::best(distances, byzantine, 1), k)
            }
            Self::MultiKrum { byzantine, keep } => {
                enough("multi-krum", self.needed(), k)?;
                let keep = keep.unwrap_or(k - byzantine).min(k);
                Choice::mean_of(&krum::best(distances, byzantine, keep), k)
            }
            Self::Bulyan { byzantine } => {
                enough("bulyan", self.needed(), k)?;
                Choice::Closest {
                    chosen: krum::repeated(distances, byzantine, k - 2 * byzantine),
                    keep: k - 4 * byzantine,
                }
            }
            Self::GeometricMedian { iterations, smoothing } => {
                Choice::weighted(geometric::median(&normalised(weights), distances, iterations, smoothing))
            }
            Self::CentredClipping { radius, iterations } => clipping::centred(distances, radius, iterations),
        })
    }

    /// Combines updates that are in memory. `centre` is the last aggregate, for
    /// [`Combiner::CentredClipping`]; absent: zero.
    ///
    /// # Errors
    /// As for [`Self::choose`], and if lengths differ.
    pub fn combine(
        &self,
        updates: &[&[f32]],
        weights: &[f64],
        centre: Option<&[f32]>,
    ) -> Result<Vec<f32>, CombineError> {
        let length = updates.first().map_or(0, |update| update.len());
        let others = updates.iter().copied().chain(centre);
        if let Some(other) = others.map(<[f32]>::len).find(|other| *other != length) {
            return Err(CombineError::Shape(format!("updates of {length} and {other} scalars")));
        }
        let mut distances = Distances::new(updates.len());
        if self.needs() == Needs::Distances || matches!(self, Self::NormBounded { .. }) {
            distances.add(updates, centre);
        }
        let choice = self.choose(weights, &distances)?;
        let mut out = vec![0.0; length];
        choice.apply(updates, centre, &mut out);
        Ok(out)
    }
}

fn enough(combiner: &'static str, needed: usize, got: usize) -> Result<(), CombineError> {
    if got >= needed { Ok(()) } else { Err(CombineError::TooFew { combiner, needed, got }) }
}

fn range(
    holds: bool,
    key: &'static str,
    value: impl Into<f64>,
    expected: &'static str,
) -> Result<(), CombineError> {
    if holds { Ok(()) } else { Err(CombineError::Range { key, value: value.into().to_string(), expected }) }
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}
