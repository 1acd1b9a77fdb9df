//! What a peer is told by its owner: who it is, which run, where to find others.

use crate::{ConfigError, Share, data::Source};
use proto::names::WorkerName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// A peer's configuration. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique among the peers of the run; the name in its certificate.
    pub name: WorkerName,
    /// The run file: the same content for every peer.
    pub run: PathBuf,
    /// Where it serves other peers.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where others reach it, if not at `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// Some peers to ask for all others, as HOST:PORT. One that can be reached is enough; none: this one is
    /// asked.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// The peer's key and certificate, from `starling ca peer`.
    pub identity: PathBuf,
    /// A list of revoked certificates, from `starling ca revoke`; read again when it changes. Peers pass lists
    /// on to each other, so that it is enough to tell one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
    /// Where its state, metrics and model are kept. One process at a time; created if absent.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where the privacy ledgers of its data sets are kept, which outlive runs: the same folder for every run
    /// on the same data. `state_dir` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_dir: Option<PathBuf>,
    /// Threads that training may use; 0: one for each core. Results do not depend on it.
    #[serde(default)]
    pub threads: usize,
    /// Its data sets, by the name that runs use.
    #[serde(default, rename = "data")]
    pub datasets: BTreeMap<String, Source>,
    /// Which part of every data set is this peer's, when a run divides one data set among peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, expected: &str| {
            Err(ConfigError { key, value, expected: expected.to_owned() })
        };
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            let text = "an address that others can reach, or `advertise` beside it";
            return wrong("listen", format!("`{}`", self.listen), text);
        }
        let bad = |address: &&String| {
            let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
            port.is_none_or(|port| port.parse::<u16>().is_err())
        };
        if let Some(address) = self.bootstrap.iter().find(bad) {
            return wrong("bootstrap", format!("`{address}`"), "HOST:PORT");
        }
        if let Some(Share { index, of }) = self.share
            && index >= of
        {
            return wrong("share", format!("index {index} of {of}"), "an index below `of`");
        }
        Ok(())
    }

    /// As the trainer reads it.
    pub(super) fn for_training(&self) -> crate::Config {
        crate::Config {
            threads: self.threads,
            datasets: self.datasets.clone(),
            share: self.share,
            ..crate::Config::new(self.name.clone())
        }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7079))
}
fn default_state_dir() -> PathBuf {
    PathBuf::from("starling-peer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        serde_json::from_str(r#"{"name":"p1","run":"run.toml","identity":"p1.pem"}"#).unwrap()
    }

    #[test]
    fn what_cannot_work_is_named() {
        config().check().unwrap();
        let text = serde_json::to_string(&config()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config());
        let everywhere: SocketAddr = "0.0.0.0:1".parse().unwrap();
        let error = Config { listen: everywhere, ..config() }.check().unwrap_err().to_string();
        assert!(error.contains("advertise"), "{error}");
        Config { listen: everywhere, advertise: Some("10.0.0.1:1".parse().unwrap()), ..config() }
            .check()
            .unwrap();
        for wrong in ["host", ":7", "host:x", "https://host"] {
            let error = Config { bootstrap: vec![wrong.into()], ..config() }.check().unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("HOST:PORT"), "{error}");
        }
        let error = Config { share: Some(Share { index: 2, of: 2 }), ..config() }.check().unwrap_err();
        assert!(error.to_string().contains("index 2 of 2"));
        assert!(serde_json::from_str::<Config>(r#"{"name":"p","run":"r","identity":"i","dat":{}}"#).is_err());
    }
}
