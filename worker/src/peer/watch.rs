//! Who is there: those who cannot be reached are suspected, then evicted; what is known of the membership is
//! spread; and an evicted peer comes back.

use super::{meeting::Meeting, node::Node};
use crate::WorkerError;
use gossip::machine::{Event, Machine, Member};
use proto::{peers, v1::tell_request::Body as Told};
use std::time::Duration;
use tokio::time::Instant;

/// What is known of the membership is told to one other peer so often.
const SPREAD: Duration = Duration::from_secs(1);
/// A peer that comes back more rounds behind than that, or ahead, takes a sponsor's model and round.
const BEHIND: u64 = 5;
/// A peer to whom nothing gets through for so long is not waited for, though others hear of it: a link may be cut
/// that those who tell of it do not need.
const SILENT: Duration = Duration::from_secs(5);
/// Somebody whom this process has never reached is given so much longer: it may have just started itself.
const GRACE: Duration = Duration::from_secs(15);

impl Node {
    /// Who is there: suspects those who are not, evicts those who are not for too long.
    pub(super) async fn look(&mut self) -> Result<(), WorkerError> {
        self.heed_revocations().await?;
        let mut live = self.parts.rumours.live().await;
        live.retain(|name, _| !self.parts.shared.is_revoked(name));
        self.reachable.clear();
        for (name, address) in live {
            let id = peers::id_of(&name);
            self.reachable.insert(id);
            if id != self.machine.me().id {
                self.post.locate(&name, &address.to_string());
            }
            self.known.insert(id, (name, address));
        }
        self.book.settle(Instant::now());
        let me = self.machine.me();
        let others: Vec<Member> =
            self.machine.membership().live().into_iter().filter(|member| member.id != me.id).collect();
        for member in &others {
            if self.reachable.contains(&member.id) {
                self.missing.remove(&member.id);
                let silent = self.post.silent(member.id) > SILENT;
                self.suspect(member.id, silent, "others hear of it, but nothing gets through to it").await?;
                continue;
            }
            let since = *self.missing.entry(member.id).or_insert_with(Instant::now);
            // A peer that has just started knows nobody yet: were it not to wait, it would train alone.
            let seen = self.known.contains_key(&member.id);
            let patience = self.patience();
            if seen || since.elapsed() > patience {
                self.suspect(member.id, true, "it cannot be reached").await?;
            }
            if since.elapsed() > patience + if seen { Duration::ZERO } else { GRACE } {
                tracing::warn!(peer = self.name_of(member.id), "evicted");
                let mut membership = self.machine.membership().clone();
                membership.evict(*member);
                self.missing.remove(&member.id);
                self.suspected.remove(&member.id);
                self.drive(Event::Membership(membership)).await?;
            }
        }
        if self.spread.0.elapsed() > SPREAD {
            let next = self.spread.1 + 1;
            self.spread = (Instant::now(), next);
            if let Some(to) = self.given_up(next) {
                self.tell_view(to);
            }
            if let Some(to) = others.get(next % others.len().max(1)).copied() {
                self.tell_view(to);
                let list = self.parts.shared.revoked.list();
                if list.number() > 0 {
                    self.post.tell(to.id, Told::Revocations(list.text().to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Waits for a peer no more, or again.
    async fn suspect(&mut self, id: u64, suspected: bool, why: &str) -> Result<(), WorkerError> {
        let changed = if suspected { self.suspected.insert(id) } else { self.suspected.remove(&id) };
        if !changed {
            return Ok(());
        }
        let peer = self.name_of(id);
        if suspected {
            tracing::warn!(peer, why, "nobody waits for it");
        } else {
            tracing::info!(peer, "can be reached again");
        }
        self.drive(Event::Suspected { id, suspected }).await
    }

    /// How long a peer may be unreachable.
    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.parts.mixing.evict_after_s)
    }

    pub(super) fn name_of(&self, id: u64) -> String {
        self.known.get(&id).map_or_else(|| format!("{id:016x}"), |(name, _)| name.clone())
    }

    /// Everybody has given this incarnation up: comes back as the next one, with its own model if it was only
    /// cut off, with a sponsor's if the others have gone on.
    pub(super) async fn come_back(&mut self) -> Result<(), WorkerError> {
        self.evicted = false;
        let old = self.machine.me();
        let own = self.machine.membership().clone();
        let mut membership = self.larger.take().unwrap_or_else(|| own.clone());
        let mut me = membership.next(old.id).max(own.next(old.id));
        let mut start = (self.machine.round(), self.machine.model());
        let length = self.parameters();
        let meeting =
            Meeting { net: &self.parts.net, run: self.parts.shared.run, name: &self.parts.name, length };
        for (id, (name, address)) in self.known.iter().filter(|(id, _)| **id != old.id) {
            if !self.reachable.contains(id) {
                continue;
            }
            let asked = meeting.ask((name, address), old).await;
            let Some(reply) = asked.filter(|reply| reply.begun) else { continue };
            if let Some(Ok(theirs)) = reply.membership.map(peers::read_membership) {
                me = me.max(theirs.next(old.id));
                // Not merged: what one knows oneself may be that one's side gave up everybody.
                if theirs.live().len() >= membership.live().len() {
                    membership = theirs;
                }
            }
            if start.1.is_none() || reply.round.abs_diff(start.0) > BEHIND * self.parts.mixing.repeats {
                start = (reply.round, meeting.model((name, address)).await.or(start.1));
            }
            break;
        }
        if let Some(diary) = &mut self.parts.diary {
            diary.sponsored(start.0)?;
        }
        let (round, Some(model)) = start else { return Ok(()) };
        tracing::warn!(incarnation = me.incarnation, round, "was evicted: coming back");
        membership.admit(me);
        let machine = Machine::new(self.parts.mixing.config.clone(), me, membership, (round, model));
        let machine = machine.map_err(|error| WorkerError::Internal(error.to_string()))?;
        self.machine = machine.from_origin(&self.origin);
        self.life += 1;
        (self.trained, self.wanted, self.wake) = (None, None, None);
        self.missing.clear();
        self.suspected.clear();
        self.drive(Event::Start).await
    }
}
