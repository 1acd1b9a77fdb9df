//! FedAvg: the mean of the local changes (McMahan et al., "Communication-Efficient Learning of Deep
//! Networks from Decentralized Data", 2017, Algorithm 1).
//!
//! Traffic: d down, d up. Client state: none. Server state: w.

use crate::{
    Algorithm, Finished, LocalRun, MODEL, ParamError, RoundFacts, Rule, Vectors,
    fold::{Fold, Scale, Weighting},
    local::LocalPlan,
    rule::{non_negative, params_of, parse},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule {
    name: "fedavg",
    citation: "McMahan et al., AISTATS 2017, arXiv:1602.05629",
    make: |params| {
        let config: Config = parse("fedavg", params)?;
        config.build().map(|rule| Box::new(rule) as Box<dyn Algorithm>)
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Config {
    fn build(self) -> Result<FedAvg, ParamError> {
        non_negative("fedavg", "server_lr", self.server_lr)?;
        Ok(FedAvg(self))
    }
}

#[derive(Debug)]
struct FedAvg(Config);

impl Algorithm for FedAvg {
    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.0.weighting)]
    }

    fn plan(&self, _down: &Vectors, _state: &Vectors) -> LocalPlan {
        LocalPlan::default()
    }

    fn finish(&self, run: LocalRun, _down: &Vectors, _state: &Vectors) -> Finished {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors, mean: &Vectors, _facts: &RoundFacts) {
        move_model(server, self.0.server_lr, &mean["delta"]);
    }
}

/// The mean of the local changes.
pub(crate) fn delta_fold(weighting: Weighting) -> Fold {
    Fold { into: "delta", from: "delta", weighting, scale: Scale::One }
}

/// An upload of Δ_i alone, and no client state.
pub(crate) fn upload_delta(run: LocalRun) -> Finished {
    let upload = Vectors::from([("delta".to_owned(), Arc::new(run.into_delta()))]);
    Finished { upload, next: Vectors::new() }
}

/// `w ← w + η_g x`.
pub(crate) fn move_model(server: &mut Vectors, lr: f32, x: &[f32]) {
    crate::axpy(server_vector(server, MODEL), lr, x);
}

/// A server vector, for writing; no copy when nobody else holds it.
pub(crate) fn server_vector<'a>(server: &'a mut Vectors, name: &str) -> &'a mut Vec<f32> {
    Arc::make_mut(server.get_mut(name).expect("a run starts with every server vector of its rule"))
}
