//! Train, then push shares of numerator and mass: what algorithms over directed graphs do.

use super::{Local, Matrix, Round, Rule, RuleError, local::Ends, plus};
use crate::{kernel::PushSum, machine::Barrier};
use std::collections::VecDeque;

/// `x ← P (x + y(z) − z)`, `w ← P w`, `z = x/w`: the change is of the model, and is added to the numerator.
/// Added as `w · change` it would find another optimum.
#[derive(Debug, Clone)]
pub struct Push {
    local: Local,
    state: PushSum<f64>,
    ends: Ends,
    /// Rounds that shares are under way.
    delay: usize,
    under_way: VecDeque<PushSum<f64>>,
}

impl Push {
    /// Shares arrive in their round.
    pub fn new(local: Local) -> Self {
        Self::overlapping(local, 0)
    }

    /// Shares arrive `delay` rounds later, and nobody waits for them.
    pub fn overlapping(local: Local, delay: usize) -> Self {
        let state = PushSum::new(Matrix::new());
        Self { local, state, ends: Ends::default(), delay, under_way: VecDeque::new() }
    }

    /// Mass of nodes and links: the number of nodes, always.
    pub fn total(&self) -> f64 {
        self.under_way.iter().flat_map(|shares| &shares.w).chain(&self.state.w).sum()
    }
}

impl Rule for Push {
    fn begin(&mut self, models: Matrix) {
        self.state = PushSum::new(models);
        self.under_way.clear();
    }

    fn round(&mut self, mut round: Round<'_>) -> Result<(), RuleError> {
        let models = self.state.models();
        let ends = self.ends.train(&mut round, &self.local, &models);
        self.state.x = plus(&self.state.x, 1.0, &plus(&ends, -1.0, &models));
        let mixing = round.schedule.mixing(round.number);
        if self.delay == 0 {
            self.state.mix(&mixing);
            return Ok(());
        }
        let own = |node: usize| {
            mixing.column(node).iter().find(|share| share.to == node).map_or(0.0, |share| share.weight)
        };
        let kept = |(node, x): (usize, &Vec<f64>)| x.iter().map(|x| own(node) * x).collect();
        let kept = PushSum {
            x: self.state.x.iter().enumerate().map(kept).collect(),
            w: self.state.w.iter().enumerate().map(|(node, w)| own(node) * w).collect(),
        };
        self.state.mix(&mixing);
        self.under_way.push_back(PushSum {
            x: plus(&self.state.x, -1.0, &kept.x),
            w: self.state.w.iter().zip(&kept.w).map(|(all, kept)| all - kept).collect(),
        });
        self.state = kept;
        if self.under_way.len() > self.delay
            && let Some(arrived) = self.under_way.pop_front()
        {
            self.state.x = plus(&self.state.x, 1.0, &arrived.x);
            self.state.w.iter_mut().zip(&arrived.w).for_each(|(w, more)| *w += more);
        }
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.state.models()
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        let masses = self.state.w.iter().map(|w| vec![*w]).collect();
        vec![("x", self.state.x.clone()), ("w", masses), ("z", self.state.models())]
    }

    fn barrier(&self) -> Option<Barrier> {
        (self.delay > 0).then_some(Barrier::Bounded { rounds: self.delay as u64 })
    }
}
