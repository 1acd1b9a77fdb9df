//! Who is there: a failure detector by gossip (chitchat: scuttlebutt with phi-accrual detection), whose
//! datagrams travel in calls between peers. So it hears only those with a certificate, and of the same run:
//! the run's digest is its cluster.

use super::{
    claim::{FirstHand, Refused},
    net::{Lane, Net},
};
use anyhow::Context;
use async_trait::async_trait;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
    transport::{Socket, Transport},
};
use proto::{digest::Digest, v1};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// Each peer tells three others so often.
const INTERVAL: Duration = Duration::from_millis(500);
/// A peer is taken for dead after so many mean intervals without news of it.
const PHI: f64 = 10.0;
/// Datagrams that wait to be heard.
const QUEUE: usize = 256;
/// A datagram that is not there by then is lost.
const LOST: Duration = Duration::from_secs(3);

/// A datagram and its sender's address.
pub(super) type Datagram = (SocketAddr, Vec<u8>);

/// The detector of one peer.
pub(super) struct Rumours {
    handle: ChitchatHandle,
    first_hand: FirstHand,
    me: (String, SocketAddr),
}

/// Where datagrams of others are heard.
#[derive(Clone)]
pub(super) struct Ear {
    queue: mpsc::Sender<Datagram>,
    first_hand: FirstHand,
}

impl Ear {
    /// Hears a datagram of the peer whose certificate has that name.
    ///
    /// # Errors
    /// If it speaks as somebody else.
    pub(super) fn hear(&self, name: &str, (address, datagram): Datagram) -> Result<(), Refused> {
        self.first_hand.check(name, address, &datagram)?;
        // One that finds no place is lost, as datagrams are.
        let _ = self.queue.try_send((address, datagram));
        Ok(())
    }
}

impl std::fmt::Debug for Rumours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rumours")
    }
}

/// What the detector needs to know.
pub(super) struct Plan {
    pub(super) name: String,
    /// Grows with each start of the process.
    pub(super) generation: u64,
    pub(super) run: [u8; 32],
    pub(super) address: SocketAddr,
    pub(super) bootstrap: Vec<String>,
}

impl Rumours {
    /// Starts, and gives what heard datagrams are put into.
    pub(super) async fn start(plan: Plan, net: Net) -> Result<(Self, Ear), String> {
        let (queue, heard) = mpsc::channel(QUEUE);
        let me = (plan.name.clone(), plan.address);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(plan.name, plan.generation, plan.address),
            cluster_id: Digest(plan.run).to_string(),
            gossip_interval: INTERVAL,
            listen_addr: plan.address,
            seed_nodes: plan.bootstrap,
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                initial_interval: INTERVAL,
                dead_node_grace_period: Duration::from_mins(10),
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: Duration::from_mins(10),
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let calls = Calls { net, run: plan.run.to_vec(), own: plan.address, heard: Mutex::new(Some(heard)) };
        let handle = spawn_chitchat(config, Vec::new(), &calls).await.map_err(|error| error.to_string())?;
        let first_hand = FirstHand::default();
        let ear = Ear { queue, first_hand: first_hand.clone() };
        Ok((Self { handle, first_hand, me }, ear))
    }

    /// Names and addresses of those who are there, this one included.
    pub(super) async fn live(&self) -> BTreeMap<String, SocketAddr> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        // Of two starts of one peer the later one counts.
        let mut newest: BTreeMap<String, (u64, SocketAddr)> = BTreeMap::new();
        for id in chitchat.live_nodes() {
            let found = (id.generation_id, id.gossip_advertise_addr);
            let known = newest.entry(id.node_id.to_string()).or_insert(found);
            *known = (*known).max(found);
        }
        let mut live: BTreeMap<String, SocketAddr> =
            newest.into_iter().map(|(name, (_, address))| (name, address)).collect();
        // Anybody may say anything of a third peer: where somebody is, it says itself, once it has spoken.
        for (name, address) in &mut live {
            if let Some(told) = self.first_hand.known().get(name) {
                *address = *told;
            }
        }
        live.insert(self.me.0.clone(), self.me.1);
        live
    }
}

/// Datagrams as calls.
struct Calls {
    net: Net,
    run: Vec<u8>,
    own: SocketAddr,
    heard: Mutex<Option<mpsc::Receiver<Datagram>>>,
}

struct Open {
    net: Net,
    run: Vec<u8>,
    own: SocketAddr,
    heard: mpsc::Receiver<Datagram>,
}

#[async_trait]
impl Transport for Calls {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let heard = heard.context("the transport is opened once")?;
        Ok(Box::new(Open { net: self.net.clone(), run: self.run.clone(), own: self.own, heard }))
    }
}

#[async_trait]
impl Socket for Open {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let request = v1::RumourRequest {
            run: self.run.clone(),
            address: self.own.to_string(),
            datagram: message.serialize_to_vec(),
        };
        // Whoever answers there: the name that belongs to the address is not known here.
        let Ok(mut client) = self.net.client(&to.to_string(), Lane::Small) else { return Ok(()) };
        // As with any datagram, nobody hears of its loss.
        tokio::spawn(async move { drop(timeout(LOST, client.rumour(request)).await) });
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (from, bytes) = self.heard.recv().await.context("the peer is stopping")?;
            match ChitchatMessage::deserialize(&mut bytes.as_slice()) {
                Ok(message) => return Ok((from, message)),
                Err(error) => tracing::warn!(%from, %error, "a damaged rumour"),
            }
        }
    }
}
