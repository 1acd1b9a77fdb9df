//! What clients say of a committed model and of their own, on their shares of the held-out set.

use super::{Shares, client_index, server::Server, states::load};
use crate::parallel::in_order;
use algorithms::{MODEL, Vector};
use coordinator::machine::{Evaluated, Federated};
use proto::spec::PartitionSpec;
use std::ops::ControlFlow;
use worker::{
    data::{Dataset, matched},
    trainer::{Scores, details, personal_model, scores},
};

impl Server<'_> {
    /// The reports of clients, by name, in this order.
    pub(super) fn judge_clients(&self, asked: &[(String, u64)]) -> Vec<Evaluated> {
        let (clients, seed) = (self.shares.clients(), self.spec.seed);
        let Some(test) = self.test else { return vec![Evaluated::default(); asked.len()] };
        let divided = Shares::divide(test, &PartitionSpec::Iid {}, clients, seed).ok();
        let judge = |at: usize| {
            let (Some(divided), Some(client)) = (&divided, client_index(&asked[at].0)) else {
                return Evaluated::default();
            };
            if !self.spec.evaluation.matched {
                return self.judge_client(client, &divided.of(client));
            }
            let histogram = self.shares.of(client).class_histogram();
            let examples = test.subset(&matched(test, &histogram, clients, &[seed, client as u64]));
            self.judge_client(client, &examples)
        };
        in_order(self.threads, asked.len(), judge)
    }

    fn judge_client(&self, client: usize, examples: &Dataset) -> Evaluated {
        let go = &mut |_| ControlFlow::Continue(());
        let mut sums = |w: &[f32]| {
            let scores = scores(self.model, examples, w, go);
            scores.map(|Scores { predictions, correct, loss_sum }| Federated {
                predictions,
                correct,
                loss_sum,
            })
        };
        let w = &self.vectors[MODEL];
        let shared = sums(w).unwrap_or_default();
        let personal = self.personal(client).and_then(|own| sums(&own).ok());
        let told = self.spec.evaluation.details.then(|| details(self.model, examples, w, go).ok());
        Evaluated { shared, personal, details: told.flatten().map(Box::new) }
    }

    /// A client's own model; `None`: the run has no personal models, or the client's state cannot be read.
    fn personal(&self, client: usize) -> Option<Vector> {
        if !self.spec.has_personal_models(self.algorithm) {
            return None;
        }
        let found = self.states().find(client);
        let state = load(found).ok()?;
        personal_model(&self.spec, self.algorithm, self.own, (&self.vectors[MODEL], &state))
    }
}
