//! `starling coordinator`: the life of the process, from its configuration to a clean end.

use crate::{
    config::Layers,
    exit::{Code, Failure},
    host::Host,
    life::{self, LifeArgs},
    log::{self, LogArgs},
    output,
};
use serde::Deserialize;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;
use worker::data::{DataInfo, Source};

/// Runs a coordinator until SIGTERM or SIGINT.
///
/// Flags win over environment variables (`STARLING__KEY`, `STARLING__SECTION__KEY`), those over the
/// file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration (TOML); deploy/samples/coordinator.toml explains every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Address to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where runs and models are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Serves without encryption and without asking who calls; on 127.0.0.1 only
    #[arg(long)]
    plaintext: bool,
    /// With --plaintext: on an address that others can reach, too
    #[arg(long)]
    insecure: bool,
    /// Writes the address that is listened on to this file, once it is
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    /// Serves a page for browsers, and metrics for Prometheus, on this address ([page] listen)
    #[arg(long, value_name = "ADDR")]
    page: Option<SocketAddr>,
    /// Writes the page's address to this file, once it is listened on
    #[arg(long, value_name = "FILE")]
    page_address_file: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    life: LifeArgs,
}

/// The keys of the file that are not the coordinator's own (`::coordinator::Config`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Address to listen on.
    pub(crate) listen: SocketAddr,
    /// Serves without encryption and without asking who calls.
    pub(crate) plaintext: bool,
    /// Must be true besides to do so on an address that others can reach.
    pub(crate) insecure: bool,
    /// Threads of an evaluation on held-out data; 0: one for each core.
    pub(crate) threads: usize,
    /// Data sets with a held-out split on this machine.
    pub(crate) data: BTreeMap<String, Source>,
    /// The shape of data sets that only workers have.
    pub(crate) shapes: BTreeMap<String, DataInfo>,
}

/// The keys of `Settings`.
const OWN: &[&str] = &["listen", "plaintext", "insecure", "threads", "data", "shapes"];

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7077)),
            plaintext: false,
            insecure: false,
            threads: 0,
            data: BTreeMap::new(),
            shapes: BTreeMap::new(),
        }
    }
}

impl Settings {
    fn check(&self, has_tls: bool) -> Result<(), Failure> {
        match (self.plaintext, has_tls) {
            (false, true) => Ok(()),
            (true, true) => Err(Failure::usage("`plaintext` and [tls] exclude each other; leave one out")),
            (false, false) => Err(Failure::usage(
                "there is no [tls] section: make a certificate authority with `starling ca init --dir ca` and \
                 name its file as `authority` under [tls], or serve in clear, to this machine alone, with \
                 `plaintext = true` or --plaintext",
            )),
            (true, false) if self.insecure || self.listen.ip().is_loopback() => Ok(()),
            (true, false) => Err(Failure::usage(format!(
                "listen: {} can be reached from other machines, and `plaintext` is set: anyone on the way \
                 could read and change models. Use [tls], listen on 127.0.0.1, or accept that with \
                 `insecure = true` or --insecure on a network that you trust",
                self.listen
            ))),
        }
    }
}

/// All layers of a coordinator's configuration.
pub(crate) fn configure(layers: &Layers) -> Result<(Settings, ::coordinator::Config), Failure> {
    let (settings, config): (Settings, ::coordinator::Config) = layers.extract_split(OWN)?;
    let has_tls = config.tls.is_some();
    settings.check(has_tls)?;
    config.page.as_ref().map_or(Ok(()), |page| page.check(has_tls)).map_err(Failure::usage)?;
    Ok((settings, config))
}

/// Runs until told to stop.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    log::init(&args.log)?;
    let layers = Layers::read(&args.config)?
        .flag("listen", args.listen)
        .flag("data_dir", args.data_dir.as_ref())
        .flag("plaintext", args.plaintext.then_some(true))
        .flag("insecure", args.insecure.then_some(true))
        .flag("page.listen", args.page);
    let (settings, config) = configure(&layers)?;
    if settings.plaintext {
        tracing::warn!(listen = %settings.listen, "plaintext: whoever reaches this address can read and change models");
    }
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        given => given,
    };
    let host = Arc::new(Host::new(settings.data, settings.shapes, threads));
    let open_files = life::raise_file_limit();
    life::runtime()?.block_on(async {
        let cannot =
            |error| Failure::new(Code::Unavailable, format!("cannot listen on {}: {error}", settings.listen));
        let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        tracing::info!(%address, data_dir = %config.data_dir.display(), open_files, "listening");
        if let Some(file) = &args.address_file {
            output::write_file(file, true, &[address.to_string().as_bytes()])?;
        }
        let page = ::coordinator::bind_page(&config).await;
        let page = page.map_err(|error| Failure::new(Code::Unavailable, error))?;
        if let (Some(file), Some(page)) = (&args.page_address_file, &page) {
            let address = page.local_addr().map_err(Failure::internal)?;
            output::write_file(file, true, &[address.to_string().as_bytes()])?;
        }
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let work = ::coordinator::serve_with_page(config, host, (listener, page), shutdown);
        life::supervise(args.life, stop, work).await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_for_others_must_be_asked_for() {
        let secret = Settings::default();
        secret.check(true).unwrap();
        let failure = secret.check(false).unwrap_err();
        assert!(failure.message.contains("starling ca init"), "{failure}");
        let local = Settings { plaintext: true, ..secret };
        local.check(false).unwrap();
        local.check(true).unwrap_err();
        let open = Settings { listen: SocketAddr::from(([0, 0, 0, 0], 7077)), ..local };
        let failure = open.check(false).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("--insecure") && failure.message.contains("[tls]"), "{failure}");
        Settings { insecure: true, ..open }.check(false).unwrap();
    }
}
