//! What the two processes that train, worker and peer, are started with.

use crate::{
    config::Layers,
    exit::Failure,
    life::LifeArgs,
    log::{self, LogArgs},
};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Daemon {
    /// Configuration (TOML); the file of this name in deploy/samples explains every key
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Its name, unique in the fleet or run
    #[arg(long)]
    name: Option<String>,
    /// Where its state is kept between rounds
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Threads that training may use; 0: one for each core
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    pub(crate) life: LifeArgs,
}

impl Daemon {
    /// Begins to log, and reads the layers of the configuration as far as these flags tell.
    pub(crate) fn layers(&self) -> Result<Layers, Failure> {
        log::init(&self.log)?;
        let file = self.config.as_ref().ok_or_else(|| Failure::usage("--config FILE is missing"))?;
        Ok(Layers::read(file)?
            .flag("name", self.name.as_ref())
            .flag("state_dir", self.state_dir.as_ref())
            .flag("threads", self.threads))
    }
}
