//! How a connection to the coordinator is made: the one place that knows HTTP/2 settings.

use crate::{Config, ConfigError};
use proto::{limits, v1::fleet_client::FleetClient};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Connecting may take so long.
const CONNECT: Duration = Duration::from_secs(5);

/// A client for the session: small messages that must never wait. Opens the connection.
///
/// # Errors
/// In words; whoever calls tries again.
pub(crate) async fn session(config: &Config) -> Result<FleetClient<Channel>, String> {
    let endpoint = endpoint(config).map_err(|error| error.to_string())?.keep_alive_while_idle(true);
    endpoint.connect().await.map(client).map_err(|error| chain(&error))
}

/// A client for vectors: large windows and frames. The connection is opened by its first call.
///
/// # Errors
/// If the address is no address.
pub(crate) fn vectors(config: &Config) -> Result<FleetClient<Channel>, ConfigError> {
    let endpoint = endpoint(config)?
        .initial_stream_window_size(limits::WINDOW_BYTES)
        .initial_connection_window_size(limits::WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES);
    Ok(client(endpoint.connect_lazy()))
}

fn endpoint(config: &Config) -> Result<Endpoint, ConfigError> {
    let endpoint = Endpoint::from_shared(config.coordinator.clone()).map_err(|error| ConfigError {
        key: "coordinator",
        value: format!("`{}` ({error})", config.coordinator),
        expected: "http://HOST:PORT".into(),
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits::SILENCE)
        .keep_alive_timeout(limits::SILENCE))
}

fn client(channel: Channel) -> FleetClient<Channel> {
    FleetClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}

/// An error with its causes: the first alone says "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
