//! RelaySGD: over a tree, nodes relay sums of models instead of averages, so that each model reaches each
//! node with exactly the weight 1/n, as many rounds later as there are hops. Traffic: d and a count to each
//! neighbour.

use crate::{
    kernel::RelaySum,
    machine::Method,
    report::Mode,
    rule::{Local, Matrix, NoKeys, Round, Row, Rule, RuleError, params_of, parse},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "relaysgd",
    citation: "Vogels et al., NeurIPS 2021, arXiv:2110.04175",
    mode: Mode::Symmetric,
    local: Local::SGD,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Relay { local, x: Matrix::new(), under_way: None }))
    },
    defaults: || params_of(&NoKeys {}),
};

/// `x ← (y (n − Σ counts) + Σ messages)/n`, with `y` the end of the local steps.
#[derive(Debug)]
pub struct Relay {
    local: Local,
    x: Matrix,
    under_way: Option<RelaySum<f64>>,
}

impl Rule for Relay {
    fn begin(&mut self, models: Matrix) {
        (self.x, self.under_way) = (models, None);
    }

    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError> {
        let length = self.x.first().map_or(0, Vec::len);
        let relay = match &mut self.under_way {
            Some(relay) => relay,
            // The tree stays: what is under way belongs to its edges.
            none => none.insert(RelaySum::new(round.schedule.mixing(0).graph(), length)?),
        };
        let train = |(node, x): (usize, &Vec<f64>)| round.task.train((node, round.number), x, &self.local, None);
        let ends: Matrix = self.x.iter().enumerate().map(train).collect();
        self.x = relay.mix(&ends);
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn method(&self) -> Method {
        Method::Relay
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        vec![("x", self.x.clone())]
    }
}
