//! What a node does alone in a round, as numbers.

use super::Matrix;
use crate::Params;
use serde::{Deserialize, Serialize};

/// The local rule: K steps of SGD with these additions. All 0 is plain SGD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// Radius of SAM: gradients are taken at `y + rho · g/‖g‖`, two passes a step.
    pub rho: f64,
    /// Heavy ball, from rest in every round: `y⁺ = y − η g + momentum · (y − y⁻)`.
    pub momentum: f64,
    /// Pull towards the start of the round: `prox · (y − y₀)` is added to the gradient.
    pub prox: f64,
    /// Relaxed start: `y₀ = z + relax · (z − y_K)`, with `y_K` the end of the node's last round.
    pub relax: f64,
}

impl Local {
    /// Plain SGD.
    pub const SGD: Self = Self { rho: 0.0, momentum: 0.0, prox: 0.0, relax: 0.0 };

    /// The keys that a run file may give with any algorithm.
    pub const KEYS: [&str; 4] = ["rho", "momentum", "prox", "relax"];

    /// These, overridden by `params`, and the keys that belong to somebody else.
    pub(super) fn with(self, params: &Params) -> Result<(Self, Params), String> {
        let mut all = crate::topology::params_of(&self);
        let (mine, own): (Params, Params) =
            params.clone().into_iter().partition(|(key, _)| Self::KEYS.contains(&key.as_str()));
        all.extend(mine);
        let local: Self = serde_json::from_value(all.into()).map_err(|error| error.to_string())?;
        let whole = |key, value: f64| {
            let text = format!("`{key}` is {value}, must be a number of at least 0");
            if value >= 0.0 && value.is_finite() { Ok(()) } else { Err(text) }
        };
        whole("rho", local.rho)?;
        whole("prox", local.prox)?;
        whole("relax", local.relax)?;
        whole("momentum", local.momentum)?;
        if local.momentum >= 1.0 {
            return Err(format!("`momentum` is {}, must be below 1", local.momentum));
        }
        Ok((local, own))
    }
}

/// Where nodes ended their last round, for relaxed starts.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Option<Matrix>);

impl Ends {
    /// Ends of the local steps of all nodes from `models`.
    pub(super) fn train(
        &mut self,
        round: &mut super::Round<'_>,
        local: &Local,
        models: &[Vec<f64>],
    ) -> Matrix {
        let number = round.number;
        let mut ends = Matrix::new();
        for (node, model) in models.iter().enumerate() {
            let last = self.0.as_ref().filter(|_| local.relax != 0.0).map(|ends| &ends[node]);
            let start = last.map_or_else(|| model.clone(), |last| local.relaxed(model, last));
            ends.push(round.task.train((node, number), &start, local, None));
        }
        if local.relax != 0.0 {
            self.0 = Some(ends.clone());
        }
        ends
    }
}

impl Local {
    /// `z + relax · (z − last)`.
    pub fn relaxed(&self, model: &[f64], last: &[f64]) -> Vec<f64> {
        model.iter().zip(last).map(|(z, last)| z + self.relax * (z - last)).collect()
    }
}
