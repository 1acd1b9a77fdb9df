//! `starling doctor`: checks a configuration and its surroundings, one line a check, before a process is
//! started or when one does not work. It changes nothing.

mod certificates;
mod clock;
mod disk;
mod reach;
#[cfg(test)]
mod tests;

use crate::{
    client::DEFAULT_URL,
    config::Layers,
    exit::{Code, Failure},
    life, output,
};
use ::worker::access::Route;
use identity::{Role, Tcp};
use serde::Serialize;
use std::{
    fmt::Display,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Checks configuration, certificates, clock, disk and the way to the coordinator, and says what to do.
///
/// One line a check: `ok`, `warn` or `fail`, what, and what to do. The exit code is 1 if a check failed.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("subject").required(true).multiple(true)))]
pub(crate) struct Args {
    /// The configuration of a coordinator on this machine
    #[arg(long, value_name = "FILE", group = "subject")]
    coordinator_config: Option<PathBuf>,
    /// The configuration of a worker on this machine
    #[arg(long, value_name = "FILE", group = "subject")]
    worker_config: Option<PathBuf>,
    /// As a client: the coordinator
    #[arg(long, value_name = "URL", env = "STARLING_COORDINATOR", group = "subject")]
    coordinator: Option<String>,
    /// As a client: your key and certificate
    #[arg(long, value_name = "FILE", env = "STARLING_IDENTITY", group = "subject")]
    identity: Option<PathBuf>,
    /// Prints JSON: one object a line, with check, result, detail, advice
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: String,
    result: Verdict,
    detail: String,
    /// What to do; empty if nothing.
    advice: String,
}

impl Finding {
    fn text(&self) -> String {
        let result = match self.result {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let advice = if self.advice.is_empty() { String::new() } else { format!(" → {}", self.advice) };
        format!("{result}  {}: {}{advice}", self.check, self.detail)
    }
}

/// All checks of one subject: the coordinator, the worker or the client.
#[derive(Debug)]
struct Report {
    subject: &'static str,
    findings: Vec<Finding>,
}

impl Report {
    fn new(subject: &'static str) -> Self {
        Self { subject, findings: Vec::new() }
    }

    fn ok(&mut self, what: &str, detail: impl Display) {
        self.push(Verdict::Ok, what, &detail, "");
    }

    fn warn(&mut self, what: &str, detail: impl Display, advice: &str) {
        self.push(Verdict::Warn, what, &detail, advice);
    }

    fn fail(&mut self, what: &str, detail: impl Display, advice: &str) {
        self.push(Verdict::Fail, what, &detail, advice);
    }

    fn push(&mut self, result: Verdict, what: &str, detail: &dyn Display, advice: &str) {
        // A check is one line, whatever an error says.
        let detail = detail.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let check = format!("{} {what}", self.subject);
        self.findings.push(Finding { check, result, detail, advice: advice.to_owned() });
    }

    /// What a configuration holds, if it can be read.
    fn configuration<T>(&mut self, file: &Path, read: Result<T, Failure>) -> Option<T> {
        match read {
            Ok(config) => {
                self.ok("configuration", file.display());
                Some(config)
            }
            Err(failure) => {
                let advice = format!("correct it; deploy/samples/{}.toml explains every key", self.subject);
                self.fail("configuration", failure, &advice);
                None
            }
        }
    }

    /// Whether an address of this machine can be listened on.
    fn listens(&mut self, what: &str, address: SocketAddr) {
        match std::net::TcpListener::bind(address) {
            Ok(_) => self.ok(what, format!("{address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let advice = format!(
                    "right if this {} runs already; otherwise end the other program or choose another port",
                    self.subject
                );
                self.warn(what, format!("{address} is in use"), &advice);
            }
            Err(error) => {
                let advice = "give an address of this machine, and a port that this user may use";
                self.fail(what, format!("{address} cannot be listened on: {error}"), advice);
            }
        }
    }
}

/// Checks what was asked for.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let findings = life::runtime()?.block_on(examine(args));
    for finding in &findings {
        if args.json {
            output::line(serde_json::to_string(finding).map_err(Failure::internal)?)?;
        } else {
            output::line(finding.text())?;
        }
    }
    match findings.iter().filter(|finding| finding.result == Verdict::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::new(Code::Failed, format!("{failed} of {} checks failed", findings.len()))),
    }
}

async fn examine(args: &Args) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(file) = &args.coordinator_config {
        findings.extend(coordinator(file));
    }
    if let Some(file) = &args.worker_config {
        findings.extend(worker(file).await);
    }
    if args.coordinator.is_some() || args.identity.is_some() {
        let url = args.coordinator.as_deref().unwrap_or(DEFAULT_URL);
        findings.extend(client(url, args.identity.as_deref()).await);
    }
    findings
}

fn coordinator(file: &Path) -> Vec<Finding> {
    let mut report = Report::new("coordinator");
    let read = Layers::read(file).and_then(|layers| crate::coordinator::configure(&layers));
    let Some((settings, config)) = report.configuration(file, read) else { return report.findings };
    let now = clock::now();
    match &config.tls {
        Some(tls) => certificates::authority(&mut report, tls, now),
        None if settings.listen.ip().is_loopback() => {
            report.ok("encryption", "none; only this machine can reach it");
        }
        None => {
            let advice = "use [tls], or be sure that you trust everyone on this network";
            report.warn("encryption", "none; whoever reaches it can read and change models", advice);
        }
    }
    report.listens("address", settings.listen);
    if let Some(page) = &config.page {
        report.listens("page", page.listen);
    }
    clock::check(&mut report, now, None, None);
    disk::folder(&mut report, "data directory", &config.data_dir);
    disk::data_sets(&mut report, &settings.data);
    report.findings
}

async fn worker(file: &Path) -> Vec<Finding> {
    let mut report = Report::new("worker");
    let read = Layers::read(file).and_then(|layers| crate::worker::configure(&layers));
    let Some(config) = report.configuration(file, read) else { return report.findings };
    let now = clock::now();
    let bundle = if config.is_encrypted() { certificates::worker(&mut report, &config, now) } else { None };
    disk::folder(&mut report, "state directory", &config.state_dir);
    disk::data_sets(&mut report, &config.datasets);
    if config.datasets.is_empty() {
        let advice = "add a [data.NAME] section for each data set that this machine has";
        report.warn("data", "no data set is configured, so no run can train here", advice);
    }
    if let Some(address) = config.health {
        report.listens("health address", address);
    }
    let url = &config.coordinator;
    let (route, role) = match (&bundle, &config.token) {
        _ if !config.is_encrypted() => (Ok(Route::plain(url, Arc::new(Tcp))), Some(Role::Worker)),
        (Some(bundle), _) => {
            let route = Route::known(url, Arc::new(Tcp), bundle).map(|(route, _)| route);
            (route, Some(bundle.identity().role))
        }
        (None, Some(token)) => (Route::newcomer(url, Arc::new(Tcp), token.authority()), None),
        (None, None) => (Err("there is neither a certificate nor a token".to_owned()), None),
    };
    let told = reach::check(&mut report, url, route, role).await;
    clock::check(&mut report, now, bundle.map(|bundle| bundle.identity().issued), told);
    report.findings
}

async fn client(url: &str, identity: Option<&Path>) -> Vec<Finding> {
    let mut report = Report::new("client");
    let now = clock::now();
    let is_plain = url.starts_with("http://");
    let bundle = match identity {
        Some(file) => certificates::client(&mut report, file, now),
        None if is_plain => None,
        None => {
            let advice = "give --identity FILE: `starling ca init` writes the first operator's, `starling \
                          identity enrol` gets others";
            report.fail("certificate", "none was given, and the coordinator wants to know who asks", advice);
            None
        }
    };
    let (route, role) = match &bundle {
        _ if is_plain => (Ok(Route::plain(url, Arc::new(Tcp))), Some(Role::Operator)),
        Some(bundle) => {
            let route = Route::known(url, Arc::new(Tcp), bundle).map(|(route, _)| route);
            (route, Some(bundle.identity().role))
        }
        None => (Err("there is no certificate".to_owned()), None),
    };
    let told = reach::check(&mut report, url, route, role).await;
    clock::check(&mut report, now, bundle.map(|bundle| bundle.identity().issued), told);
    report.findings
}
