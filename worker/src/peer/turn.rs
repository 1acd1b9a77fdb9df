//! A peer's part of a round between what the mixing machine asks for and what it gets: the same for peers with
//! sockets and for simulations, whatever drives the machine.

use crate::trainer::{TrainError, TrainJob};
use algorithms::{
    Vector,
    local::{LocalPlan, Probe, Update},
    seed,
};
use gossip::{
    machine::{Done, Errand, Payload},
    rule::Local,
};
use proto::spec::RunSpec;
use std::sync::Arc;

/// A local run in the making.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The run.
    pub spec: &'a Arc<RunSpec>,
    /// The algorithm's local rule.
    pub local: &'a Local,
    /// The training round.
    pub round: u64,
    /// Where the last local run ended, for relaxed starts.
    pub last_end: Option<&'a [f32]>,
}

impl Turn<'_> {
    /// What is to be trained from `model`; `shift` is added to each gradient. Lengths are d.
    pub fn job(&self, model: &Vector, shift: Option<Vector>) -> TrainJob {
        let Self { spec, local, round, last_end } = *self;
        let last = last_end.filter(|last| local.relax != 0.0 && last.len() == model.len());
        let relaxed = |last: &[f32]| {
            let beta = local.relax as f32;
            Arc::new(model.iter().zip(last).map(|(z, last)| beta * (z - last)).collect())
        };
        let plan = LocalPlan { offset: last.map(relaxed), shift, ..plan(local) };
        TrainJob {
            lr: spec.lr(round),
            spec: Arc::clone(spec),
            round,
            model: Arc::clone(model),
            plan,
            private: None,
        }
    }
}

/// What the machine gets after that change of `model`, in `steps` steps of size `step`. `pack` compresses the
/// difference from the public copy, which is counted from `origin`, where differences are what travels.
///
/// # Errors
/// Those of `pack`.
pub fn answer(
    errand: Errand<f32>,
    (model, change): (&[f32], Vec<f32>),
    (step, steps): (f64, u64),
    (origin, pack): (&[f32], impl FnOnce(Vec<f32>) -> Result<Payload<f32>, String>),
) -> Result<Done<f32>, TrainError> {
    let difference = errand.off((model, &change), origin).map(pack).transpose();
    let difference = difference.map_err(|why| TrainError::Training(format!("compression: {why}")))?;
    Ok(errand.done(change, (step, steps), difference))
}

/// The seed of a peer's compression in a round; `draw` is the peer's.
pub fn difference_seed(draw: u64, round: u64) -> u64 {
    seed::derive(draw, "difference", &[round])
}

/// The local rule of a decentralised algorithm as the local plan of the federated ones.
fn plan(local: &Local) -> LocalPlan {
    LocalPlan {
        prox: local.prox as f32,
        probe: Probe::ascent(local.rho as f32),
        update: match local.momentum as f32 {
            0.0 => Update::Sgd,
            momentum => Update::HeavyBall { momentum },
        },
        ..LocalPlan::default()
    }
}
