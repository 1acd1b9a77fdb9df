//! Following a run's event log across broken connections: every event once, in order.
//!
//! The log is numbered without gaps, so that a new connection goes on at the first number that was
//! not seen; what arrives twice is dropped, and a gap is an error rather than a silent loss.

use crate::{
    client::{Operator, Target},
    exit::{Code, Failure},
};
use proto::{event::RunEvent, v1};
use serde_json::Value;
use std::time::{Duration, Instant};
use tonic::Code as Grpc;

/// The coordinator may be away for so long (a restart, a new address of a name) before it is given up.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// One event of a run's log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logged {
    /// Position in the log.
    pub(crate) sequence: u64,
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The event as it came.
    pub(crate) body: Value,
    /// The event, if this version knows its kind.
    pub(crate) event: Option<RunEvent>,
}

impl Logged {
    /// From the wire; a body of an unknown kind is kept as it is.
    pub(crate) fn new(event: &v1::Event) -> Self {
        let body = serde_json::from_str(&event.body).unwrap_or_else(|_| Value::from(event.body.as_str()));
        Self {
            sequence: event.sequence,
            time_ms: event.time_ms,
            event: serde_json::from_value(body.clone()).ok(),
            body,
        }
    }

    /// One object: sequence, time_ms, and the event's own keys.
    pub(crate) fn json(&self) -> Value {
        let mut all = match &self.body {
            Value::Object(map) => map.clone(),
            other => serde_json::Map::from_iter([("body".to_owned(), other.clone())]),
        };
        all.insert("sequence".into(), self.sequence.into());
        all.insert("time_ms".into(), self.time_ms.into());
        Value::Object(all)
    }
}

/// What a follower sees.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// The next event.
    Event(&'a Logged),
    /// The connection broke, for this reason; it will be tried again.
    Lost(&'a str),
    /// The connection is back.
    Back,
}

/// Shows every event from `from` on to `each`, until the run has ended; returns the last event.
pub(crate) async fn follow(
    target: &Target,
    run: &str,
    from: u64,
    mut each: impl FnMut(Seen<'_>) -> Result<(), Failure>,
) -> Result<RunEvent, Failure> {
    let mut next = from;
    let mut lost: Option<Instant> = None;
    loop {
        let broken = match Operator::connect(target).await {
            Ok(mut operator) => {
                let mut progressed = |seen: Seen<'_>| {
                    if lost.take().is_some() {
                        each(Seen::Back)?;
                    }
                    each(seen)
                };
                match listen(&mut operator, run, &mut next, &mut progressed).await? {
                    Heard::Last(event) => return Ok(event),
                    Heard::Broken(why) => Failure::new(Code::Unavailable, why),
                }
            }
            // The first attempt tells a wrong address from an interruption.
            Err(failure) if failure.code != Code::Unavailable || (lost.is_none() && next == from) => {
                return Err(failure);
            }
            Err(failure) => failure,
        };
        match lost {
            None => {
                lost = Some(Instant::now());
                each(Seen::Lost(&broken.message))?;
            }
            Some(since) if since.elapsed() > PATIENCE => return Err(broken),
            Some(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, and gone at once")]
enum Heard {
    Last(RunEvent),
    Broken(String),
}

/// One connection's part of the log.
async fn listen(
    operator: &mut Operator,
    run: &str,
    next: &mut u64,
    each: &mut impl FnMut(Seen<'_>) -> Result<(), Failure>,
) -> Result<Heard, Failure> {
    let request = v1::WatchRunRequest { run: run.to_owned(), from: *next };
    let mut stream = match operator.client.watch_run(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if is_interruption(status.code()) => {
            return Ok(Heard::Broken(status.message().to_owned()));
        }
        Err(status) => return Err(operator.run_failure(run, &status).await),
    };
    loop {
        let event = match stream.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Heard::Broken("the coordinator closed the stream".into())),
            Err(status) if is_interruption(status.code()) => {
                return Ok(Heard::Broken(status.message().to_owned()));
            }
            Err(status) => return Err(operator.run_failure(run, &status).await),
        };
        if event.sequence < *next {
            continue;
        }
        if event.sequence > *next {
            let text = format!("event {} came instead of event {next}: the log has a gap", event.sequence);
            return Err(Failure::internal(text));
        }
        *next += 1;
        let logged = Logged::new(&event);
        each(Seen::Event(&logged))?;
        if let Some(event) = logged.event.filter(RunEvent::is_last) {
            return Ok(Heard::Last(event));
        }
    }
}

/// Whether the connection rather than the request is at fault.
fn is_interruption(code: Grpc) -> bool {
    matches!(
        code,
        Grpc::Unavailable
            | Grpc::Unknown
            | Grpc::Internal
            | Grpc::Cancelled
            | Grpc::DeadlineExceeded
            | Grpc::Aborted
    )
}

/// Success for a finished run, the reason for any other end.
pub(crate) fn verdict(run: &str, last: &RunEvent) -> Result<(), Failure> {
    match last {
        RunEvent::Cancelled {} => Err(Failure::new(Code::Failed, format!("run {run} was cancelled"))),
        RunEvent::Failed { reason } => Err(Failure::new(Code::Failed, format!("run {run} failed: {reason}"))),
        RunEvent::Exhausted { rounds, reason, .. } => Err(Failure::new(
            Code::Exhausted,
            format!("run {run} stopped after {rounds} rounds, its model is saved: {reason}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
