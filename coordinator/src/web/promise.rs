//! What a private run promised, and what its ledger says that this has cost: the ε of
//! `starling privacy ledger show` at the run's δ, unless the run file names another accountant.

use crate::private::Guard;
use page::view::Privacy;
use privacy::{Journal, accountants::report};

/// From a run's guard and the ledger of its data set.
pub(super) fn of(guard: &Guard, dataset: &str, journal: Option<&Journal>) -> Privacy {
    let (spec, plan) = (guard.spec(), guard.plan());
    let empty;
    let journal = if let Some(journal) = journal {
        journal
    } else {
        empty = Journal::open(dataset, spec.unit(), spec.adjacency());
        &empty
    };
    let ledger = journal.ledger();
    let spent = match plan.gate {
        Some(gate) => gate.epsilon(ledger),
        None => report::epsilon(ledger, spec.delta(), 1),
    };
    let word = serde_json::to_value(spec.mechanism()).unwrap_or_default();
    Privacy {
        dataset: dataset.to_owned(),
        unit: ledger.unit(),
        adjacency: ledger.adjacency(),
        mechanism: word.as_str().unwrap_or_default().to_owned(),
        sampling: serde_json::to_value(spec.sampling()).unwrap_or_default(),
        noise_multiplier: plan.noise_multiplier.get(),
        delta: spec.delta(),
        epsilon: Some(spent.epsilon).filter(|epsilon| epsilon.is_finite()),
        accountant: spent.accountant.name().to_owned(),
        budget: plan.gate.map(|gate| gate.budget.epsilon()),
        releases: ledger.events().iter().fold(0, |sum, event| sum.saturating_add(event.count.get())),
        resets: journal.resets(),
    }
}
