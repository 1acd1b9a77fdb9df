//! Sockets, clocks and threads around the session machine.

use crate::{Config, WorkerError};

/// Serves a coordinator with the training engine until `shutdown` completes.
pub async fn run_with_engine(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
    config.check()?;
    shutdown.await;
    Ok(())
}
