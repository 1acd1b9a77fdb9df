//! FedProx: local steps are pulled back to the round's start (Li et al., "Federated Optimization in
//! Heterogeneous Networks", 2020, Algorithm 2, with a fixed number of local steps).
//!
//! Traffic: d down, d up. Client state: none. With `prox = 0` it is FedAvg, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    rule::{non_negative, params_of, parse},
    rules::fedavg::{delta_fold, move_model, upload_delta},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule {
    name: "fedprox",
    citation: "Li et al., MLSys 2020, arXiv:1812.06127",
    make: |params| {
        let config: Config = parse("fedprox", params)?;
        config.build().map(|rule| Box::new(rule) as Box<dyn Algorithm>)
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Prox coefficient λ; unstable once `lr · (prox + weight_decay) > 2`.
    pub prox: f32,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { prox: 0.1, weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Config {
    fn build(self) -> Result<FedProx, ParamError> {
        non_negative("fedprox", "prox", self.prox)?;
        non_negative("fedprox", "server_lr", self.server_lr)?;
        Ok(FedProx(self))
    }
}

#[derive(Debug)]
struct FedProx(Config);

impl Algorithm for FedProx {
    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.0.weighting)]
    }

    fn plan(&self, _down: &Vectors, _state: &Vectors) -> LocalPlan {
        LocalPlan { prox: self.0.prox, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun, _down: &Vectors, _state: &Vectors) -> Finished {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors, mean: &Vectors, _facts: &RoundFacts) {
        move_model(server, self.0.server_lr, &mean["delta"]);
    }
}
