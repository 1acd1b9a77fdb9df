//! The loop: time goes on to what comes next, what happens in that instant spreads until all is quiet, and who
//! has ended a round begins the next.

use super::{
    Line, Notice, Outcome, Peer,
    book::Book,
    fleet::{Finished, Fleet, Memory, Work},
};
use crate::{
    snapshot::{self, Pace},
    training::{Metrics, STATE, Setup, SimulationError, clear},
};
use gossip::machine::{Action, Body, Content, Envelope, Event, Verdict};
use proto::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use worker::engine::save_safetensors;

/// Where everything stands.
const FILE: &str = "peers";

/// Runs a simulation of peers to its end, from where it was interrupted; `watch` hears of the rounds that were
/// done before, and of each round.
///
/// # Errors
/// If it cannot be set up, a file fails, training fails, or it is told to stop; what was kept stays.
pub fn run(setup: &Setup, watch: &mut dyn FnMut(Notice<'_>)) -> Result<Outcome, SimulationError> {
    let state = setup.folder.join(STATE);
    std::fs::create_dir_all(&state).map_err(|error| SimulationError::file(&state, error))?;
    let mut fleet = Fleet::new(setup)?;
    let report = fleet.mixing.report(setup.spec.rounds);
    if !report.accepted() {
        let text = format!("the topology cannot bring the peers together\n{report}");
        return Err(SimulationError::Setup(text));
    }
    let run = Digest(*blake3::hash(setup.spec.to_json().as_bytes()).as_bytes());
    let known = snapshot::read::<Record>(&state.join(FILE))?.filter(|known| known.run == run);
    let (clock, rounds) = match known {
        None => (Clock { book: Book::new(&fleet), ..Clock::default() }, 0),
        Some(Record { memories, clock, rounds, .. }) => {
            fleet.remember(memories)?;
            (clock, rounds)
        }
    };
    watch(Notice::Started { rounds });
    let drive = Drive {
        fleet: &fleet,
        setup,
        watch,
        metrics: Metrics::open(&setup.folder, rounds)?,
        clock,
        run,
        pace: Pace::new(setup.checkpoint),
    };
    let outcome = drive.go(rounds > 0)?.outcome(serde_json::to_value(&report).unwrap_or_default())?;
    clear(&setup.folder)?;
    Ok(outcome)
}

/// Where the peers stand.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Clock {
    now: u64,
    /// Who works until when, and on which of the machine's rounds.
    due: BTreeMap<(u64, usize), (u64, Option<Work>)>,
    /// What is done already, and waits for its time.
    ready: BTreeMap<usize, Finished>,
    /// When machines want to look at the time.
    wakes: BTreeMap<usize, u64>,
    finished: BTreeSet<usize>,
    consensus: Vec<f32>,
    book: Book,
}

/// What is kept of an interrupted simulation.
#[derive(Debug, Serialize, Deserialize)]
struct Record<M = Vec<Memory>, C = Clock> {
    run: Digest,
    rounds: u64,
    memories: M,
    clock: C,
}

struct Drive<'a, 'w> {
    fleet: &'a Fleet,
    setup: &'a Setup,
    watch: &'w mut dyn FnMut(Notice<'_>),
    metrics: Metrics<Line>,
    clock: Clock,
    run: Digest,
    pace: Pace,
}

type Step = Result<(), SimulationError>;

impl Drive<'_, '_> {
    fn go(mut self, resumed: bool) -> Result<Self, SimulationError> {
        if !resumed {
            let start = (0..self.fleet.len()).map(|at| (at, vec![Event::Start])).collect();
            self.instant(start)?;
        }
        while self.clock.finished.len() < self.fleet.len() {
            let stop = self.setup.stop.is_due();
            if stop || self.pace.due() {
                self.keep()?;
            }
            if stop {
                return Err(SimulationError::Stopped { rounds: self.metrics.lines.len() as u64 });
            }
            let working = self.clock.due.first_key_value().map(|(key, _)| key.0);
            let Some(at) = working.into_iter().chain(self.clock.wakes.values().copied()).min() else {
                return Err(SimulationError::Failed("nothing is left to wait for".into()));
            };
            self.clock.now = self.clock.now.max(at);
            let events = self.events()?;
            self.instant(events)?;
        }
        Ok(self)
    }

    /// Writes down where everything stands.
    fn keep(&mut self) -> Step {
        let Self { fleet, setup, clock, run, pace, metrics, .. } = self;
        let (file, rounds) = (setup.folder.join(STATE).join(FILE), metrics.lines.len() as u64);
        if rounds == 0 {
            return Ok(());
        }
        pace.pay(|| {
            fleet.memories(|memories| {
                let record = Record { run: *run, rounds, memories, clock: &*clock };
                snapshot::write(&file, &record)
            })
        })
    }

    /// What happens now: work that is done, and machines that want to look at the time.
    fn events(&mut self) -> Result<BTreeMap<usize, Vec<Event<f32>>>, SimulationError> {
        let mut events: BTreeMap<usize, Vec<Event<f32>>> = BTreeMap::new();
        let later = self.clock.due.split_off(&(self.clock.now + 1, 0));
        let over = std::mem::replace(&mut self.clock.due, later);
        let missing = over.keys().any(|(_, at)| !self.clock.ready.contains_key(at));
        let mut rounds = BTreeMap::new();
        let mut todo = Vec::new();
        for ((_, at), (round, work)) in over {
            rounds.insert(at, round);
            todo.extend(work.map(|work| (at, work)));
        }
        if missing {
            // Others who have begun may as well be done at the same time.
            let room = (2 * self.fleet.threads).saturating_sub(todo.len());
            let early =
                self.clock.due.iter_mut().filter_map(|((_, at), (_, work))| Some((*at, work.take()?)));
            todo.extend(early.take(room));
        }
        for (at, finished) in self.fleet.work(todo) {
            let name = || self.fleet.node(at).name.clone();
            let finished =
                finished.map_err(|error| SimulationError::Failed(format!("{}: {error}", name())))?;
            self.clock.ready.insert(at, finished);
        }
        for (at, round) in rounds {
            if let Some(finished) = self.clock.ready.remove(&at) {
                let done = self.fleet.keep(at, finished);
                events.entry(at).or_default().push(Event::Trained { round, done });
            }
        }
        for (at, _) in self.clock.wakes.iter().filter(|(_, wake)| **wake <= self.clock.now) {
            events.entry(*at).or_default().push(Event::Tick);
        }
        Ok(events)
    }

    /// Lets everything happen that these events lead to.
    fn instant(&mut self, mut wave: BTreeMap<usize, Vec<Event<f32>>>) -> Step {
        let mut begun = BTreeMap::new();
        while !wave.is_empty() {
            for (at, actions) in self.fleet.wave(self.clock.now, std::mem::take(&mut wave)) {
                self.clock.wakes.remove(&at);
                for action in actions {
                    match action {
                        Action::Send(envelope) => {
                            self.clock.book.bytes += bytes(&envelope);
                            let to = self.fleet.place(envelope.to.id);
                            wave.entry(to.unwrap_or(at)).or_default().push(Event::Received(envelope));
                        }
                        Action::Train { round } => drop(begun.insert(at, round)),
                        Action::WakeAt(time) => drop(self.clock.wakes.insert(at, time)),
                        Action::Ignored(what) => return Err(SimulationError::Failed(what)),
                        Action::Epoch { .. } | Action::Evicted | Action::Left => {}
                    }
                }
            }
        }
        self.begin(&begun)
    }

    /// These peers begin these rounds of their machines.
    fn begin(&mut self, begun: &BTreeMap<usize, u64>) -> Step {
        let repeats = self.fleet.mixing.repeats;
        let mut ended: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (&at, &step) in begun {
            let round = step / repeats;
            if step % repeats > 0 {
                self.clock.due.insert((self.clock.now, at), (step, Some(Work::Idle)));
                continue;
            }
            if round > 0 {
                ended.entry(round - 1).or_default().push(at);
            }
            if round >= self.setup.spec.rounds {
                self.clock.finished.insert(at);
                continue;
            }
            let errand = self.fleet.node(at).machine.errand();
            let errand = errand.ok_or_else(|| SimulationError::Failed("a peer is without mass".into()))?;
            let end = self.clock.now + self.fleet.duration(at, round);
            self.clock.due.insert((end, at), (step, Some(Work::Local(round, Box::new(errand)))));
        }
        for (round, peers) in ended {
            let test = self.setup.test.as_ref();
            let told = self.clock.book.ended(self.fleet, (round, &peers), (test, self.clock.now))?;
            if let Some((line, consensus)) = told {
                self.clock.consensus = consensus;
                (self.watch)(Notice::Round(&line));
                self.metrics.append(line)?;
            }
        }
        Ok(())
    }

    fn outcome(self, topology: serde_json::Value) -> Result<Outcome, SimulationError> {
        let digest = Digest::of_vector(&self.clock.consensus);
        let metadata = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            ("name".to_owned(), self.setup.spec.name.clone()),
            ("round".to_owned(), self.setup.spec.rounds.saturating_sub(1).to_string()),
            ("digest".to_owned(), digest.to_string()),
        ]);
        let model = save_safetensors(&self.fleet.model, &self.clock.consensus, &metadata)
            .map_err(|error| SimulationError::Failed(error.to_string()))?;
        let mut peers: Vec<(usize, Peer)> = (0..self.fleet.len())
            .map(|at| {
                let node = self.fleet.node(at);
                let z = node.machine.model().unwrap_or_default();
                let peer = Peer {
                    name: node.name.clone(),
                    examples: self.fleet.shares.size(node.share),
                    w: node.machine.mass().value(),
                    digest: Digest::of_vector(&z),
                    accuracy: self.clock.book.accuracy(at),
                };
                (node.share, peer)
            })
            .collect();
        peers.sort_by_key(|(share, _)| *share);
        Ok(Outcome {
            lines: self.metrics.lines,
            digest,
            model,
            parameters: self.clock.consensus.len(),
            peers: peers.into_iter().map(|(_, peer)| peer).collect(),
            topology,
        })
    }
}

/// What a message's vector and mass take on the wire, as peers count it.
fn bytes(envelope: &Envelope<f32>) -> u64 {
    let (payload, mass) = match &envelope.body {
        Body::Transfer(transfer) => (&transfer.payload, matches!(transfer.content, Content::Share { .. })),
        Body::Verdict { verdict: Verdict::Answered(payload), .. } => (payload, false),
        _ => return 0,
    };
    let words = payload.words().map_or(payload.len(), <[u32]>::len) as u64;
    words * 4 + if mass { 8 } else { 0 }
}
