//! `[topology]` and the decentralised reading of `[algorithm]`: how peers mix.

use super::{Mode, RunSpec, SpecError, method::message};
use crate::nearest;
use algorithms::compress::Compressor;
use gossip::{
    Schedule, Topology,
    machine::{Barrier, Config},
    report,
    rule::{Local, choose},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Over which graph peers mix, and when they go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopologySpec {
    /// Name of a topology in `gossip/src/topologies/`.
    pub kind: String,
    /// The run begins when so many peers have met; later ones join it.
    pub nodes: usize,
    /// When a peer goes on to its next round. The algorithm may have its own.
    #[serde(default)]
    pub barrier: BarrierSpec,
    /// How many rounds a peer may run ahead with `bounded`.
    #[serde(default = "one")]
    pub lag: u64,
    /// The starvation guard: a peer keeps at least this mass, or its own weight where that is less; 0: off.
    #[serde(default = "default_w_min")]
    pub w_min: f64,
    /// A round goes on without those who are missing after so many seconds; absent: it waits until they are
    /// evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<f64>,
    /// Milliseconds until a message without an answer is repeated.
    #[serde(default = "default_retry_ms")]
    pub retry_ms: u64,
    /// A peer that cannot be reached for so many seconds is evicted; until then nobody waits for it.
    #[serde(default = "default_evict_after_s")]
    pub evict_after_s: f64,
    /// What counts alike in what the peers minimise.
    #[serde(default, skip_serializing_if = "Weighting::is_default")]
    pub weighting: Weighting,
    /// The topology's own keys.
    #[serde(flatten)]
    pub params: gossip::Params,
}

/// When a peer goes on to its next round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BarrierSpec {
    /// When everything of its round has arrived and was taken.
    #[default]
    Synchronous,
    /// When everything up to `lag` rounds back has arrived.
    Bounded,
    /// At once.
    Asynchronous,
}

/// What counts alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// Peers: the mean of their losses.
    #[default]
    Peers,
    /// Examples: the mean of the loss over all of them. A peer's changes are multiplied by its part of all
    /// examples and the number of peers, so peers tell each other on how many they train.
    Examples,
}

impl Weighting {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn one() -> u64 {
    1
}
fn default_w_min() -> f64 {
    0.3
}
fn default_retry_ms() -> u64 {
    2_000
}
fn default_evict_after_s() -> f64 {
    10.0
}

/// A decentralised run, ready for peers.
#[derive(Debug, Clone)]
pub struct Mixing {
    /// For the mixing machine.
    pub config: Config,
    /// What a peer does alone.
    pub local: Local,
    /// How differences are compressed, where they are what travels.
    pub compressor: Option<Compressor>,
    /// Mixing steps in a training round.
    pub repeats: u64,
    /// Peers that begin the run.
    pub nodes: usize,
    /// Seconds that a peer may be unreachable.
    pub evict_after_s: f64,
}

impl Mixing {
    /// The schedule over the peers that begin.
    ///
    /// # Panics
    /// Never: it was made once when the run file was checked.
    pub fn schedule(&self) -> Schedule {
        let topology = Arc::clone(&self.config.topology);
        Schedule::new(topology, self.nodes, self.config.seed).expect("checked with the run file")
    }

    /// The topology report of the run.
    pub fn report(&self, rounds: u64) -> report::Report {
        let plan = report::Plan {
            repeats: self.repeats,
            rounds: Some(rounds),
            message: message(self.config.method, self.compressor),
            ..report::Plan::new(self.config.mode)
        };
        report::Report::new(&self.schedule(), plan)
    }
}

impl RunSpec {
    /// How the peers of a decentralised run mix, or what is wrong with its run file.
    pub fn mixing(&self) -> Result<Mixing, SpecError> {
        let wrong = |key: &str, detail: String| Err(SpecError::new(key, detail));
        let Some(spec) = self.topology.as_ref().filter(|_| self.mode == Mode::Decentralised) else {
            return wrong(
                "mode",
                "this run has a coordinator; peers need `decentralised` and [topology]".into(),
            );
        };
        if !(1..=1_024).contains(&spec.nodes) {
            return wrong("topology.nodes", format!("{} is out of range, expected 1 to 1,024", spec.nodes));
        }
        if !(0.0..1.0).contains(&spec.w_min) {
            return wrong("topology.w_min", format!("{}, expected at least 0 and below 1", spec.w_min));
        }
        if !(10..=600_000).contains(&spec.retry_ms) {
            return wrong("topology.retry_ms", "expected 10 to 600,000".into());
        }
        for (key, value) in [("evict_after_s", Some(spec.evict_after_s)), ("deadline_s", spec.deadline_s)] {
            if value.is_some_and(|value| !(0.0..=86_400.0).contains(&value)) {
                return wrong(&format!("topology.{key}"), "expected seconds, up to a day".into());
            }
        }
        let chosen = self.decentralised_algorithm()?;
        let topology = spec.topology()?;
        let barrier = chosen.rule.barrier().unwrap_or(match spec.barrier {
            BarrierSpec::Synchronous => Barrier::Synchronous,
            BarrierSpec::Bounded => Barrier::Bounded { rounds: spec.lag },
            BarrierSpec::Asynchronous => Barrier::Asynchronous,
        });
        let config = Config {
            topology: Arc::clone(&topology),
            mode: chosen.row.mode,
            method: chosen.rule.method(),
            weighted: spec.weighting == Weighting::Examples,
            barrier,
            seed: self.seed,
            w_min: spec.w_min,
            deadline_ms: spec.deadline_s.map(|seconds| (seconds * 1e3) as u64),
            retry_ms: spec.retry_ms,
        };
        let schedule = Schedule::new(topology, spec.nodes, self.seed)
            .map_err(|error| SpecError::new("topology", error.to_string()))?;
        if config.mode == report::Mode::Symmetric && !schedule.symmetric() {
            let (kind, algorithm) = (&spec.kind, chosen.row.name);
            return wrong(
                "topology.kind",
                format!(
                    "`{kind}` has matrices that are not symmetric, which `{algorithm}` needs; take an undirected graph, or `sgp`"
                ),
            );
        }
        let compressor = self.check_method(&chosen, &schedule, barrier)?;
        Ok(Mixing {
            config,
            local: chosen.local,
            compressor,
            repeats: chosen.rule.repeats(),
            nodes: spec.nodes,
            evict_after_s: spec.evict_after_s,
        })
    }

    fn decentralised_algorithm(&self) -> Result<gossip::rule::Chosen, SpecError> {
        let kind = &self.algorithm.kind;
        let chosen = choose(kind, &self.algorithm.params).map_err(|error| {
            let known = gossip::rules::RULES.iter().map(|row| row.name);
            let near = nearest::nearest(kind, known).filter(|near| near != kind);
            let near = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
            SpecError::new("algorithm", format!("{}{near}", nearest::explain(&error.to_string())))
        })?;
        if self.algorithm.params.get("form").is_some_and(|form| form == "awc") {
            let text = format!(
                "peers cannot run `{kind}` in the form `awc`: it mixes while it trains, peers mix what was trained"
            );
            return Err(SpecError::new("algorithm.form", text));
        }
        Ok(chosen)
    }
}

impl TopologySpec {
    /// A topology over so many peers, with the defaults of every other key.
    pub fn new(kind: &str, nodes: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            nodes,
            barrier: BarrierSpec::default(),
            lag: one(),
            w_min: default_w_min(),
            deadline_s: None,
            retry_ms: default_retry_ms(),
            evict_after_s: default_evict_after_s(),
            weighting: Weighting::default(),
            params: gossip::Params::new(),
        }
    }

    fn topology(&self) -> Result<Arc<dyn Topology>, SpecError> {
        let made = gossip::make(&self.kind, &self.params).map_err(|error| {
            let known = gossip::topologies::TOPOLOGIES.iter().map(|row| row.name);
            let near = nearest::nearest(&self.kind, known).filter(|near| *near != self.kind);
            let text = error.to_string();
            let near = near.or_else(|| nearest_key(&text));
            let near = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
            SpecError::new("topology", format!("{text}{near}"))
        });
        made.map(Arc::from)
    }
}

/// Keys of the section that every topology has.
const KEYS: [&str; 9] =
    ["kind", "nodes", "barrier", "lag", "w_min", "deadline_s", "retry_ms", "evict_after_s", "weighting"];

/// The key nearest to one that a topology does not know: of its own, which the message lists, or of all.
fn nearest_key(message: &str) -> Option<&str> {
    let mut quoted = message.split_once("unknown field ")?.1.split('`').skip(1).step_by(2);
    let given = quoted.next()?;
    nearest::nearest(given, quoted.chain(KEYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "digits-sgp"
        mode = "decentralised"
        rounds = 5
        [model]
        kind = "lenet"
        [data]
        name = "digits"
        [algorithm]
        kind = "sgp"
        rho = 0.05
        [topology]
        kind = "k-peer-exponential"
        nodes = 9
        peers = 2
        barrier = "bounded"
    "#;

    #[test]
    fn a_run_of_peers_survives_the_wire() {
        let spec = RunSpec::from_toml(GOOD).unwrap();
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        let mixing = spec.mixing().unwrap();
        assert_eq!((mixing.config.barrier, mixing.local.rho), (Barrier::Bounded { rounds: 1 }, 0.05));
        assert!(mixing.report(spec.rounds).accepted() && !mixing.config.weighted);
        // A run file that says nothing of it stays the run that it was.
        assert!(!spec.to_json().contains("weighting"));
        let weighted = format!("{GOOD}\nweighting = \"examples\"");
        assert!(RunSpec::from_toml(&weighted).unwrap().mixing().unwrap().config.weighted);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, want) in [
            ("peers = 2", "pers = 2", "pers"),
            ("k-peer-exponential", "k-per-exponential", "did you mean `k-peer-exponential`"),
            ("nodes = 9", "nodes = 0", "topology.nodes"),
            ("kind = \"sgp\"", "kind = \"spg\"", "did you mean `sgp`"),
            ("kind = \"sgp\"", "kind = \"scaffold\"", "unknown decentralised algorithm"),
            ("kind = \"sgp\"", "kind = \"dfedavg\"", "not symmetric"),
            ("rho = 0.05", "roh = 0.05", "roh"),
            ("mode = \"decentralised\"", "", "topology"),
            ("barrier = \"bounded\"", "barrier = \"bound\"", "bound"),
            ("nodes = 9", "nodes = 9\nw_min = 2.0", "topology.w_min"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let error = RunSpec::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
        for (algorithm, graph, rest, want) in [
            ("choco-sgd", "one-peer-hypercube", "", "changes from round to round"),
            ("choco-sgd", "ring", "barrier='asynchronous'", "rounds in step"),
            ("choco-sgd", "directed-ring", "", "not symmetric"),
            ("choco-sgd'\ncompressor={kind='top-q',ratio=0.1}#", "ring", "", "did you mean `top-k`"),
            ("choco-sgd'\ncompressor={kind='top-k',ratio=2.0}#", "ring", "", "algorithm.compressor"),
            ("relaysgd", "ring", "", "expected an undirected tree"),
            ("relaysgd'\nrelax=0.1#", "path", "", "algorithm.relax"),
            ("gradient-tracking'\nmomentum=0.9#", "ring", "", "plain steps"),
            ("gradient-tracking", "ring", "weighting='examples'", "expected \"peers\""),
            ("dpsgd", "ring", "weighting='exampels'", "examples"),
            ("dpsgd", "ring", "weigthing='examples'", "weighting"),
            ("dpsgd'\nform='awc'#", "ring", "", "mixes while it trains"),
        ] {
            let text = format!(
                "name='a'\nmode='decentralised'\nrounds=5\n[model]\nkind='linear'\n[data]\nname='d'\n\
                 [algorithm]\nkind='{algorithm}'\n[topology]\nkind='{graph}'\nnodes=8\n{rest}\n"
            );
            let error = RunSpec::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let without = GOOD.split("[topology]").next().unwrap();
        assert!(RunSpec::from_toml(without).unwrap_err().to_string().contains("[topology]"));
    }
}
