//! The one task of a peer that decides: it gives the mixing machine its events, stores its state before it
//! does what the machine says, and keeps the time.

use super::{
    book::{Book, Own},
    meeting::{Meeting, Start},
    net::Net,
    post::Post,
    rumour::Rumours,
    serve::{Ask, Input, Shared},
    store::{self, Record, Store},
    work::{Job, Measured, Outcome, Trained},
};
use crate::{WorkerError, trainer::Train};
use gossip::machine::{Action, Body, Event, Machine, Member, Phase, State};
use proto::{
    digest::Digest,
    peers,
    spec::{Mixing, RunSpec},
    v1,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Who is there is looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// What is known of the membership is told to one other peer so often.
const SPREAD: Duration = Duration::from_secs(1);
/// A peer that comes back so many rounds behind takes a sponsor's model instead of its own.
const BEHIND: u64 = 5;

/// What a peer is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) spec: Arc<RunSpec>,
    pub(super) mixing: Mixing,
    pub(super) tensors: Vec<v1::Tensor>,
    pub(super) shared: Arc<Shared>,
    pub(super) net: Net,
    pub(super) rumours: Rumours,
    pub(super) store: Store,
    pub(super) report: String,
}

/// The peer, once it has begun.
pub(super) struct Node {
    pub(super) parts: Parts,
    pub(super) machine: Machine<f32>,
    pub(super) post: Post,
    pub(super) book: Book,
    sender: mpsc::Sender<Input>,
    /// Here unless it works.
    trainer: Option<Box<dyn Train>>,
    jobs: JoinSet<()>,
    cancel: CancellationToken,
    /// Grows with each incarnation: what was trained for an earlier one is void.
    life: u64,
    /// The machine's round that waits for the trainer.
    wanted: Option<u64>,
    last_end: Option<Vec<f32>>,
    /// The last local run, for the report of its round.
    trained: Option<Trained>,
    opened: Instant,
    bytes: (u64, u64),
    received: u64,
    /// By id: name and address.
    pub(super) known: BTreeMap<u64, (String, SocketAddr)>,
    pub(super) reachable: BTreeSet<u64>,
    missing: BTreeMap<u64, Instant>,
    wake: Option<u64>,
    spread: (Instant, usize),
    evicted: bool,
    leaving: bool,
    began: (u64, Instant),
}

/// How a peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop; its state is kept.
    Stopped,
    /// It left the run and handed over what it held.
    Left,
}

impl Node {
    /// A node from its stored state, or from a start.
    pub(super) fn new(
        parts: Parts,
        (stored, start): (Option<Record>, Option<Start>),
        (trainer, initial): (Box<dyn Train>, Vec<f32>),
        sender: mpsc::Sender<Input>,
    ) -> Result<Self, WorkerError> {
        let config = parts.mixing.config.clone();
        let (machine, last_end) = match (stored, start) {
            (Some(record), _) => (Machine::resume(config, record.machine), record.last_end),
            (None, Some(Start { me, membership, round, model })) => {
                (Machine::new(config, me, membership, (round, model.unwrap_or(initial))), None)
            }
            (None, None) => return Err(WorkerError::Internal("a peer without a beginning".into())),
        };
        let machine = machine.map_err(|error| WorkerError::Internal(error.to_string()))?;
        let post = Post::new(parts.net.clone(), parts.shared.run);
        let book = Book::new(parts.mixing.clone(), parts.store.path("metrics.jsonl"));
        let now = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Ok(Self {
            parts,
            machine,
            post,
            book,
            sender,
            trainer: Some(trainer),
            jobs: JoinSet::new(),
            cancel: CancellationToken::new(),
            life: 0,
            wanted: None,
            last_end,
            trained: None,
            opened: now,
            bytes: (0, 0),
            received: 0,
            known: BTreeMap::new(),
            reachable: BTreeSet::new(),
            missing: BTreeMap::new(),
            wake: None,
            spread: (now, 0),
            evicted: false,
            leaving: false,
            began: (wall, now),
        })
    }

    /// Lives until told to stop, or until it has left.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Input>,
        stop: CancellationToken,
    ) -> Result<Ended, WorkerError> {
        self.look().await?;
        self.drive(Event::Start).await?;
        let ended = loop {
            let pause = self.pause();
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                Some(input) = inbox.recv() => self.input(input).await?,
                Some(done) = self.jobs.join_next() => {
                    done.map_err(|error| WorkerError::Internal(format!("training: {error}")))?;
                }
                () = sleep(pause) => {}
            }
            if self.wake.is_some_and(|at| at <= self.now()) {
                self.wake = None;
                self.drive(Event::Tick).await?;
            }
            if self.spread.0.elapsed() > LOOK {
                self.look().await?;
            }
            if self.evicted {
                self.come_back().await?;
            }
            if self.leaving && self.machine.phase() == Phase::Over {
                break Ended::Left;
            }
        };
        self.cancel.cancel();
        while self.jobs.join_next().await.is_some() {}
        Ok(ended)
    }

    /// Milliseconds since 1970 as this process counts them: never back, and onwards from a stored state.
    fn now(&self) -> u64 {
        self.began.0 + self.began.1.elapsed().as_millis() as u64
    }

    fn pause(&self) -> Duration {
        let due = self.wake.map(|at| Duration::from_millis(at.saturating_sub(self.now()).max(1)));
        due.unwrap_or(LOOK).min(LOOK)
    }

    async fn input(&mut self, input: Input) -> Result<(), WorkerError> {
        match input {
            Input::Message(envelope, bytes) => {
                self.received += bytes;
                self.drive(Event::Received(envelope)).await
            }
            Input::Report(report) => {
                self.book.report(&report);
                self.book.settle(Instant::now());
                Ok(())
            }
            Input::Ask(Ask::Leave) => {
                self.leaving = true;
                self.drive(Event::Leave).await
            }
            Input::Ask(ask) => {
                self.answer(ask);
                Ok(())
            }
            Input::Work(outcome) => self.worked(outcome).await,
        }
    }

    /// One event: the machine decides, its state is stored, then it happens.
    pub(super) async fn drive(&mut self, event: Event<f32>) -> Result<(), WorkerError> {
        let settles = match &event {
            Event::Trained { .. } | Event::Membership(_) | Event::Leave | Event::Start => true,
            Event::Received(envelope) => {
                matches!(envelope.body, Body::Transfer(_) | Body::Verdict { .. } | Body::Membership(_))
            }
            Event::Suspected { .. } | Event::Tick => false,
        };
        let actions = self.machine.handle(event, self.now());
        let decided = actions.iter().any(|action| !matches!(action, Action::WakeAt(_) | Action::Ignored(_)));
        let moved = actions.iter().any(|action| !matches!(action, Action::WakeAt(_) | Action::Send(_)));
        if moved || settles && decided {
            self.save().await?;
        }
        self.note_settled();
        for action in actions {
            self.act(action);
        }
        Ok(())
    }

    fn act(&mut self, action: Action<f32>) {
        match action {
            Action::Send(envelope) => self.post.send(envelope),
            Action::Train { round } => {
                self.wanted = Some(round);
                self.work();
            }
            Action::WakeAt(at) => self.wake = Some(at),
            Action::Epoch { number, account, fallback } => {
                let members = self.machine.membership().live().len();
                let account = account.value();
                tracing::info!(epoch = number, members, account, "who takes part");
                if let Some(why) = fallback {
                    tracing::warn!(why, "a ring takes the topology's place");
                }
                self.tell_everybody();
            }
            Action::Evicted => self.evicted = true,
            Action::Left => tracing::info!("left the run: everything was handed over"),
            Action::Ignored(what) => tracing::warn!(what, "ignored"),
        }
    }

    /// What is known of the membership, to all who are live.
    fn tell_everybody(&self) {
        let (me, membership) = (self.machine.me(), self.machine.membership());
        for to in membership.live().into_iter().filter(|to| to.id != me.id) {
            let body = Body::Membership(membership.clone());
            self.post.send(gossip::machine::Envelope { from: me, to, body });
        }
    }

    async fn save(&mut self) -> Result<(), WorkerError> {
        let file = self.parts.store.path("state");
        let failed = |problem: String| WorkerError::StateDir { path: file.clone(), problem };
        let record: Record<&State<f32>> = Record {
            run: self.parts.shared.run,
            machine: self.machine.state(),
            last_end: self.last_end.clone(),
        };
        let bytes = store::bytes(&record).map_err(failed)?;
        let to = file.clone();
        let written = spawn_blocking(move || store::replace(&to, &bytes)).await;
        let written = written.map_err(|error| failed(error.to_string()))?;
        written.map_err(|error| WorkerError::StateDir { path: file, problem: error.to_string() })
    }

    /// Lets the server answer repetitions without their vectors.
    fn note_settled(&self) {
        let mut settled = self.parts.shared.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.clear();
        settled.extend(self.machine.settled());
    }

    fn rounds(&self) -> u64 {
        self.parts.spec.rounds
    }

    /// Training rounds done.
    pub(super) fn round(&self) -> u64 {
        self.machine.round() / self.parts.mixing.repeats
    }

    /// Whether every round is done.
    pub(super) fn finished(&self) -> bool {
        self.round() >= self.rounds()
    }

    /// Gives the trainer what the machine wants, when both are there.
    fn work(&mut self) {
        let Some(step) = self.wanted.filter(|_| self.trainer.is_some()) else { return };
        let (round, within) = (step / self.parts.mixing.repeats, step % self.parts.mixing.repeats);
        let spec = &self.parts.spec;
        if within > 0 {
            // Mixing goes on; nothing is trained.
            self.wanted = None;
            let length = self.parts.shared.length.get().copied().unwrap_or(0);
            let idle = Trained { change: vec![0.0; length], sketch: Vec::new(), end: None, loss: 0.0 };
            self.send_idle(step, idle);
            return;
        }
        let Some(model) = self.machine.model() else { return };
        let Some(trainer) = self.trainer.take() else { return };
        self.wanted = None;
        let every = spec.evaluation.every;
        let evaluate = every > 0 && (round % every == 0 || round == spec.rounds);
        let measured = round > 0 && self.trained.is_some();
        let job = Job {
            spec: Arc::clone(spec),
            local: self.parts.mixing.local,
            life: self.life,
            step,
            model,
            measure: measured.then_some(evaluate),
            train: (round < spec.rounds).then_some(round),
            last_end: self.last_end.clone(),
            cancel: self.cancel.clone(),
        };
        let sender = self.sender.clone();
        self.jobs.spawn_blocking(move || {
            let tell = |outcome| drop(sender.blocking_send(Input::Work(outcome)));
            let done = job.run(trainer, tell);
            tell(done);
        });
    }

    fn send_idle(&mut self, step: u64, idle: Trained) {
        let (sender, life) = (self.sender.clone(), self.life);
        let Some(trainer) = self.trainer.take() else { return };
        self.jobs.spawn(async move {
            let done = Outcome::Done { life, step, trained: Ok(Some(idle)), trainer };
            let _ = sender.send(Input::Work(done)).await;
        });
    }

    async fn worked(&mut self, outcome: Outcome) -> Result<(), WorkerError> {
        match outcome {
            Outcome::Measured { life, step, measured } => {
                if life == self.life {
                    self.report(step, measured);
                }
            }
            Outcome::Done { life, step, trained, trainer } => {
                self.trainer = Some(trainer);
                let trained = trained.map_err(|error| WorkerError::Training(error.to_string()))?;
                match trained.filter(|_| life == self.life) {
                    Some(mut trained) => {
                        let change = std::mem::take(&mut trained.change);
                        if let Some(end) = trained.end.take() {
                            self.last_end = Some(end);
                        }
                        if step % self.parts.mixing.repeats == 0 {
                            self.trained = Some(trained);
                        }
                        self.drive(Event::Trained { round: step, change }).await?;
                    }
                    None if self.finished() => tracing::info!(rounds = self.rounds(), "all rounds are done"),
                    None => {}
                }
                self.work();
            }
        }
        Ok(())
    }

    /// The round before `step` is over: tells everybody how this peer stands, and notes it.
    fn report(&mut self, step: u64, measured: Measured) {
        let Measured { sketch, digest, scores } = measured;
        let round = (step / self.parts.mixing.repeats).saturating_sub(1);
        let trained = self.trained.take();
        let bytes = |values: &[f32]| bytemuck::cast_slice(values).to_vec();
        let report = v1::PeerReport {
            from: Some(peers::member(self.machine.me())),
            round,
            mass: peers::units(self.machine.mass()),
            holding: peers::units(self.machine.holding()),
            account: i64::try_from(self.machine.account().units()).unwrap_or(i64::MAX),
            epoch: self.machine.membership().epoch(),
            model: bytes(&sketch),
            change: trained.as_ref().map(|trained| bytes(&trained.sketch)).unwrap_or_default(),
        };
        let members: BTreeSet<u64> = self.machine.membership().live().iter().map(|member| member.id).collect();
        for id in members.iter().filter(|id| **id != self.machine.me().id) {
            self.post.tell(*id, v1::tell_request::Body::Report(report.clone()));
        }
        let before = std::mem::replace(&mut self.bytes, (self.post.sent(), self.received));
        let now = Instant::now();
        let own = Own {
            seconds: now.duration_since(std::mem::replace(&mut self.opened, now)).as_secs_f64(),
            train_loss: trained.map(|trained| trained.loss),
            scores,
            bytes_sent: self.bytes.0 - before.0,
            bytes_received: self.bytes.1 - before.1,
            digest,
            epoch: report.epoch,
            members,
            w: self.machine.mass().value(),
            at: now,
        };
        self.book.done(round, own);
        self.book.report(&report);
        self.book.settle(now);
        tracing::info!(round, of = self.rounds(), "round done");
    }

    /// Who is there: suspects those who are not, evicts those who are not for too long.
    async fn look(&mut self) -> Result<(), WorkerError> {
        let live = self.parts.rumours.live().await;
        self.reachable.clear();
        for (name, address) in live {
            let id = peers::id_of(&name);
            self.reachable.insert(id);
            self.post.locate(id, &address.to_string());
            self.known.insert(id, (name, address));
        }
        self.book.settle(Instant::now());
        let me = self.machine.me();
        let others: Vec<Member> =
            self.machine.membership().live().into_iter().filter(|member| member.id != me.id).collect();
        for member in &others {
            if self.reachable.contains(&member.id) {
                if self.missing.remove(&member.id).is_some() {
                    tracing::info!(peer = self.name_of(member.id), "can be reached again");
                    self.drive(Event::Suspected { id: member.id, suspected: false }).await?;
                }
                continue;
            }
            let known = self.missing.get(&member.id).copied();
            let since = *self.missing.entry(member.id).or_insert_with(Instant::now);
            if known.is_none() {
                tracing::warn!(peer = self.name_of(member.id), "cannot be reached: nobody waits for it");
                self.drive(Event::Suspected { id: member.id, suspected: true }).await?;
            } else if since.elapsed().as_secs_f64() > self.parts.mixing.evict_after_s {
                tracing::warn!(peer = self.name_of(member.id), "evicted");
                let mut membership = self.machine.membership().clone();
                membership.evict(*member);
                self.missing.remove(&member.id);
                self.drive(Event::Membership(membership)).await?;
            }
        }
        if self.spread.0.elapsed() > SPREAD {
            let next = self.spread.1 + 1;
            self.spread = (Instant::now(), next);
            if let Some(to) = others.get(next % others.len().max(1)).copied() {
                let body = Body::Membership(self.machine.membership().clone());
                self.post.send(gossip::machine::Envelope { from: me, to, body });
            }
        }
        Ok(())
    }

    pub(super) fn name_of(&self, id: u64) -> String {
        self.known.get(&id).map_or_else(|| format!("{id:016x}"), |(name, _)| name.clone())
    }

    /// Everybody has given this incarnation up: comes back as the next one, with its own model if it was only
    /// cut off, with a sponsor's if the others have gone on.
    async fn come_back(&mut self) -> Result<(), WorkerError> {
        self.evicted = false;
        let mut membership = self.machine.membership().clone();
        let old = self.machine.me();
        let mut me = membership.next(old.id);
        let mut start = (self.machine.round(), self.machine.model());
        let length = self.parts.shared.length.get().copied().unwrap_or(0);
        let meeting =
            Meeting { net: &self.parts.net, run: self.parts.shared.run, name: &self.parts.name, length };
        for (id, (_, address)) in self.known.iter().filter(|(id, _)| **id != old.id) {
            if !self.reachable.contains(id) {
                continue;
            }
            let Some(reply) = meeting.ask(&address.to_string(), old).await.filter(|reply| reply.begun) else {
                continue;
            };
            if let Some(Ok(theirs)) = reply.membership.map(peers::read_membership) {
                membership.merge(&theirs);
                me = me.max(membership.next(old.id));
            }
            if start.1.is_none() || reply.round > start.0 + BEHIND * self.parts.mixing.repeats {
                start = (reply.round, meeting.model(&address.to_string()).await.or(start.1));
            }
            break;
        }
        let (round, Some(model)) = start else { return Ok(()) };
        tracing::warn!(incarnation = me.incarnation, round, "was evicted: coming back");
        membership.admit(me);
        let machine = Machine::new(self.parts.mixing.config.clone(), me, membership, (round, model));
        self.machine = machine.map_err(|error| WorkerError::Internal(error.to_string()))?;
        self.life += 1;
        (self.trained, self.wanted, self.wake) = (None, None, None);
        self.missing.clear();
        self.drive(Event::Start).await
    }

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Meet(reply) => {
                let membership = Some(peers::membership(self.machine.membership()));
                let _ = reply.send(v1::MeetReply { begun: true, membership, round: self.machine.round() });
            }
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Model(reply) => {
                let model = self.machine.model().map(|model| {
                    let model = Arc::new(model);
                    (self.header(&model), model)
                });
                let _ = reply.send(model);
            }
            Ask::Leave => {}
        }
    }

    fn header(&self, model: &Arc<Vec<f32>>) -> v1::ExportHeader {
        v1::ExportHeader {
            run: self.parts.spec.name.clone(),
            name: self.parts.name.clone(),
            round: self.round().checked_sub(1),
            model: Some(v1::VectorRef {
                name: algorithms::MODEL.to_owned(),
                digest: Digest::of_vector(model).0.to_vec(),
                length: model.len() as u64,
            }),
            tensors: self.parts.tensors.clone(),
        }
    }
}
