//! Uploads at the virtual coordinator, as `coordinator::service::upload` takes them: the machine is
//! asked, the payload comes, it is vetted, the machine is asked again, it is folded, and there is a
//! verdict.

use super::{
    Federation, Happening,
    network::{Parcel, Upload},
    serving::Input,
};
use crate::{Mutation, invariants};
use algorithms::{
    Vectors,
    fold::{UploadFacts, accumulators},
};
use coordinator::machine::{Action, Decision, Event, Facts};
use proto::v1::RejectReason;
use std::sync::Arc;
use worker::session::JobId;

/// An upload in the coordinator's hands.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) connection: u64,
    pub(super) worker: usize,
    pub(super) job: JobId,
    pub(super) upload: Upload,
}

impl Call {
    pub(super) fn facts(&self) -> UploadFacts {
        let header = &self.upload.header;
        UploadFacts { examples: header.examples, steps: header.steps, lr: header.lr }
    }

    /// One of the vectors that lie end to end.
    fn vector(&self, shapes: &[(&str, usize)], wanted: &str) -> &[f32] {
        let before = shapes.iter().take_while(|(name, _)| *name != wanted).map(|(_, length)| length);
        let from: usize = before.sum();
        let length = shapes.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, length)| *length);
        &self.upload.values[from..from + length]
    }
}

impl Federation {
    pub(super) fn offered(&mut self, connection: u64, worker: usize, job: JobId, upload: Upload) {
        let call = Call { connection, worker, job, upload };
        self.input(Input::Offer(Box::new(call)));
    }

    fn upload_shapes(&self) -> Vec<(&'static str, usize)> {
        self.spec.upload(self.algorithm.as_ref(), self.schedule.dimension)
    }

    /// The header: what would the machine say?
    pub(super) fn offered_to_machine(&mut self, call: Call) {
        let Some(machine) = &self.server.machine else { return };
        match machine.offer(&self.nodes[call.worker].name, call.upload.header.round) {
            Decision::Accept => {
                let (life, at) = (self.server.life, self.now + self.dice.between(0, 100));
                self.queue.push(at, Happening::Payload { life, call: Box::new(call) });
            }
            Decision::Duplicate => {
                if self.schedule.mutation == Mutation::CountTwice {
                    self.fold(&call);
                }
                if self.schedule.mutation != Mutation::SilentDuplicate {
                    self.answer(&call, Decision::Duplicate);
                }
            }
            Decision::Reject { reason, detail } => self.refuse(&call, (reason, detail)),
        }
    }

    /// The whole payload.
    pub(super) fn deliver(&mut self, call: &Call) {
        let Call { worker, upload, .. } = call;
        let expected = (self.spec.as_ref(), self.algorithm.as_ref(), self.schedule.dimension);
        let vetted = coordinator::vet(&upload.header, &upload.values, expected);
        match (vetted, self.schedule.mutation) {
            (Ok(_), _) | (Err(_), Mutation::SkipVetting) => {}
            (Err(refusal), mutation) => {
                let due: usize = self.upload_shapes().iter().map(|(_, length)| length).sum();
                if mutation == Mutation::CountRejected && upload.values.len() == due {
                    self.fold(call);
                }
                return self.refuse(call, refusal);
            }
        }
        let Some(machine) = &self.server.machine else { return };
        let (worker, round) = (self.nodes[*worker].name.clone(), upload.header.round);
        let facts = Facts {
            examples: upload.header.examples,
            train_loss: Some(upload.header.train_loss),
            seconds: upload.header.seconds,
        };
        let wanted = machine.offer(&worker, round) == Decision::Accept;
        if self.flow().is_some() {
            if wanted {
                self.check_accepted(call);
            }
            let event = self.store(call, facts);
            return self.conclude(call, event);
        }
        if wanted {
            self.check_accepted(call);
            if self.report.violation.is_some() {
                return;
            }
            match self.add_to_sum(call) {
                None => self.fold(call),
                Some(Ok(())) => {}
                Some(Err(refusal)) => return self.refuse(call, refusal),
            }
            self.server.observed.arrivals.push(worker.clone());
            self.server.observed.accepted.insert(worker.clone(), call.clone());
        }
        self.conclude(call, Event::Update { worker, round, facts });
    }

    fn fold(&mut self, call: &Call) {
        if self.add_to_sum(call).is_some() {
            return;
        }
        let shapes = self.upload_shapes();
        if self.server.accumulators.is_empty() {
            self.server.accumulators = accumulators(self.algorithm.as_ref(), self.schedule.dimension);
        }
        for accumulator in &mut self.server.accumulators {
            accumulator.accumulate(call.vector(&shapes, accumulator.fold().from), &call.facts());
        }
    }

    fn refuse(&mut self, call: &Call, (mut reason, detail): (RejectReason, String)) {
        if self.schedule.mutation == Mutation::BlameEverybody {
            reason = RejectReason::Facts;
        }
        let worker = self.nodes[call.worker].name.clone();
        self.conclude(call, Event::Rejected { worker, round: call.upload.header.round, reason, detail });
    }

    /// Tells the machine, answers the worker, then does the rest.
    fn conclude(&mut self, call: &Call, event: Event) {
        let actions = self.decide(event);
        let decision = actions.iter().find_map(|action| match action {
            Action::Verdict { decision, .. } => Some(decision.clone()),
            _ => None,
        });
        if let Some(decision) = decision {
            self.answer(call, decision);
        }
        self.act(actions);
        self.check_quarantine();
    }

    fn answer(&mut self, call: &Call, decision: Decision) {
        self.check_verdict(call.worker, &decision);
        self.send(call.connection, &Parcel::Verdict(call.job, decision));
    }

    /// The mean of the accepted updates, folded anew in order of names; or, as a defect, summed in
    /// floating point in order of arrival.
    pub(super) fn mean_again(&self) -> Vectors {
        let shapes = self.upload_shapes();
        let mut mean = Vectors::new();
        for mut accumulator in accumulators(self.algorithm.as_ref(), self.schedule.dimension) {
            let fold = *accumulator.fold();
            for call in self.server.observed.accepted.values() {
                accumulator.accumulate(call.vector(&shapes, fold.from), &call.facts());
            }
            mean.extend(accumulator.mean().map(|vector| (fold.into.to_owned(), Arc::new(vector))));
        }
        mean
    }

    pub(super) fn mean_by_arrival(&self) -> Vectors {
        let shapes = self.upload_shapes();
        let fold = |fold: algorithms::fold::Fold| {
            let length = shapes.iter().find(|(name, _)| *name == fold.from).map_or(0, |(_, length)| *length);
            let (mut sum, mut weight) = (vec![0.0_f32; length], 0.0_f32);
            let arrived = &self.server.observed.arrivals;
            for call in arrived.iter().filter_map(|worker| self.server.observed.accepted.get(worker)) {
                let own = fold.weight(&call.facts()) as f32;
                let factor = own * fold.factor(&call.facts()) as f32;
                algorithms::axpy(&mut sum, factor, call.vector(&shapes, fold.from));
                weight += own;
            }
            algorithms::scale(&mut sum, 1.0 / weight);
            (fold.into.to_owned(), Arc::new(sum))
        };
        self.algorithm.folds().into_iter().map(fold).collect()
    }

    pub(super) fn check_aggregate(&mut self, mean: &Vectors, participants: &[String]) {
        let accepted: Vec<String> = self.server.observed.accepted.keys().cloned().collect();
        let checked = invariants::aggregate(mean, &self.mean_again(), (participants, &accepted));
        self.report.require("aggregate", self.now, checked);
    }
}
