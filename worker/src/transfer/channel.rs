//! How a connection to the coordinator is used: the one place that knows HTTP/2 settings.

use crate::{
    ConfigError,
    access::{Route, chain},
};
use proto::{limits, v1::fleet_client::FleetClient};
use tonic::transport::Channel;

/// A client for the session: small messages that must never wait. Opens the connection.
///
/// # Errors
/// In words; whoever calls tries again.
pub(crate) async fn session(route: &Route) -> Result<FleetClient<Channel>, String> {
    let endpoint = route.endpoint().map_err(|error| error.to_string())?.keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(route.connector()).await;
    channel.map(client).map_err(|error| chain(&error))
}

/// A client for vectors: large windows and frames. The connection is opened by its first call.
///
/// # Errors
/// If the address is no address.
pub(crate) fn vectors(route: &Route) -> Result<FleetClient<Channel>, ConfigError> {
    let endpoint = route
        .endpoint()?
        .initial_stream_window_size(limits::WINDOW_BYTES)
        .initial_connection_window_size(limits::WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES);
    Ok(client(endpoint.connect_with_connector_lazy(route.connector())))
}

fn client(channel: Channel) -> FleetClient<Channel> {
    FleetClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}
