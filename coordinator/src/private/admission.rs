//! Whether a run fits a data set's budget, asked before its first round: on top of what the ledger holds,
//! and of what the runs that are under way have still to release.

use super::Guard;
use privacy::{Event, Gate, Journal, Ledger};
use std::num::NonZeroU64;

/// A run under way.
#[derive(Debug, Clone, Copy)]
pub struct Active<'a> {
    /// Its id, as the ledger knows it.
    pub run: &'a str,
    /// Its promise.
    pub guard: &'a Guard,
    /// All of its rounds.
    pub rounds: u64,
}

impl Active<'_> {
    /// Rounds that are not paid for yet.
    fn rest(self, journal: &Journal) -> Option<NonZeroU64> {
        NonZeroU64::new(self.rounds.saturating_sub(journal.rounds(self.run)))
    }
}

impl Guard {
    /// Whether a whole run fits on top of what the data set's ledger holds and of what others have still to
    /// release, within its own budget and within theirs.
    ///
    /// # Errors
    /// With the largest number of rounds that fits, and who holds the rest.
    pub fn admit(&self, journal: &Journal, rounds: u64, active: &[Active<'_>]) -> Result<(), String> {
        let Some((event, each)) = self.whole(rounds) else { return Ok(()) };
        let (mut ledger, mut holders) = (journal.ledger().clone(), Vec::new());
        for run in active {
            let Some((rest, each)) = run.rest(journal).zip(run.guard.plan().each_round.as_ref()) else {
                continue;
            };
            let event = Event { count: each.count.saturating_mul(rest), ..each.clone() };
            ledger.record(event).map_err(|error| error.to_string())?;
            holders.push(format!("`{}` ({rest} rounds)", run.run));
        }
        let gates = || {
            let others = active.iter().map(|run| (Some(run.run), run.guard.plan().gate.as_ref()));
            let own = std::iter::once((None, self.plan().gate.as_ref()));
            own.chain(others).filter_map(|(owner, gate)| Some((owner, gate?)))
        };
        let refused = gates().find_map(|(owner, gate)| Some((owner, gate.admit(&ledger, &event).err()?)));
        let Some((owner, error)) = refused else { return Ok(()) };
        let owner = owner.map_or_else(String::new, |run| format!("the budget of run `{run}`: "));
        let fits = fits(gates().map(|(_, gate)| gate), &ledger, each);
        let spent = gates().next().map_or(0.0, |(_, gate)| gate.epsilon(journal.ledger()).epsilon);
        let beside = match holders.as_slice() {
            [] => String::new(),
            holders => format!("; still to be released by runs under way: {}", holders.join(", ")),
        };
        let data = journal.dataset();
        Err(format!("{owner}{error}; {fits} (the ledger of `{data}` holds ε = {spent:.4} already{beside})"))
    }

    /// What all rounds of a run cost together, and one, unless all are paid for at once.
    fn whole(&self, rounds: u64) -> Option<(Event, Option<&Event>)> {
        if let Some(before) = &self.plan().before {
            return Some((before.clone(), None));
        }
        let each = self.plan().each_round.as_ref()?;
        let count = each.count.saturating_mul(NonZeroU64::new(rounds).unwrap_or(NonZeroU64::MIN));
        Some((Event { count, ..each.clone() }, Some(each)))
    }
}

fn fits<'a>(mut gates: impl Iterator<Item = &'a Gate>, ledger: &Ledger, each: Option<&Event>) -> String {
    let Some(each) = each else {
        return "this mechanism pays for all its rounds before the first".to_owned();
    };
    let most = gates.try_fold(u64::MAX, |most, gate| Ok(most.min(gate.rounds(ledger, each)?)));
    match most {
        Ok(0) => "not even one round fits".to_owned(),
        Ok(most) => format!("at most {most} rounds fit"),
        Err(error) => privacy::GateError::to_string(&error),
    }
}

#[cfg(test)]
mod tests;
