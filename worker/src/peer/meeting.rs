//! How a peer begins: with what it has stored, with others who begin, or with a sponsor's model; and how it
//! comes back when the others have given it up.

use super::{
    net::{Lane, Net},
    rumour::Rumours,
    serve::{Ask, Input},
};
use gossip::machine::{Member, Membership};
use proto::{
    chunk::Assembler,
    digest::Digest,
    limits::{CALL, STALL},
    peers,
    v1::{self, export_message::Body},
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// Others are asked so often whether the run has begun.
const PAUSE: Duration = Duration::from_millis(300);

/// Where a peer begins.
pub(super) struct Start {
    pub(super) me: Member,
    pub(super) membership: Membership,
    pub(super) round: u64,
    /// A sponsor's; `None`: the run's first model.
    pub(super) model: Option<Vec<f32>>,
}

/// What a peer needs in order to ask others.
pub(super) struct Meeting<'a> {
    pub(super) net: &'a Net,
    pub(super) run: [u8; 32],
    pub(super) name: &'a str,
    pub(super) length: usize,
    /// See [`super::node::Parts`].
    pub(super) examples: u64,
}

impl Meeting<'_> {
    /// Waits until enough peers have met, or one that has begun takes this one in; answers meanwhile.
    pub(super) async fn begin(
        &self,
        (me, nodes): (Member, usize),
        rumours: &Rumours,
        inbox: &mut mpsc::Receiver<Input>,
    ) -> Start {
        let answering = async {
            while let Some(input) = inbox.recv().await {
                if let Input::Ask(ask) = input {
                    not_begun(ask, self.name, &self.alone(me));
                }
            }
        };
        tokio::select! {
            biased;
            start = self.meet(me, nodes, rumours) => start,
            () = answering => std::future::pending().await,
        }
    }

    /// This peer as the only member.
    pub(super) fn alone(&self, me: Member) -> Membership {
        let mut alone = Membership::new([me]);
        alone.weigh(me, self.examples);
        alone
    }

    async fn meet(&self, mut me: Member, nodes: usize, rumours: &Rumours) -> Start {
        let mut told = 0;
        loop {
            let live = rumours.live().await;
            if live.len() != told {
                told = live.len();
                let names: Vec<&str> = live.keys().map(String::as_str).collect();
                tracing::info!(met = told, of = nodes, names = names.join(", "), "meeting");
            }
            for (name, address) in live.iter().filter(|(name, _)| *name != self.name) {
                let Some(reply) = self.ask((name, address), me).await else { continue };
                let begun = reply.membership.filter(|_| reply.begun);
                let Some(Ok(mut membership)) = begun.map(peers::read_membership) else { continue };
                if membership.is_live(me) {
                    return Start { me, membership, round: 0, model: None };
                }
                tracing::info!(sponsor = name, round = reply.round, "the run has begun: joining it");
                if let Some(model) = self.model((name, address)).await {
                    me = me.max(membership.next(me.id));
                    membership.merge(&self.alone(me));
                    return Start { me, membership, round: reply.round, model: Some(model) };
                }
            }
            if live.len() >= nodes
                && let Some(membership) = self.founders(&live, me).await
            {
                return Start { me, membership, round: 0, model: None };
            }
            sleep(PAUSE).await;
        }
    }

    /// Everybody who is there, with the incarnations that they tell; `None` if one does not answer.
    async fn founders(&self, live: &BTreeMap<String, SocketAddr>, me: Member) -> Option<Membership> {
        let mut membership = self.alone(me);
        for (name, address) in live.iter().filter(|(name, _)| *name != self.name) {
            let reply = self.ask((name, address), me).await?;
            let theirs = peers::read_membership(reply.membership?).ok()?;
            // One that began meanwhile knows more than itself.
            if reply.begun {
                return None;
            }
            let id = peers::id_of(name);
            let member = theirs.live().into_iter().find(|member| member.id == id)?;
            membership.admit(member);
            membership.weigh(member, theirs.examples(member));
        }
        Some(membership)
    }

    /// What the peer of that name and address says of the run.
    pub(super) async fn ask(
        &self,
        (name, address): (&str, &SocketAddr),
        me: Member,
    ) -> Option<v1::MeetReply> {
        let request = v1::MeetRequest { run: self.run.to_vec(), member: Some(peers::member(me)) };
        let mut client = self.net.client_of(name, &address.to_string(), Lane::Small).ok()?;
        match timeout(CALL, client.meet(request)).await.ok()? {
            Ok(reply) => Some(reply.into_inner()),
            Err(status) => {
                if status.code() == tonic::Code::FailedPrecondition {
                    tracing::warn!(%address, why = status.message(), "a peer of another run");
                }
                None
            }
        }
    }

    /// A peer's model.
    pub(super) async fn model(&self, (name, address): (&str, &SocketAddr)) -> Option<Vec<f32>> {
        let mut client = self.net.client_of(name, &address.to_string(), Lane::Vectors).ok()?;
        let request = v1::ModelRequest { digest: Vec::new(), offset: 0 };
        let mut stream = timeout(CALL, client.model(request)).await.ok()?.ok()?.into_inner();
        let mut next = async || timeout(STALL, stream.message()).await.ok()?.ok()?;
        let Some(Body::Header(header)) = next().await?.body else { return None };
        let announced = header.model?;
        if announced.length != self.length as u64 {
            tracing::warn!(%address, parameters = announced.length, expected = self.length, "another model");
            return None;
        }
        let mut assembler = Assembler::new(self.length, Digest::from_bytes(&announced.digest).ok()?);
        while !assembler.is_complete() {
            let Some(Body::Chunk(chunk)) = next().await?.body else { return None };
            assembler.push(&chunk).ok()?;
        }
        assembler.finish().ok()
    }
}

/// Answers a question before the run has begun.
fn not_begun(ask: Ask, name: &str, alone: &Membership) {
    match ask {
        Ask::Leave => {}
        Ask::Meet(reply) => {
            let membership = Some(peers::membership(alone));
            let _ = reply.send(v1::MeetReply { begun: false, membership, round: 0 });
        }
        Ask::Status(reply) => {
            let status = v1::PeerStatusReply {
                name: name.to_owned(),
                phase: "meeting".to_owned(),
                ..v1::PeerStatusReply::default()
            };
            let _ = reply.send(status);
        }
        Ask::Model(reply) => drop(reply.send(None)),
    }
}
