//! Asking a coordinator: one connection, as somebody, deadlines on every call, and errors that say what
//! to check.

use crate::exit::{Code, Failure, chain};
use identity::{Bundle, Tcp};
use proto::{
    limits,
    nearest::nearest,
    v1,
    v1::{access_client::AccessClient, operator_client::OperatorClient},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tonic::{Request, Status, transport::Channel};
use worker::{access::Route, config::is_loopback};

/// Where a coordinator is when nobody says so.
pub(crate) const DEFAULT_URL: &str = "https://127.0.0.1:7077";

/// Where a coordinator is, and as whom it is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The coordinator; http:// if it serves plaintext
    #[arg(long, value_name = "URL", env = "STARLING_COORDINATOR", default_value = DEFAULT_URL)]
    pub(crate) coordinator: String,
    /// Your key and certificate, from `starling ca init` or `starling identity enrol`
    #[arg(long, value_name = "FILE", env = "STARLING_IDENTITY")]
    pub(crate) identity: Option<PathBuf>,
    /// Asks without encryption over a network that others can reach
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// Flags of every command that asks a coordinator.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remote {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Prints JSON instead of text: one object, or one a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A connection to a coordinator's `Operator` service.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) client: OperatorClient<Channel>,
    access: AccessClient<Channel>,
    url: String,
}

impl Target {
    /// How the coordinator is reached.
    fn route(&self) -> Result<Route, Failure> {
        let url = &self.coordinator;
        let wrong = |why: &str| Failure::usage(format!("--coordinator {url}: {why}"));
        let uri = url.parse::<tonic::transport::Uri>().ok();
        match uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?))) {
            Some(("http", host)) if self.insecure || is_loopback(host) => {
                Ok(Route::plain(url, Arc::new(Tcp)))
            }
            Some(("http", _)) => Err(wrong(
                "without encryption everyone on the way could read and change models; expected \
                 https://HOST:PORT, or --insecure on a network that you trust",
            )),
            Some(("https", _)) => {
                let bundle = self.bundle()?;
                Route::known(url, Arc::new(Tcp), &bundle).map(|(route, _)| route).map_err(Failure::usage)
            }
            _ => Err(wrong("expected https://HOST:PORT")),
        }
    }

    fn bundle(&self) -> Result<Bundle, Failure> {
        let Some(file) = &self.identity else {
            return Err(Failure::usage(format!(
                "{} wants to know who asks: give --identity FILE or STARLING_IDENTITY (`starling ca init` \
                 writes the first operator's, `starling identity enrol` gets others; a coordinator that \
                 serves plaintext is asked with http://)",
                self.coordinator
            )));
        };
        let bundle = Bundle::load(file).map_err(Failure::usage)?;
        let none = || Failure::new(Code::NotFound, format!("--identity {}: no such file", file.display()));
        let bundle = bundle.ok_or_else(none)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ended = bundle.identity().not_after;
        if ended <= now {
            let text = format!(
                "--identity {}: the certificate ended at {}; enrol again with a token of another operator, or \
                 issue one where the authority lies",
                file.display(),
                crate::table::instant(ended)
            );
            return Err(Failure::new(Code::Denied, text));
        }
        Ok(bundle)
    }
}

impl Operator {
    /// Connects within 5 s.
    pub(crate) async fn connect(target: &Target) -> Result<Self, Failure> {
        let url = &target.coordinator;
        let route = target.route()?;
        let endpoint = route
            .endpoint()
            .map_err(Failure::usage)?
            .http2_keep_alive_interval(limits::HEARTBEAT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::WINDOW_BYTES)
            .initial_connection_window_size(limits::WINDOW_BYTES);
        let channel = endpoint.connect_with_connector(route.connector()).await;
        let channel = channel.map_err(|error| unreachable(url, &chain(&error)))?;
        let client = OperatorClient::new(channel.clone()).max_decoding_message_size(limits::MESSAGE_BYTES);
        let access = AccessClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES);
        Ok(Self { client, access, url: url.clone() })
    }

    /// What a failed call means for the person who made it.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        failure(&self.url, status)
    }

    /// As `failure`; an unknown run is answered with the known ones.
    pub(crate) async fn run_failure(&mut self, run: &str, status: &Status) -> Failure {
        if status.code() != tonic::Code::NotFound {
            return self.failure(status);
        }
        match self.runs().await {
            // It is something else that was not found.
            Ok(runs) if runs.iter().any(|known| known.id == run || known.name == run) => self.failure(status),
            Ok(runs) => Failure::new(Code::NotFound, unknown_run(run, &runs)),
            Err(failure) => failure,
        }
    }

    pub(crate) async fn submit(&mut self, spec: String) -> Result<v1::RunSummary, Failure> {
        let reply = self.client.submit_run(call(v1::SubmitRunRequest { spec })).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn runs(&mut self) -> Result<Vec<v1::RunSummary>, Failure> {
        let reply = self.client.list_runs(call(v1::ListRunsRequest {})).await;
        reply.map(|reply| reply.into_inner().runs).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn show(&mut self, run: &str) -> Result<v1::RunDetail, Failure> {
        let reply = self.client.show_run(call(v1::RunRequest { run: run.to_owned() })).await;
        match reply {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(self.run_failure(run, &status).await),
        }
    }

    pub(crate) async fn control(
        &mut self,
        run: &str,
        command: v1::RunCommand,
    ) -> Result<v1::RunSummary, Failure> {
        let request = v1::ControlRunRequest { run: run.to_owned(), command: command.into() };
        match self.client.control_run(call(request)).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(self.run_failure(run, &status).await),
        }
    }

    pub(crate) async fn workers(&mut self) -> Result<Vec<v1::WorkerSummary>, Failure> {
        let reply = self.client.list_workers(call(v1::ListWorkersRequest {})).await;
        reply.map(|reply| reply.into_inner().workers).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn release(&mut self, worker: &str) -> Result<v1::WorkerSummary, Failure> {
        let reply =
            self.client.release_worker(call(v1::ReleaseWorkerRequest { worker: worker.to_owned() })).await;
        let status = match reply {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) => status,
        };
        if status.code() != tonic::Code::NotFound {
            return Err(self.failure(&status));
        }
        let known: Vec<String> = self.workers().await?.into_iter().map(|worker| worker.name).collect();
        let known = if known.is_empty() {
            "there are none yet".into()
        } else {
            format!("known: {}", known.join(", "))
        };
        Err(Failure::new(Code::NotFound, format!("no worker `{worker}`; {known}")))
    }

    pub(crate) async fn ledgers(&mut self, dataset: &str) -> Result<Vec<v1::Ledger>, Failure> {
        let request = v1::ReadLedgersRequest { dataset: dataset.to_owned() };
        let reply = self.client.read_ledgers(call(request)).await;
        reply.map(|reply| reply.into_inner().ledgers).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn reset_ledger(&mut self, dataset: &str, reason: &str) -> Result<v1::Ledger, Failure> {
        let request = v1::ResetLedgerRequest { dataset: dataset.to_owned(), reason: reason.to_owned() };
        let reply = self.client.reset_ledger(call(request)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn create_token(
        &mut self,
        request: v1::CreateTokenRequest,
    ) -> Result<v1::JoinToken, Failure> {
        let reply = self.access.create_token(call(request)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn identities(&mut self) -> Result<v1::IdentityList, Failure> {
        let reply = self.access.list_identities(call(v1::ListIdentitiesRequest {})).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn revoke(
        &mut self,
        request: v1::RevokeIdentityRequest,
    ) -> Result<v1::IdentitySummary, Failure> {
        let reply = self.access.revoke_identity(call(request)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn audit(&mut self, from: u64) -> Result<tonic::Streaming<v1::AuditEntry>, Failure> {
        let reply = self.access.read_audit(v1::ReadAuditRequest { from }).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }
}

/// What a failed call means for the person who made it.
pub(crate) fn failure(url: &str, status: &Status) -> Failure {
    use tonic::Code as Grpc;
    let text = status.message();
    match status.code() {
        Grpc::InvalidArgument => Failure::usage(text),
        Grpc::NotFound => Failure::new(Code::NotFound, text),
        Grpc::FailedPrecondition | Grpc::AlreadyExists | Grpc::ResourceExhausted => {
            Failure::new(Code::Failed, text)
        }
        Grpc::Unauthenticated | Grpc::PermissionDenied => Failure::new(Code::Denied, text),
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Unknown => {
            unreachable(url, &chain(status))
        }
        Grpc::Unimplemented => Failure::new(
            Code::Unavailable,
            format!("{url} is not a coordinator of this version of starling: {text}"),
        ),
        code => Failure::internal(format!("{code}: {text}")),
    }
}

/// A unary request with the deadline of the wire.
fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limits::CALL);
    request
}

fn unknown_run(run: &str, runs: &[v1::RunSummary]) -> String {
    if runs.is_empty() {
        return format!("no run `{run}`; there are no runs yet");
    }
    let near = nearest(run, runs.iter().map(|known| known.id.as_str()));
    let near = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
    let ids: Vec<&str> = runs.iter().map(|known| known.id.as_str()).collect();
    format!("no run `{run}`; known: {}{near}", ids.join(", "))
}

fn unreachable(url: &str, why: &str) -> Failure {
    let text = format!(
        "no coordinator answers at {url} ({why}); check that `starling coordinator` is running there, that \
         host and port are right (--coordinator or STARLING_COORDINATOR), and that no firewall is between"
    );
    Failure::new(Code::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_run_is_answered_with_the_known_ones() {
        let run = |id: &str| v1::RunSummary { id: id.into(), ..v1::RunSummary::default() };
        assert_eq!(unknown_run("a", &[]), "no run `a`; there are no runs yet");
        let text = unknown_run("mnits-1", &[run("mnist-1"), run("plays-2")]);
        assert_eq!(text, "no run `mnits-1`; known: mnist-1, plays-2 (did you mean `mnist-1`?)");
    }

    #[tokio::test]
    async fn a_wrong_address_is_told_from_an_absent_coordinator() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (url, code, want) in [
            ("https://127.0.0.1:1", Code::Usage, "--identity"),
            ("127.0.0.1:7077", Code::Usage, "https://HOST:PORT"),
            ("http://far.example:7077", Code::Usage, "--insecure"),
            (&format!("http://{free}"), Code::Unavailable, "starling coordinator"),
        ] {
            let target = Target { coordinator: url.to_owned(), identity: None, insecure: false };
            let failure = Operator::connect(&target).await.unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(want) && failure.message.contains(url), "{failure}");
        }
    }
}
