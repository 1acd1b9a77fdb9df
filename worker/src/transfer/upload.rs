//! Uploading an update: offered, sent from where the coordinator wants it, until it gives a verdict.
//!
//! Chunks are cut out of the vectors as HTTP/2 asks for them: nothing is copied and nothing queued. A
//! broken upload is offered again; the verdict is final, and the same bytes get the same one.

use super::{Broken, Line, Live, Patience, TransferError};
use algorithms::{Vectors, seed};
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use proto::{
    chunk::{bytes_of, chunks},
    limits::STALL,
    v1::{
        Outcome, RejectReason, UploadHeader, UploadReply, UploadRequest, upload_reply::Body as Reply,
        upload_request::Body,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tonic::Streaming;

/// The coordinator may let an offer wait for so long before it wants bytes: it takes a bounded number
/// of uploads at a time. That it lives is the session's business.
const QUEUE: Duration = Duration::from_mins(10);

/// What is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Says what the payload is.
    pub header: UploadHeader,
    /// The payload, in name order.
    pub vectors: Vectors,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Counted; `again`: it had been counted before. Durable once the round is closed.
    Counted {
        /// Whether it had been counted before.
        again: bool,
    },
    /// Not counted.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// In words.
        detail: String,
    },
}

/// Offers until there is a verdict, reporting bytes sent.
///
/// # Errors
/// If the coordinator refuses the call itself.
pub async fn upload(
    line: &mut Line,
    offer: &Offer,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<Verdict, TransferError> {
    let mut patience = Patience::new(seed::word(&offer.header.worker));
    loop {
        let live = line.live().await?;
        let sent = Arc::new(AtomicU64::new(0));
        let tried = tokio::select! {
            biased;
            tried = attempt(live, offer, &sent, report) => tried,
            () = line.fell() => Err(Broken::Again("the session was lost".into())),
        };
        match tried {
            Ok(verdict) => return Ok(verdict),
            Err(Broken::Refused(why)) => return Err(TransferError::Refused(why)),
            Err(Broken::Again(why)) => {
                let sent = sent.load(Ordering::Relaxed);
                tracing::warn!(run = offer.header.run, sent, why, "upload interrupted, offering it again");
                sleep(patience.pause(sent)).await;
            }
        }
    }
}

async fn attempt(
    mut live: Live,
    offer: &Offer,
    sent: &Arc<AtomicU64>,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<Verdict, Broken> {
    let (start, started) = oneshot::channel();
    let parts: Vec<Bytes> = offer.vectors.values().map(bytes_of).collect();
    let counter = Arc::clone(sent);
    let payload =
        stream::once(started).filter_map(|offset| future::ready(offset.ok())).flat_map(move |offset| {
            let counter = Arc::clone(&counter);
            counter.store(offset, Ordering::Relaxed);
            stream::iter(chunks(parts.clone(), offset).map(move |chunk| {
                counter.store(chunk.offset + chunk.data.len() as u64, Ordering::Relaxed);
                UploadRequest { body: Some(Body::Chunk(chunk)) }
            }))
        });
    let header = UploadRequest { body: Some(Body::Header(offer.header.clone())) };
    let requests = stream::iter([header]).chain(payload);
    let mut replies = timeout(QUEUE, live.vectors.upload(requests)).await.map_err(|_| stalled(QUEUE))??;
    let mut start = Some(start);
    loop {
        let patience = if start.is_some() { QUEUE } else { STALL };
        match reply(&mut replies, patience, sent, report).await?.body {
            Some(Reply::Ready(ready)) => {
                let start = start.take().ok_or_else(|| Broken::Again("asked twice to start".into()))?;
                start.send(ready.offset).map_err(|_| Broken::Again("the connection closed".into()))?;
            }
            Some(Reply::Verdict(verdict)) => {
                return match verdict.outcome() {
                    Outcome::Applied => Ok(Verdict::Counted { again: false }),
                    Outcome::Duplicate => Ok(Verdict::Counted { again: true }),
                    Outcome::Rejected => {
                        Ok(Verdict::Rejected { reason: verdict.reason(), detail: verdict.detail })
                    }
                    Outcome::Unspecified => Err(Broken::Again("a verdict without an outcome".into())),
                };
            }
            None => {}
        }
    }
}

/// The next reply, for as long as bytes are moving.
async fn reply(
    replies: &mut Streaming<UploadReply>,
    patience: Duration,
    sent: &AtomicU64,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<UploadReply, Broken> {
    /// How often the progress is looked at.
    const LOOK: Duration = Duration::from_millis(250);
    let (mut seen, mut still) = (sent.load(Ordering::Relaxed), Duration::ZERO);
    loop {
        if let Ok(reply) = timeout(LOOK, replies.message()).await {
            return reply?.ok_or_else(|| Broken::Again("closed without a verdict".into()));
        }
        let now = sent.load(Ordering::Relaxed);
        still = if now == seen { still + LOOK } else { Duration::ZERO };
        seen = now;
        report(now);
        if still >= patience {
            return Err(stalled(patience));
        }
    }
}

fn stalled(after: Duration) -> Broken {
    Broken::Again(format!("nothing moved for {} s", after.as_secs()))
}
