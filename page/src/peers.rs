//! The peers of a decentralised run as an observer sees them: as JSON, as metrics and as a table; the page is
//! [`html::peers`](crate::html::peers).

use crate::{
    metrics::{Kind, Series, text},
    table::{bytes, or_dash, table},
};
use serde::Serialize;

/// Whether a peer takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It answers, and whoever answers can reach it.
    Alive,
    /// It does not answer here, or somebody who does cannot reach it.
    Suspect,
    /// It left or was evicted.
    Left,
}

impl State {
    const ALL: [Self; 3] = [Self::Alive, Self::Suspect, Self::Left];

    /// The name, as JSON has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Left => "left",
        }
    }
}

/// A peer: where and who it is by the membership, the rest as it last said itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its life, counted by itself.
    pub incarnation: u64,
    /// Whether it takes part.
    pub state: State,
    /// Those who answer and cannot reach it.
    pub suspected_by: Vec<String>,
    /// Seconds since it last answered; absent: never.
    pub last_heard_s: Option<f64>,
    /// Why it does not answer.
    pub trouble: Option<String>,
    /// What it said last.
    #[serde(flatten)]
    pub said: Said,
}

/// What a peer says of itself, with the names of its `status` and its `metrics.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Said {
    /// meeting, training, waiting, leaving, over or finished.
    pub phase: Option<String>,
    /// Training rounds done.
    pub round: Option<u64>,
    /// Training rounds of the run.
    pub rounds: Option<u64>,
    /// Its epoch of the membership.
    pub epoch: Option<u64>,
    /// Mass that it divides by.
    pub w: Option<f64>,
    /// Mass that it has with what waits for a mix.
    pub holding: Option<f64>,
    /// Mass that it answers for.
    pub account: Option<f64>,
    /// Whether its books are right.
    pub balanced: Option<bool>,
    /// `(1/n) Σ‖z_i − z̄‖²` after its newest line.
    pub consensus_distance: Option<f64>,
    /// What the topology makes of the last changes.
    pub consensus_predicted: Option<f64>,
    /// Σ w of those who reported to it.
    pub mass: Option<f64>,
    /// The sum that they published.
    pub mass_published: Option<f64>,
    /// Bytes of vectors and masses in the round of its newest line.
    pub bytes_sent: Option<u64>,
    /// The same, received.
    pub bytes_received: Option<u64>,
    /// Of all that left it, in a private run.
    pub epsilon: Option<f64>,
}

/// All peers of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Peers {
    /// The run's name; absent: nobody has answered yet.
    pub run: Option<String>,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// In the order of their names.
    pub peers: Vec<Peer>,
    /// Members that were told of beside them: too many, or with a name that no peer could have.
    pub ignored: usize,
}

impl Peers {
    /// How many are in a state.
    pub fn count(&self, state: State) -> usize {
        self.peers.iter().filter(|peer| peer.state == state).count()
    }

    /// Whether every peer that has not left is done.
    pub fn finished(&self) -> bool {
        let mut there = self.peers.iter().filter(|peer| peer.state != State::Left).peekable();
        there.peek().is_some() && there.all(|peer| peer.said.phase.as_deref() == Some("finished"))
    }

    /// In one line.
    pub fn headline(&self) -> String {
        let run = self.run.as_deref().unwrap_or("no peer has answered yet");
        let ignored = if self.ignored > 0 { format!(", {} ignored", self.ignored) } else { String::new() };
        let [alive, suspect, left] = State::ALL.map(|state| self.count(state));
        format!("{run}: {alive} alive, {suspect} suspect, {left} left{ignored}")
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.peers.iter().map(Peer::cells).collect();
        format!("{}\n\n{}", self.headline(), table(&HEADING, &rows))
    }

    /// For Prometheus.
    pub fn metrics(&self) -> String {
        let label = |peer: &Peer| vec![("peer", peer.name.clone())];
        let states = State::ALL.into_iter().fold(
            Series::new("peers", Kind::Gauge, "Peers by state"),
            |series, state| {
                series.with(vec![("state", state.label().to_owned())], Some(self.count(state) as f64))
            },
        );
        let fields = FIELDS.iter().map(|(name, help, of)| {
            let series = Series::new(name, Kind::Gauge, help);
            self.peers.iter().fold(series, |series, peer| series.with(label(peer), of(peer)))
        });
        text(std::iter::once(states).chain(fields).collect())
    }
}

/// What the cells of a peer are.
pub(crate) const HEADING: [&str; 13] = [
    "peer",
    "state",
    "address",
    "incarnation",
    "phase",
    "round",
    "epoch",
    "w",
    "mass",
    "distance",
    "predicted",
    "bytes out, in",
    "heard",
];

impl Peer {
    /// A row of the table.
    pub(crate) fn cells(&self) -> Vec<String> {
        let said = &self.said;
        let float = |value: Option<f64>| or_dash(value, |value| format!("{value:.4}"));
        let short = |value: Option<f64>| or_dash(value, |value| format!("{value:.3e}"));
        let mut state = self.state.label().to_owned();
        if !self.suspected_by.is_empty() {
            state = format!("{state}, not reached by {}", self.suspected_by.len());
        }
        if said.balanced == Some(false) {
            state = format!("{state}, books WRONG");
        }
        vec![
            self.name.clone(),
            state,
            self.address.clone(),
            self.incarnation.to_string(),
            or_dash(said.phase.clone(), |phase| phase),
            or_dash(said.round, |round| format!("{round} of {}", said.rounds.unwrap_or_default())),
            or_dash(said.epoch, |epoch| epoch.to_string()),
            float(said.w),
            float(said.mass),
            short(said.consensus_distance),
            short(said.consensus_predicted),
            or_dash(said.bytes_sent.zip(said.bytes_received), |(out, into)| {
                format!("{}, {}", bytes(out), bytes(into))
            }),
            or_dash(self.last_heard_s, |seconds| format!("{seconds:.1} s ago")),
        ]
    }
}

type Of = fn(&Peer) -> Option<f64>;

/// Everything that a peer has one of.
const FIELDS: &[(&str, &str, Of)] = &[
    ("round", "Training rounds done", |peer| peer.said.round.map(|round| round as f64)),
    ("rounds", "Training rounds of the run", |peer| peer.said.rounds.map(|rounds| rounds as f64)),
    ("epoch", "The peer's epoch of the membership", |peer| peer.said.epoch.map(|epoch| epoch as f64)),
    ("incarnation", "The peer's life", |peer| Some(peer.incarnation as f64)),
    ("w", "Mass that the peer divides by", |peer| peer.said.w),
    ("holding", "Mass that the peer has", |peer| peer.said.holding),
    ("account", "Mass that the peer answers for", |peer| peer.said.account),
    ("mass", "Mass of all who reported to the peer", |peer| peer.said.mass),
    ("mass_published", "Mass that they answer for", |peer| peer.said.mass_published),
    ("consensus_distance", "Mean squared distance of the models from their mean", |peer| {
        peer.said.consensus_distance
    }),
    ("consensus_predicted", "The same as the topology predicts it", |peer| peer.said.consensus_predicted),
    ("bytes_sent", "Bytes sent in the round of the newest line", |peer| {
        peer.said.bytes_sent.map(|bytes| bytes as f64)
    }),
    ("bytes_received", "Bytes received in the round of the newest line", |peer| {
        peer.said.bytes_received.map(|bytes| bytes as f64)
    }),
    ("epsilon", "Privacy spent, of all that left the peer", |peer| peer.said.epsilon),
    ("last_heard_s", "Seconds since the peer last answered", |peer| peer.last_heard_s),
];
