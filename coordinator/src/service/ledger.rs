//! The privacy ledgers over the wire, and what a submission must satisfy to be promised anything.

use super::Service;
use crate::{
    access::{audit::Action, noted},
    private::{Active, Guard, Standing},
    run::{RunHandle, payment},
    store::{Release, RunRecord, StoreError, StoredEvent},
    transport::Peer,
};
use privacy::Journal;
use proto::{
    spec::RunSpec,
    v1::{self, ErrorCode},
};
use std::sync::Arc;
use tonic::Status;

/// Longest reason of a reset, in characters.
const REASON_MAX: usize = 500;

fn store_error(error: &StoreError) -> Status {
    ErrorCode::Store.status(error.to_string())
}

fn ledger(journal: &Journal) -> v1::Ledger {
    v1::Ledger { dataset: journal.dataset().to_owned(), journal: journal.export() }
}

impl Service {
    /// How a private run starts, if all of its rounds fit the budget. On a blocking thread.
    pub(super) fn promise(&self, guard: &Guard, spec: &RunSpec) -> Result<Standing, Status> {
        let refuse = |detail: String| ErrorCode::Spec.status(format!("privacy: {detail}"));
        let privacy = guard.spec();
        // Before the ledger is read: what a run pays meanwhile counts twice rather than not at all.
        let runs: Vec<_> = self.paying_from(&spec.data.name).collect();
        let known = self.parts.store.journal(&spec.data.name).map_err(|error| store_error(&error))?;
        if let Some(journal) = &known
            && (journal.ledger().unit(), journal.ledger().adjacency())
                != (privacy.unit(), privacy.adjacency())
        {
            return Err(refuse(journal.other_promise()));
        }
        let journal = known
            .unwrap_or_else(|| Journal::open(&spec.data.name, privacy.unit(), privacy.adjacency()).into());
        let active = runs.iter().filter_map(|run| {
            let guard = run.shared.guard.as_deref()?;
            Some(Active { run: &run.shared.id, guard, rounds: run.shared.spec.rounds })
        });
        guard.admit(&journal, spec.rounds, &active.collect::<Vec<_>>()).map_err(refuse)?;
        guard.start().map_err(|error| ErrorCode::Store.status(error))
    }

    /// Writes a run's first record, with what it pays before its first round.
    pub(super) fn save_first(
        &self,
        record: &RunRecord,
        events: &[StoredEvent],
        guard: Option<&Guard>,
    ) -> Result<(), Status> {
        let store = &self.parts.store;
        let saved = match guard {
            None => store.save(record, events, None).map(|()| None),
            Some(guard) => {
                let payment = payment(guard, &record.spec.data.name, 0);
                store.release(record, events, None, &payment).map(Some)
            }
        };
        match saved.map_err(|error| store_error(&error))? {
            Some(Release::Refused(reason)) => Err(ErrorCode::Spec.status(format!("privacy: {reason}"))),
            _ => Ok(()),
        }
    }

    /// Private runs under way on a data set.
    fn paying_from(&self, dataset: &str) -> impl Iterator<Item = RunHandle> {
        self.fleet().runs().into_iter().filter(move |run| {
            run.shared.guard.is_some() && run.shared.spec.data.name == dataset && !run.log.borrow().1
        })
    }

    pub(super) async fn ledgers(&self, request: v1::ReadLedgersRequest) -> Result<v1::LedgerList, Status> {
        let store = Arc::clone(&self.parts.store);
        let journals = tokio::task::spawn_blocking(move || store.journals());
        let journals = journals.await.map_err(|error| ErrorCode::Store.status(error.to_string()))?;
        let journals = journals.map_err(|error| store_error(&error))?;
        let wanted = |journal: &&Journal| request.dataset.is_empty() || journal.dataset() == request.dataset;
        let ledgers: Vec<v1::Ledger> = journals.iter().filter(wanted).map(ledger).collect();
        if ledgers.is_empty() && !request.dataset.is_empty() {
            let known: Vec<&str> = journals.iter().map(Journal::dataset).collect();
            return Err(no_ledger(&request.dataset, &known));
        }
        Ok(v1::LedgerList { ledgers })
    }

    pub(super) async fn reset(
        &self,
        peer: &Peer,
        request: v1::ResetLedgerRequest,
    ) -> Result<v1::Ledger, Status> {
        let v1::ResetLedgerRequest { dataset, reason } = request;
        let reason = reason.trim().to_owned();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            let text = format!("a reset needs its reason, 1 to {REASON_MAX} characters: it is kept for ever");
            return Err(ErrorCode::Malformed.status(text));
        }
        // No run may be submitted meanwhile.
        let _one_at_a_time = self.submission.lock().await;
        if let Some(run) = self.paying_from(&dataset).next() {
            let id = &run.shared.id;
            return Err(ErrorCode::State.status(format!("run `{id}` pays from this ledger; cancel it first")));
        }
        let (store, name, why) = (Arc::clone(&self.parts.store), dataset.clone(), reason.clone());
        let reset = tokio::task::spawn_blocking(move || {
            let known = store.reset_ledger(&name, &why)?;
            Ok((known, store.journals()?))
        });
        let reset = reset.await.map_err(|error| ErrorCode::Store.status(error.to_string()))?;
        let (known, journals) = reset.map_err(|error: StoreError| store_error(&error))?;
        let journal = journals.iter().find(|journal| journal.dataset() == dataset);
        let (Some(_), Some(journal)) = (known, journal) else {
            let known: Vec<&str> = journals.iter().map(Journal::dataset).collect();
            return Err(no_ledger(&dataset, &known));
        };
        self.parts.access.note(noted(peer, Action::LedgerReset, format!("{dataset}: {reason}")));
        Ok(ledger(journal))
    }
}

fn no_ledger(dataset: &str, known: &[&str]) -> Status {
    let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
    let short: String = dataset.chars().take(80).collect();
    ErrorCode::NotFound.status(format!("no privacy ledger of `{short}`; known ledgers: {known}"))
}
