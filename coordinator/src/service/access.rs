//! `starling.v1.Access`: the wire's side of certificates, tokens, revocation and the audit log.

use super::{Service, draining, peer_of};
use crate::access::{Access, audit};
use futures::Stream;
use proto::v1::{self, ErrorCode, access_server::Access as AccessService};
use std::{pin::Pin, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Lines of the audit log that are read at a time.
const PAGE: usize = 256;

#[tonic::async_trait]
impl AccessService for Service {
    type ReadAuditStream = Pin<Box<dyn Stream<Item = Result<v1::AuditEntry, Status>> + Send>>;

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Certificate>, Status> {
        if self.parts.stop.is_cancelled() {
            return Err(draining());
        }
        self.decide(request, Access::enrol).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Certificate>, Status> {
        self.decide(request, Access::renew).await
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::JoinToken>, Status> {
        self.decide(request, Access::create_token).await
    }

    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::IdentityList>, Status> {
        self.decide(request, |access, _, _| access.identities()).await
    }

    async fn revoke_identity(
        &self,
        request: Request<v1::RevokeIdentityRequest>,
    ) -> Result<Response<v1::IdentitySummary>, Status> {
        self.decide(request, Access::revoke).await
    }

    async fn read_audit(
        &self,
        request: Request<v1::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let mut from = request.into_inner().from;
        let store = Arc::clone(&self.parts.store);
        let (sender, entries) = mpsc::channel(PAGE);
        tokio::task::spawn_blocking(move || {
            loop {
                let page = match store.audit(from, PAGE) {
                    Ok(page) => page,
                    Err(error) => return drop(sender.blocking_send(Err(error.into()))),
                };
                let last = page.len() < PAGE;
                for (sequence, body) in page {
                    from = sequence + 1;
                    let digest = audit::digest(&body);
                    if sender.blocking_send(Ok(v1::AuditEntry { sequence, body, digest })).is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(entries))))
    }
}

impl Service {
    /// Decides on a blocking thread: every decision is made durable.
    async fn decide<Q: Send + 'static, A: Send + 'static>(
        &self,
        request: Request<Q>,
        decide: impl FnOnce(&Access, &crate::transport::Peer, &Q) -> Result<A, Status> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        let peer = peer_of(&request)?;
        let access = Arc::clone(&self.parts.access);
        let request = request.into_inner();
        tokio::task::spawn_blocking(move || decide(&access, &peer, &request))
            .await
            .map_err(|error| ErrorCode::Store.status(error.to_string()))?
            .map(Response::new)
    }
}
