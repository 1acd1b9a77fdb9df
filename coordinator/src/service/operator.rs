//! `starling.v1.Operator`: submitting, watching and steering runs.

use super::{Service, download, draining, peer_of};
use crate::{
    access::{audit::Action, noted},
    machine,
    private::Guard,
    run::{Actor, Command, RunHandle},
    store::{RunRecord, Stored, StoredEvent},
};
use algorithms::average::Averages;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use proto::{
    digest::Digest,
    spec::RunSpec,
    v1::{
        self, ErrorCode, Event, ExportHeader, ExportMessage, RunState, RunSummary, export_message::Body,
        operator_server::Operator,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Events read from the store at a time.
const PAGE: usize = 256;

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Operator for Service {
    type WatchRunStream = Outgoing<Event>;
    type ExportRunStream = Outgoing<ExportMessage>;

    async fn submit_run(
        &self,
        request: Request<v1::SubmitRunRequest>,
    ) -> Result<Response<RunSummary>, Status> {
        if self.parts.stop.is_cancelled() {
            return Err(draining());
        }
        let peer = peer_of(&request)?;
        let spec = RunSpec::from_toml(&request.into_inner().spec)
            .and_then(RunSpec::for_coordinator)
            .map_err(|error| ErrorCode::Spec.status(error.to_string()))?;
        let _one_at_a_time = self.submission.lock().await;
        let active = self.fleet().runs().iter().filter(|run| !run.log.borrow().1).count();
        if active >= self.parts.config.runs_max {
            let detail =
                format!("{active} runs are active, the operator's limit; cancel one or raise `runs_max`");
            return Err(ErrorCode::Limit.status(detail));
        }
        let service = self.clone();
        let (record, guard) = tokio::task::spawn_blocking(move || service.prepare(spec))
            .await
            .map_err(|error| ErrorCode::Store.status(error.to_string()))??;
        let event = proto::event::RunEvent::Submitted { name: record.spec.name.clone() };
        let submitted = StoredEvent { sequence: 0, time_ms: self.parts.clock.unix_ms(), event };
        self.save_first(&record, &[submitted], guard.as_deref())?;
        let summary = self.start_run(record, guard)?;
        self.parts.access.note(noted(&peer, Action::Submitted, summary.id.as_str()));
        Ok(Response::new(summary))
    }

    async fn list_runs(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::RunList>, Status> {
        let runs = self.fleet().runs().iter().map(|run| run.summary.borrow().clone()).collect();
        Ok(Response::new(v1::RunList { runs }))
    }

    async fn show_run(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::RunDetail>, Status> {
        let run = self.run(&request.into_inner().run)?;
        let detail = run.ask(|reply| Command::Show { reply }).await.ok_or_else(draining)?;
        Ok(Response::new(detail))
    }

    async fn watch_run(
        &self,
        request: Request<v1::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let request = request.into_inner();
        let run = self.run(&request.run)?;
        let (sender, events) = mpsc::channel(PAGE);
        let service = self.clone();
        self.tasks.spawn(async move {
            let stop = service.parts.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => drop(sender.try_send(Err(draining()))),
                () = service.follow(run, request.from, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn control_run(
        &self,
        request: Request<v1::ControlRunRequest>,
    ) -> Result<Response<RunSummary>, Status> {
        let peer = peer_of(&request)?;
        let request = request.into_inner();
        let run = self.run(&request.run)?;
        let (command, action) = match request.command() {
            v1::RunCommand::Pause => (machine::Command::Pause, Action::Paused),
            v1::RunCommand::Resume => (machine::Command::Resume, Action::Resumed),
            v1::RunCommand::Cancel => (machine::Command::Cancel, Action::Cancelled),
            v1::RunCommand::Unspecified => {
                return Err(ErrorCode::Malformed.status("expected pause, resume or cancel"));
            }
        };
        let state = run.summary.borrow().state();
        if matches!(state, RunState::Finished | RunState::Cancelled | RunState::Failed | RunState::Exhausted)
        {
            let label = state.as_str_name().trim_start_matches("RUN_STATE_").to_lowercase();
            return Err(ErrorCode::State.status(format!("run `{}` is {label}", run.shared.id)));
        }
        let summary = run.ask(|reply| Command::Control { command, reply }).await.ok_or_else(draining)?;
        self.parts.access.note(noted(&peer, action, summary.id.as_str()));
        Ok(Response::new(summary))
    }

    async fn export_run(
        &self,
        request: Request<v1::ExportRequest>,
    ) -> Result<Response<Self::ExportRunStream>, Status> {
        let peer = peer_of(&request)?;
        let request = request.into_inner();
        let run = self.run(&request.run)?;
        self.parts.access.note(noted(&peer, Action::Exported, run.shared.id.as_str()));
        let store = Arc::clone(&self.parts.store);
        let id = run.shared.id.clone();
        let record = tokio::task::spawn_blocking(move || {
            store.runs().map(|runs| runs.into_iter().find(|record| record.id == id))
        })
        .await
        .map_err(|error| ErrorCode::Store.status(error.to_string()))?
        .map_err(|error| ErrorCode::Store.status(error.to_string()))?
        .ok_or_else(|| ErrorCode::NotFound.status("the run is not in the store"))?;
        let digest = exported(&record, &request.average)?;
        let reader = self
            .parts
            .store
            .blobs()
            .reader(digest)
            .map_err(|error| ErrorCode::Store.status(error.to_string()))?
            .ok_or_else(|| ErrorCode::NotFound.status("a newer model was committed just now; ask again"))?;
        let offset = if request.digest == digest.0 { request.offset } else { 0 };
        let header = stream::iter([Ok(Body::Header(export_header(&record, digest, request.average)))]);
        let chunks = download::chunks(digest, reader, offset).map_ok(Body::Chunk);
        let messages = header.chain(chunks).map_ok(|body| ExportMessage { body: Some(body) });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::WorkerList>, Status> {
        Ok(Response::new(v1::WorkerList { workers: self.fleet().workers() }))
    }

    async fn read_ledgers(
        &self,
        request: Request<v1::ReadLedgersRequest>,
    ) -> Result<Response<v1::LedgerList>, Status> {
        self.ledgers(request.into_inner()).await.map(Response::new)
    }

    async fn reset_ledger(
        &self,
        request: Request<v1::ResetLedgerRequest>,
    ) -> Result<Response<v1::Ledger>, Status> {
        let peer = peer_of(&request)?;
        self.reset(&peer, request.into_inner()).await.map(Response::new)
    }

    async fn release_worker(
        &self,
        request: Request<v1::ReleaseWorkerRequest>,
    ) -> Result<Response<v1::WorkerSummary>, Status> {
        let peer = peer_of(&request)?;
        let worker = request.into_inner().worker;
        self.parts.access.note(noted(&peer, Action::Released, worker.chars().take(80).collect::<String>()));
        self.fleet().set_quarantine(&worker, false).await;
        let known = self.fleet().workers().into_iter().find(|known| known.name == worker);
        known.map(Response::new).ok_or_else(|| {
            let short: String = worker.chars().take(80).collect();
            ErrorCode::NotFound
                .status(format!("no worker `{short}` has connected since the coordinator started"))
        })
    }
}

impl Service {
    /// Builds the model and writes the run's first record. On a blocking thread.
    fn prepare(&self, spec: RunSpec) -> Result<(RunRecord, Option<Arc<Guard>>), Status> {
        let model = self.parts.host.open(&spec).map_err(|error| ErrorCode::Spec.status(error))?;
        let store_error = |error: crate::StoreError| ErrorCode::Store.status(error.to_string());
        let algorithm = spec.algorithm.make().map_err(|error| ErrorCode::Spec.status(error.to_string()))?;
        let length = model.initial.len();
        // Before anything is stored: a run of which this is an error could not be taken up again.
        spec.packing(algorithm.as_ref(), &model.tensors)
            .map_err(|error| ErrorCode::Spec.status(error.to_string()))?;
        let guard = Guard::of(&spec, algorithm.as_ref(), length)
            .map_err(|error| ErrorCode::Spec.status(error.to_string()))?;
        let privacy = guard.as_ref().map(|guard| self.promise(guard, &spec)).transpose()?;
        let blobs = self.parts.store.blobs();
        let server = algorithms::fresh_server(algorithm.as_ref(), Arc::new(model.initial));
        let put = |(name, vector)| Ok((name, blobs.put(&vector)?));
        let vectors = server.into_iter().map(put).collect::<Result<_, _>>().map_err(store_error)?;
        let number = self.parts.store.next_number().map_err(store_error)?;
        let record = RunRecord {
            id: format!("{}-{number}", spec.name),
            number,
            spec,
            state: Stored::Active {},
            tensors: model.tensors,
            vectors,
            length: length as u64,
            lengths: BTreeMap::new(),
            round: 0,
            opening: None,
            members: BTreeSet::new(),
            population_before: 0,
            committed: BTreeMap::new(),
            recalled: BTreeMap::new(),
            privacy,
            participations: BTreeMap::new(),
            ongoing: None,
            versions: BTreeMap::new(),
            profiles: BTreeMap::new(),
        };
        Ok((record, guard.map(Arc::new)))
    }

    /// Sets the task of a stored run going.
    pub(crate) fn restart_run(&self, record: RunRecord) -> Result<RunSummary, Status> {
        let spec_error = |error: proto::spec::SpecError| ErrorCode::Spec.status(error.to_string());
        let algorithm =
            record.spec.algorithm.make().map_err(|error| ErrorCode::Spec.status(error.to_string()))?;
        let guard =
            Guard::of(&record.spec, algorithm.as_ref(), record.length as usize).map_err(spec_error)?;
        self.start_run(record, guard.map(Arc::new))
    }

    fn start_run(&self, record: RunRecord, guard: Option<Arc<Guard>>) -> Result<RunSummary, Status> {
        let (id, vectors) = (record.id.clone(), record.digests());
        let (actor, handle) =
            Actor::new(self.parts.clone(), record, guard).map_err(|error| ErrorCode::Spec.status(error))?;
        let summary = handle.summary.borrow().clone();
        self.fleet().add_run(handle);
        self.fleet().keep_vectors(&id, vectors);
        self.tasks.spawn(actor.run());
        Ok(summary)
    }

    /// Sends a run's log from a sequence number on, then live, until the run has ended.
    async fn follow(&self, run: RunHandle, mut from: u64, sender: &mpsc::Sender<Result<Event, Status>>) {
        let mut log = run.log.clone();
        loop {
            let (next, ended) = *log.borrow_and_update();
            while from < next {
                let (store, id) = (Arc::clone(&self.parts.store), run.shared.id.clone());
                let page = tokio::task::spawn_blocking(move || store.events(&id, from, PAGE)).await;
                let events = match page {
                    Ok(Ok(events)) if !events.is_empty() => events,
                    Ok(Ok(_)) => break,
                    Ok(Err(error)) => {
                        return drop(sender.send(Err(ErrorCode::Store.status(error.to_string()))).await);
                    }
                    Err(error) => {
                        return drop(sender.send(Err(ErrorCode::Store.status(error.to_string()))).await);
                    }
                };
                for event in events {
                    from = event.sequence + 1;
                    let body = serde_json::to_string(&event.event).unwrap_or_default();
                    let event = Event { sequence: event.sequence, time_ms: event.time_ms, body };
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
            }
            if ended || log.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Which of a run's vectors is asked for.
fn exported(record: &RunRecord, average: &str) -> Result<Digest, Status> {
    if average.is_empty() {
        return Ok(record.vectors[algorithms::MODEL]);
    }
    let kept = || record.spec.average.iter().flat_map(Averages::kept);
    let Some((which, start)) = kept().find(|(which, _)| which.name() == average) else {
        let short: String = average.chars().take(80).collect();
        let names: Vec<&str> = kept().map(|(which, _)| which.name()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(ErrorCode::NotFound.status(format!(
            "run `{}` keeps no average `{short}`; it keeps {there} (section `[average]` of its run file)",
            record.id
        )));
    };
    record.vectors.get(&which.vector()).copied().ok_or_else(|| {
        ErrorCode::State.status(format!(
            "the average `{average}` of run `{}` begins with round {start}; {} rounds are committed",
            record.id, record.round
        ))
    })
}

fn export_header(record: &RunRecord, digest: Digest, average: String) -> ExportHeader {
    let tensors = record.tensors.iter().map(|(name, shape)| v1::Tensor {
        name: name.clone(),
        shape: shape.iter().map(|size| *size as u64).collect(),
    });
    ExportHeader {
        run: record.id.clone(),
        name: record.spec.name.clone(),
        round: record.round.checked_sub(1),
        model: Some(v1::VectorRef {
            name: algorithms::MODEL.to_owned(),
            digest: digest.0.to_vec(),
            length: record.length,
        }),
        tensors: tensors.collect(),
        average,
    }
}
