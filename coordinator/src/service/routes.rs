//! `starling.v1.Fleet` as HTTP/2 sees it. Sessions go through tonic's codec; the calls that move vectors
//! read and write their messages without its copies (`proto::messages`).

use super::{Service, draining, upload};
use crate::transport::Peer;
use futures::{Stream, StreamExt, future::BoxFuture, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use proto::{
    limits::MESSAGE_BYTES,
    messages::{Messages, data},
    v1::{Chunk, CoordinatorMessage, FetchRequest, UploadRequest, WorkerMessage, fleet_server},
};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, EncodeBody, SingleMessageCompressionOverride},
    codegen::http,
    metadata::GRPC_CONTENT_TYPE,
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;

/// Routes calls to a coordinator's service.
#[derive(Clone)]
pub(crate) struct FleetRoutes(pub(crate) Service);

impl NamedService for FleetRoutes {
    const NAME: &'static str = fleet_server::SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for FleetRoutes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            let answered = match method {
                "Session" => return Ok(session(service, request).await),
                "Fetch" => fetch(&service, request).await,
                "Upload" => upload(&service, request),
                other => Err(Status::unimplemented(format!("no call `{other}`"))),
            };
            Ok(answered.unwrap_or_else(Status::into_http))
        })
    }
}

async fn session(service: Service, request: http::Request<Body>) -> http::Response<Body> {
    let codec = ProstCodec::<CoordinatorMessage, WorkerMessage>::default();
    let mut grpc =
        Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    grpc.streaming(Sessions(service), request).await
}

struct Sessions(Service);

impl StreamingService<WorkerMessage> for Sessions {
    type Response = CoordinatorMessage;
    type ResponseStream = ReceiverStream<Result<CoordinatorMessage, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<WorkerMessage>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.session(request) })
    }
}

async fn fetch(service: &Service, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let mut asked = Messages::<FetchRequest>::of_request(request.into_body(), MESSAGE_BYTES);
    let asked =
        asked.message().await?.ok_or_else(|| Status::invalid_argument("a request without its message"))?;
    Ok(response(chunks_body(service.fetch(&asked)?)))
}

fn upload(service: &Service, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    if service.parts.stop.is_cancelled() {
        return Err(draining());
    }
    let peer = request.extensions().get::<Peer>().cloned();
    let peer = peer.ok_or_else(|| Status::internal("a connection without its description"))?;
    let (replies, stream) = mpsc::channel(2);
    let inbound = Messages::<UploadRequest>::of_request(request.into_body(), MESSAGE_BYTES);
    let serving = service.clone();
    service.tasks.spawn(async move { upload::serve(&serving, &peer, inbound, replies).await });
    let encoder = ProstCodec::<_, UploadRequest>::default().encoder();
    let (plain, stream) = (SingleMessageCompressionOverride::default(), ReceiverStream::new(stream));
    Ok(response(Body::new(EncodeBody::new_server(encoder, stream, None, plain, None))))
}

fn response(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// Chunks, and how it ended.
fn chunks_body(chunks: impl Stream<Item = Result<Chunk, Status>> + Send + 'static) -> Body {
    let frames = chunks.map(Some).chain(stream::iter([None])).scan(false, |ended, next| {
        let frames = match next {
            _ if *ended => None,
            Some(Ok(chunk)) => Some(data(chunk).map(Ok).collect()),
            Some(Err(status)) => {
                *ended = true;
                Some(vec![trailers(&status)])
            }
            None => Some(vec![trailers(&Status::ok(""))]),
        };
        std::future::ready(frames)
    });
    Body::new(StreamBody::new(frames.flat_map(|frames: Vec<Result<_, Status>>| stream::iter(frames))))
}

fn trailers(status: &Status) -> Result<Frame<bytes::Bytes>, Status> {
    let mut map = http::HeaderMap::new();
    status.add_header(&mut map)?;
    Ok(Frame::trailers(map))
}
