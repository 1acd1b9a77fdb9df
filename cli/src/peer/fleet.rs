//! Peers of one run as child processes on loopback: what the demo and the measurements stand on.

use super::ask::{Asked, Who};
use crate::{
    ca,
    exit::{Code, Failure},
    output,
    process::Process,
};
use ::worker::{Share, data::Source, peer::Config};
use proto::v1::PeerStatusReply;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The life of the certificates.
const LIFE_S: u64 = 365 * 24 * 3600;
/// Peers are asked so often.
const LOOK: Duration = Duration::from_millis(300);
/// Peers that do not move for so long are stuck.
const STUCK: Duration = Duration::from_mins(5);

/// What to start.
pub(crate) struct Plan<'a> {
    /// Folder for configurations, certificates, logs and state; exists.
    pub(crate) folder: &'a Path,
    pub(crate) peers: usize,
    /// The run file's content.
    pub(crate) run: String,
    /// The data set and its name, of which peer i gets part i.
    pub(crate) data: Option<(String, Source)>,
}

/// Running peers; killed when dropped.
pub(crate) struct Peers {
    processes: Vec<Process>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) asked: Asked,
    logs: PathBuf,
}

/// The name of a peer.
pub(crate) fn name(index: usize) -> String {
    format!("worker-{}", index + 1)
}

impl Plan<'_> {
    /// Makes the authority unless there is one, certificates and configurations, and starts everybody.
    pub(crate) fn start(&self) -> Result<Peers, Failure> {
        let path = |name: &str| self.folder.join(name);
        let logs = path("logs");
        let cannot =
            |error: std::io::Error| Failure::new(Code::Create, format!("{}: {error}", self.folder.display()));
        std::fs::create_dir_all(&logs).map_err(cannot)?;
        output::write_file(&path("run.toml"), true, &[self.run.as_bytes()])?;
        let authority = path("ca");
        if !authority.exists() {
            ca::make(&authority, "demo", "demo", (LIFE_S, LIFE_S))?;
        }
        // Held together, so that they differ; a peer that is started again keeps its address.
        let held: Vec<TcpListener> = (0..self.peers)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(cannot)?;
        let addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(cannot)?;
        drop(held);
        let mut processes = Vec::new();
        for index in 0..self.peers {
            let (name, config) = (name(index), self.config(index, &addresses)?);
            std::fs::create_dir_all(&config.state_dir).map_err(cannot)?;
            ca::peer(&authority.join("authority.pem"), (&name, LIFE_S), &config.identity)?;
            let file = path(&format!("{name}.toml"));
            output::write_file(
                &file,
                true,
                &[toml::to_string(&config).map_err(Failure::internal)?.as_bytes()],
            )?;
            let file = file.to_str().ok_or_else(|| Failure::usage("--out: expected a path in UTF-8"))?;
            let log = logs.join(format!("{name}.log"));
            processes.push(Process::start(&name, &["peer", "--config", file], None, &log)?);
        }
        let who = Who { peer: addresses[0].to_string(), identity: authority.join("operator.pem") };
        Ok(Peers { processes, addresses, asked: Asked::new(&who)?, logs })
    }

    fn config(&self, index: usize, addresses: &[SocketAddr]) -> Result<Config, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let state_dir = self.folder.join(name(index));
        Ok(Config {
            name: name(index).parse().map_err(Failure::internal)?,
            run: self.folder.join("run.toml"),
            listen: addresses[index],
            advertise: None,
            bootstrap: addresses.iter().take(2).map(ToString::to_string).collect(),
            identity: state_dir.join("identity.pem"),
            ledger_dir: None,
            revoked: None,
            state_dir,
            threads: (cores / self.peers).max(1),
            datasets: self.data.iter().cloned().collect::<BTreeMap<_, _>>(),
            share: Some(Share { index, of: self.peers }),
        })
    }
}

impl Peers {
    /// Waits until every peer that is there has done all rounds; tells the slowest round and how many
    /// answer. A peer may die meanwhile: the others go on.
    pub(crate) async fn finished(
        &mut self,
        mut tell: impl FnMut(u64, usize),
    ) -> Result<Vec<(SocketAddr, PeerStatusReply)>, Failure> {
        let (mut moved, mut slowest) = (Instant::now(), 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let (mut statuses, mut running) = (Vec::new(), 0);
            for (process, address) in self.processes.iter_mut().zip(&self.addresses) {
                if !process.is_running() {
                    continue;
                }
                running += 1;
                if let Ok(status) = self.asked.status(&address.to_string()).await {
                    statuses.push((*address, status));
                }
            }
            if running == 0 {
                return Err(self.processes[0].died().await);
            }
            let least = statuses.iter().map(|(_, status)| status.round).min().unwrap_or(0);
            if least != slowest {
                (moved, slowest) = (Instant::now(), least);
            }
            tell(least, statuses.len());
            if statuses.len() == running && statuses.iter().all(|(_, status)| is_done(status)) {
                return Ok(statuses);
            }
            if moved.elapsed() > STUCK {
                let text =
                    format!("no peer has moved for {} s; see {}", STUCK.as_secs(), self.logs.display());
                return Err(Failure::new(Code::Failed, text));
            }
        }
    }

    /// Process ids of those who run.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Process::id).collect()
    }

    /// Stops those who are left. One that ended before is no failure: peers may die.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let with = |mut process: Process| (process.is_running(), process);
        let (running, ended): (Vec<_>, Vec<_>) =
            self.processes.drain(..).map(with).partition(|(running, _)| *running);
        for (_, process) in &ended {
            output::note(format!("{} ended before the run did", process.name()));
        }
        for (_, process) in &running {
            process.ask_to_stop();
        }
        let mut failures = Vec::new();
        for (_, process) in running {
            failures.extend(process.wait().await.err());
        }
        failures.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Whether a peer has done all rounds and written the line of the last.
fn is_done(status: &PeerStatusReply) -> bool {
    let metrics: Value = serde_json::from_str(&status.metrics).unwrap_or_default();
    status.phase == "finished" && metrics["round"].as_u64() == status.rounds.checked_sub(1)
}

/// The lines of a peer's `metrics.jsonl`.
pub(crate) fn metrics(state_dir: &Path) -> Result<Vec<Value>, Failure> {
    let lines = output::read_text(&state_dir.join("metrics.jsonl"))?;
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
