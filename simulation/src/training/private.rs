//! A simulated private run: the coordinator's guard around the sum, and the ledger beside the metrics.
//!
//! A simulation tells how good a private run would be and what it would cost. Its noise is as secret as a real
//! run's ([`super::secrets`]), so that the model that comes out of it keeps the promise.

use super::{SimulationError, secrets::Secrets, server::Server};
use algorithms::{Algorithm, RoundFacts, Vectors};
use coordinator::{
    machine::Counted,
    private::{Guard, Secret, Standing, Sum},
    store::RunRecord,
};
use privacy::{Journal, metrics::Told};
use proto::{spec::RunSpec, v1::RejectReason};
use std::{fs::File, io::Write, path::Path, path::PathBuf};

/// The ledger's file name.
const LEDGER: &str = "ledger.jsonl";

/// Guard, sum and ledger of a private run.
#[derive(Debug)]
pub(super) struct Private<'a> {
    guard: &'a Guard,
    sum: Option<Sum>,
    run: String,
    journal: Journal,
    file: File,
    path: PathBuf,
}

/// What a round releases.
#[derive(Debug)]
pub(super) enum Released {
    /// Nothing is promised.
    Open,
    /// Clients have added the noise; ε so far.
    Paid(f64),
    /// The sum with noise.
    Noised {
        /// Its means.
        means: Vectors,
        /// What the rule may know.
        facts: RoundFacts,
        /// ε so far.
        epsilon: f64,
        /// What may be told of the round.
        told: Option<Told>,
    },
}

/// The guard of a run, if all of its rounds fit its budget.
pub(super) fn guard(
    spec: &RunSpec,
    algorithm: &dyn Algorithm,
    (clients, length): (usize, usize),
) -> Result<Option<Guard>, SimulationError> {
    let wrong = |text: String| SimulationError::Setup(text);
    let Some(guard) = Guard::of(spec, algorithm, length).map_err(|error| wrong(error.to_string()))? else {
        return Ok(None);
    };
    let population = spec.cohort.population.unwrap_or(0);
    if guard.adds_noise() && population != clients as u64 {
        let text = format!("cohort.population is {population}, expected the number of clients, {clients}");
        return Err(wrong(text));
    }
    guard.admit(&opened(&guard, spec), spec.rounds, &[]).map_err(|text| wrong(format!("privacy: {text}")))?;
    Ok(Some(guard))
}

fn opened(guard: &Guard, spec: &RunSpec) -> Journal {
    Journal::open(&spec.data.name, guard.spec().unit(), guard.spec().adjacency())
}

/// How a private run starts.
pub(super) fn start(guard: &Guard, secrets: &Secrets) -> Result<Standing, SimulationError> {
    let mut standing = guard.start().map_err(SimulationError::Failed)?;
    standing.stream = standing.stream.map(|_| secrets.stream());
    Ok(standing)
}

impl<'a> Private<'a> {
    /// The ledger of a run that has done so many rounds as its record says: what they cost is known.
    pub(super) fn open(guard: &'a Guard, folder: &Path, record: &RunRecord) -> Result<Self, SimulationError> {
        let mut journal = opened(guard, &record.spec);
        for round in 0..=record.round {
            pay(guard, &mut journal, &record.id, round)?;
        }
        let path = folder.join(LEDGER);
        let made = File::create(&path).and_then(|mut file| {
            file.write_all(journal.export().as_bytes())?;
            Ok(file)
        });
        let file = made.map_err(|error| SimulationError::file(&path, error))?;
        Ok(Self { guard, sum: None, run: record.id.clone(), journal, file, path })
    }
}

fn pay(
    guard: &Guard,
    journal: &mut Journal,
    run: &str,
    round: u64,
) -> Result<Option<String>, SimulationError> {
    let Some(event) = guard.cost(round) else { return Ok(None) };
    let paid = journal.release(run, round, event.clone());
    paid.map(Some).map_err(|error| SimulationError::Failed(error.to_string()))
}

impl Server<'_> {
    /// Adds an update to the sum of a private run; `None`: the run promises nothing.
    pub(super) fn add_to_sum(
        &mut self,
        upload: &Vectors,
        loss: f64,
    ) -> Option<Result<(), (RejectReason, String)>> {
        let private = self.private.as_mut().filter(|private| private.guard.adds_noise())?;
        let standing = self.record.privacy.as_ref()?;
        let sum = match private.sum.take().map_or_else(|| private.guard.sum(standing), Ok) {
            Ok(sum) => private.sum.insert(sum),
            Err(detail) => return Some(Err((RejectReason::Range, detail))),
        };
        let values: Vec<f32> = upload.values().flat_map(|vector| vector.iter().copied()).collect();
        let added = sum.add(&values);
        if added.is_ok() {
            private.guard.count(sum, Some(loss));
        }
        Some(added)
    }

    /// Where there is a cap on the rounds of a client.
    pub(super) fn count_participations(&mut self, counted: &[Counted]) {
        if self.spec.privacy.as_ref().is_some_and(|privacy| privacy.participation().is_some()) {
            for counted in counted {
                *self.record.participations.entry(counted.worker.clone()).or_default() += 1;
            }
        }
    }

    pub(super) fn drop_sum(&mut self) {
        if let Some(private) = &mut self.private {
            private.sum = None;
        }
    }

    /// Pays for a round and releases its means: ledger first.
    pub(super) fn release(
        &mut self,
        round: u64,
        secret: Option<&Secret>,
    ) -> Result<Released, SimulationError> {
        let (lr, rotation) = (self.spec.lr(round), self.spec.rotation(round));
        let (Some(private), Some(standing)) = (&mut self.private, &mut self.record.privacy) else {
            return Ok(Released::Open);
        };
        let guard = private.guard;
        if let Some(line) = pay(guard, &mut private.journal, &private.run, round + 1)? {
            let written = private.file.write_all(line.as_bytes()).and_then(|()| private.file.sync_data());
            written.map_err(|error| SimulationError::file(&private.path, error))?;
        }
        let epsilon = guard.epsilon(&private.journal);
        if !guard.adds_noise() {
            return Ok(Released::Paid(epsilon));
        }
        let sum =
            private.sum.take().map_or_else(|| guard.sum(standing), Ok).map_err(SimulationError::Failed)?;
        let told = secret.map(|secret| guard.tell(&sum, round, secret)).transpose();
        let told = told.map_err(SimulationError::Failed)?.flatten();
        let means = match secret {
            Some(secret) => guard.release(standing, sum, (round, lr), secret),
            None => guard.release_shares(&sum, lr, rotation),
        };
        let means = means.map_err(SimulationError::Failed)?;
        Ok(Released::Noised { means, facts: guard.round_facts(), epsilon, told })
    }
}
