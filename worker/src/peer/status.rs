//! How a peer stands, for people who ask.

use super::{book::Line, node::Node};
use gossip::machine::Phase;
use proto::{peers, v1};

impl Node {
    pub(super) fn status(&self) -> v1::PeerStatusReply {
        let machine = &self.machine;
        let phase = match machine.phase() {
            Phase::Leaving => "leaving",
            Phase::Over => "over",
            _ if self.finished() => "finished",
            Phase::Training => "training",
            Phase::Waiting { .. } => "waiting",
        };
        let members = machine.membership().all().map(|(member, gone)| {
            let address = self.known.get(&member.id).map(|(_, address)| address.to_string());
            v1::PeerSummary {
                name: self.name_of(member.id),
                address: address.unwrap_or_default(),
                member: Some(peers::member(member)),
                live: !gone,
                reachable: self.reachable.contains(&member.id),
            }
        });
        v1::PeerStatusReply {
            name: self.parts.name.clone(),
            run: self.parts.spec.name.clone(),
            phase: phase.to_owned(),
            round: self.round(),
            rounds: self.parts.spec.rounds,
            epoch: machine.membership().epoch(),
            members: members.collect(),
            w: machine.mass().value(),
            holding: machine.holding().value(),
            account: machine.account().value(),
            balanced: machine.balanced(),
            metrics: self.book.last.as_ref().map(|line| self.sayable(line)).unwrap_or_default(),
            topology: self.parts.report.clone(),
            member: Some(peers::member(machine.me())),
        }
    }

    /// A line as others may have it: what nobody paid for stays in the peer's own file.
    fn sayable(&self, line: &Line) -> String {
        let mut line = line.clone();
        if self.parts.private.is_some() {
            (line.train_loss, line.eval_loss, line.eval_accuracy) = (None, None, None);
        }
        serde_json::to_string(&line).unwrap_or_default()
    }
}
