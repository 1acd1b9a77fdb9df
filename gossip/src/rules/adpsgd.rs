//! AD-PSGD: a node takes a gradient, averages with one partner, and applies the gradient to the average; no
//! two pairs wait for each other. Traffic: d each way in an exchange.

use crate::{
    machine::Barrier,
    report::Mode,
    rule::{Local, Matrix, NoKeys, Round, Row, Rule, RuleError, Task, params_of, parse},
    seed::Stream,
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "adpsgd",
    citation: "Lian et al., ICML 2018, arXiv:1710.06952",
    mode: Mode::Symmetric,
    local: Local::SGD,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(AdPsgd::new(local)))
    },
    defaults: || params_of(&NoKeys {}),
};

/// All nodes; in a round each pair of the graph exchanges, in drawn order of its two ends.
#[derive(Debug, Clone)]
pub struct AdPsgd {
    local: Local,
    x: Matrix,
}

impl AdPsgd {
    /// Before the first exchange.
    pub fn new(local: Local) -> Self {
        Self { local, x: Matrix::new() }
    }

    /// `active` trains from its snapshot, both become their mean, and `active` adds its change.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn exchange(&mut self, round: u64, (active, passive): (usize, usize), task: &mut dyn Task) {
        let end = task.train((active, round), &self.x[active], &self.local, None);
        let change: Vec<f64> = end.iter().zip(&self.x[active]).map(|(end, x)| end - x).collect();
        let mean: Vec<f64> =
            self.x[active].iter().zip(&self.x[passive]).map(|(a, b)| 0.5 * a + 0.5 * b).collect();
        self.x[active] = mean.iter().zip(change).map(|(mean, change)| mean + change).collect();
        self.x[passive] = mean;
    }
}

impl Rule for AdPsgd {
    fn begin(&mut self, models: Matrix) {
        self.x = models;
    }

    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError> {
        let graph = round.schedule.mixing(round.number).graph();
        for (low, to) in graph.iter().enumerate() {
            for high in to.iter().filter(|high| **high > low) {
                let parts = [round.number, low as u64, *high as u64];
                let lower_first = Stream::new(0, "adpsgd", &parts).unit() < 0.5;
                let pair = if lower_first { (low, *high) } else { (*high, low) };
                self.exchange(round.number, pair, round.task);
            }
        }
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        vec![("x", self.x.clone())]
    }

    fn barrier(&self) -> Option<Barrier> {
        Some(Barrier::Asynchronous)
    }
}
