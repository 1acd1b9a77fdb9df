//! Train, then average with the neighbours: what most algorithms over undirected graphs do.

use super::{Local, Matrix, Round, Rule, RuleError, doubly_stochastic, local::Ends, plus};
use crate::kernel::mix_repeatedly;

/// `x ← W^Q y(x)`, with `y` the end of the local steps; or, combining while adapting, `x ← W x + y(x) − x`.
#[derive(Debug, Clone)]
pub struct Average {
    local: Local,
    repeats: u64,
    /// Mixes the models of before the training, which then need not have ended.
    while_training: bool,
    x: Matrix,
    ends: Ends,
}

impl Average {
    /// With so many mixing steps a round.
    pub fn new(local: Local, repeats: u64) -> Self {
        Self { local, repeats, while_training: false, x: Matrix::new(), ends: Ends::default() }
    }

    /// Combining while adapting.
    #[must_use]
    pub fn while_training(self) -> Self {
        Self { while_training: true, ..self }
    }
}

impl Rule for Average {
    fn begin(&mut self, models: Matrix) {
        self.x = models;
    }

    fn round(&mut self, mut round: Round<'_>) -> Result<(), RuleError> {
        for step in 0..self.repeats {
            doubly_stochastic(&round, round.number * self.repeats + step)?;
        }
        let ends = self.ends.train(&mut round, &self.local, &self.x);
        // Changes are what is added, as in push mode: over the same matrices both give the same bits.
        let changes = plus(&ends, -1.0, &self.x);
        let mixed = |models: &Matrix| mix_repeatedly(round.schedule, round.number, self.repeats, models);
        self.x = if self.while_training {
            plus(&mixed(&self.x), 1.0, &changes)
        } else {
            mixed(&plus(&self.x, 1.0, &changes))
        };
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        vec![("x", self.x.clone())]
    }

    fn repeats(&self) -> u64 {
        self.repeats
    }
}
