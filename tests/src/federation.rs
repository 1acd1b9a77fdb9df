//! A coordinator and workers in this process.

use crate::{
    host::{DATA, Host, digits},
    operator::{Operator, PATIENCE},
    toy::{Bowl, Toy},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// A running coordinator; aborted when dropped.
#[derive(Debug)]
pub struct Coordinator {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its page is.
    pub page: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), coordinator::ServeError>>,
}

impl Coordinator {
    /// Starts one at an address (port 0: any) and waits until it answers. Tries again for a while: one
    /// that was just stopped may still hold its port and its store.
    pub async fn start(dir: &Path, address: SocketAddr) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
                }
                sleep(Duration::from_millis(20)).await;
            };
            let address = listener.local_addr().expect("a bound socket has an address");
            let here = ([127, 0, 0, 1], 0).into();
            let page = Some(coordinator::Page { listen: here, tls: false, insecure: false });
            let config =
                coordinator::Config { data_dir: dir.to_owned(), page, ..coordinator::Config::default() };
            let page = coordinator::bind_page(&config).await.expect("a free port").expect("a page");
            let at = page.local_addr().expect("a bound socket has an address");
            let stop = CancellationToken::new();
            let listeners = (listener, Some(page));
            let serving = coordinator::serve_with_page(
                config,
                Arc::new(Host),
                listeners,
                stop.clone().cancelled_owned(),
            );
            let task = tokio::spawn(serving);
            let mut operator = Operator::new(address);
            while !task.is_finished() {
                if operator.is_up().await {
                    return Self { address, page: at, stop, task };
                }
                sleep(Duration::from_millis(10)).await;
            }
            assert!(Instant::now() < deadline, "no coordinator: {:?}", task.await);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells it to stop and waits until it has drained.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = timeout(PATIENCE, &mut self.task).await.expect("a coordinator drains in time");
        drained.expect("it does not panic").expect("it stops without an error");
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// A client.
    pub fn operator(&self) -> Operator {
        Operator::new(self.address)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

/// What a worker trains with.
#[derive(Debug, Clone, Copy)]
pub enum Trainer {
    /// The engine on its share of the digits.
    Engine {
        /// Share number, and into how many.
        share: (usize, usize),
        /// Threads.
        threads: usize,
    },
    /// The toy.
    Toy(Toy),
    /// The toy that follows plans.
    Bowl(Bowl),
}

/// A running worker; aborted when dropped.
#[derive(Debug)]
pub struct Worker {
    task: JoinHandle<()>,
}

impl Worker {
    /// Starts a worker with its state in a folder of its own name under `dir`.
    pub fn start(address: SocketAddr, dir: &Path, name: &str, trainer: Trainer) -> Self {
        let mut config = worker::Config::new(name.parse().expect("a worker's name"));
        config.coordinator = format!("http://{address}");
        config.state_dir = dir.join(name);
        config.datasets.insert(DATA.to_owned(), digits());
        if let Trainer::Engine { share: (index, of), threads } = trainer {
            config.share = Some(worker::Share { index, of });
            config.threads = threads;
        }
        let task = tokio::spawn(async move {
            let deadline = Instant::now() + PATIENCE;
            // A killed worker's last step may still hold the lock on the state.
            loop {
                let result = match trainer {
                    Trainer::Engine { .. } => {
                        worker::run_with_engine(config.clone(), std::future::pending()).await
                    }
                    Trainer::Toy(toy) => {
                        worker::run(config.clone(), Box::new(toy), std::future::pending()).await
                    }
                    Trainer::Bowl(bowl) => {
                        worker::run(config.clone(), Box::new(bowl), std::future::pending()).await
                    }
                };
                assert!(Instant::now() < deadline, "the worker ended: {result:?}");
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { task }
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A coordinator, its workers, and the folder of both.
#[derive(Debug)]
pub struct Federation {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Its client.
    pub operator: Operator,
    /// The workers, in order of start.
    pub workers: Vec<Worker>,
    dir: TempDir,
}

impl Federation {
    /// A coordinator without workers, on any port.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let coordinator =
            Coordinator::start(&dir.path().join("coordinator"), ([127, 0, 0, 1], 0).into()).await;
        Self { operator: coordinator.operator(), coordinator, workers: Vec::new(), dir }
    }

    /// Adds a worker.
    pub fn add(&mut self, name: &str, trainer: Trainer) {
        let worker = Worker::start(self.coordinator.address, &self.workers_dir(), name, trainer);
        self.workers.push(worker);
    }

    /// Adds workers `w0`, `w1`, … of a whole in the given order, some milliseconds apart, each with that
    /// many threads.
    pub async fn add_shares(&mut self, order: &[usize], threads: usize, apart_ms: u64) {
        for &index in order {
            let trainer = Trainer::Engine { share: (index, order.len()), threads };
            self.add(&format!("w{index}"), trainer);
            sleep(Duration::from_millis(apart_ms)).await;
        }
    }

    /// Where workers keep their state.
    pub fn workers_dir(&self) -> PathBuf {
        self.dir.path().join("workers")
    }

    /// Stops the coordinator and starts it again on its folder and port.
    pub async fn restart_coordinator(self) -> Self {
        self.restart_coordinator_after(|_| {}).await
    }

    /// Ends the coordinator in the middle of whatever it does, and starts another on its folder and port.
    pub async fn crash_coordinator(self) -> Self {
        let Self { coordinator, operator, workers, dir } = self;
        let (address, folder) = (coordinator.address, dir.path().join("coordinator"));
        coordinator.kill().await;
        let coordinator = Coordinator::start(&folder, address).await;
        Self { coordinator, operator, workers, dir }
    }

    /// Stops and starts; meanwhile something is done to its folder.
    pub async fn restart_coordinator_after(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { coordinator, operator, workers, dir } = self;
        let (address, folder) = (coordinator.address, dir.path().join("coordinator"));
        coordinator.stop().await;
        meanwhile(&folder);
        let coordinator = Coordinator::start(&folder, address).await;
        Self { coordinator, operator, workers, dir }
    }
}
