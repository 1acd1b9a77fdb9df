//! Gradient tracking (adapt-then-combine): a second vector follows the mean gradient, so that a constant step
//! reaches the common optimum whatever the data of the nodes. Traffic: 2d to each neighbour; one gradient a
//! round.

use crate::{
    kernel::mix,
    machine::Method,
    report::Mode,
    rule::{
        Local, Matrix, NoKeys, Round, Row, Rule, RuleError, doubly_stochastic, gradients, params_of,
        parse, plus,
    },
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "gradient-tracking",
    citation: "Nedić, Olshevsky and Shi, SIAM J. Optim. 2017, arXiv:1607.03218",
    mode: Mode::Symmetric,
    local: Local::SGD,
    make: |params, _| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Tracking::default()))
    },
    defaults: || params_of(&NoKeys {}),
};

/// `x⁺ = W (x − η y)`, `y⁺ = W y + g(x⁺) − g(x)`; `Σ y = Σ g` always.
#[derive(Debug, Clone, Default)]
pub struct Tracking {
    x: Matrix,
    /// `y` and the gradients at `x`, from the first round on.
    tracked: Option<(Matrix, Matrix)>,
}

impl Rule for Tracking {
    fn begin(&mut self, models: Matrix) {
        (self.x, self.tracked) = (models, None);
    }

    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError> {
        doubly_stochastic(&round, round.number)?;
        let (y, before) = self.tracked.take().unwrap_or_else(|| {
            let first = gradients(round.task, round.number, &self.x);
            (first.clone(), first)
        });
        let mixing = round.schedule.mixing(round.number);
        self.x = mix(&mixing, &plus(&self.x, -round.task.step(round.number), &y));
        let now = gradients(round.task, round.number + 1, &self.x);
        let y = plus(&plus(&mix(&mixing, &y), 1.0, &now), -1.0, &before);
        self.tracked = Some((y, now));
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn method(&self) -> Method {
        Method::Tracking
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        let y = self.tracked.as_ref().map(|(y, _)| y.clone()).unwrap_or_default();
        vec![("x", self.x.clone()), ("y", y)]
    }
}
