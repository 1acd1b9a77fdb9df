//! Many real workers inside this process: each with its own connections, session, client state and, with
//! TLS, certificate. A thousand processes would measure the machine and not the coordinator.

use crate::{
    client::Target,
    exit::{Code, Failure},
    fleet::Plan,
};
use identity::{Authority, Bundle, Role, Validity};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use worker::WorkerError;

/// Life of a member's certificate.
const CERTIFICATE_S: u64 = 24 * 3600;
/// How long all may take to leave when the measurement is over.
const LEAVE: Duration = Duration::from_secs(20);

/// The workers; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    url: String,
    folder: PathBuf,
    authority: Option<Authority>,
    tasks: JoinSet<(String, Result<(), WorkerError>)>,
    members: BTreeMap<String, (CancellationToken, AbortHandle)>,
}

impl Crowd {
    /// Nobody yet; members will work for the coordinator of a plan.
    pub(crate) fn new(plan: &Plan, target: &Target) -> Result<Self, Failure> {
        let authority = plan.tls.then(|| Authority::load(&plan.folder.join("ca").join("authority.pem")));
        Ok(Self {
            url: target.coordinator.clone(),
            folder: plan.folder.join("crowd"),
            authority: authority.transpose().map_err(Failure::internal)?,
            tasks: JoinSet::new(),
            members: BTreeMap::new(),
        })
    }

    /// Starts a worker, under a name that may have been here before: it is the same worker then.
    pub(crate) fn add(&mut self, name: &str) -> Result<(), Failure> {
        let parsed = name.parse().map_err(Failure::internal)?;
        let config = worker::Config {
            coordinator: self.url.clone(),
            state_dir: self.folder.join(name),
            threads: 1,
            ..worker::Config::new(parsed)
        };
        if let Some(authority) = &self.authority {
            let file = config.identity_file();
            std::fs::create_dir_all(&config.state_dir).map_err(Failure::internal)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let validity = Validity::lasting(now, CERTIFICATE_S);
            let bundle = Bundle::issue(authority, Role::Worker, name, (&[], validity));
            bundle.map_err(Failure::internal)?.save(&file).map_err(Failure::internal)?;
        }
        let (stop, who) = (CancellationToken::new(), name.to_owned());
        let stopped = stop.clone().cancelled_owned();
        let task = self.tasks.spawn(async move { (who, worker::run_with_engine(config, stopped).await) });
        self.members.insert(name.to_owned(), (stop, task));
        Ok(())
    }

    /// Asks a worker to leave, as SIGTERM does.
    pub(crate) fn ask_to_leave(&mut self, name: &str) {
        if let Some((stop, _)) = self.members.remove(name) {
            stop.cancel();
        }
    }

    /// Ends a worker in the middle of whatever it does.
    pub(crate) fn kill(&mut self, name: &str) {
        if let Some((_, task)) = self.members.remove(name) {
            task.abort();
        }
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn died(&mut self) -> Failure {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((name, result))) if self.members.contains_key(&name) => {
                    let why = result.err().map_or_else(|| "without a reason".to_owned(), |e| e.to_string());
                    return Failure::new(Code::Failed, format!("{name} ended early: {why}"));
                }
                Some(Err(error)) if error.is_panic() => return Failure::internal(error),
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Asks all to leave and waits until they have.
    pub(crate) async fn leave(mut self) -> Result<(), Failure> {
        self.members.values().for_each(|(stop, _)| stop.cancel());
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(LEAVE, all)
            .await
            .map_err(|_| Failure::internal(format!("not all workers left within {} s", LEAVE.as_secs())))
    }
}
