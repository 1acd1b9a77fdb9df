//! How a peer reaches another: TLS to whoever shows a peer's certificate of the same authority, one
//! connection for small things and one for vectors, so that a full window never delays a small thing.

use identity::{Bundle, Connector, Current, Dial, PEER_HOST};
use proto::{limits, v1::peers_client::PeersClient};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

/// Connecting may take so long.
const CONNECT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Small messages.
    Small,
    /// Vectors.
    Vectors,
}

/// Connections to peers, opened when they are first used.
#[derive(Debug, Clone)]
pub struct Net {
    connector: Connector,
    known: Arc<Mutex<BTreeMap<(String, Lane), Channel>>>,
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

    /// A client for HOST:PORT.
    ///
    /// # Errors
    /// If that is no address.
    pub fn client(&self, address: &str, lane: Lane) -> Result<PeersClient<Channel>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.to_owned(), lane);
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
        let channel = endpoint.connect_with_connector_lazy(self.connector.clone());
        known.insert(key, channel.clone());
        Ok(client(channel))
    }
}

fn client(channel: Channel) -> PeersClient<Channel> {
    PeersClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}
