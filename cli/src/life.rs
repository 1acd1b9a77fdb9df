//! The end of a long-lived process: a signal, a drain with a grace period, and whether it was clean.

use crate::exit::{Code, Failure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{future::Future, pin::pin, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A process that has not drained within this time is stuck: the coordinator itself gives connections
/// 10 s.
const GRACE: Duration = Duration::from_secs(12);

/// How a process is told to stop, besides signals.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct LifeArgs {
    /// Stops when stdin is closed: for a process that must not outlive the one that started it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// Runs `work` until it ends, or until a signal, and then gives it time to drain.
///
/// `work` must watch `stop`. A second signal, or the end of the grace period, ends the process
/// uncleanly.
pub(crate) async fn supervise<E: std::error::Error>(
    args: LifeArgs,
    stop: CancellationToken,
    work: impl Future<Output = Result<(), E>>,
) -> Result<(), Failure> {
    let failed = |error: E| Failure::new(Code::Internal, crate::exit::chain(&error));
    let mut signals = Signals::new(args)?;
    let mut work = pin!(work);
    let why = tokio::select! {
        biased;
        done = &mut work => return done.map_err(failed),
        why = signals.next() => why,
    };
    tracing::info!("{why}: draining, at most {} s", GRACE.as_secs());
    stop.cancel();
    tokio::select! {
        biased;
        done = tokio::time::timeout(GRACE, &mut work) => match done {
            Ok(done) => done.map_err(failed)?,
            Err(_) => return Err(Failure::internal(format!("not drained after {} s", GRACE.as_secs()))),
        },
        why = signals.next() => return Err(Failure::internal(format!("not drained: {why} again"))),
    }
    tracing::info!("stopped cleanly");
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    orphaned: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Signals {
    fn new(args: LifeArgs) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::internal(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            orphaned: args.until_stdin_closes.then(stdin_closed),
        })
    }

    async fn next(&mut self) -> &'static str {
        let orphaned = async {
            match self.orphaned.take() {
                Some(closed) => drop(closed.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = orphaned => "stdin closed",
        }
    }
}

/// A thread of its own, because a pending read of tokio's stdin keeps its runtime from ending.
fn stdin_closed() -> tokio::sync::oneshot::Receiver<()> {
    let (closed, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever arrives is ignored; an error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    receiver
}

/// Raises the limit on open files as far as this process may: each connection is one, and the usual soft
/// limit of 1,024 is from a time of fewer. Gives the limit.
pub(crate) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// A runtime for one command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the runtime: {error}")))
}

/// For work that does not await: calls `first` at the first SIGINT or SIGTERM, with its name. The second ends
/// the process.
pub(crate) fn on_signal(first: impl FnOnce(&'static str) + Send + 'static) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::internal(format!("cannot listen for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new(LifeArgs { until_stdin_closes: false })?
    };
    let listen = move || {
        runtime.block_on(async move {
            first(signals.next().await);
            signals.next().await;
            std::process::exit(Code::Interrupted as i32);
        })
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(())
}

/// Runs `work` unless SIGINT or SIGTERM comes first.
pub(crate) async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut signals = Signals::new(LifeArgs { until_stdin_closes: false })?;
    tokio::select! {
        biased;
        done = work => done,
        why = signals.next() => Err(Failure::new(Code::Interrupted, format!("{why}: interrupted"))),
    }
}
