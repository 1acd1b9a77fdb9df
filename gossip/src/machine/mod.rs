//! A peer of a decentralised run as a value: events and the time in, actions out.
//!
//! Two modes. **Push**: a node splits its numerator `x` and its mass `w` by a column-stochastic matrix;
//! the model is `z = x/w` (stochastic gradient push, Assran et al. 2019). **Symmetric**: two nodes
//! exchange models and both move towards the other by the edge's weight (D-PSGD in its
//! adapt-then-combine form, pairwise as in AD-PSGD); the answerer decides for both, so an exchange
//! happens at both ends or at neither.
//!
//! Everything that must happen once runs over a [`link`] ledger. A node's *account* is the mass that it
//! answers for: what it started with, corrected at each eviction by what it exchanged with the evicted.
//! At any time, without asking anybody,
//!
//! `account = w + held + Σ over links (sent − received)`   ([`Machine::balanced`]),
//!
//! and the sum of the accounts of the live nodes is the epoch's total, the sum of what they hold and what
//! is under way between them.
//!
//! **Durability**: a driver that stores [`Machine::state`] before it carries out the actions of the same
//! event may resume with it after a crash. One that does not must come back as a new incarnation.

mod exchange;
mod leave;
mod link;
mod members;
mod membership;
mod message;
mod push;
mod round;
mod transfer;

use crate::{Mass, MixingError, Schedule, Topology, kernel::Scalar, report::Mode};
use link::Link;
pub use membership::{Member, Membership};
pub use message::{Body, Content, Envelope, Payload, Refusal, Transfer, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// When a node goes on to its next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Barrier {
    /// When everything of its round has arrived and has been taken. Transfers are applied in the order of
    /// their senders, so that without deadlines and evictions the run does not depend on the network.
    Synchronous,
    /// When everything up to `rounds` rounds back has arrived; the rest is applied as it comes.
    Bounded {
        /// How far a node may run ahead of what it has not heard of.
        rounds: u64,
    },
    /// At once.
    Asynchronous,
}

/// What all nodes of a run agree on.
#[derive(Debug, Clone)]
pub struct Config {
    /// The graph.
    pub topology: Arc<dyn Topology>,
    /// How to mix.
    pub mode: Mode,
    /// When to go on.
    pub barrier: Barrier,
    /// The run's seed.
    pub seed: u64,
    /// The starvation guard: a node sends no more than what leaves it this mass, or its own weight in the
    /// matrix where that is less (push mode). 0.3 unless there is a reason; 0 turns it off.
    pub w_min: f64,
    /// Milliseconds after which a round goes on without those that are missing; `None` waits for ever.
    pub deadline_ms: Option<u64>,
    /// Milliseconds until a transfer or a question is repeated; doubles up to eight times this.
    pub retry_ms: u64,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<T> {
    /// The node starts, or resumes after a crash with its stored state.
    Start,
    /// The training that [`Action::Train`] asked for is done.
    Trained {
        /// The round asked for.
        round: u64,
        /// New model minus [`Machine::model`]; d parameters.
        change: Vec<T>,
    },
    /// A message arrived.
    Received(Envelope<T>),
    /// Somebody joined, left or was found dead; merged with what is known.
    Membership(Membership),
    /// A peer cannot be reached at the moment, or can again.
    Suspected {
        /// Which peer.
        id: u64,
        /// Whether it is suspected from now on.
        suspected: bool,
    },
    /// This node shall leave in good order.
    Leave,
    /// The time asked for by [`Action::WakeAt`].
    Tick,
}

/// What a driver has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<T> {
    /// Send it; it may be lost.
    Send(Envelope<T>),
    /// Train from [`Machine::model`] and answer with [`Event::Trained`].
    Train {
        /// The round to answer with.
        round: u64,
    },
    /// Call with [`Event::Tick`] at this time. Replaces the earlier request.
    WakeAt(u64),
    /// The membership changed. The sum of `account` over the live members is the new epoch's total.
    Epoch {
        /// The new epoch.
        number: u64,
        /// This node's part of the total.
        account: Mass,
        /// The topology has no graph over so many nodes: the run's ring takes its place.
        fallback: Option<String>,
    },
    /// This node was evicted: it does nothing any more. Come back with [`Machine::reincarnate`], or as
    /// new with a sponsor's model.
    Evicted,
    /// The node has handed over everything and may be turned off. Evict it from the membership.
    Left,
    /// An event that makes no sense, and why; nothing was changed.
    Ignored(String),
}

/// Where a node is in its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The driver trains.
    Training,
    /// Own shares are out; waiting for those of others.
    Waiting {
        /// Since when.
        since: u64,
    },
    /// Settling its links in order to leave.
    Leaving,
    /// Left or evicted.
    Over,
}

/// All that a node must not forget.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct State<T> {
    me: Member,
    membership: Membership,
    round: u64,
    phase: Phase,
    x: Vec<T>,
    w: Mass,
    account: Mass,
    links: BTreeMap<u64, Link<T>>,
    /// Taken from links, not yet mixed: by round, then by peer.
    held: BTreeMap<u64, BTreeMap<u64, Held<T>>>,
    /// Rounds and peers from whom something is to come.
    expected: BTreeSet<(u64, u64)>,
    /// The model after training, while a synchronous round of symmetric mode is open.
    base: Option<Payload<T>>,
    poll_at: u64,
}

impl<T> State<T> {
    fn held(&self) -> impl Iterator<Item = &Held<T>> {
        self.held.values().flat_map(BTreeMap::values)
    }
}

/// What will be added to a node at the end of its round.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held<T> {
    mass: Mass,
    payload: Vec<T>,
}

/// A peer.
#[derive(Debug, Clone)]
pub struct Machine<T> {
    config: Config,
    state: State<T>,
    schedule: Schedule,
    live: Vec<Member>,
    now: u64,
    actions: Vec<Action<T>>,
}

/// Why there is no such machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The member does not take part.
    #[error("member {id} (incarnation {incarnation}) is not live in the membership that it starts with")]
    NotAMember {
        /// Its id.
        id: u64,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Symmetric mode over a graph whose matrices are not symmetric.
    #[error("topology `{0}`: symmetric mode needs symmetric matrices, expected push mode")]
    NotSymmetric(&'static str),
    /// No such schedule.
    #[error(transparent)]
    Mixing(#[from] MixingError),
}

impl<T: Scalar> Machine<T> {
    /// A node that starts in `round` with `model` and mass 1: at the beginning of a run, or as one that
    /// joins with a copy of a sponsor's model.
    pub fn new(
        config: Config,
        me: Member,
        membership: Membership,
        (round, model): (u64, Vec<T>),
    ) -> Result<Self, MachineError> {
        let state = State {
            me,
            membership,
            round,
            phase: Phase::Training,
            x: model,
            w: Mass::ONE,
            account: Mass::ONE,
            links: BTreeMap::new(),
            held: BTreeMap::new(),
            expected: BTreeSet::new(),
            base: None,
            poll_at: 0,
        };
        Self::resume(config, state)
    }

    /// A node with the state that it stored.
    pub fn resume(config: Config, state: State<T>) -> Result<Self, MachineError> {
        if !state.membership.is_live(state.me) {
            let Member { id, incarnation } = state.me;
            return Err(MachineError::NotAMember { id, incarnation });
        }
        let live = state.membership.live();
        let schedule = match members::schedule(&config, live.len()) {
            Err(MachineError::Mixing(MixingError::Size(_))) => members::ring(&config, live.len()),
            other => other?,
        };
        let mut machine = Self { config, state, schedule, live, now: 0, actions: Vec::new() };
        machine.open_links();
        Ok(machine)
    }

    /// Takes an event at time `now` (milliseconds, any origin, never going back).
    pub fn handle(&mut self, event: Event<T>, now: u64) -> Vec<Action<T>> {
        self.now = self.now.max(now);
        if self.state.phase == Phase::Over {
            return Vec::new();
        }
        match event {
            Event::Start => self.start(),
            Event::Trained { round, change } => self.trained(round, &change),
            Event::Received(envelope) => self.received(envelope),
            Event::Membership(membership) => self.merge(&membership),
            Event::Suspected { id, suspected } => self.suspect(id, suspected),
            Event::Leave => self.leave(),
            Event::Tick => {}
        }
        self.repeat();
        self.advance();
        self.depart();
        self.actions.extend(self.wake_at().map(Action::WakeAt));
        debug_assert!(self.balanced(), "mass was made or lost at {:?}", self.state.me);
        std::mem::take(&mut self.actions)
    }

    fn start(&mut self) {
        self.announce(None);
        if self.state.phase == Phase::Training {
            self.actions.push(Action::Train { round: self.state.round });
        }
    }

    fn send(&mut self, to: Member, body: Body<T>) {
        self.actions.push(Action::Send(Envelope { from: self.state.me, to, body }));
    }

    fn received(&mut self, Envelope { from, to, body }: Envelope<T>) {
        let known = self.state.links.get(&from.id).is_some_and(|link| link.peer == from);
        match body {
            Body::Membership(membership) => self.merge(&membership),
            // From or to a life that is over: its mass is the business of those who fence it.
            _ if self.state.membership.is_gone(from) || self.state.membership.is_gone(to) => {
                self.send(from, Body::Membership(self.state.membership.clone()));
            }
            _ if to != self.state.me => {}
            // A newcomer of whom this node has not heard yet: it will repeat.
            _ if !known => {}
            Body::Transfer(transfer) => self.transfer(from, transfer),
            Body::Verdict { seq, verdict } => self.verdict(from, seq, verdict),
            Body::Poll => self.polled(from),
            Body::Progress { round } => self.heard(from, round),
            Body::Leave => self.peer_leaves(from),
            Body::Closed => self.link_mut(from.id, |link| link.closed_to_us = true),
        }
    }

    fn link_mut(&mut self, id: u64, change: impl FnOnce(&mut Link<T>)) {
        if let Some(link) = self.state.links.get_mut(&id) {
            change(link);
        }
    }

    /// The model `z = x/w`: d parameters. What has arrived for a later mix is not in it. `None` without
    /// mass, that is, when a node that leaves has handed over everything.
    pub fn model(&self) -> Option<Vec<T>> {
        let w = self.state.w.value();
        let divided = || self.state.x.iter().map(|x| T::of(x.wide() / w)).collect();
        match self.state.w {
            Mass::ZERO => None,
            Mass::ONE => Some(self.state.x.clone()),
            _ => Some(divided()),
        }
    }

    /// All that must survive a crash.
    pub fn state(&self) -> &State<T> {
        &self.state
    }

    /// This node's member.
    pub fn me(&self) -> Member {
        self.state.me
    }

    /// Its round.
    pub fn round(&self) -> u64 {
        self.state.round
    }

    /// Where it is in its round.
    pub fn phase(&self) -> Phase {
        self.state.phase
    }

    /// What it knows of who takes part.
    pub fn membership(&self) -> &Membership {
        &self.state.membership
    }

    /// The mass that it mixes and divides by.
    pub fn mass(&self) -> Mass {
        self.state.w
    }

    /// The mass that it has: also what has arrived for a later mix.
    pub fn holding(&self) -> Mass {
        self.state.w + self.state.held().map(|held| held.mass).sum()
    }

    /// The numerator that it has: `x` and what has arrived for a later mix.
    pub fn numerator(&self) -> Vec<T> {
        let mut sum = self.state.x.clone();
        for held in self.state.held() {
            crate::kernel::add(&mut sum, &held.payload);
        }
        sum
    }

    /// Its part of the epoch's total.
    pub fn account(&self) -> Mass {
        self.state.account
    }

    /// Whether its books are right, see the module.
    pub fn balanced(&self) -> bool {
        let links: Mass = self.state.links.values().map(|link| link.sent - link.received).sum();
        self.holding() + links == self.state.account
    }

    /// What is under way to `peer`, as this node knows it.
    pub fn under_way(&self, peer: Member) -> Option<&Transfer<T>> {
        let link = self.state.links.get(&peer.id).filter(|link| link.peer == peer)?;
        link.under_way.as_ref().map(|under_way| &under_way.transfer)
    }

    /// Whether the transfer of that number from `peer` was settled here.
    pub fn has_settled(&self, peer: Member, seq: u64) -> bool {
        let link = self.state.links.get(&peer.id).filter(|link| link.peer == peer);
        link.is_some_and(|link| link.has_settled(seq))
    }
}
