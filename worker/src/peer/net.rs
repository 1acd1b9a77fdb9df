//! How a peer reaches another: TLS to whoever shows a peer's certificate of the same authority, one
//! connection for small things and one for vectors, so that a full window never delays a small thing.

use identity::{Bundle, Connector, Current, Dial, PEER_HOST, Revoked, Role};
use proto::{limits, v1::peers_client::PeersClient};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

/// Connecting may take so long.
const CONNECT: Duration = Duration::from_secs(5);

/// Connections that are kept. Addresses are told by others: made-up ones must not pile up.
const KEPT: usize = 4_096;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Small messages.
    Small,
    /// Vectors.
    Vectors,
}

/// Address, what for, and whom.
type Key = (String, Lane, Option<String>);

/// Connections to peers, opened when they are first used.
#[derive(Debug, Clone)]
pub struct Net {
    connector: Connector,
    known: Arc<Mutex<BTreeMap<Key, Channel>>>,
}

impl Net {
    /// As the holder of a bundle: a peer, or an operator who asks peers.
    ///
    /// # Errors
    /// If the bundle cannot be used.
    pub fn new(bundle: &Bundle, dial: Arc<dyn Dial>) -> Result<Self, String> {
        let tls = identity::client(Current::new(bundle)?, bundle.authority())?;
        let connector = Connector::new(dial, Some(tls)).named(PEER_HOST);
        Ok(Self { connector, known: Arc::default() })
    }

    /// To nobody whose certificate was revoked.
    #[must_use]
    pub fn except(self, revoked: Revoked) -> Self {
        Self { connector: self.connector.except(revoked), ..self }
    }

    /// A client for whichever peer is at HOST:PORT.
    ///
    /// # Errors
    /// If that is no address.
    pub fn client(&self, address: &str, lane: Lane) -> Result<PeersClient<Channel>, String> {
        self.open(self.connector.clone(), (address.to_owned(), lane, None))
    }

    /// A client for the peer of that name at HOST:PORT: where an address came by a rumour, somebody else
    /// who answers there must not be taken for it.
    ///
    /// # Errors
    /// If that is no address.
    pub fn client_of(&self, name: &str, address: &str, lane: Lane) -> Result<PeersClient<Channel>, String> {
        let connector = self.connector.clone().to(Role::Peer, name);
        self.open(connector, (address.to_owned(), lane, Some(name.to_owned())))
    }

    fn open(&self, connector: Connector, key: Key) -> Result<PeersClient<Channel>, String> {
        let (address, lane) = (&key.0, key.1);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = known.get(&key) {
            return Ok(client(channel.clone()));
        }
        let endpoint =
            Endpoint::from_shared(format!("https://{address}")).map_err(|error| error.to_string())?;
        let mut endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(limits::SILENCE)
            .keep_alive_timeout(limits::SILENCE);
        if lane == Lane::Vectors {
            endpoint = endpoint
                .initial_stream_window_size(limits::WINDOW_BYTES)
                .initial_connection_window_size(limits::WINDOW_BYTES)
                .max_frame_size(limits::FRAME_BYTES);
        }
        let channel = endpoint.connect_with_connector_lazy(connector);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, channel.clone());
        Ok(client(channel))
    }
}

fn client(channel: Channel) -> PeersClient<Channel> {
    PeersClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}
