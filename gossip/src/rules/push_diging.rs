//! Push-DIGing: gradient tracking over directed graphs, by push-sum. Traffic: 2d and the mass to each
//! receiver; one gradient a round.

use crate::{
    kernel::{PushSum, mix},
    machine::Method,
    report::Mode,
    rule::{Local, Matrix, NoKeys, Round, Row, Rule, RuleError, gradients, params_of, parse, plus},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "push-diging",
    citation: "Nedić, Olshevsky and Shi, SIAM J. Optim. 2017, arXiv:1607.03218",
    mode: Mode::Push,
    local: Local::SGD,
    make: |params, _| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(PushDiging::default()))
    },
    defaults: || params_of(&NoKeys {}),
};

/// `u⁺ = P (u − η y)`, `v⁺ = P v`, `x = u/v`, `y⁺ = P y + g(x⁺) − g(x)`; `Σ v = n` and `Σ y = Σ g` always.
#[derive(Debug, Clone, Default)]
pub struct PushDiging {
    u: Option<PushSum<f64>>,
    /// `y` and the gradients at `x`, from the first round on.
    tracked: Option<(Matrix, Matrix)>,
}

impl Rule for PushDiging {
    fn begin(&mut self, models: Matrix) {
        (self.u, self.tracked) = (Some(PushSum::new(models)), None);
    }

    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError> {
        let Some(u) = &mut self.u else { return Ok(()) };
        let (y, before) = self.tracked.take().unwrap_or_else(|| {
            let first = gradients(round.task, round.number, &u.models());
            (first.clone(), first)
        });
        let mixing = round.schedule.mixing(round.number);
        u.x = plus(&u.x, -round.task.step(round.number), &y);
        u.mix(&mixing);
        let now = gradients(round.task, round.number + 1, &u.models());
        let y = plus(&plus(&mix(&mixing, &y), 1.0, &now), -1.0, &before);
        self.tracked = Some((y, now));
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.u.as_ref().map(PushSum::models).unwrap_or_default()
    }

    fn method(&self) -> Method {
        Method::Tracking
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        let y = self.tracked.as_ref().map(|(y, _)| y.clone()).unwrap_or_default();
        let Some(u) = &self.u else { return Vec::new() };
        let masses = u.w.iter().map(|w| vec![*w]).collect();
        vec![("u", u.x.clone()), ("v", masses), ("x", u.models()), ("y", y)]
    }
}
