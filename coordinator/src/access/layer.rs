//! The tower layer that every call passes: who is it, and may it do this?

use super::Access;
use crate::transport::Peer;
use futures::future::{Either, Ready, ready};
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};

/// Puts [`Guard`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct GuardLayer(pub(crate) Arc<Access>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { access: Arc::clone(&self.0), inner }
    }
}

/// Lets a call through or answers it with the reason why not.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    access: Arc<Access>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refused = match request.extensions().get::<Peer>() {
            Some(peer) => self.access.admit(peer, request.uri().path()).err(),
            None => Some(Status::internal("a connection without its description")),
        };
        match refused {
            None => Either::Left(self.inner.call(request)),
            Some(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
