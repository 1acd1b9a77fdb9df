//! What a virtual worker of a private run does to an upload before it leaves, as `worker::driver` does it:
//! it is shortened or noised by the functions of `worker::trainer`, it is on disk, and where the worker adds
//! the noise by itself its own ledger has paid.
//!
//! The toy data have no records: under DP-SGD the local run, which differs each time, stands for noisy steps.

use super::{
    Federation, Happening,
    node::{Node, Step},
};
use crate::{Millis, Mutation, invariants};
use algorithms::{Algorithm, Vectors, seed};
use privacy::{Journal, sampler::Key};
use proto::{digest::Digest, spec::RunSpec, v1::DeclineReason};
use std::{collections::BTreeMap, sync::Arc};
use worker::{
    client_state::Pending,
    message::Assignment,
    session::JobId,
    trainer::{Private, Promise, Seal, ShareMaker},
};

/// What workers of a private run need, and what has left them.
#[derive(Debug)]
pub(super) struct Workshop {
    promise: Option<Arc<Promise>>,
    maker: Option<ShareMaker>,
    /// By worker, round and basis.
    sent: BTreeMap<(usize, u64, Digest), Digest>,
}

impl Workshop {
    pub(super) fn new(spec: &Arc<RunSpec>, algorithm: &dyn Algorithm, dimension: usize) -> Self {
        let kept = "the schedule's promise can be kept";
        Self {
            promise: Promise::of(spec, algorithm, dimension).expect(kept).map(Arc::new),
            maker: ShareMaker::of(spec, algorithm, dimension).expect(kept),
            sent: BTreeMap::new(),
        }
    }
}

impl Node {
    /// The secret of a local run, which no other has.
    fn draw_key(&mut self, from: u64) -> Key {
        self.keys += 1;
        let mut bits = [0; 32];
        for (part, chunk) in (0_u64..).zip(bits.chunks_mut(8)) {
            let word = seed::derive(from, "local secret", &[seed::word(&self.name), self.keys, part]);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Key::new(bits)
    }
}

impl Federation {
    /// Whether a worker's pending upload must survive it: so must one with noise.
    pub(super) fn keeps(&self) -> bool {
        let noisy = self.spec.has_local_noise() || self.spec.has_shares();
        noisy || self.algorithm.has_client_state()
    }

    pub(super) fn seal(&mut self, worker: usize, order: &Assignment, upload: &mut Vectors) {
        let key = self.nodes[worker].draw_key(self.schedule.seed);
        let release = key.release(0);
        let private = self.workshop.promise.as_ref().map(|promise| Private::new(Arc::clone(promise), key));
        let seal = match (&self.workshop.maker, &private, order.clip_norm) {
            (Some(maker), ..) => Seal::Shared { maker, key: &release, round: order.round },
            (_, Some(private), _) => private.seal(&[]),
            (.., Some(norm)) => Seal::Clipped(norm, &[]),
            _ => Seal::Open,
        };
        seal.close(upload).expect("training stays finite");
    }

    /// A training loss, for runs that pay for telling it: a function of what is uploaded.
    pub(super) fn told_loss(&self, upload: &Vectors) -> f64 {
        let told = self.spec.privacy.as_ref().is_some_and(|privacy| privacy.metrics().is_some());
        let first = upload.values().next().and_then(|vector| vector.first()).filter(|_| told);
        first.map_or(0.0, |value| f64::from(value.abs()))
    }

    /// What comes before an offer.
    pub(super) fn before_offer(&self) -> Step {
        let pays = self.workshop.promise.is_some() && self.schedule.mutation != Mutation::OfferUnpaid;
        if pays { Step::Pay } else { Step::Offer }
    }

    /// Pays as `worker::ledger` does. A write is not atomic: a worker may die after half of the line.
    pub(super) fn pay(&mut self, worker: usize, id: JobId, order: &Assignment, whole: bool) {
        let next = |federation: &mut Self, step: Step, wait: Millis| {
            let life = federation.nodes[worker].life;
            federation.queue.push(federation.now + wait, Happening::Job { worker, life, job: id, step });
        };
        let node = &self.nodes[worker];
        let pending = node.job.as_ref().and_then(|job| job.offered.as_ref());
        let (Some(pending), Some(promise)) = (pending, &self.workshop.promise) else { return };
        let spec = promise.spec();
        let (mut text, mut journal) = match Journal::parse(&node.ledger) {
            Ok(journal) => (String::new(), journal),
            Err(_) if !node.ledger.contains('\n') => {
                let journal = Journal::open(&self.spec.data.name, spec.unit(), spec.adjacency());
                (journal.export(), journal)
            }
            Err(error) => {
                return self.report.require("left", self.now, Err(format!("w{worker}: {error}")));
            }
        };
        let (run, round) = (self.server.run.as_str(), order.round + 1);
        let by_round = self.schedule.mutation == Mutation::PayByRound && journal.paid(run, round);
        let digest = pending.digest.to_string();
        let line = journal.release_once((run, round), promise.cost().clone(), &digest);
        let line = line.expect("the event is one of the ledger's unit").filter(|_| !by_round);
        let Some(line) = line else { return next(self, Step::Offer, 1) };
        if self.now < node.disk_full_until {
            return self.decline(worker, id, order, (DeclineReason::Privacy, "the disk is full".to_owned()));
        }
        text.push_str(&line);
        let complete = node.ledger.rfind('\n').map_or(0, |end| end + 1);
        let ledger = &mut self.nodes[worker].ledger;
        let (first, rest) = text.split_at(text.len() / 2);
        if self.schedule.mutation == Mutation::KeepHalfALine {
            ledger.push_str(if whole { rest } else { first });
        } else {
            ledger.truncate(complete);
            ledger.push_str(if whole { &text } else { first });
        }
        if whole {
            return next(self, Step::Offer, 1);
        }
        let wait = self.dice.between(1, 40);
        next(self, Step::Paid, wait);
    }

    /// An upload leaves a worker.
    pub(super) fn check_left(&mut self, worker: usize, pending: &Pending) {
        if self.workshop.promise.is_none() && self.workshop.maker.is_none() {
            return;
        }
        let node = &self.nodes[worker];
        if self.workshop.promise.is_some() {
            let checked = invariants::left(&node.name, &pending.digest, &node.ledger);
            self.report.require("left", self.now, checked);
        }
        let key = (worker, pending.round, pending.basis);
        let stored = node.disk.pending.as_ref().map(|pending| &pending.digest);
        let earlier = self.workshop.sent.get(&key);
        let checked = invariants::sealed(&node.name, &pending.digest, (stored, earlier));
        self.report.require("sealed", self.now, checked);
        self.workshop.sent.insert(key, pending.digest);
    }
}
