//! Receiving an update: offer, place, chunks, vetting, fold, verdict. One function per step, each of
//! which can end in a named reason.

use super::Service;
use crate::{
    access::speaks_for,
    machine::{Decision, Event, Facts},
    run::{
        Command, Delivery, Incoming, RunHandle,
        aggregate::{Form, Refusal, Survey, vet_header, vet_values},
    },
    transport::Peer,
};
use algorithms::fold::UploadFacts;
use proto::{
    chunk::ChunkError,
    digest::Digest,
    limits,
    messages::Messages,
    v1::{
        ErrorCode, Outcome, RejectReason, UploadHeader, UploadReady, UploadReply, UploadRequest,
        UploadVerdict, upload_reply::Body as Reply, upload_request::Body as Sent,
    },
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tonic::Status;

/// How long a call that was given up takes to look closed from this side.
const CLOSING: Duration = Duration::from_millis(100);

type Replies = mpsc::Sender<Result<UploadReply, Status>>;

/// How receiving ended.
enum Received {
    Whole(Vec<f32>, Survey, OwnedSemaphorePermit),
    Refused(Refusal),
    /// The round went on without it.
    Decided(Decision),
    /// The stream broke; what was received is parked.
    Broken,
}

/// Serves one upload stream to its verdict.
pub(super) async fn serve(
    service: &Service,
    peer: &Peer,
    mut inbound: Messages<UploadRequest>,
    replies: Replies,
) {
    let header = match tokio::time::timeout(limits::STALL, inbound.message()).await {
        Ok(Ok(Some(UploadRequest { body: Some(Sent::Header(header)) }))) => header,
        Ok(Ok(_)) => {
            let status = ErrorCode::Malformed.status("the first message of an upload must be its header");
            let _ = replies.send(Err(status)).await;
            return;
        }
        // Said to whoever still listens; what cannot be decoded has its own words.
        Ok(Err(status)) => return drop(replies.send(Err(status)).await),
        Err(_) => {
            let text = format!("no header within {} s", limits::STALL.as_secs());
            return drop(replies.send(Err(ErrorCode::Malformed.status(text))).await);
        }
    };
    if let Err(why) = speaks_for(peer, &header.worker) {
        let _ = replies.send(Err(ErrorCode::Forbidden.status(why))).await;
        return;
    }
    let decision = match service.fleet().run(&header.run) {
        None => Some(Decision::reject(RejectReason::UnknownRun, "no such run on this coordinator")),
        Some(run) => {
            let stop = service.parts.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                decision = take(&run, &header, &mut inbound, &replies) => decision,
            }
        }
    };
    if let Some(decision) = decision {
        let verdict = verdict(decision);
        let _ = replies.send(Ok(UploadReply { body: Some(Reply::Verdict(verdict)) })).await;
    }
}

/// From a known run and a header to a decision; `None` when the stream broke before one was due.
async fn take(
    run: &RunHandle,
    header: &UploadHeader,
    inbound: &mut Messages<UploadRequest>,
    replies: &Replies,
) -> Option<Decision> {
    let (worker, round) = (header.worker.clone(), header.round);
    let offer = run.ask(|reply| Command::Offer { worker: worker.clone(), round, reply }).await?;
    if offer != Decision::Accept {
        if let Decision::Reject { reason, detail } = offer {
            return refuse(run, header, (reason, detail)).await;
        }
        return Some(offer);
    }
    let shared = &run.shared;
    let form = Form {
        shapes: &shared.upload,
        folds: &shared.folds,
        max_norm: shared.spec.vetting.max_norm,
        lr: shared.spec.lr(round),
        element: shared.element(),
    };
    let facts = match vet_header(header, &Form { shapes: &shared.wire, ..form }) {
        Ok(facts) => facts,
        Err(refusal) => return refuse(run, header, refusal).await,
    };
    let digest = match Digest::from_bytes(&header.digest) {
        Ok(digest) => digest,
        Err(error) => return refuse(run, header, (RejectReason::Digest, error.to_string())).await,
    };
    let incoming = shared.place(&worker, round, digest).await;
    let ready = UploadReady { offset: incoming.assembler.received() };
    replies.send(Ok(UploadReply { body: Some(Reply::Ready(ready)) })).await.ok()?;
    match receive(run, header, (inbound, replies), incoming).await {
        Received::Broken => None,
        Received::Refused(refusal) => refuse(run, header, refusal).await,
        Received::Decided(decision) => Some(decision),
        Received::Whole(payload, survey, permit) => {
            let read = shared.read(payload, survey).await.and_then(|(values, survey)| {
                vet_values(&values, &survey, &form, &facts)?;
                Ok(values)
            });
            match read {
                Ok(values) => deliver(run, header, facts, (values, permit)).await,
                Err(refusal) => refuse(run, header, refusal).await,
            }
        }
    }
}

async fn receive(
    run: &RunHandle,
    header: &UploadHeader,
    (inbound, replies): (&mut Messages<UploadRequest>, &Replies),
    mut incoming: Incoming,
) -> Received {
    let mut pace = Pace { since: Instant::now(), from: incoming.assembler.received() };
    while !incoming.assembler.is_complete() {
        let message = tokio::time::timeout(limits::STALL, inbound.message()).await;
        let chunk = match message {
            Ok(Ok(Some(UploadRequest { body: Some(Sent::Chunk(chunk)) }))) => chunk,
            Ok(Ok(Some(_))) => {
                return Received::Refused((RejectReason::Chunk, "expected a chunk".to_owned()));
            }
            // A call that the worker gave up ends like one that it finished, but nobody listens any more.
            Ok(Ok(None)) if tokio::time::timeout(CLOSING, replies.closed()).await.is_err() => break,
            Ok(Ok(None) | Err(_)) | Err(_) => {
                run.shared.park(&header.worker, header.round, incoming);
                return Received::Broken;
            }
        };
        run.shared.bytes_up.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        if let Err(error) = incoming.assembler.push(&chunk) {
            return Received::Refused((reason_of(&error), error.to_string()));
        }
        incoming.survey.extend(incoming.assembler.arrived());
        if let Some(ended) = pace.look(run, header, &incoming).await {
            return ended;
        }
    }
    let Incoming { assembler, survey, permit } = incoming;
    match assembler.finish() {
        Ok(values) => Received::Whole(values, survey, permit),
        Err(error) => Received::Refused((reason_of(&error), error.to_string())),
    }
}

/// What a transfer has moved in the present window of [`limits::STALL`].
struct Pace {
    since: Instant,
    from: u64,
}

impl Pace {
    /// At the end of a window: ends a transfer that moves too little, or whose round is over.
    async fn look(
        &mut self,
        run: &RunHandle,
        header: &UploadHeader,
        incoming: &Incoming,
    ) -> Option<Received> {
        let elapsed = self.since.elapsed();
        if elapsed < limits::STALL || incoming.assembler.is_complete() {
            return None;
        }
        let received = incoming.assembler.received();
        let (moved, due) = (received - self.from, run.shared.pace(elapsed));
        if moved < due {
            let detail = format!("{moved} bytes in {} s, expected at least {due}", elapsed.as_secs());
            return Some(Received::Refused((RejectReason::TooSlow, detail)));
        }
        *self = Self { since: Instant::now(), from: received };
        let (worker, round) = (header.worker.clone(), header.round);
        match run.ask(|reply| Command::Offer { worker, round, reply }).await {
            Some(Decision::Accept) => None,
            Some(decision) => Some(Received::Decided(decision)),
            None => Some(Received::Broken),
        }
    }
}

fn reason_of(error: &ChunkError) -> RejectReason {
    match error {
        ChunkError::Offset { .. } | ChunkError::Crc { .. } => RejectReason::Chunk,
        ChunkError::TooLong { .. } | ChunkError::TooShort { .. } => RejectReason::Length,
        ChunkError::Digest { .. } => RejectReason::Digest,
    }
}

async fn deliver(
    run: &RunHandle,
    header: &UploadHeader,
    fold_facts: UploadFacts,
    (values, permit): (Vec<f32>, OwnedSemaphorePermit),
) -> Option<Decision> {
    let facts = Facts {
        examples: header.examples,
        train_loss: Some(header.train_loss).filter(|loss| loss.is_finite()),
        seconds: header.seconds,
    };
    let (worker, round) = (header.worker.clone(), header.round);
    let upload = Box::new(Delivery { worker, round, facts, fold_facts, values });
    let decision = run.ask(|reply| Command::Deliver { upload, reply }).await;
    // The payload was in memory until it was folded: only now may the next one come.
    drop(permit);
    decision
}

async fn refuse(run: &RunHandle, header: &UploadHeader, (reason, detail): Refusal) -> Option<Decision> {
    let event = Event::Rejected { worker: header.worker.clone(), round: header.round, reason, detail };
    run.ask(|reply| Command::Refuse { event, reply }).await
}

fn verdict(decision: Decision) -> UploadVerdict {
    match decision {
        Decision::Accept => UploadVerdict { outcome: Outcome::Applied.into(), ..UploadVerdict::default() },
        Decision::Duplicate => {
            UploadVerdict { outcome: Outcome::Duplicate.into(), ..UploadVerdict::default() }
        }
        Decision::Reject { reason, detail } => {
            UploadVerdict { outcome: Outcome::Rejected.into(), reason: reason.into(), detail }
        }
    }
}
