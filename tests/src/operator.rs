//! The operator's side of a test: submits, watches to an end that must come, takes models away.

use proto::{
    chunk::Assembler,
    digest::Digest,
    event::{Metrics, RunEvent},
    v1::{self, export_message::Body, operator_client::OperatorClient},
};
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, transport::Channel};

/// What a test waits for comes within this time or never.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A client that finds its coordinator again after a restart.
#[derive(Debug, Clone)]
pub struct Operator {
    client: OperatorClient<Channel>,
}

/// A channel to an address, opened when first used.
pub fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).expect("an address makes a URL").connect_lazy()
}

impl Operator {
    /// For the coordinator at that address.
    pub fn new(address: SocketAddr) -> Self {
        Self::over(channel(address))
    }

    /// On a channel that the test made.
    pub fn over(channel: Channel) -> Self {
        Self { client: OperatorClient::new(channel) }
    }

    /// Whether the coordinator answers.
    pub async fn is_up(&mut self) -> bool {
        self.client.list_runs(v1::ListRunsRequest {}).await.is_ok()
    }

    /// Submits a run file; gives the run's id.
    pub async fn submit(&mut self, spec: &str) -> String {
        let request = v1::SubmitRunRequest { spec: spec.to_owned() };
        self.client.submit_run(request).await.expect("the run file is good").into_inner().id
    }

    /// Submits a run file that is refused; gives the reason.
    pub async fn refused(&mut self, spec: &str) -> String {
        let request = v1::SubmitRunRequest { spec: spec.to_owned() };
        self.client.submit_run(request).await.expect_err("the run file is refused").message().to_owned()
    }

    /// The privacy ledger of a data set, as it would be exported.
    pub async fn ledger(&mut self, dataset: &str) -> Result<String, Status> {
        let request = v1::ReadLedgersRequest { dataset: dataset.to_owned() };
        let mut ledgers = self.client.read_ledgers(request).await?.into_inner().ledgers;
        Ok(ledgers.remove(0).journal)
    }

    /// Asks for a privacy ledger to count anew.
    pub async fn reset(&mut self, dataset: &str, reason: &str) -> Result<String, Status> {
        let request = v1::ResetLedgerRequest { dataset: dataset.to_owned(), reason: reason.to_owned() };
        Ok(self.client.reset_ledger(request).await?.into_inner().journal)
    }

    /// Everything about a run.
    pub async fn show(&mut self, run: &str) -> v1::RunDetail {
        let request = v1::RunRequest { run: run.to_owned() };
        self.client.show_run(request).await.expect("the run is known").into_inner()
    }

    /// The run's state.
    pub async fn state(&mut self, run: &str) -> v1::RunState {
        self.show(run).await.summary.expect("a run has a summary").state()
    }

    /// One line per committed round, as the store has them.
    pub async fn metrics(&mut self, run: &str) -> Vec<Metrics> {
        self.try_metrics(run).await.expect("the run is known")
    }

    /// As [`Self::metrics`], from a coordinator that may be down.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn try_metrics(&mut self, run: &str) -> Result<Vec<Metrics>, Status> {
        let request = v1::RunRequest { run: run.to_owned() };
        let lines = self.client.show_run(request).await?.into_inner().metrics;
        Ok(lines.iter().map(|line| serde_json::from_str(line).expect("a line of metrics")).collect())
    }

    /// The model's digest after each committed round.
    pub async fn digests(&mut self, run: &str) -> Vec<Digest> {
        self.metrics(run).await.into_iter().map(|line| line.model_digest).collect()
    }

    /// Pauses, resumes, cancels.
    pub async fn control(&mut self, run: &str, command: v1::RunCommand) -> v1::RunSummary {
        let request = v1::ControlRunRequest { run: run.to_owned(), command: command.into() };
        self.client.control_run(request).await.expect("the command is possible").into_inner()
    }

    /// A worker as the coordinator knows it.
    pub async fn worker(&mut self, name: &str) -> Option<v1::WorkerSummary> {
        let workers = self.client.list_workers(v1::ListWorkersRequest {}).await.expect("the list is given");
        workers.into_inner().workers.into_iter().find(|worker| worker.name == name)
    }

    /// Releases a worker from quarantine.
    pub async fn release(&mut self, worker: &str) -> v1::WorkerSummary {
        let request = v1::ReleaseWorkerRequest { worker: worker.to_owned() };
        self.client.release_worker(request).await.expect("the worker is known").into_inner()
    }

    /// The run's events from the first to the one that is waited for; finds them again over restarts of
    /// the coordinator.
    ///
    /// # Panics
    /// If it does not come within [`PATIENCE`], or the run ends without it.
    pub async fn watch(&mut self, run: &str, wanted: impl Fn(&RunEvent) -> bool) -> Vec<RunEvent> {
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.follow(run, &mut seen, &wanted)).await {
                Ok(Ok(true)) => return seen,
                Ok(Ok(false)) => panic!("{run} ended without what was waited for: {seen:#?}"),
                Ok(Err(_)) => sleep(Duration::from_millis(50)).await,
                Err(_) => break,
            }
        }
        panic!("{run}: what was waited for did not come within {PATIENCE:?}: {seen:#?}");
    }

    /// Adds the run's events to those that were seen, until one is wanted (true) or the stream ends.
    ///
    /// # Errors
    /// If the call fails; whoever calls may go on.
    pub async fn follow(
        &mut self,
        run: &str,
        seen: &mut Vec<RunEvent>,
        wanted: &impl Fn(&RunEvent) -> bool,
    ) -> Result<bool, Status> {
        let request = v1::WatchRunRequest { run: run.to_owned(), from: seen.len() as u64 };
        let mut events = self.client.watch_run(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            assert_eq!(event.sequence, seen.len() as u64, "events have no gaps");
            seen.push(serde_json::from_str(&event.body).expect("an event is one of the known kinds"));
            if seen.last().is_some_and(wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All events of a run that must finish.
    pub async fn finished(&mut self, run: &str) -> Vec<RunEvent> {
        let events = self.watch(run, RunEvent::is_last).await;
        assert!(matches!(events.last(), Some(RunEvent::Finished { .. })), "{run}: {events:#?}");
        events
    }

    /// Waits until a round is committed.
    pub async fn committed(&mut self, run: &str, wanted: u64) {
        self.watch(run, |event| matches!(event, RunEvent::RoundCommitted { round, .. } if *round == wanted))
            .await;
    }

    /// The newest committed model, checked against the digest in its header.
    pub async fn export(&mut self, run: &str) -> Result<(v1::ExportHeader, Vec<f32>), Status> {
        self.export_average(run, "").await
    }

    /// The same of an average that the run keeps.
    pub async fn export_average(
        &mut self,
        run: &str,
        average: &str,
    ) -> Result<(v1::ExportHeader, Vec<f32>), Status> {
        let (run, average) = (run.to_owned(), average.to_owned());
        let request = v1::ExportRequest { run, average, ..v1::ExportRequest::default() };
        let mut messages = self.client.export_run(request).await?.into_inner();
        let Some(Body::Header(header)) = messages.message().await?.and_then(|message| message.body) else {
            panic!("an export begins with its header")
        };
        let model = header.model.clone().expect("the header names the model");
        let digest = Digest::from_bytes(&model.digest).expect("the header has a digest");
        let mut assembler = Assembler::new(model.length as usize, digest);
        while let Some(message) = messages.message().await? {
            let Some(Body::Chunk(chunk)) = message.body else { panic!("chunks follow the header") };
            assembler.push(&chunk).expect("chunks come in order");
        }
        Ok((header, assembler.finish().expect("the model is the announced one")))
    }
}
