//! What an operator sets, with the reason for each default.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// The coordinator's own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where runs, events and models are kept.
    pub data_dir: PathBuf,
    /// Large uploads of one run that are received at the same time; each holds one payload in memory.
    /// Two keep the network busy while one is folded; more only cost memory.
    pub uploads_in_flight: usize,
    /// Small uploads may share so many MiB per run, so that thousands of small models do not queue.
    pub upload_memory_mib: usize,
    /// Workers that may be connected.
    pub workers_max: usize,
    /// Runs that may be active at the same time.
    pub runs_max: usize,
    /// Connections that may be open: two for each worker, and some for those that come and go.
    pub connections_max: usize,
    /// Without it: plaintext, in which nobody can be told from anybody.
    pub tls: Option<Tls>,
    /// Without it: no page.
    pub page: Option<Page>,
}

/// The status page and what Prometheus reads, over HTTP; nothing can be changed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Where it is served.
    pub listen: SocketAddr,
    /// With the certificate of `[tls]`, to operators and observers who show theirs. Without it everybody who
    /// reaches the address may read.
    #[serde(default)]
    pub tls: bool,
    /// Must be true to serve without encryption on an address that others can reach.
    #[serde(default)]
    pub insecure: bool,
}

impl Page {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// Names the key, what is wrong and what to do.
    pub fn check(&self, has_tls: bool) -> Result<(), String> {
        match (self.tls, has_tls) {
            (true, true) => Ok(()),
            (true, false) => {
                Err("page.tls: there is no [tls] section whose certificate the page could show".into())
            }
            (false, _) if self.insecure || self.listen.ip().is_loopback() => Ok(()),
            (false, _) => Err(format!(
                "page.listen: {} can be reached from other machines, and whoever reaches it could read all that \
                 the page tells. Set `page.tls = true`, listen on 127.0.0.1, or accept that with \
                 `page.insecure = true` on a network that you trust",
                self.listen
            )),
        }
    }
}

/// The certificate authority, and what it issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Key and certificate of the authority, as `starling ca init` wrote them.
    pub authority: PathBuf,
    /// Names and addresses by which workers and operators reach this coordinator.
    #[serde(default = "default_hosts")]
    pub hosts: Vec<String>,
    /// Life of an issued certificate in seconds; each holder renews after two thirds of it. Thirty days:
    /// a machine that was off for a week still has one.
    #[serde(default = "default_certificate_s")]
    pub certificate_s: u64,
    /// Enrolments a minute that are looked at; what a token guesser would need many of.
    #[serde(default = "default_enrolments")]
    pub enrolments_per_minute: u32,
}

impl Tls {
    /// With the defaults, for an authority's file.
    pub fn new(authority: PathBuf) -> Self {
        Self {
            authority,
            hosts: default_hosts(),
            certificate_s: default_certificate_s(),
            enrolments_per_minute: default_enrolments(),
        }
    }
}

fn default_hosts() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
}
fn default_certificate_s() -> u64 {
    30 * 24 * 3600
}
fn default_enrolments() -> u32 {
    120
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("starling-data"),
            uploads_in_flight: 2,
            upload_memory_mib: 16,
            workers_max: 10_000,
            runs_max: 64,
            connections_max: 20_100,
            tls: None,
            page: None,
        }
    }
}

impl Config {
    /// Uploads of `bytes` each that one run may receive at the same time.
    pub fn upload_slots(&self, bytes: u64) -> usize {
        let fit = (self.upload_memory_mib as u64 * 1024 * 1024) / bytes.max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(self.uploads_in_flight.max(1), 256)
    }
}
