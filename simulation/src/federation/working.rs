//! A virtual worker: the real session machine and the real client state, driven as `worker::driver`
//! drives them, with a disk that survives a crash and a memory that does not.

use super::{Federation, Happening, network::Parcel};
use crate::{Millis, Mutation, objective::Quadratic};
use algorithms::{MODEL, Vectors};
use coordinator::machine::Decision;
use proto::{digest::Digest, v1::DeclineReason};
use std::time::Duration;
use worker::{
    client_state::{Durable, Facts, Pending, Verdict},
    message::{Assignment, Say},
    session::{Action, Event, JobId, Session, Work},
};

/// An upload without a verdict is offered again after so long.
const RETRY: Millis = 900;
/// A job that needs the connection looks for it so often.
const LOOK: Millis = 250;

/// What a job does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Settle client state and decide.
    Begin,
    /// Local training is done.
    Trained,
    /// Offer the upload.
    Offer,
    /// Evaluation is done.
    Scored,
    /// It is over.
    End,
}

#[derive(Debug)]
pub(super) struct Job {
    id: JobId,
    work: Work,
    /// What is offered until there is a verdict.
    offered: Option<Box<Pending>>,
    offers: u32,
    /// Its end is on its way.
    over: bool,
}

/// A virtual worker.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Counts deaths.
    pub(super) life: u32,
    pub(super) connection: Option<u64>,
    /// Client state as the process has it, once a job has read it.
    pub(super) memory: Option<Durable>,
    /// Client state as the disk has it; kept after the end of the run, for the checks.
    pub(super) disk: Durable,
    session: Option<Session>,
    job: Option<Job>,
    objective: Quadratic,
}

impl Node {
    pub(super) fn new(name: String, objective: Quadratic) -> Self {
        Self {
            name,
            life: 0,
            connection: None,
            memory: None,
            disk: Durable::default(),
            session: None,
            job: None,
            objective,
        }
    }

    pub(super) fn die(&mut self) {
        self.life += 1;
        (self.session, self.connection, self.memory, self.job) = (None, None, None, None);
    }

    fn state(&mut self) -> &mut Durable {
        self.memory.get_or_insert_with(|| self.disk.clone())
    }

    fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_connected)
    }
}

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
                if let Some(memory) = &mut self.nodes[worker].memory
                    && memory.closed(*round, *included)
                {
                    self.note(&format!("w{worker}: round {round} closed, included: {included}"));
                    self.save(worker);
                }
                Step::End
            }
            Work::Forget { .. } => {
                self.nodes[worker].memory = None;
                Step::End
            }
        };
        self.nodes[worker].job = Some(Job { id, work, offered: None, offers: 0, over: step == Step::End });
        let wait = self.dice.between(1, 30);
        self.later(worker, id, step, wait);
        self.check_confirmed(worker);
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

    fn save(&mut self, worker: usize) {
        let node = &mut self.nodes[worker];
        // As in `States`: an algorithm without client state has no file.
        if let Some(memory) = node.memory.as_ref().filter(|_| self.algorithm.has_client_state()) {
            node.disk = memory.clone();
        }
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
            (Step::Trained | Step::Scored, _) if !connected => self.later(worker, id, step, LOOK),
            (Step::Trained, Work::Train(order)) => self.trained(worker, id, &order),
            (Step::Offer, Work::Train(_)) => self.offer(worker, id, connected),
            (Step::Scored, Work::Evaluate(order)) => {
                if let Some(connection) = self.nodes[worker].connection {
                    self.send(connection, &Parcel::Evaluated(order.round));
                }
                self.end(worker, id);
            }
            _ => {}
        }
    }

    fn assigned(&mut self, worker: usize, id: JobId, order: &Assignment) {
        let stateful = self.algorithm.has_client_state();
        let (round, basis) = (order.round, order.basis());
        let verdict = self.nodes[worker].state().assigned(round, basis, order.committed, stateful);
        self.note(&format!("w{worker}: round {round} assigned, counted {:?}: {verdict:?}", order.committed));
        self.check_confirmed(worker);
        let again = self.schedule.mutation == Mutation::RetrainOnRetry;
        match verdict {
            Verdict::Offer if !again => {
                let pending = self.nodes[worker].state().pending.clone();
                self.offered(worker, id, pending.map(Box::new));
            }
            Verdict::Train | Verdict::Offer => {
                let wait = self.dice.between(50, 800);
                self.later(worker, id, Step::Trained, wait);
            }
            Verdict::Counted => self.end(worker, id),
            Verdict::Lost { ours } => {
                let detail = format!("w{worker} has round {ours:?}, counted was {:?}", order.committed);
                self.report.require("nothing is lost", self.now, Err(detail.clone()));
                let (run, reason) = (order.run.clone(), DeclineReason::State);
                self.say(worker, Say::Decline { run, round, reason, detail });
                self.end(worker, id);
            }
        }
    }

    fn trained(&mut self, worker: usize, id: JobId, order: &Assignment) {
        let down: Vectors = order
            .vectors
            .iter()
            .filter_map(|wanted| Some((wanted.name.clone(), self.server.fetch(&wanted.digest)?)))
            .collect();
        let noise = match self.schedule.mutation {
            Mutation::RetrainOnRetry | Mutation::UploadBeforeSave => 1.0,
            _ => self.schedule.noise,
        };
        let noise = noise * (self.noise.unit() as f32 - 0.5);
        let node = &mut self.nodes[worker];
        let state = node.state().state.clone();
        let plan = self.algorithm.plan(&down, &state);
        let run = node.objective.train(&down[MODEL], &plan, (self.schedule.steps, order.lr), noise);
        let facts = Facts {
            examples: node.objective.examples,
            steps: run.steps,
            lr: run.lr,
            train_loss: 0.0,
            seconds: Duration::from_millis(self.now).as_secs_f64(),
        };
        let finished = self.algorithm.finish(run, &down, &state);
        let digest = Digest::of_vector(&finished.upload["delta"]);
        let (round, basis) = (order.round, order.basis());
        let pending = Pending { round, basis, facts, digest, upload: finished.upload, next: finished.next };
        node.state().pending = Some(pending.clone());
        self.note(&format!("w{worker}: round {round} trained, upload {digest}"));
        if self.schedule.mutation != Mutation::UploadBeforeSave {
            self.save(worker);
        }
        self.offered(worker, id, Some(Box::new(pending)));
    }

    fn offered(&mut self, worker: usize, id: JobId, pending: Option<Box<Pending>>) {
        if let Some(job) = &mut self.nodes[worker].job {
            job.offered = pending;
        }
        self.later(worker, id, Step::Offer, 1);
    }

    fn offer(&mut self, worker: usize, id: JobId, connected: bool) {
        self.later(worker, id, Step::Offer, RETRY);
        let node = &mut self.nodes[worker];
        let (Some(job), Some(connection), true) = (&mut node.job, node.connection, connected) else { return };
        job.offers += 1;
        let (offers, Some(pending)) = (job.offers, job.offered.clone()) else { return };
        if offers > 1 {
            if self.schedule.mutation == Mutation::ForgetRetry {
                return;
            }
            self.report.incidents.retries += 1;
        }
        self.note(&format!("w{worker}: offers round {} for the {offers}. time", pending.round));
        self.send(connection, &Parcel::Upload(id, pending));
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
