//! Fetching a vector: what has arrived stays, the next try asks for the rest.

use super::{Broken, Line, Live, Patience, TransferError};
use algorithms::seed;
use proto::{chunk::Assembler, digest::Digest, limits::STALL, v1::FetchRequest};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A whole vector whose digest was wrong is fetched again so often: every chunk was right, so the
/// fault is the sender's.
const WHOLE_TRIES: u32 = 3;

/// Fetches a vector of a run by its digest into `room`, whose length it must have, reporting bytes received.
///
/// # Errors
/// If the coordinator does not have it or sends another vector.
pub async fn fetch(
    line: &mut Line,
    run: &str,
    digest: Digest,
    room: Vec<f32>,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<f32>, TransferError> {
    let mut patience = Patience::new(seed::word(&digest.to_string()));
    let mut damaged = 0;
    let length = room.len();
    let mut assembler = Assembler::filling(room, digest);
    loop {
        let live = line.live().await?;
        let tried = tokio::select! {
            biased;
            tried = attempt(live, run, &mut assembler, report) => tried,
            () = line.fell() => Err(Broken::Again("the session was lost".into())),
        };
        let received = assembler.received();
        match tried {
            Ok(()) => match assembler.finish() {
                Ok(vector) => return Ok(vector),
                Err(error) => {
                    damaged += 1;
                    if damaged == WHOLE_TRIES {
                        return Err(TransferError::Damaged(format!("vector {digest}: {error}")));
                    }
                    tracing::warn!(%digest, %error, "fetched another vector than was announced, fetching again");
                    assembler = Assembler::new(length, digest);
                }
            },
            Err(Broken::Refused(why)) => return Err(TransferError::Refused(why)),
            Err(Broken::Again(why)) => {
                tracing::warn!(%digest, received, why, "fetch interrupted, going on where it stopped");
                sleep(patience.pause(received)).await;
            }
        }
    }
}

async fn attempt(
    mut live: Live,
    run: &str,
    assembler: &mut Assembler,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Broken> {
    if assembler.is_complete() {
        return Ok(());
    }
    let request = FetchRequest {
        digest: assembler.announced().0.to_vec(),
        offset: assembler.received(),
        run: run.to_owned(),
    };
    let mut chunks = timeout(STALL, live.vectors.fetch(request)).await.map_err(|_| stalled(STALL))??;
    while let Some(chunk) = timeout(STALL, chunks.message()).await.map_err(|_| stalled(STALL))?? {
        assembler.push(&chunk).map_err(|error| Broken::Again(error.to_string()))?;
        report(assembler.received());
    }
    if assembler.is_complete() { Ok(()) } else { Err(Broken::Again("the stream ended early".into())) }
}

fn stalled(after: Duration) -> Broken {
    Broken::Again(format!("no byte for {} s", after.as_secs()))
}
