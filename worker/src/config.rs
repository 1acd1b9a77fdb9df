//! What a worker is told by its owner: its name, its coordinator, where its data lies.
//!
//! A run names a data set, never a path: what a name means on this machine is said here and stays
//! here. Reading the file and the environment is the command line's business; this is the schema.

use crate::data::Source;
use crate::engine::cuda::{Choice, Precision};
use identity::Token;
use privacy::Budget;
use proto::{limits::DATASETS_MAX, names::WorkerName};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// A worker's configuration. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique in the fleet. A worker that comes back under its name is the same worker: its client
    /// state belongs to the name.
    pub name: WorkerName,
    /// `https://HOST:PORT` of the coordinator; `http://` for one that serves plaintext.
    #[serde(default = "default_coordinator")]
    pub coordinator: String,
    /// Must be true for plaintext to another machine: everyone on the way could read and change models.
    #[serde(default)]
    pub insecure: bool,
    /// The worker's key and certificate. Written when it enrols; absent: `identity.pem` in the state
    /// directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    /// A join token, for the first start. It is a secret: better in `STARLING__TOKEN` than in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Where client state is kept between rounds. One process at a time; created if absent.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Threads that training may use; 0: one for each core. Results do not depend on it.
    #[serde(default)]
    pub threads: usize,
    /// Where training runs: `auto` (a GPU where one can be used, else the CPU), `cpu`, `cuda` or `cuda:N`.
    /// Results are the same bytes on devices of the same kind.
    #[serde(default)]
    pub device: Choice,
    /// On a GPU, what products are computed in: `f32`, `tf32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Where the worker tells its own health (`grpc.health.v1`, in clear and to everybody who asks);
    /// absent: nowhere.
    #[serde(default, deserialize_with = "address", skip_serializing_if = "Option::is_none")]
    pub health: Option<SocketAddr>,
    /// The data sets that this worker offers, by the name that runs use.
    #[serde(default, rename = "data", alias = "datasets")]
    pub datasets: BTreeMap<String, Source>,
    /// The most that all runs together may cost a data set's records or its owner, by its name. Such data is
    /// used only by runs whose workers add the noise themselves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<String, Budget>,
    /// Which part of every data set is this worker's when a run divides one data set among workers
    /// (demo, experiments). Workers with data of their own leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// One part of a data set that is divided among `of` workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Which part, from 0.
    pub index: usize,
    /// Number of parts.
    pub of: usize,
}

/// A configuration that parses but cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("worker configuration: `{key}` is {value}; expected {expected}")]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// What was given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl Config {
    /// A configuration with the defaults of every optional key.
    pub fn new(name: WorkerName) -> Self {
        Self {
            name,
            coordinator: default_coordinator(),
            insecure: false,
            identity: None,
            token: None,
            state_dir: default_state_dir(),
            threads: 0,
            device: Choice::default(),
            precision: Precision::default(),
            health: None,
            datasets: BTreeMap::new(),
            budgets: BTreeMap::new(),
            share: None,
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, expected: &str| {
            Err(ConfigError { key, value, expected: expected.to_owned() })
        };
        let uri = self.coordinator.parse::<tonic::transport::Uri>().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
        match parts {
            Some(("https", _)) => {}
            Some(("http", host)) if self.insecure || is_loopback(host) => {}
            Some(("http", _)) => {
                let text = "https://HOST:PORT, or `insecure = true` on a network that you trust: without \
                            encryption everyone on the way can read and change models";
                return wrong("coordinator", format!("`{}`", self.coordinator), text);
            }
            _ => return wrong("coordinator", format!("`{}`", self.coordinator), "https://HOST:PORT"),
        }
        if let Some(Share { index, of }) = self.share
            && index >= of
        {
            return wrong("share", format!("index {index} of {of}"), "an index below `of`");
        }
        for (name, budget) in &self.budgets {
            if !self.datasets.contains_key(name) {
                return wrong("budgets", format!("for `{name}`"), "a name of `[data]`");
            }
            if budget.delta() <= 0.0 {
                return wrong("budgets", format!("δ = 0 for `{name}`"), "a `delta` above 0");
            }
        }
        if self.datasets.len() > DATASETS_MAX {
            let most = format!("at most {DATASETS_MAX} data sets");
            return wrong("data", format!("{} data sets", self.datasets.len()), &most);
        }
        Ok(())
    }

    /// Whether the coordinator is reached by TLS.
    pub fn is_encrypted(&self) -> bool {
        self.coordinator.starts_with("https://")
    }

    /// Where the worker's key and certificate are.
    pub fn identity_file(&self) -> PathBuf {
        self.identity.clone().unwrap_or_else(|| self.state_dir.join("identity.pem"))
    }

    /// Threads for training: what was asked for, or one for each core.
    pub fn training_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.threads == 0 { cores() } else { self.threads }
    }
}

/// Whether a host in a URL is this machine.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        |_| D::Error::custom(format!("`{text}` is no address; expected IP:PORT, e.g. 127.0.0.1:7081"));
    text.parse().map(Some).map_err(wrong)
}

fn default_coordinator() -> String {
    "https://127.0.0.1:7077".into()
}
fn default_state_dir() -> PathBuf {
    PathBuf::from("starling-worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("w1".parse().unwrap())
    }

    #[test]
    fn defaults_are_valid_and_survive_serde() {
        config().check().unwrap();
        let text = serde_json::to_string(&config()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config());
        assert_eq!(serde_json::from_str::<Config>(r#"{"name":"w1"}"#).unwrap(), config());
    }

    #[test]
    fn what_cannot_work_is_named() {
        let error = Config { coordinator: "ftp://x".into(), ..config() }.check().unwrap_err().to_string();
        assert!(error.contains("`coordinator`") && error.contains("ftp://x"), "{error}");
        for local in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://far.example:1"] {
            Config { coordinator: local.into(), ..config() }.check().unwrap();
        }
        let far = Config { coordinator: "http://far.example:1".into(), ..config() };
        let error = far.check().unwrap_err().to_string();
        assert!(error.contains("insecure = true") && error.contains("https://"), "{error}");
        Config { insecure: true, ..far }.check().unwrap();
        let error = Config { share: Some(Share { index: 3, of: 3 }), ..config() }.check().unwrap_err();
        assert!(error.to_string().contains("index 3 of 3"), "{error}");
        let error = serde_json::from_str::<Config>(r#"{"name":"w1","thread":2}"#).unwrap_err().to_string();
        assert!(error.contains("thread"), "{error}");
        let error =
            serde_json::from_str::<Config>(r#"{"name":"w1","health":"7081"}"#).unwrap_err().to_string();
        assert!(error.contains("`7081`") && error.contains("127.0.0.1:7081"), "{error}");
        assert!(serde_json::from_str::<Config>(r#"{"name":"../w1"}"#).is_err());
    }
}
