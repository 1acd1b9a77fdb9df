//! The one task of a peer that decides: it gives the mixing machine its events, stores its state before it
//! does what the machine says, and keeps the time.

use super::{
    book::Book,
    meeting::Start,
    net::Net,
    post::Post,
    private::Private,
    revoke::Lists,
    rumour::Rumours,
    seen::Diary,
    serve::{Ask, Input, Shared},
    store::{Record, Store},
    work::{Outcome, Trained},
};
use crate::{WorkerError, trainer::Train};
use gossip::machine::{Action, Body, Envelope, Event, Machine, Membership, Phase};
use identity::Identity;
use proto::{
    peers,
    spec::{Mixing, RunSpec},
    v1,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Who is there is looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// What was said last is on its way by then.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a peer is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) spec: Arc<RunSpec>,
    pub(super) mixing: Mixing,
    pub(super) tensors: Vec<v1::Tensor>,
    pub(super) shared: Arc<Shared>,
    pub(super) net: Net,
    pub(super) rumours: Rumours,
    pub(super) store: Arc<Store>,
    pub(super) report: String,
    /// In a private run.
    pub(super) private: Option<Arc<Mutex<Private>>>,
    /// What it trains on, where every example counts alike; else 0.
    pub(super) examples: u64,
    /// There, too: what reached this peer.
    pub(super) diary: Option<Diary>,
    /// Milliseconds since 1970 when the process began, and the same moment as it counts.
    pub(super) began: (u64, Instant),
    /// A local run takes at least so long.
    pub(super) pace: Duration,
    /// What this peer's own certificate says.
    pub(super) identity: Identity,
    pub(super) lists: Lists,
}

/// The peer, once it has begun.
pub(super) struct Node {
    pub(super) parts: Parts,
    pub(super) machine: Machine<f32>,
    /// The run's first model, where public copies are counted from it.
    pub(super) origin: Arc<Vec<f32>>,
    pub(super) post: Post,
    pub(super) book: Book,
    /// From the trainer, whose job never waits for room: it is one at a time, with two things to tell at most.
    pub(super) outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    /// Here unless it works.
    pub(super) trainer: Option<Box<dyn Train>>,
    pub(super) jobs: JoinSet<()>,
    pub(super) cancel: CancellationToken,
    /// Grows with each incarnation: what was trained for an earlier one is void.
    pub(super) life: u64,
    /// The machine's round that waits for the trainer.
    pub(super) wanted: Option<u64>,
    pub(super) last_end: Option<Arc<Vec<f32>>>,
    /// The last local run, for the report of its round.
    pub(super) trained: Option<Trained>,
    pub(super) opened: Instant,
    pub(super) bytes: (u64, u64),
    pub(super) received: u64,
    /// By id: name and address.
    pub(super) known: BTreeMap<u64, (String, SocketAddr)>,
    pub(super) reachable: BTreeSet<u64>,
    /// Of whom nothing is heard, since when.
    pub(super) missing: BTreeMap<u64, Instant>,
    /// Nobody waits for them.
    pub(super) suspected: BTreeSet<u64>,
    pub(super) wake: Option<u64>,
    pub(super) spread: (Instant, usize),
    looked: Instant,
    pub(super) evicted: bool,
    /// The view of a larger side, to which this peer comes back.
    pub(super) larger: Option<Membership>,
    /// Who was last told of this peer's view, and when.
    pub(super) answered: BTreeMap<u64, Instant>,
    pub(super) leaving: bool,
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
        mut parts: Parts,
        (stored, start): (Option<Record>, Option<Start>),
        (trainer, initial): (Box<dyn Train>, Vec<f32>),
    ) -> Result<Self, WorkerError> {
        if let (Some(diary), Some(Start { round, model: Some(_), .. })) = (&mut parts.diary, &start) {
            diary.sponsored(*round)?;
        }
        let config = parts.mixing.config.clone();
        let initial = Arc::new(initial);
        let (machine, last_end) = match (stored, start) {
            (Some(record), _) => {
                (Machine::resume(config, record.machine), record.last_end.map(|end| end.shared()))
            }
            (None, Some(Start { me, membership, round, model })) => {
                let model = model.map_or_else(|| Arc::clone(&initial), Arc::new);
                let machine = Machine::new(config, me, membership, (round, model));
                (machine.map(|machine| machine.from_origin(&initial)), None)
            }
            (None, None) => return Err(WorkerError::Internal("a peer without a beginning".into())),
        };
        let machine = machine.map_err(|error| WorkerError::Internal(error.to_string()))?;
        let origin = if parts.mixing.compressor.is_some() { initial } else { Arc::default() };
        let post = Post::new(parts.net.clone(), &parts.shared);
        let (mixing, spec) = (parts.mixing.clone(), Arc::clone(&parts.spec));
        let book = Book::new(mixing, spec, parts.store.path("metrics.jsonl"));
        let now = Instant::now();
        Ok(Self {
            parts,
            machine,
            origin,
            post,
            book,
            outcomes: mpsc::unbounded_channel(),
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
            suspected: BTreeSet::new(),
            wake: None,
            spread: (now, 0),
            looked: now,
            evicted: false,
            larger: None,
            answered: BTreeMap::new(),
            leaving: false,
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
                Some(outcome) = self.outcomes.1.recv() => self.worked(outcome).await?,
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
            if self.looked.elapsed() > LOOK {
                self.looked = Instant::now();
                self.look().await?;
            }
            if self.evicted && !self.leaving {
                self.come_back().await?;
            }
            // Also one that was given up while it was leaving: the others have fenced what it held.
            if self.leaving && (self.evicted || self.machine.phase() == Phase::Over) {
                // Time for the farewell; a later start is another incarnation's.
                sleep(FAREWELL).await;
                let _ = std::fs::remove_file(self.parts.store.path("state"));
                break Ended::Left;
            }
        };
        self.cancel.cancel();
        drop(inbox);
        while self.jobs.join_next().await.is_some() {}
        Ok(ended)
    }

    /// Milliseconds since 1970 as this process counts them: never back, and onwards from a stored state.
    fn now(&self) -> u64 {
        let (wall, at) = self.parts.began;
        wall + at.elapsed().as_millis() as u64
    }

    fn pause(&self) -> Duration {
        let due = self.wake.map(|at| Duration::from_millis(at.saturating_sub(self.now()).max(1)));
        due.unwrap_or(LOOK).min(LOOK)
    }

    async fn input(&mut self, input: Input) -> Result<(), WorkerError> {
        match input {
            Input::Message(Envelope { from, body: Body::Membership(theirs), .. }, _) => {
                self.hear_membership(from, theirs).await
            }
            Input::Message(envelope, bytes) => {
                self.received += bytes;
                if let Some(diary) = &mut self.parts.diary {
                    diary.heard(&envelope, &self.machine)?;
                }
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
        let held = self.machine.holding();
        let actions = self.machine.handle(event, self.now());
        let decided = actions.iter().any(|action| !matches!(action, Action::WakeAt(_) | Action::Ignored(_)));
        // Whatever the event was: a peer that leaves hands everything over when it hears that it may.
        let moved = self.machine.holding() != held
            || actions.iter().any(|action| !matches!(action, Action::WakeAt(_) | Action::Send(_)));
        // An evicted life is not kept: whoever dies before it has come back resumes the one before, and hears again.
        let evicted = actions.contains(&Action::Evicted);
        if !evicted && (moved || settles && decided) {
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
            Action::Left => self.farewell(),
            Action::Ignored(what) => tracing::warn!(what, "ignored"),
        }
    }

    /// Everything was handed over: tells everybody that this member is gone.
    fn farewell(&self) {
        tracing::info!("left the run: everything was handed over");
        let (me, mut membership) = (self.machine.me(), self.machine.membership().clone());
        let others: Vec<_> = membership.live().into_iter().filter(|to| to.id != me.id).collect();
        membership.evict(me);
        for to in others {
            self.post.send(Envelope { from: me, to, body: Body::Membership(membership.clone()) });
        }
    }

    /// What is known of the membership, to all who are live.
    fn tell_everybody(&self) {
        let (me, membership) = (self.machine.me(), self.machine.membership());
        for to in membership.live().into_iter().filter(|to| to.id != me.id) {
            let body = Body::Membership(membership.clone());
            self.post.send(Envelope { from: me, to, body });
        }
    }

    async fn save(&mut self) -> Result<(), WorkerError> {
        let (run, machine) = (self.parts.shared.run, self.machine.state().clone());
        let last_end = self.last_end.clone().map(Into::into);
        let (store, shared) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.shared));
        let written = spawn_blocking(move || store.save(Record { run, machine, last_end }, &shared.digests));
        let written = written.await.map_err(|error| error.to_string()).flatten();
        written.map_err(|problem| WorkerError::StateDir { path: self.parts.store.path("state"), problem })
    }

    /// Lets the server answer repetitions without their vectors.
    fn note_settled(&self) {
        let mut settled = self.parts.shared.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.clear();
        settled.extend(self.machine.settled());
    }

    /// Parameters of the model.
    pub(super) fn parameters(&self) -> usize {
        self.parts.shared.form.get().map_or(0, |form| form.parameters)
    }

    pub(super) fn rounds(&self) -> u64 {
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

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Meet(reply) => {
                let membership = Some(peers::membership(self.machine.membership()));
                let _ = reply.send(v1::MeetReply { begun: true, membership, round: self.machine.round() });
            }
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Model(reply) => {
                let model = self.machine.model().map(|model| (self.header(&model), model));
                let _ = reply.send(model);
            }
            Ask::Leave => {}
        }
    }

    fn header(&self, model: &Arc<Vec<f32>>) -> v1::ExportHeader {
        v1::ExportHeader {
            average: String::new(),
            run: self.parts.spec.name.clone(),
            name: self.parts.name.clone(),
            round: self.round().checked_sub(1),
            model: Some(v1::VectorRef {
                name: algorithms::MODEL.to_owned(),
                digest: self.parts.shared.digests.of(model).0.to_vec(),
                length: model.len() as u64,
            }),
            tensors: self.parts.tensors.clone(),
        }
    }
}
