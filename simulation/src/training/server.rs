//! The coordinator's side of a simulation: the server's vectors, the accumulators and the record, with
//! the coordinator's own store beneath.

use super::{
    Line, Setup, SimulationError, Stop, client_index, client_name,
    files::Metrics,
    flow::Buffer,
    liars::Liars,
    private::{self, Private},
    round::Paused,
    secrets::Secrets,
    shares::Shares,
    states::States,
    stragglers::slowness,
};
use algorithms::{
    Algorithm, MODEL, Vector, Vectors, average::Average, compress::Packing, fold::Accumulator, personal::Own,
};
use coordinator::{
    Spool,
    private::Guard,
    store::{RunRecord, Store, Stored},
};
use proto::{digest::Digest, spec::RunSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use worker::{
    data::Dataset,
    engine::{Model, save_safetensors},
    trainer::{Promise, ShareMaker},
};

/// What was in the making when the program ended; removed when a simulation is finished.
pub(crate) const STATE: &str = "state";
const CLIENTS: &str = "clients";
const STORE: &str = "store";

/// The coordinator's side.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) spec: Arc<RunSpec>,
    pub(super) algorithm: &'a dyn Algorithm,
    pub(super) model: &'a Model,
    pub(super) shares: &'a Shares,
    pub(super) test: Option<&'a Dataset>,
    pub(super) threads: usize,
    pub(super) store: &'a Store,
    pub(super) states: &'a Mutex<States>,
    pub(super) maker: Option<&'a ShareMaker>,
    pub(super) own: Option<&'a Own>,
    pub(super) record: RunRecord,
    pub(super) vectors: Vectors,
    pub(super) accumulators: Vec<Accumulator>,
    /// The updates of the open round, where the combiner needs them all.
    pub(super) spool: Option<Spool>,
    pub(super) liars: Option<Liars>,
    /// How many times as long a step takes on each client.
    pub(super) slowness: Vec<f64>,
    /// In a run without rounds, and the mean of what was buffered when a version is committed.
    pub(super) ready: Option<Vectors>,
    pub(super) buffer: Buffer,
    /// Where what is in the making lies.
    pub(super) folder: PathBuf,
    pub(super) private: Option<Private<'a>>,
    pub(super) secrets: &'a Secrets,
    pub(super) metrics: Metrics<Line>,
    pub(super) bytes: (u64, u64),
    /// Put into quarantine since the last checkpoint.
    pub(super) quarantined: Vec<String>,
    pub(super) stop: Stop,
    checkpoint: Duration,
    written: Instant,
}

/// What is opened before the threads start.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) algorithm: Box<dyn Algorithm>,
    pub(super) packing: Option<Packing>,
    pub(super) own: Option<Own>,
    pub(super) model: Model,
    pub(super) shares: Shares,
    pub(super) store: Store,
    pub(super) states: Mutex<States>,
    pub(super) promise: Option<Arc<Promise>>,
    pub(super) secrets: Secrets,
    guard: Option<Guard>,
    maker: Option<ShareMaker>,
    record: RunRecord,
    vectors: Vectors,
}

impl Opened {
    /// Checks the set-up, divides the data, and reads what an interrupted simulation left.
    pub(super) fn new(setup: &Setup, paused: Option<&Paused>) -> Result<Self, SimulationError> {
        let Setup { spec, clients, train, .. } = setup;
        let wrong = |text: String| SimulationError::Setup(text);
        if *clients == 0 {
            return Err(wrong("0 clients, expected at least 1".into()));
        }
        let mut algorithm = spec.algorithm.make().map_err(|error| wrong(error.to_string()))?;
        let division = spec.data.partition.as_ref().ok_or_else(|| {
            wrong("data.partition: missing; expected how the data is divided among the clients, e.g. { kind = \"iid\" }".into())
        })?;
        let model = Model::new(&spec.model, train.info()).map_err(|error| wrong(error.to_string()))?;
        let model = model.placed(&setup.placement);
        let tensors: Vec<Vec<usize>> = model.tensors().iter().map(|tensor| tensor.shape.clone()).collect();
        algorithm.lay_out(&tensors);
        let mut shares = Shares::divide(train, division, *clients, spec.seed)?;
        if let Some(liars) = Liars::of(spec, *clients, train)? {
            shares.flip(liars.flipped());
        }
        let guard = private::guard(spec, algorithm.as_ref(), (*clients, model.parameters()))?;
        let made = ShareMaker::of(&Arc::new(spec.clone()), algorithm.as_ref(), model.parameters());
        let maker = made.map_err(|error| wrong(error.to_string()))?;
        if spec.asynchronous.is_some() && paused.is_none() {
            clear(&setup.folder)?;
        }
        let folder = setup.folder.join(STATE);
        std::fs::create_dir_all(&folder).map_err(|error| SimulationError::file(&folder, error))?;
        let store = Store::open(&folder.join(STORE))?;
        let same = |record: &RunRecord| record.spec == *spec && record.members.len() == *clients;
        let known = store.runs()?.pop().filter(same);
        let secrets = Secrets::open(setup, &folder, known.is_some())?;
        let (record, vectors) = if let Some(paused) = paused {
            paused.server()
        } else if let Some(record) = known {
            let read = |(name, digest): (&String, &Digest)| {
                Ok((name.clone(), store.blobs().get(*digest, Vec::new)?))
            };
            let vectors = record.vectors.iter().map(read).collect::<Result<_, SimulationError>>()?;
            (record, vectors)
        } else {
            let (mut record, vectors) = fresh(spec, &model, *clients, algorithm.as_ref());
            record.privacy = guard.as_ref().map(|guard| private::start(guard, &secrets)).transpose()?;
            (record, vectors)
        };
        let packing = spec
            .packing(algorithm.as_ref(), &model.named_shapes())
            .map_err(|error| wrong(error.to_string()))?;
        let own = spec.own(&model.named_shapes()).map_err(|error| wrong(error.to_string()))?;
        let stateful = spec.has_client_state(algorithm.as_ref());
        let counted = if stateful { counted(&record) } else { BTreeMap::new() };
        let kind = &spec.algorithm.kind;
        let states = Mutex::new(States::open(folder.join(CLIENTS), kind, &counted, setup.memory)?);
        let promise = Promise::of(spec, algorithm.as_ref(), model.parameters());
        let promise = promise.map_err(|error| wrong(error.to_string()))?.map(Arc::new);
        Ok(Self {
            algorithm,
            packing,
            own,
            model,
            shares,
            store,
            states,
            promise,
            secrets,
            guard,
            maker,
            record,
            vectors,
        })
    }

    /// The server over it.
    pub(super) fn server<'a>(&'a self, setup: &'a Setup) -> Result<Server<'a>, SimulationError> {
        let record = self.record.clone();
        Ok(Server {
            spec: Arc::new(setup.spec.clone()),
            algorithm: self.algorithm.as_ref(),
            model: &self.model,
            shares: &self.shares,
            test: setup.test.as_ref(),
            threads: setup.threads.max(1),
            store: &self.store,
            states: &self.states,
            maker: self.maker.as_ref(),
            own: self.own.as_ref(),
            vectors: self.vectors.clone(),
            accumulators: Vec::new(),
            spool: None,
            liars: Liars::of(&setup.spec, setup.clients, &setup.train)?,
            slowness: slowness(&setup.spec, setup.clients),
            ready: None,
            buffer: Buffer::default(),
            folder: setup.folder.join(STATE),
            private: self
                .guard
                .as_ref()
                .map(|guard| Private::open(guard, &setup.folder, &record))
                .transpose()?,
            secrets: &self.secrets,
            metrics: Metrics::open(&setup.folder, record.round)?,
            record,
            bytes: (0, 0),
            quarantined: Vec::new(),
            stop: setup.stop.clone(),
            checkpoint: setup.checkpoint,
            written: Instant::now(),
        })
    }
}

fn counted(record: &RunRecord) -> BTreeMap<usize, u64> {
    record.committed.iter().filter_map(|(name, round)| Some((client_index(name)?, *round))).collect()
}

/// A run before its first round, as the coordinator would submit it.
fn fresh(spec: &RunSpec, model: &Model, clients: usize, algorithm: &dyn Algorithm) -> (RunRecord, Vectors) {
    let vectors = algorithms::fresh_server(algorithm, Arc::new(model.initial(spec.seed)));
    let digest = |(name, vector): (&String, &Vector)| (name.clone(), Digest::of_vector(vector));
    let record = RunRecord {
        id: spec.name.clone(),
        number: 1,
        spec: spec.clone(),
        state: Stored::Active {},
        tensors: model.named_shapes(),
        vectors: vectors.iter().map(digest).collect(),
        length: vectors[MODEL].len() as u64,
        lengths: BTreeMap::new(),
        round: 0,
        opening: None,
        // All are there from the first round on: what a coordinator comes to that waits for all.
        members: (0..clients).map(client_name).collect(),
        population_before: clients,
        committed: BTreeMap::new(),
        recalled: BTreeMap::new(),
        privacy: None,
        participations: BTreeMap::new(),
        ongoing: None,
        versions: BTreeMap::new(),
        profiles: BTreeMap::new(),
    };
    (record, vectors)
}

impl Server<'_> {
    pub(super) fn states(&self) -> std::sync::MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable what is committed, if it is time for it.
    pub(super) fn checkpoint(&mut self, now: bool) -> Result<(), SimulationError> {
        if self.spec.asynchronous.is_some() {
            return Ok(());
        }
        // What is recalled of a round must outlive the round.
        let due = now || !self.algorithm.recalled().is_empty() || self.written.elapsed() >= self.checkpoint;
        if !due {
            return Ok(());
        }
        self.states().write()?;
        self.record.vectors = self.digests();
        let mut put = BTreeSet::new();
        for (name, vector) in &self.vectors {
            // The store counts how often a vector is put.
            if put.insert(self.record.vectors[name]) {
                self.store.blobs().put(vector)?;
            }
        }
        for client in self.quarantined.drain(..) {
            self.store.set_quarantine(&client, true)?;
        }
        self.store.save(&self.record, &[], None)?;
        self.store.blobs().named(&put);
        self.store.blobs().retain(&self.record.digests())?;
        self.states().clean();
        self.written = Instant::now();
        Ok(())
    }

    /// What a member of the cohort receives, what it receives again (name and digest), and how many bytes
    /// that are: what an assignment names twice travels once.
    pub(super) fn payload(&self, committed: Option<u64>) -> (Vectors, Vec<(String, Digest)>, u64) {
        let names = std::iter::once(MODEL).chain(self.algorithm.down().iter().copied());
        let named = |name: &str| Some((name.to_owned(), Arc::clone(self.vectors.get(name)?)));
        let down: Vectors = names.filter_map(named).collect();
        let then = committed.and_then(|round| self.record.recalled.get(&round));
        let again = |then: &BTreeMap<String, Digest>| {
            let pairs = self.algorithm.recalled().iter();
            let found = pairs.filter_map(|(name, under)| Some(((*under).to_owned(), *then.get(*name)?)));
            found.collect::<Vec<_>>()
        };
        let recalled = then.map(again).unwrap_or_default();
        let digests = down.keys().filter_map(|name| self.record.vectors.get(name).copied());
        let sent: BTreeSet<Digest> = digests.chain(recalled.iter().map(|(_, digest)| *digest)).collect();
        let packed = self.algorithm.packed().and_then(|name| self.vectors.get(name));
        let saved = packed.map_or(0, |packed| self.record.length - packed.len() as u64);
        (down, recalled, (sent.len() as u64 * self.record.length - saved) * 4)
    }

    /// One of the server's vectors as a file; `average`: what it is one of.
    pub(super) fn safetensors(
        &self,
        vector: &str,
        average: Option<&str>,
    ) -> Result<Vec<u8>, SimulationError> {
        let round = self.record.round.saturating_sub(1);
        let mut metadata = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            ("name".to_owned(), self.spec.name.clone()),
            ("round".to_owned(), round.to_string()),
            ("digest".to_owned(), self.record.vectors[vector].to_string()),
        ]);
        metadata.extend(average.map(|name| ("average".to_owned(), name.to_owned())));
        save_safetensors(self.model, &self.vectors[vector], &metadata)
            .map_err(|error| SimulationError::Failed(error.to_string()))
    }

    /// The averages of the model that there are, as files.
    pub(super) fn averages(&self) -> Result<BTreeMap<String, Vec<u8>>, SimulationError> {
        let kept = Average::ALL.iter().filter(|which| self.vectors.contains_key(&which.vector()));
        kept.map(|which| {
            let file = self.safetensors(&which.vector(), Some(which.name()))?;
            Ok((which.name().to_owned(), file))
        })
        .collect()
    }

    /// The digests of the server's vectors.
    pub(super) fn digests(&self) -> BTreeMap<String, Digest> {
        self.vectors.iter().map(|(name, vector)| (name.clone(), Digest::of_vector(vector))).collect()
    }
}

/// Removes what was in the making.
pub(crate) fn clear(folder: &std::path::Path) -> Result<(), SimulationError> {
    let state: PathBuf = folder.join(STATE);
    match std::fs::remove_dir_all(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SimulationError::file(state, error))
        }
        _ => Ok(()),
    }
}
