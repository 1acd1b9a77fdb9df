//! The randomness of network and faults: one stream per purpose, all from the schedule's seed.

use crate::Millis;
use algorithms::seed;

/// A stream of draws.
#[derive(Debug)]
pub(crate) struct Dice {
    key: u64,
    draws: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        Self { key: seed::derive(seed, purpose, &[]), draws: 0 }
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.draws += 1;
        seed::unit(seed::mix(self.key ^ seed::mix(self.draws)))
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn between(&mut self, low: Millis, high: Millis) -> Millis {
        low + (self.unit() * high.saturating_sub(low) as f64) as Millis
    }

    /// Time until the next event of a Poisson process; `None` if it never comes.
    pub(crate) fn wait(&mut self, per_minute: f64) -> Option<Millis> {
        (per_minute > 0.0).then(|| (-(1.0 - self.unit()).ln() / per_minute * 60_000.0) as Millis + 1)
    }
}
