//! A peer of a decentralised run as a value: events and the time in, actions out.
//!
//! Two modes. **Push**: a node splits its numerator `x` and its mass `w` by a column-stochastic matrix;
//! the model is `z = x/w` (stochastic gradient push, Assran et al. 2019). **Symmetric**: two nodes
//! exchange models and both move towards the other by the edge's weight (D-PSGD in its
//! adapt-then-combine form, pairwise as in AD-PSGD); the answerer decides for both, so an exchange
//! happens at both ends or at neither.
//!
//! Everything that must happen once runs over the ledger of a link. A node's *account* is the mass that it
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

mod events;
mod exchange;
mod leave;
mod link;
mod members;
mod membership;
mod message;
mod method;
mod public;
mod push;
mod round;
mod transfer;
mod vector;

use crate::{Mass, MixingError, Schedule, kernel::Scalar, report::Mode};
pub use events::{Action, Barrier, Config, Event, MachineError};
use link::{Link, Owed};
pub use membership::{Member, Membership};
pub use message::{Body, Content, Envelope, Payload, Refusal, Transfer, Verdict};
use method::Memory;
pub use method::{Done, Errand, Method};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
pub use vector::Vector;

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
    x: Vector<T>,
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
    memory: Memory<T>,
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
    payload: Vector<T>,
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
    /// Memory of vectors that are not needed any more.
    spare: Vec<Vec<T>>,
    /// Vectors that the last round sent.
    in_use: usize,
}

impl<T: Scalar> Machine<T> {
    /// A node that starts in `round` with `model` and mass 1: at the beginning of a run, or as one that
    /// joins or comes back.
    pub fn new(
        config: Config,
        me: Member,
        membership: Membership,
        (round, model): (u64, impl Into<Vector<T>>),
    ) -> Result<Self, MachineError> {
        let mut x = model.into();
        let memory = Memory::new(config.method, &x);
        if config.method == Method::Tracking {
            let both = 2 * x.len();
            x.edit().resize(both, T::default());
        }
        let state = State {
            me,
            membership,
            round,
            phase: Phase::Training,
            x,
            w: Mass::ONE,
            account: Mass::ONE,
            links: BTreeMap::new(),
            held: BTreeMap::new(),
            expected: BTreeSet::new(),
            base: None,
            poll_at: 0,
            memory,
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
        let (actions, spare) = (Vec::new(), Vec::new());
        let mut machine = Self { config, state, schedule, live, now: 0, actions, spare, in_use: 0 };
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
            Event::Trained { round, done } => self.trained(round, done),
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
        self.set_clock();
        self.announce(None);
        if self.state.phase == Phase::Training {
            self.actions.push(Action::Train { round: self.state.round });
        }
    }

    /// What a former process put off may lie far ahead of this one's clock.
    fn set_clock(&mut self) {
        let now = self.now;
        for under_way in self.state.links.values_mut().filter_map(|link| link.under_way.as_mut()) {
            under_way.retry_at = under_way.retry_at.min(now);
        }
        self.state.poll_at = self.state.poll_at.min(now);
        if let Phase::Waiting { since } = &mut self.state.phase {
            *since = (*since).min(now);
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
    pub fn model(&self) -> Option<Arc<Vec<T>>> {
        let (w, x) = (self.state.w.value(), &self.state.x);
        let d = self.parameters();
        match self.state.w {
            Mass::ZERO => None,
            Mass::ONE if d == x.len() => Some(x.shared()),
            Mass::ONE => Some(Arc::new(x[..d].to_vec())),
            _ => Some(Arc::new(T::divided(&x[..d], w))),
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

    /// The numerator that it has: `x` and what has arrived for a later mix; with [`Method::Tracking`] `y`
    /// follows.
    pub fn numerator(&self) -> Vec<T> {
        let mut sum = self.state.x.to_vec();
        for held in self.state.held() {
            crate::kernel::add(&mut sum, &held.payload);
        }
        sum
    }

    /// What this node has added to Σ y since the epoch began, with [`Method::Tracking`]: its last gradient.
    pub fn tracked(&self) -> Option<&[T]> {
        match &self.state.memory {
            Memory::Gradient(gradient) => Some(gradient),
            _ => None,
        }
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

    /// For each link the number of the last transfer that was settled here, by its sender.
    pub fn settled(&self) -> impl Iterator<Item = (Member, u64)> {
        self.state.links.values().map(|link| (link.peer, link.last()))
    }

    /// Whether the transfer of that number from `peer` was settled here and not refused.
    pub fn has_taken(&self, peer: Member, seq: u64) -> bool {
        let link = self.state.links.get(&peer.id).filter(|link| link.peer == peer);
        link.is_some_and(|link| link.has_taken(seq))
    }
}
