//! How a connection to the coordinator is used: the one place that knows HTTP/2 settings and paths.

use crate::{
    ConfigError,
    access::{Route, chain},
};
use futures::{Stream, StreamExt, stream};
use http_body_util::StreamBody;
use proto::{
    limits::{self, MESSAGE_BYTES},
    messages::{Framed, Messages, data},
    v1::{Chunk, FetchRequest, UploadReply, UploadRequest, fleet_client::FleetClient},
};
use std::future::poll_fn;
use tonic::{
    Code, Status, Streaming,
    body::Body,
    client::GrpcService,
    codec::Codec,
    codegen::http::{self, header},
    metadata::GRPC_CONTENT_TYPE,
    transport::Channel,
};
use tonic_prost::ProstCodec;

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
pub(crate) fn vectors(route: &Route) -> Result<Vectors, ConfigError> {
    let endpoint = route
        .endpoint()?
        .initial_stream_window_size(limits::WINDOW_BYTES)
        .initial_connection_window_size(limits::WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES);
    Ok(Vectors(endpoint.connect_with_connector_lazy(route.connector())))
}

fn client(channel: Channel) -> FleetClient<Channel> {
    FleetClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// The calls that move vectors, without a general codec's copies (`proto::messages`).
#[derive(Debug, Clone)]
pub struct Vectors(Channel);

impl Vectors {
    /// Asks for a vector.
    ///
    /// # Errors
    /// As the coordinator says, or the connection.
    pub(crate) async fn fetch(&mut self, request: FetchRequest) -> Result<Messages<Chunk>, Status> {
        let response = self.call("/starling.v1.Fleet/Fetch", stream::iter([request])).await?;
        Ok(Messages::of_response(response.into_body(), MESSAGE_BYTES))
    }

    /// Offers an update.
    ///
    /// # Errors
    /// As the coordinator says, or the connection.
    pub(crate) async fn upload(
        &mut self,
        requests: impl Stream<Item = UploadRequest> + Send + 'static,
    ) -> Result<Streaming<UploadReply>, Status> {
        let response = self.call("/starling.v1.Fleet/Upload", requests).await?;
        let decoder = ProstCodec::<UploadRequest, UploadReply>::default().decoder();
        let (status, body) = (response.status(), response.into_body());
        Ok(Streaming::new_response(decoder, body, status, None, Some(MESSAGE_BYTES)))
    }

    async fn call<M: Framed + Send + 'static>(
        &mut self,
        path: &'static str,
        messages: impl Stream<Item = M> + Send + 'static,
    ) -> Result<http::Response<Body>, Status> {
        let frames = messages.flat_map(|message| stream::iter(data(message).map(Ok::<_, Status>)));
        let mut request = http::Request::new(Body::new(StreamBody::new(frames)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(path);
        request.headers_mut().insert(header::TE, http::HeaderValue::from_static("trailers"));
        request.headers_mut().insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        let broken = |error: tonic::transport::Error| Status::from_error(error.into());
        poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut self.0, cx)).await.map_err(broken)?;
        let response = GrpcService::call(&mut self.0, request).await.map_err(broken)?;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            None if response.status() != http::StatusCode::OK => {
                Err(Status::unavailable(format!("HTTP status {}", response.status())))
            }
            _ => Ok(response),
        }
    }
}
