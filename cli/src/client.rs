//! Asking a coordinator: one connection, deadlines on every call, and errors that say what to check.

use crate::exit::{Code, Failure, chain};
use proto::{limits, nearest::nearest, v1, v1::operator_client::OperatorClient};
use std::time::Duration;
use tonic::{Request, Status, transport::Channel};

/// Where a coordinator is when nobody says so.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7077";

/// Flags of every command that asks a coordinator.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remote {
    /// The coordinator
    #[arg(long, value_name = "URL", env = "STARLING_COORDINATOR", default_value = DEFAULT_URL)]
    pub(crate) coordinator: String,
    /// Prints JSON instead of text: one object, or one a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A connection to a coordinator's `Operator` service.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) client: OperatorClient<Channel>,
    url: String,
}

impl Operator {
    /// Connects within 5 s.
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        if url.starts_with("https://") {
            let text = "TLS is not available in this version; expected http://HOST:PORT";
            return Err(Failure::usage(format!("--coordinator {url}: {text}")));
        }
        let wrong =
            |why: &str| Failure::usage(format!("--coordinator {url}: {why}, expected http://HOST:PORT"));
        if !url.starts_with("http://") {
            return Err(wrong("not an http:// address"));
        }
        let endpoint = Channel::from_shared(url.to_owned())
            .map_err(|error| wrong(&error.to_string()))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(limits::HEARTBEAT)
            .keep_alive_timeout(limits::SILENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::WINDOW_BYTES)
            .initial_connection_window_size(limits::WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|error| unreachable(url, &chain(&error)))?;
        let client = OperatorClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES);
        Ok(Self { client, url: url.to_owned() })
    }

    /// What a failed call means for the person who made it.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        use tonic::Code as Grpc;
        let text = status.message();
        match status.code() {
            Grpc::InvalidArgument => Failure::usage(text),
            Grpc::NotFound => Failure::new(Code::NotFound, text),
            Grpc::FailedPrecondition | Grpc::AlreadyExists | Grpc::ResourceExhausted => {
                Failure::new(Code::Failed, text)
            }
            Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Unknown => {
                unreachable(&self.url, &chain(status))
            }
            Grpc::Unimplemented => Failure::new(
                Code::Unavailable,
                format!("{} is not a coordinator of this version of starling: {text}", self.url),
            ),
            code => Failure::internal(format!("{code}: {text}")),
        }
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
            ("https://127.0.0.1:1", Code::Usage, "TLS"),
            ("127.0.0.1:7077", Code::Usage, "http://HOST:PORT"),
            (&format!("http://{free}"), Code::Unavailable, "starling coordinator"),
        ] {
            let failure = Operator::connect(url).await.unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(want) && failure.message.contains(url), "{failure}");
        }
    }
}
