//! A virtual worker: the real session machine and the real client state, driven as `worker::driver`
//! drives them, with a disk that survives a crash and a memory that does not.

use super::{
    Federation, Happening,
    network::{Parcel, Upload},
    node::{Job, Mood, Step},
};
use crate::{Millis, Mutation, Vice};
use algorithms::{MODEL, Vectors};
use coordinator::machine::{Decision, Federated};
use proto::{
    digest::Digest,
    v1::{DeclineReason, ElementType, UploadHeader, VectorShape},
};
use std::{sync::Arc, time::Duration};
use worker::{
    client_state::{Facts, Pending, Verdict},
    message::{Assignment, Say},
    session::{Action, Event, JobId, Session, Work},
};

/// An upload without a verdict is offered again after so long.
const RETRY: Millis = 900;
/// A job that needs the connection looks for it so often.
const LOOK: Millis = 250;
/// A training that takes long reports so often.
const REPORT: Millis = 700;
/// Offers of one upload, in calm times, after which its worker has been ignored.
const PATIENCE: u32 = 9;
/// An honest worker's predictions in an evaluation.
pub(super) const PREDICTIONS: u64 = 10;

impl Federation {
    pub(super) fn worker_up(&mut self, worker: usize) {
        let name = self.nodes[worker].name.parse().expect("a w and digits are a name");
        self.nodes[worker].session = Some(Session::new(&name));
        self.session(worker, Event::Start);
    }

    /// Feeds a worker's session machine and does what it says.
    pub(super) fn session(&mut self, worker: usize, event: Event) {
        let now = self.time();
        let Some(session) = &mut self.nodes[worker].session else { return };
        for action in session.handle(event, now) {
            match action {
                Action::Connect => self.connect(worker),
                Action::Disconnect => self.hang_up(worker),
                Action::Send(say) => self.say(worker, say),
                Action::Arm { token, at } => {
                    let life = self.nodes[worker].life;
                    let at = at.as_nanos().div_ceil(1_000_000) as Millis;
                    self.queue.push(at, Happening::Fired { worker, life, token });
                }
                Action::Begin(id, work) => self.begin(worker, id, work),
                Action::Cancel(id) => self.end(worker, id),
                Action::Up | Action::Log(..) => {}
                Action::Exit(result) => {
                    self.report.require(
                        "session",
                        self.now,
                        result.map_err(|why| format!("w{worker}: {why}")),
                    );
                }
            }
        }
    }

    fn say(&mut self, worker: usize, say: Say) {
        if let Some(id) = self.nodes[worker].connection {
            self.send(id, &Parcel::Said(say));
        }
    }

    fn begin(&mut self, worker: usize, id: JobId, work: Work) {
        let step = match &work {
            Work::Train(_) => Step::Begin,
            Work::Evaluate(_) => Step::Scored,
            Work::Settle { round, included, .. } => {
                self.settle(worker, *round, *included);
                Step::End
            }
            Work::Forget { .. } => {
                self.nodes[worker].memory = None;
                Step::End
            }
        };
        self.nodes[worker].job =
            Some(Job { id, work, offered: None, offers: 0, ignored: 0, over: step == Step::End });
        let wait = self.dice.between(1, 30);
        self.later(worker, id, step, wait);
        self.check_confirmed(worker);
    }

    fn settle(&mut self, worker: usize, round: u64, included: bool) {
        let any = self.schedule.mutation == Mutation::SettleAnyRound;
        let Some(memory) = &mut self.nodes[worker].memory else { return };
        let round = match &memory.pending {
            Some(pending) if any => pending.round,
            _ => round,
        };
        if memory.closed(round, included) {
            self.note(&format!("w{worker}: round {round} closed, included: {included}"));
            self.save(worker);
        }
    }

    fn later(&mut self, worker: usize, job: JobId, step: Step, wait: Millis) {
        let life = self.nodes[worker].life;
        self.queue.push(self.now + wait, Happening::Job { worker, life, job, step });
    }

    /// The job's end is due; of two reasons to end, the first counts.
    fn end(&mut self, worker: usize, id: JobId) {
        if let Some(job) = self.nodes[worker].job.as_mut().filter(|job| job.id == id && !job.over) {
            job.over = true;
            self.later(worker, id, Step::End, 1);
        }
    }

    /// As in `States`: an algorithm without client state has no file, and what the disk did not take
    /// is not believed.
    fn save(&mut self, worker: usize) -> bool {
        let keeps = self.keeps();
        let full = self.now < self.nodes[worker].disk_full_until;
        let node = &mut self.nodes[worker];
        let Some(memory) = node.memory.as_ref().filter(|_| keeps) else { return true };
        if !full {
            node.disk = memory.clone();
        } else if self.schedule.mutation != Mutation::UploadUnsaved {
            node.memory = None;
        }
        !full
    }

    pub(super) fn step(&mut self, worker: usize, id: JobId, step: Step) {
        let node = &mut self.nodes[worker];
        let connected = node.is_connected();
        let Some(job) = node.job.as_mut().filter(|job| job.id == id) else { return };
        if step == Step::End {
            node.job = None;
            return self.session(worker, Event::Ended(id));
        }
        if job.over {
            return;
        }
        match (step, job.work.clone()) {
            (Step::Begin, Work::Train(order)) => self.assigned(worker, id, &order),
            (Step::Working(until), Work::Train(order)) => self.work_on(worker, id, (order.round, until)),
            (Step::Trained | Step::Scored, _) if !connected => self.later(worker, id, step, LOOK),
            (Step::Trained, Work::Train(order)) => self.trained(worker, id, &order),
            (Step::Pay | Step::Paid, Work::Train(order)) => self.pay(worker, id, &order, step == Step::Paid),
            (Step::Offer, Work::Train(_)) => self.offer(worker, id, connected),
            (Step::Scored, Work::Evaluate(order)) => {
                let report = match self.vice(worker) {
                    Some(Vice::Evaluation) => {
                        Federated { predictions: u64::MAX, correct: u64::MAX, loss_sum: f64::MAX }
                    }
                    _ => Federated { predictions: PREDICTIONS, correct: 5, loss_sum: 7.0 },
                };
                if let Some(connection) = self.nodes[worker].connection {
                    self.send(connection, &Parcel::Evaluated(order.round, report));
                }
                self.end(worker, id);
            }
            _ => {}
        }
    }

    fn assigned(&mut self, worker: usize, id: JobId, order: &Assignment) {
        let stateful = self.spec.has_client_state(self.algorithm.as_ref());
        let (round, basis) = (order.round, order.basis());
        if self.schedule.mutation == Mutation::PayByRound {
            self.nodes[worker].state().pending = None;
        }
        let verdict = self.nodes[worker].state().assigned(round, basis, order.committed, stateful);
        self.note(&format!("w{worker}: round {round} assigned, counted {:?}: {verdict:?}", order.committed));
        self.check_confirmed(worker);
        if self.vice(worker) == Some(Vice::Refuse) {
            return self.decline(worker, id, order, (DeclineReason::Data, "no such data".to_owned()));
        }
        match verdict {
            Verdict::Offer => {
                let pending = self.nodes[worker].state().pending.clone();
                self.offered_next(worker, id, pending.map(Box::new));
            }
            Verdict::Train => self.begin_training(worker, id),
            Verdict::Counted => self.end(worker, id),
            Verdict::Lost { ours } => {
                if self.schedule.mutation == Mutation::TrainOnLostState {
                    return self.begin_training(worker, id);
                }
                let detail = format!("w{worker} has round {ours:?}, counted was {:?}", order.committed);
                // An order that was overtaken by the closing of its round finds a state that is ahead of it.
                let counted = self.server.disk.committed.get(&self.nodes[worker].name);
                let overtaken = ours.is_some() && counted.copied() == ours;
                if self.nodes[worker].ghost.is_none() && !overtaken {
                    self.report.require("nothing is lost", self.now, Err(detail.clone()));
                }
                self.decline(worker, id, order, (DeclineReason::State, detail));
            }
        }
    }

    pub(super) fn decline(
        &mut self,
        worker: usize,
        id: JobId,
        order: &Assignment,
        (reason, detail): (DeclineReason, String),
    ) {
        let (run, round) = (order.run.clone(), order.round);
        self.say(worker, Say::Decline { run, round, reason, detail });
        self.end(worker, id);
    }

    fn begin_training(&mut self, worker: usize, id: JobId) {
        let calm = self.is_calm();
        let mood = std::mem::take(&mut self.nodes[worker].mood);
        match mood {
            Mood::Slow if !calm => {
                self.report.incidents.slow += 1;
                let deadline = self.schedule.deadline_s * 1_000;
                let until = self.now + self.dice.between(deadline / 2, 2 * deadline);
                self.note(&format!("w{worker}: trains slowly, until {until}"));
                self.later(worker, id, Step::Working(until), REPORT);
            }
            Mood::Stuck if !calm => {
                self.report.incidents.stuck += 1;
                self.note(&format!("w{worker}: hangs"));
            }
            _ => {
                let wait = self.dice.between(50, 800);
                self.later(worker, id, Step::Trained, wait);
            }
        }
    }

    /// A training that takes long says how far it is.
    fn work_on(&mut self, worker: usize, id: JobId, (round, until): (u64, Millis)) {
        if let Some(connection) = self.nodes[worker].connection.filter(|_| self.nodes[worker].is_connected())
        {
            self.send(connection, &Parcel::Progress(round, self.now));
        }
        let step = if self.now + REPORT < until { Step::Working(until) } else { Step::Trained };
        self.later(worker, id, step, REPORT);
    }

    fn trained(&mut self, worker: usize, id: JobId, order: &Assignment) {
        let down: Vectors = order
            .vectors
            .iter()
            .filter_map(|wanted| Some((wanted.name.clone(), self.server.fetch(&wanted.digest)?)))
            .collect();
        if down.len() < order.vectors.len() {
            let detail = format!("the model of round {} cannot be fetched", order.round);
            return self.decline(worker, id, order, (DeclineReason::Transfer, detail));
        }
        let noise = match self.schedule.mutation {
            Mutation::UploadBeforeSave => 1.0,
            _ => self.schedule.noise,
        };
        let noise = noise * (self.noise.unit() as f32 - 0.5);
        let node = &mut self.nodes[worker];
        let state = node.state().state.clone();
        let plan = self.algorithm.plan(&down, &state);
        let effort = (self.schedule.steps, order.lr);
        let personal = self.algorithm.personal(&down, &state);
        let personal = personal.map(|own| node.objective.train(&own.start, &own.plan, effort, noise).end);
        let mut run = node.objective.train(&down[MODEL], &plan, effort, noise);
        run.personal = personal.map(Arc::new);
        let facts = Facts {
            examples: node.objective.examples,
            steps: run.steps,
            lr: run.lr,
            train_loss: 0.0,
            seconds: Duration::from_millis(self.now).as_secs_f64(),
        };
        let mut finished = self.algorithm.finish(run, &down, &state);
        self.seal(worker, order, &mut finished.upload);
        let facts = Facts { train_loss: self.told_loss(&finished.upload), ..facts };
        let digest = Digest::of(&bytes(&finished.upload));
        let (round, basis) = (order.round, order.basis());
        let pending = Pending { round, basis, facts, digest, upload: finished.upload, next: finished.next };
        self.nodes[worker].state().pending = Some(pending.clone());
        self.note(&format!("w{worker}: round {round} trained, upload {digest}"));
        let mutation = self.schedule.mutation;
        let saved = mutation == Mutation::UploadBeforeSave || self.save(worker);
        if saved || mutation == Mutation::UploadUnsaved {
            return self.offered_next(worker, id, Some(Box::new(pending)));
        }
        self.decline(worker, id, order, (DeclineReason::State, "the disk is full".to_owned()));
    }

    fn offered_next(&mut self, worker: usize, id: JobId, pending: Option<Box<Pending>>) {
        if let Some(job) = &mut self.nodes[worker].job {
            job.offered = pending;
        }
        self.later(worker, id, self.before_offer(), 1);
    }

    fn offer(&mut self, worker: usize, id: JobId, connected: bool) {
        self.later(worker, id, Step::Offer, RETRY);
        let heard = self.is_calm() && self.server.is_up() && !self.server.is_stalled();
        let node = &mut self.nodes[worker];
        let (Some(job), Some(connection), true) = (&mut node.job, node.connection, connected) else { return };
        job.offers += 1;
        job.ignored += u32::from(heard);
        let (offers, ignored, Some(pending)) = (job.offers, job.ignored, job.offered.clone()) else { return };
        if ignored > PATIENCE && self.vice(worker).is_none() {
            let detail = format!("w{worker} offers round {} for the {offers}. time", pending.round);
            self.report.require("answered", self.now, Err(detail));
        }
        if offers > 1 {
            if self.schedule.mutation == Mutation::ForgetRetry {
                return;
            }
            self.report.incidents.retries += 1;
        }
        self.note(&format!("w{worker}: offers round {} for the {offers}. time", pending.round));
        self.check_left(worker, &pending);
        let upload = self.packed(worker, &pending);
        match self.vice(worker) {
            None => self.send(connection, &Parcel::Upload(id, Box::new(upload))),
            Some(vice) => self.misbehave(worker, (connection, id), (vice, offers), upload),
        }
    }

    fn packed(&self, worker: usize, pending: &Pending) -> Upload {
        let shape = |(name, vector): (&String, &algorithms::Vector)| VectorShape {
            name: name.clone(),
            length: vector.len() as u64,
            element: ElementType::F32.into(),
        };
        let header = UploadHeader {
            run: self.server.run.to_string(),
            round: pending.round,
            worker: self.nodes[worker].name.clone(),
            vectors: pending.upload.iter().map(shape).collect(),
            digest: pending.digest.0.to_vec(),
            examples: pending.facts.examples,
            steps: pending.facts.steps,
            lr: pending.facts.lr,
            train_loss: pending.facts.train_loss,
            seconds: pending.facts.seconds,
        };
        let values = pending.upload.values().flat_map(|vector| vector.iter().copied()).collect();
        Upload { header, values }
    }

    /// The answer to an upload.
    pub(super) fn verdict(&mut self, worker: usize, id: JobId, decision: &Decision) {
        let node = &mut self.nodes[worker];
        let Some(job) = node.job.as_ref().filter(|job| job.id == id && !job.over) else { return };
        let Some(round) = job.offered.as_ref().map(|offered| offered.round) else { return };
        self.note(&format!("w{worker}: round {round}: {decision:?}"));
        if self.schedule.mutation == Mutation::CommitEarly && *decision == Decision::Accept {
            self.nodes[worker].state().closed(round, true);
            self.save(worker);
            self.check_confirmed(worker);
        }
        self.end(worker, id);
    }
}

/// The bytes of the vectors end to end, in order of names.
fn bytes(vectors: &Vectors) -> Vec<u8> {
    vectors.values().flat_map(|vector| vector.iter().flat_map(|value| value.to_le_bytes())).collect()
}
