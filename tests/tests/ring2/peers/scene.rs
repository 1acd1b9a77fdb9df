//! One scene: peers on a simulated network, driven until they have been calm for long enough.

use super::{
    books::Books,
    schedule::{FOUNDERS, Fault, Schedule, Step},
};
use crate::network::{Cable, Port};
use identity::{Authority, Bundle, Role, Validity};
use proto::{peers, spec::RunSpec, v1};
use starling_tests::{memory_dir, toy::Bowl};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;
use worker::peer::{Config, Lane, Net, Place};

const PORT: u16 = 7079;
/// Hosts run so long before the network moves again.
const TICK: Duration = Duration::from_millis(5);
/// The mass is counted so often.
const COUNT_MS: u64 = 25;
/// A local run takes so long.
const PACE: Duration = Duration::from_millis(60);
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));
const SLOW: Duration = Duration::from_secs(1);
/// Everybody who is left has agreed and gone on so long after the last fault. Connections that hang are
/// found after 8 s, calls end after 20 s, an evicted peer comes back, and then there are the rounds.
const BOUND_MS: u64 = 180_000;
/// Rounds in calm, after which all must be close to each other and to the optimum.
const CALM_ROUNDS: u64 = 120;
/// Milliseconds since 1970 at which every scene begins.
const WALL_MS: u64 = 1_700_000_000_000;

/// How a scene ended.
pub(crate) struct Outcome {
    /// By peer.
    pub(crate) models: BTreeMap<usize, Vec<f32>>,
    /// By peer and round: the digest of the model, as `metrics.jsonl` has it.
    pub(crate) rounds: BTreeMap<(usize, u64), String>,
    pub(crate) counted: u64,
    pub(crate) epochs: usize,
    /// Virtual time.
    pub(crate) seconds: f64,
}

fn name(peer: usize) -> String {
    format!("peer-{peer}")
}

/// Where the loss of a peer is least.
pub(crate) fn centre(peer: usize) -> f32 {
    peer as f32
}

struct Scene<'a> {
    sim: Sim<'a>,
    root: PathBuf,
    authority: Authority,
    schedule: Schedule,
    books: Books,
    /// Asks a peer to leave.
    leave: mpsc::UnboundedSender<SocketAddr>,
}

/// Plays a scene: to the end of its rounds, or until all have been calm for some rounds.
///
/// # Errors
/// What was wrong, with the schedule.
pub(crate) fn play(schedule: &Schedule) -> Result<Outcome, String> {
    let dir = memory_dir();
    let mut scene = Scene::new(dir.path(), schedule)?;
    let told = |why: String, at: u64| {
        let steps: Vec<String> = schedule.steps.iter().map(|step| format!("  {step}")).collect();
        let head = format!("seed {} (way {}), at {at} ms: {why}", schedule.seed, schedule.way);
        format!("{head}\n{}", steps.join("\n"))
    };
    let mut at = 0;
    scene.run(&mut at).map_err(|why| told(why, at))
}

impl Scene<'_> {
    fn new(root: &Path, schedule: &Schedule) -> Result<Self, String> {
        let sim = turmoil::Builder::new()
            .rng_seed(schedule.seed)
            .epoch(UNIX_EPOCH)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_mins(20))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(1 << 16)
            .build();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = Validity::lasting(now.as_secs(), 24 * 3600);
        let authority = Authority::create("ring", day).map_err(|error| error.to_string())?;
        let spec = RunSpec::from_toml(&schedule.spec()).map_err(|error| error.to_string())?;
        let config = spec.mixing().map_err(|error| error.to_string())?.config;
        let files = (0..=FOUNDERS).map(|peer| root.join(name(peer)).join("state")).collect();
        let (leave, asked) = mpsc::unbounded_channel();
        let mut scene = Self {
            sim,
            root: root.to_owned(),
            authority,
            schedule: schedule.clone(),
            books: Books::new(config, files),
            leave,
        };
        for peer in 0..FOUNDERS {
            scene.launch(peer)?;
        }
        let operator = scene.issue(Role::Operator, "operator")?;
        scene.sim.host("operator", {
            let asked = Arc::new(tokio::sync::Mutex::new(asked));
            move || operate(operator.clone(), Arc::clone(&asked))
        });
        Ok(scene)
    }

    fn issue(&self, role: Role, name: &str) -> Result<PathBuf, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = Validity::lasting(now.as_secs(), 24 * 3600);
        let file = self.root.join(format!("{name}.pem"));
        let bundle = Bundle::issue(&self.authority, role, name, (&[], day));
        bundle.map_err(|error| error.to_string())?.save(&file).map_err(|error| error.to_string())?;
        Ok(file)
    }

    fn address(&self, peer: usize) -> SocketAddr {
        (self.sim.lookup(name(peer)), PORT).into()
    }

    /// A peer, as a host that may crash.
    fn launch(&mut self, peer: usize) -> Result<(), String> {
        let config = Config {
            name: name(peer).parse().map_err(|_| "a name")?,
            run: self.root.join("run.toml"),
            listen: self.address(peer),
            advertise: None,
            bootstrap: [0, 1].map(|other| self.address(other).to_string()).into(),
            identity: self.issue(Role::Peer, &name(peer))?,
            state_dir: self.root.join(name(peer)),
            ledger_dir: None,
            revoked: None,
            threads: 1,
            datasets: [].into(),
            share: None,
        };
        let spec = RunSpec::from_toml(&self.schedule.spec()).map_err(|error| error.to_string())?;
        self.sim.host(name(peer), move || {
            let (config, spec) = (config.clone(), spec.clone());
            async move {
                let wall = WALL_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64;
                let listener = Port::bind_at(PORT).await?;
                let place =
                    Place { listener, address: config.listen, dial: Arc::new(Cable), wall, pace: PACE };
                let bowl = Bowl { centre: centre(peer), pause: Duration::ZERO };
                worker::peer::run_in(config, spec, (place, Box::new(bowl)), CancellationToken::new()).await?;
                Ok(())
            }
        });
        Ok(())
    }

    fn now(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    /// One step of everybody, and a look at the books now and then.
    fn step(&mut self, at: &mut u64) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        *at = self.now();
        if *at % COUNT_MS < TICK.as_millis() as u64 { self.books.check() } else { Ok(()) }
    }

    fn run(&mut self, at: &mut u64) -> Result<Outcome, String> {
        while self.books.nodes.len() < FOUNDERS {
            self.step(at)?;
            if *at > 60_000 {
                return Err("the run did not begin".into());
            }
        }
        let began = *at;
        let (mut waiting, mut running) = (self.schedule.steps.clone(), Vec::<Step>::new());
        let (mut gone, mut leaving) = (BTreeSet::new(), BTreeSet::new());
        while !(waiting.is_empty() && running.is_empty()) {
            self.step(at)?;
            let now = *at - began;
            for step in running.extract_if(.., |step| step.until <= now) {
                // Whoever is gone for good does not come back from an earlier crash.
                if step.fault != Fault::Crash || !gone.contains(&step.a) {
                    mend(&mut self.sim, step);
                }
            }
            while waiting.first().is_some_and(|step| step.from <= now) {
                let step = waiting.remove(0);
                match step.fault {
                    Fault::Crash if gone.contains(&step.a) || leaving.contains(&step.a) => continue,
                    Fault::Gone => drop(gone.insert(step.a)),
                    Fault::Leave => drop(leaving.insert(step.a)),
                    _ => {}
                }
                self.break_(step)?;
                running.push(step);
            }
        }
        self.repair();
        let healed = *at;
        let mut goals: Option<BTreeMap<usize, u64>> = None;
        loop {
            self.step(at)?;
            let rounds = self.rounds();
            match &goals {
                None if self.agreed() => {
                    let goal = |round: u64| (round + CALM_ROUNDS).min(self.schedule.rounds);
                    goals = Some(rounds.iter().map(|(peer, round)| (*peer, goal(*round))).collect());
                }
                Some(goals) if goals.iter().all(|(peer, goal)| rounds.get(peer) >= Some(goal)) => break,
                _ => {}
            }
            if *at > healed + BOUND_MS {
                return Err(format!("not at rest: rounds {rounds:?}, goals {goals:?}, {}", self.views()));
            }
        }
        if !self.agreed() {
            return Err(format!("they agreed, and do no more: {}", self.views()));
        }
        self.outcome(*at)
    }

    fn rounds(&self) -> BTreeMap<usize, u64> {
        let up = self.schedule.survivors();
        let nodes = self.books.nodes.iter().filter(|(peer, _)| up.contains(peer));
        nodes.map(|(peer, node)| (*peer, node.round())).collect()
    }

    /// Whether all who are left know that they are all who are left.
    fn agreed(&self) -> bool {
        let up = self.schedule.survivors();
        let nodes: Vec<_> = up.iter().filter_map(|peer| self.books.nodes.get(peer)).collect();
        let mut members: Vec<_> = nodes.iter().map(|node| node.me()).collect();
        members.sort_unstable();
        nodes.len() == up.len() && nodes.iter().all(|node| node.membership().live() == members)
    }

    fn views(&self) -> String {
        let id = |id: u64| (0..=FOUNDERS).find(|peer| peers::id_of(&name(*peer)) == id);
        let view = |(peer, node): (&usize, &gossip::machine::Machine<f32>)| {
            let all = node.membership().all();
            let all: Vec<_> = all
                .map(|(member, gone)| (id(member.id), member.incarnation, if gone { "gone" } else { "live" }))
                .collect();
            format!("\n  {peer}: {:?} {:?} sees {all:?}", node.me().incarnation, node.phase())
        };
        self.books.nodes.iter().map(view).collect()
    }

    fn break_(&mut self, step: Step) -> Result<(), String> {
        let (a, b) = (name(step.a), name(step.b));
        match step.fault {
            Fault::Cut => self.sim.partition(a, b),
            Fault::Mute => self.sim.partition_oneway(a, b),
            Fault::Hold => self.sim.hold(a, b),
            Fault::Slow => self.sim.set_link_max_message_latency(a, b, SLOW),
            Fault::Alone | Fault::Sides => across(step, |a, b| self.sim.partition(a, b)),
            Fault::Crash | Fault::Gone => self.sim.crash(a),
            Fault::Join => self.launch(FOUNDERS)?,
            Fault::Leave => drop(self.leave.send(self.address(step.a))),
        }
        Ok(())
    }

    /// All links are as new, whichever faults of them overlapped.
    fn repair(&mut self) {
        let here = FOUNDERS + usize::from(self.schedule.survivors().contains(&FOUNDERS));
        for (a, b) in (0..here).flat_map(|a| (0..a).map(move |b| (name(a), name(b)))) {
            self.sim.release(a.clone(), b.clone());
            self.sim.repair(a, b);
        }
    }

    fn outcome(&self, at: u64) -> Result<Outcome, String> {
        let mut rounds = BTreeMap::new();
        for peer in 0..=FOUNDERS {
            let file = self.root.join(name(peer)).join("metrics.jsonl");
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            for line in text.lines() {
                let line: serde_json::Value =
                    serde_json::from_str(line).map_err(|error| error.to_string())?;
                let round = line["round"].as_u64().ok_or("a line without a round")?;
                rounds.insert((peer, round), line["model_digest"].to_string());
            }
        }
        let up = self.schedule.survivors();
        let nodes = self.books.nodes.iter().filter(|(peer, _)| up.contains(peer));
        Ok(Outcome {
            models: nodes.filter_map(|(peer, node)| Some((*peer, node.model()?.to_vec()))).collect(),
            rounds,
            counted: self.books.counted,
            epochs: self.books.epochs(),
            seconds: at as f64 / 1e3,
        })
    }
}

/// All pairs of founders of which one is on the one side.
fn across(step: Step, mut each: impl FnMut(String, String)) {
    let inside = |peer: usize| if step.fault == Fault::Alone { peer == step.a } else { peer < step.b };
    for (a, b) in (0..FOUNDERS).flat_map(|a| (0..FOUNDERS).map(move |b| (a, b))) {
        if inside(a) && !inside(b) {
            each(name(a), name(b));
        }
    }
}

fn mend(sim: &mut Sim<'_>, step: Step) {
    let (a, b) = (name(step.a), name(step.b));
    match step.fault {
        Fault::Cut => sim.repair(a, b),
        Fault::Mute => sim.repair_oneway(a, b),
        Fault::Hold => sim.release(a, b),
        Fault::Slow => sim.set_link_max_message_latency(a, b, LATENCY.1),
        Fault::Alone | Fault::Sides => across(step, |a, b| sim.repair(a, b)),
        Fault::Crash => sim.bounce(a),
        Fault::Gone | Fault::Join | Fault::Leave => {}
    }
}

/// Asks whoever it is told to ask to leave, until it was heard.
async fn operate(
    identity: PathBuf,
    asked: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<SocketAddr>>>,
) -> turmoil::Result {
    let bundle = Bundle::load(&identity)?.ok_or("an operator has a certificate")?;
    let net = Net::new(&bundle, Arc::new(Cable))?;
    while let Some(address) = asked.lock().await.recv().await {
        let mut client = net.client(&address.to_string(), Lane::Small)?;
        while client.leave_run(v1::LeaveRunRequest {}).await.is_err() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    Ok(())
}
