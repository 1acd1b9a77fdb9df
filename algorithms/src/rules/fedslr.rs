//! FedSLR: a shared model of low rank and a sparse one of each worker's own, trained in two stages (Huang,
//! Shen, Sun, Lin and Tao, "Fusion of Global and Local Knowledge for Personalized Federated Learning", 2023).
//!
//! Stage 1 is FedDyn's local run with λ = `prox` (the paper's 1/η_g), in the thin form of `parts/dynamic.rs`;
//! the server then shrinks the singular values of each layer by τ = `rank_threshold` / `prox`
//! (`parts/low_rank.rs`). What is left of low rank goes down as factors.
//!
//! Stage 2, of the same workers in the same round and before anything is sent: `p_i`, by
//! `p ← soft(p − η (∇F_i(w + p) + wd·p), η·sparse_threshold)` with the received w frozen, for `sparse_epochs`
//! passes over the data. A worker uses `w + p_i`, and w alone before it has a `p_i`.
//!
//! Differences to the official code: there `p` of convolutions and linear layers starts as a copy of the first
//! weights, so that w + p starts at twice them; here it starts at 0. Without the layers' shapes
//! ([`Algorithm::lay_out`]), and with `rank_threshold = 0`, the shared model is FedDyn's, exactly.
//!
//! Traffic: d up; down at most d, Σ over layers of min(rank · (rows + columns), rows · columns). Client state:
//! h_i (d), which must survive restarts, and `p_i` (d), which never leaves the worker. Server state: w, H (2d),
//! and the factors. Gradients: one a step of each stage.

use crate::{
    Algorithm, Finished, LocalRun, MODEL, ParamError, RoundFacts, Rule, Scalar, Vector, Vectors, axpy,
    fold::{Fold, Weighting},
    local::{LocalPlan, Probe, Update},
    parts::{
        dynamic::{self, MEMORY},
        low_rank,
        mean::{delta_fold, server_vector},
    },
    personal::{Effort, PERSONAL, PersonalPlan},
    rule::{Settings, non_negative, within},
    zeros,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule =
    Rule { citation: "Huang, Shen, Sun, Lin and Tao, TMLR 2023, arXiv:2302.11051", ..Rule::of::<FedSlr>() };

/// Under which name the factors are kept and sent.
const FACTORS: &str = "w.factors";

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedSlr {
    /// Regularisation λ of stage 1, above 0.
    pub prox: f64,
    /// Weight of the nuclear norm of each layer of the shared model.
    pub rank_threshold: f64,
    /// Weight of the ℓ₁ norm of a worker's own model.
    pub sparse_threshold: f64,
    /// Passes over the data in stage 2.
    pub sparse_epochs: u32,
    #[serde(skip)]
    shapes: Vec<Vec<usize>>,
}

impl Default for FedSlr {
    fn default() -> Self {
        Self { prox: 0.1, rank_threshold: 1e-4, sparse_threshold: 1e-3, sparse_epochs: 1, shapes: Vec::new() }
    }
}

impl Settings for FedSlr {
    const NAME: &'static str = "fedslr";

    fn check(&self) -> Result<(), ParamError> {
        dynamic::check(Self::NAME, self.prox)?;
        non_negative(Self::NAME, "rank_threshold", self.rank_threshold)?;
        non_negative(Self::NAME, "sparse_threshold", self.sparse_threshold)?;
        within((Self::NAME, "sparse_epochs"), self.sparse_epochs.into(), |n| n >= 1.0, "at least 1")
    }
}

impl<S: Scalar> Algorithm<S> for FedSlr {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn lay_out(&mut self, shapes: &[Vec<usize>]) {
        self.shapes = shapes.to_vec();
    }

    fn packed(&self) -> Option<&'static str> {
        Some(FACTORS)
    }

    fn unpack(&self, packed: &[S], shapes: &[Vec<usize>]) -> Option<Vec<S>> {
        low_rank::rebuild(packed, shapes)
    }

    fn plan(&self, _down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let shift = dynamic::shift(state, self.prox);
        LocalPlan { shift, prox: S::of(self.prox), ..LocalPlan::default() }
    }

    fn personal(&self, down: &Vectors<S>, state: &Vectors<S>) -> Option<PersonalPlan<S>> {
        let w = &down[MODEL];
        let update = Update::Sparse { threshold: S::of(self.sparse_threshold) };
        // What is walked is p; gradients are taken at p + w.
        let plan = LocalPlan { probe: Probe::Fixed(Arc::clone(w)), update, ..LocalPlan::default() };
        Some(PersonalPlan { start: zeros(state, PERSONAL, w.len()), plan })
    }

    fn effort(&self) -> Option<Effort> {
        Some(Effort { epochs: Some(self.sparse_epochs), ..Effort::default() })
    }

    fn personal_model(&self, model: &Vector<S>, state: &Vectors<S>) -> Option<Vector<S>> {
        let mut own = state.get(PERSONAL)?.as_ref().clone();
        axpy(&mut own, S::ONE, model);
        Some(Arc::new(own))
    }

    fn finish(&self, mut run: LocalRun<S>, _down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        let own = run.personal.take().unwrap_or_else(|| zeros(state, PERSONAL, run.end.len()));
        let mut finished = dynamic::finish(run, state);
        finished.next.insert(PERSONAL.to_owned(), own);
        finished
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        dynamic::realign(next, error);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        dynamic::apply(server, mean, facts);
        if self.shapes.is_empty() || self.rank_threshold == 0.0 {
            return;
        }
        let w = server_vector(server, MODEL);
        let packed = low_rank::threshold(w, &self.shapes, self.rank_threshold / self.prox);
        if packed.len() < w.len() {
            server.insert(FACTORS.to_owned(), Arc::new(packed));
        } else {
            server.remove(FACTORS);
        }
    }
}
