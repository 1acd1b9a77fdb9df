//! Peers of a decentralised run inside the test's own process, over real sockets and TLS.

use crate::toy::Bowl;
use identity::{Authority, Bundle, Role, Validity};
use proto::spec::RunSpec;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use worker::peer::{Config, Ended};

/// A peer's certificate, valid for an hour.
pub fn bundle(authority: &Authority, name: &str) -> Bundle {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let hour = Validity::lasting(now, 3600);
    Bundle::issue(authority, Role::Peer, name, (&[], hour)).expect("the authority issues certificates")
}

/// A peer that does what it should.
#[derive(Debug)]
pub struct Honest {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Stops it.
    pub stop: CancellationToken,
    /// How it ends.
    pub task: JoinHandle<Result<Ended, worker::WorkerError>>,
}

impl Honest {
    /// Starts the peer of that name with a certificate of its own, unless there is one.
    pub async fn start(
        run: &str,
        (dir, authority): (&Path, &Authority),
        (name, bootstrap): (&str, &[SocketAddr]),
    ) -> Self {
        Self::start_with(run, (dir, authority), (name, bootstrap), None).await
    }

    /// The same with a list of revoked certificates.
    pub async fn start_with(
        run: &str,
        (dir, authority): (&Path, &Authority),
        (name, bootstrap): (&str, &[SocketAddr]),
        revoked: Option<PathBuf>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = listener.local_addr().expect("it is bound");
        let identity = dir.join(format!("{name}.pem"));
        if !identity.exists() {
            bundle(authority, name).save(&identity).expect("the folder is writable");
        }
        let config = Config {
            name: name.parse().expect("a name"),
            run: dir.join("run.toml"),
            listen: address,
            advertise: None,
            bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
            identity,
            state_dir: dir.join(name),
            ledger_dir: None,
            revoked,
            threads: 1,
            datasets: [].into(),
            share: None,
        };
        let stop = CancellationToken::new();
        let bowl = Bowl { centre: 1.0, pause: Duration::from_millis(40) };
        let spec = RunSpec::from_toml(run).expect("a run file");
        let task = tokio::spawn(worker::peer::run(config, spec, (listener, Box::new(bowl)), stop.clone()));
        Self { address, stop, task }
    }
}
