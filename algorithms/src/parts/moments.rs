//! Adaptive server steps (Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2): the mean
//! change is a pseudo-gradient. `m ← β₁ m + (1−β₁) Δ̄`, a second moment `v` by the rule, and
//! `w ← w + η_g m / (√v + τ)`, without bias correction.

use super::mean::{DELTA, server_vector};
use crate::{MODEL, ParamError, Scalar, Vectors, rule};
use serde::{Deserialize, Serialize};

/// The names of m and v.
pub(crate) const MOMENTS: &[&str] = &[FIRST, SECOND];
const FIRST: &str = "m";
/// The name of v.
pub(crate) const SECOND: &str = "v";

/// What v is before the first round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `τ²`, as in the paper.
    #[default]
    Reddi,
    /// 0, as in FL-Simulator's code (which has FedAdam only, with τ = 0.01).
    FlSimulator,
}

impl Form {
    /// The first element of v.
    pub(crate) fn initial<S: Scalar>(self, name: &str, tau: f64) -> S {
        match self {
            Self::Reddi if name == SECOND => S::of(tau) * S::of(tau),
            Self::Reddi | Self::FlSimulator => S::ZERO,
        }
    }
}

/// τ keeps a coordinate that never moved from becoming 0/0.
pub(crate) fn check(
    name: &'static str,
    server_lr: f64,
    betas: [(&'static str, f64); 2],
    tau: f64,
) -> Result<(), ParamError> {
    rule::non_negative(name, "server_lr", server_lr)?;
    betas.into_iter().try_for_each(|(key, beta)| rule::decay(name, key, beta))?;
    rule::positive(name, "tau", tau)
}

/// The server step, with `second(v, Δ̄²)` as the new v.
pub(crate) fn apply<S: Scalar>(
    server: &mut Vectors<S>,
    mean: &Vectors<S>,
    [server_lr, beta1, tau]: [f64; 3],
    second: impl Fn(S, S) -> S,
) {
    let [server_lr, beta1, tau] = [server_lr, beta1, tau].map(S::of);
    let delta = &mean[DELTA];
    let first = server_vector(server, FIRST);
    crate::scale(first, beta1);
    crate::axpy(first, S::ONE - beta1, delta);
    for (v, d) in server_vector(server, SECOND).iter_mut().zip(delta.iter()) {
        *v = second(*v, *d * *d);
    }
    let (first, v) = (server[FIRST].clone(), server[SECOND].clone());
    for ((w, m), v) in server_vector(server, MODEL).iter_mut().zip(first.iter()).zip(v.iter()) {
        *w += server_lr * *m / (v.sqrt() + tau);
    }
}
