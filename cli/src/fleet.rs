//! A coordinator and its workers as child processes on loopback: what the demo and the measurements
//! stand on. Everything that they read and write lies in one folder, so that a person can look.

use crate::{
    ca,
    client::{Operator, Target},
    exit::{Code, Failure},
    process::Process,
    run::{Seen, follow},
};
use futures::stream::{FuturesUnordered, StreamExt};
use proto::{event::RunEvent, v1};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use worker::data::Source;

/// A coordinator that has not told its address after so long is stuck.
const START: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Folder for configurations, logs and state; exists.
    pub(crate) folder: PathBuf,
    /// Number of workers; at least 1.
    pub(crate) workers: usize,
    /// The data set and its name; worker i gets part i of it.
    pub(crate) data: (String, Source),
    /// Whether everything is encrypted, and everybody has a certificate.
    pub(crate) tls: bool,
}

/// Running processes; killed when dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    coordinator: Process,
    workers: Vec<Process>,
    target: Target,
}

#[derive(Serialize)]
struct CoordinatorFile<'a> {
    listen: &'a str,
    plaintext: bool,
    data_dir: PathBuf,
    data: BTreeMap<&'a str, &'a Source>,
    tls: Option<coordinator::Tls>,
}

/// The life of a demo's authority and operator: longer than anybody watches one.
const LIFE_S: u64 = 365 * 24 * 3600;
/// How long a worker of a demo may take to start.
const TOKEN_S: u64 = 3600;

impl Plan {
    /// Where the logs lie.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    fn data(&self) -> BTreeMap<&str, &Source> {
        BTreeMap::from([(self.data.0.as_str(), &self.data.1)])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The coordinator's configuration file.
    fn coordinator_file(&self) -> Result<String, Failure> {
        let tls = self.tls.then(|| coordinator::Tls::new(self.path("ca").join("authority.pem")));
        to_toml(&CoordinatorFile {
            listen: "127.0.0.1:0",
            plaintext: !self.tls,
            data_dir: self.path("coordinator"),
            data: self.data(),
            tls,
        })
    }

    /// Makes the authority, unless the folder has one.
    fn authority(&self) -> Result<(), Failure> {
        let dir = self.path("ca");
        if self.tls && !dir.exists() {
            ca::make(&dir, "demo", "demo", (LIFE_S, LIFE_S))?;
        }
        Ok(())
    }

    fn target(&self, address: &str) -> Target {
        let scheme = if self.tls { "https" } else { "http" };
        let identity = self.tls.then(|| self.path("ca").join("operator.pem"));
        Target { coordinator: format!("{scheme}://{address}"), identity, insecure: false }
    }

    /// The configuration file of worker `index`.
    fn worker_file(&self, index: usize, url: &str) -> Result<String, Failure> {
        let name = worker_name(index).parse().map_err(Failure::internal)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let config = worker::Config {
            coordinator: url.to_owned(),
            state_dir: self.path(&worker_name(index)),
            threads: (cores / self.workers).max(1),
            datasets: BTreeMap::from([self.data.clone()]),
            share: Some(worker::Share { index, of: self.workers }),
            ..worker::Config::new(name)
        };
        to_toml(&config)
    }

    /// Starts one process; its configuration stays beside its log. A token does not.
    fn start(
        &self,
        (kind, name): (&str, &str),
        config: &str,
        more: &[&str],
        token: Option<&str>,
    ) -> Result<Process, Failure> {
        let file = self.folder.join(format!("{name}.toml"));
        crate::output::write_file(&file, true, &[config.as_bytes()])?;
        let path = text_of(&file)?;
        let args: Vec<&str> = [&[kind, "--config", path], more].concat();
        let secret = token.map(|token| ("STARLING__TOKEN", token));
        Process::start(name, &args, secret, &self.logs().join(format!("{name}.log")))
    }

    /// Starts a worker, with a token of its own if it must enrol.
    async fn start_worker(
        &self,
        index: usize,
        url: &str,
        operator: Option<&mut Operator>,
    ) -> Result<Process, Failure> {
        let name = worker_name(index);
        let token = match operator {
            Some(operator) => {
                let request = v1::CreateTokenRequest {
                    role: v1::Role::Worker.into(),
                    name: name.clone(),
                    valid_s: TOKEN_S,
                };
                Some(operator.create_token(request).await?.token)
            }
            None => None,
        };
        self.start(("worker", &name), &self.worker_file(index, url)?, &[], token.as_deref())
    }
}

impl Fleet {
    /// Starts the coordinator, waits for its address, then starts the workers.
    pub(crate) async fn start(plan: &Plan) -> Result<Self, Failure> {
        std::fs::create_dir_all(plan.logs()).map_err(|error| {
            Failure::new(Code::Create, format!("cannot create {}: {error}", plan.logs().display()))
        })?;
        let address_file = plan.path("coordinator.address");
        remove_file(&address_file)?;
        plan.authority()?;
        let more = ["--address-file", text_of(&address_file)?];
        let mut coordinator =
            plan.start(("coordinator", "coordinator"), &plan.coordinator_file()?, &more, None)?;
        let address = tokio::select! {
            biased;
            dead = coordinator.died() => return Err(dead),
            address = read_address(&address_file) => address?,
        };
        let target = plan.target(&address);
        let mut operator = if plan.tls { Some(Operator::connect(&target).await?) } else { None };
        let mut workers = Vec::new();
        for index in 0..plan.workers {
            workers.push(plan.start_worker(index, &target.coordinator, operator.as_mut()).await?);
        }
        Ok(Self { coordinator, workers, target })
    }

    /// Where the coordinator listens, and as whom it is asked.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Shows a run's events to `each` until it ends, or until a process of the fleet ends by itself.
    pub(crate) async fn follow(
        &mut self,
        run: &str,
        each: impl FnMut(Seen<'_>) -> Result<(), Failure>,
    ) -> Result<RunEvent, Failure> {
        let target = self.target.clone();
        let mut deaths: FuturesUnordered<_> =
            std::iter::once(&mut self.coordinator).chain(&mut self.workers).map(Process::died).collect();
        tokio::select! {
            biased;
            Some(dead) = deaths.next() => Err(dead),
            ended = follow(&target, run, 0, each) => ended,
        }
    }

    /// Largest resident memory so far, in bytes: of the coordinator, and of the largest worker.
    pub(crate) fn peak_memory(&self) -> (Option<u64>, Option<u64>) {
        let of = |process: &Process| process.id().and_then(crate::process::peak_memory);
        (of(&self.coordinator), self.workers.iter().filter_map(of).max())
    }

    /// Process ids: the coordinator's, and the workers'.
    pub(crate) fn ids(&self) -> (Option<u32>, Vec<u32>) {
        (self.coordinator.id(), self.workers.iter().filter_map(Process::id).collect())
    }

    /// Stops the workers, then the coordinator; an error says who did not stop cleanly.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.workers.iter().for_each(Process::ask_to_stop);
        let mut failures = Vec::new();
        for worker in self.workers {
            failures.extend(worker.wait().await.err());
        }
        self.coordinator.ask_to_stop();
        failures.extend(self.coordinator.wait().await.err());
        if failures.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        Err(Failure::internal(all.join("\n       ")))
    }
}

fn worker_name(index: usize) -> String {
    format!("worker-{}", index + 1)
}

fn to_toml(value: &impl Serialize) -> Result<String, Failure> {
    toml::to_string(value)
        .map_err(|error| Failure::internal(format!("cannot write a configuration: {error}")))
}

fn text_of(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::usage(format!("{}: expected a path in UTF-8", path.display())))
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Code::Create, format!("cannot replace {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// The file appears whole, by a rename.
async fn read_address(file: &Path) -> Result<String, Failure> {
    let wait = async {
        loop {
            if let Ok(text) = tokio::fs::read_to_string(file).await {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START, wait).await.map_err(|_| {
        Failure::internal(format!("the coordinator did not listen within {} s", START.as_secs()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn what_children_are_given_is_what_they_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = ("digits".to_owned(), Source::Digits { train: 100, test: 20, seed: 1 });
        let plan = Plan { folder: folder.path().to_owned(), workers: 3, data, tls: true };
        let file = folder.path().join("x.toml");
        std::fs::write(&file, plan.coordinator_file().unwrap()).unwrap();
        let (settings, config) = crate::coordinator::configure(&Layers::read(&file).unwrap()).unwrap();
        assert_eq!(settings.data["digits"], plan.data.1);
        assert_eq!(config.data_dir, folder.path().join("coordinator"));
        assert_eq!(config.tls.unwrap().authority, folder.path().join("ca/authority.pem"));
        std::fs::write(&file, plan.worker_file(2, "http://127.0.0.1:5").unwrap()).unwrap();
        let config = crate::worker::configure(&Layers::read(&file).unwrap()).unwrap();
        assert_eq!(config.name.as_str(), "worker-3");
        assert_eq!(config.share, Some(worker::Share { index: 2, of: 3 }));
        assert_eq!(config.datasets["digits"], plan.data.1);
    }
}
