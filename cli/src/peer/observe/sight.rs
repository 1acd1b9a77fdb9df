//! What an observer makes of the answers of peers: a value that is told who said what and when, and says whom
//! to ask next. It believes each peer about itself; about others it believes what it must to find them, and
//! shows what they say of each other as their word.

use page::peers::{Peer, Peers, Said, State};
use proto::{
    names::WorkerName,
    v1::{PeerStatusReply, PeerSummary},
};
use serde_json::Value;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

/// Peers that are kept in sight; inventing more changes nothing.
const MOST: usize = 1_024;
/// Those who have left are asked at one look of so many: they may come back.
const SELDOM: u64 = 10;
/// Characters of what a peer may say in words.
const WORDS: usize = 120;

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// HOST:PORT.
    pub(super) address: String,
    /// Whose certificate must be shown there; `None`: any peer's.
    pub(super) name: Option<String>,
}

/// What is known of a peer.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Where it said that it is, or, unless it did, where others say.
    address: String,
    /// The latest that anybody tells of, and whether that one is gone for ever.
    incarnation: u64,
    gone: bool,
    said: Said,
    /// Milliseconds since 1970.
    heard: Option<u64>,
    answers: bool,
    trouble: Option<String>,
    /// Those of whom it says that they cannot be reached or are gone, in which life.
    misses: BTreeMap<String, u64>,
}

/// An observer's memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    bootstrap: Vec<Place>,
    run: Option<String>,
    peers: BTreeMap<String, Known>,
    ignored: BTreeSet<String>,
    looks: u64,
    now: u64,
}

impl Sight {
    /// Knows some addresses and nobody.
    pub(super) fn new(bootstrap: &[String]) -> Self {
        let place = |address: &String| Place { address: address.clone(), name: None };
        Self { bootstrap: bootstrap.iter().map(place).collect(), ..Self::default() }
    }

    /// A new look: the addresses that any peer may be at.
    pub(super) fn begin(&mut self, now_ms: u64) -> Vec<Place> {
        self.looks += 1;
        self.now = now_ms;
        self.ignored.clear();
        // Once everybody is known, only who answers nowhere is looked for at the first addresses.
        let lost = self.peers.values().all(|known| !known.answers);
        if lost || self.looks.is_multiple_of(SELDOM) { self.bootstrap.clone() } else { Vec::new() }
    }

    /// The peers to ask at this look.
    pub(super) fn members(&self) -> Vec<Place> {
        let due = |known: &&Known| {
            !known.address.is_empty() && (!known.gone || known.answers || self.looks.is_multiple_of(SELDOM))
        };
        let place = |(name, known): (&String, &Known)| Place {
            address: known.address.clone(),
            name: Some(name.clone()),
        };
        self.peers.iter().filter(|(_, known)| due(known)).map(place).collect()
    }

    /// A peer answered.
    pub(super) fn heard(&mut self, from: &Place, reply: &PeerStatusReply) {
        let Some(name) = &from.name else {
            // Whoever that is will be asked by its name.
            for member in &reply.members {
                self.learn(member, None);
            }
            return;
        };
        if reply.name != *name {
            return self.silent(from, &format!("it calls itself `{}`", words(&reply.name)));
        }
        if self.run.as_ref().is_some_and(|run| *run != reply.run) {
            return self.silent(from, &format!("it is of another run, `{}`", words(&reply.run)));
        }
        self.run.get_or_insert_with(|| words(&reply.run));
        for member in &reply.members {
            self.learn(member, Some(name));
        }
        let missed = reply.members.iter().filter(|of| of.name != *name && !(of.live && of.reachable));
        let misses = missed.take(MOST).map(|of| (of.name.clone(), life(of))).collect();
        let Some(known) = self.peers.get_mut(name) else { return };
        known.misses = misses;
        known.said = said(reply);
        if let Some(member) = reply.member {
            // It knows its own life better than anybody.
            (known.incarnation, known.gone) = (member.incarnation, reply.phase == "over");
        }
        (known.heard, known.answers, known.trouble) = (Some(self.now), true, None);
    }

    /// Somebody did not answer, or not as it must.
    pub(super) fn silent(&mut self, from: &Place, why: &str) {
        let Some(known) = from.name.as_ref().and_then(|name| self.peers.get_mut(name)) else { return };
        known.answers = false;
        known.misses.clear();
        known.trouble = Some(words(why));
    }

    /// What `by` says of a member; `None`: somebody who is not known by name.
    fn learn(&mut self, member: &PeerSummary, by: Option<&String>) {
        let name = &member.name;
        // Who does not know a name yet tells of an id.
        if member.member.is_some_and(|of| *name == format!("{:016x}", of.id)) {
            return;
        }
        if name.parse::<WorkerName>().is_err() || (self.peers.len() >= MOST && !self.peers.contains_key(name))
        {
            if self.ignored.len() < MOST {
                self.ignored.insert(words(name));
            }
            return;
        }
        let known = self.peers.entry(name.clone()).or_default();
        // Whoever answers speaks for itself.
        if known.answers && by != Some(name) {
            return;
        }
        if !member.address.is_empty() {
            known.address = words(&member.address);
        }
        match life(member).cmp(&known.incarnation) {
            Ordering::Greater => (known.incarnation, known.gone) = (life(member), !member.live),
            Ordering::Equal => known.gone |= !member.live,
            Ordering::Less => {}
        }
    }

    /// How things stand.
    pub(super) fn peers(&self) -> Peers {
        let peer = |(name, known): (&String, &Known)| {
            let misses =
                |other: &Known| other.misses.get(name).is_some_and(|life| *life >= known.incarnation);
            let accusers =
                self.peers.iter().filter(|(_, other)| other.answers && !known.gone && misses(other));
            let suspected_by: Vec<String> = accusers.map(|(other, _)| other.clone()).collect();
            let state = match (known.answers, known.gone) {
                (_, true) => State::Left,
                (true, false) if suspected_by.is_empty() => State::Alive,
                _ => State::Suspect,
            };
            Peer {
                name: name.clone(),
                address: known.address.clone(),
                incarnation: known.incarnation,
                state,
                suspected_by,
                last_heard_s: known.heard.map(|at| self.now.saturating_sub(at) as f64 / 1_000.0),
                trouble: known.trouble.clone(),
                said: known.said.clone(),
            }
        };
        Peers {
            run: self.run.clone(),
            time_ms: self.now,
            peers: self.peers.iter().map(peer).collect(),
            ignored: self.ignored.len(),
        }
    }
}

fn life(member: &PeerSummary) -> u64 {
    member.member.map_or(0, |member| member.incarnation)
}

/// Text of a stranger for a terminal: no control characters, and not too much of it.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

fn said(reply: &PeerStatusReply) -> Said {
    let line: Value = serde_json::from_str(&reply.metrics).unwrap_or_default();
    let float = |key: &str| line[key].as_f64();
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    Said {
        phase: Some(words(&reply.phase)),
        round: Some(reply.round),
        rounds: Some(reply.rounds),
        epoch: Some(reply.epoch),
        w: finite(reply.w),
        holding: finite(reply.holding),
        account: finite(reply.account),
        balanced: Some(reply.balanced),
        consensus_distance: float("consensus_distance"),
        consensus_predicted: float("consensus_predicted"),
        mass: float("mass"),
        mass_published: float("mass_published"),
        bytes_sent: line["bytes_sent"].as_u64(),
        bytes_received: line["bytes_received"].as_u64(),
        epsilon: float("epsilon"),
    }
}

#[cfg(test)]
mod tests;
