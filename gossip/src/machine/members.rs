//! Changes of the membership: fencing those who are gone, meeting those who are new, coming back.

use super::link::Link;
use super::{Action, Config, Machine, MachineError, Member, Membership, Method, Mode, Phase};
use crate::{Params, Schedule, kernel::Scalar, make};
use std::sync::Arc;

/// The schedule over so many nodes.
pub(super) fn schedule(config: &Config, nodes: usize) -> Result<Schedule, MachineError> {
    let schedule = Schedule::new(Arc::clone(&config.topology), nodes, config.seed)?;
    if config.mode == Mode::Push && !matches!(config.method, Method::Average | Method::Tracking) {
        return Err(MachineError::NotForPush(config.method));
    }
    if config.weighted && config.method == Method::Tracking {
        return Err(MachineError::NotWeighted);
    }
    if config.mode == Mode::Symmetric && !schedule.symmetric() {
        return Err(MachineError::NotSymmetric(config.topology.name()));
    }
    Ok(schedule)
}

/// What takes the place of a topology that has no graph over so many nodes.
pub(super) fn ring(config: &Config, nodes: usize) -> Schedule {
    let name = match (config.mode, config.method) {
        (Mode::Push, _) => "directed-ring",
        // What relays needs a tree.
        (_, Method::Relay) => "path",
        _ => "ring",
    };
    let ring = make(name, &Params::new()).expect("rings have no keys that could be wrong");
    Schedule::new(Arc::from(ring), nodes, config.seed).expect("there is a ring over any number of nodes")
}

impl<T: Scalar> Machine<T> {
    pub(super) fn merge(&mut self, membership: &Membership) {
        let before = self.state.membership.epoch();
        // That somebody has other examples is no change of who takes part.
        if !self.state.membership.merge(membership) || self.state.membership.epoch() == before {
            return;
        }
        if !self.state.membership.is_live(self.state.me) {
            self.state.phase = Phase::Over;
            self.actions.push(Action::Evicted);
            return;
        }
        let known = self.state.links.values().map(|link| link.peer);
        let gone: Vec<Member> = known.filter(|peer| !self.state.membership.is_live(*peer)).collect();
        for peer in gone {
            self.fence(peer);
        }
        self.live = self.state.membership.live();
        self.begin_epoch();
        self.open_links();
        let planned = schedule(&self.config, self.live.len());
        let fallback = planned.as_ref().err().map(ToString::to_string);
        self.schedule = planned.unwrap_or_else(|_| ring(&self.config, self.live.len()));
        self.announce(fallback);
        if self.config.method == Method::Tracking {
            // What came from those who knew of this epoch earlier.
            self.hear_waiting();
        }
    }

    pub(super) fn announce(&mut self, fallback: Option<String>) {
        let (number, account) = (self.state.membership.epoch(), self.state.account);
        self.actions.push(Action::Epoch { number, account, fallback });
    }

    pub(super) fn open_links(&mut self) {
        let me = self.state.me;
        for peer in self.live.iter().filter(|peer| **peer != me) {
            self.state.links.entry(peer.id).or_insert_with(|| Link::new(*peer));
        }
    }

    /// Cuts the link for ever. What has no verdict comes back; from now on the node answers for what the
    /// evicted has of it, and no longer for what it has of the evicted.
    fn fence(&mut self, peer: Member) {
        let Some(mut link) = self.state.links.remove(&peer.id) else { return };
        if let Some(under_way) = link.under_way.take() {
            self.take_back(&mut link, &under_way.transfer);
        }
        self.state.account += link.received - link.sent;
        self.state.expected.retain(|(_, id)| *id != peer.id);
    }
}
