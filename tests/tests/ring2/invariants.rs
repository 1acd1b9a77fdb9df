//! What must hold in every scene, seen from outside: by the event log and the metrics alone.

use crate::scene::Outcome;
use proto::event::RunEvent;
use std::collections::BTreeSet;

/// Rounds are committed in order, each once, and all of them.
pub(crate) fn monotone(outcome: &Outcome) -> Result<(), String> {
    let committed = outcome.events.iter().filter_map(|event| match event {
        RunEvent::RoundCommitted { round, .. } => Some(*round),
        _ => None,
    });
    let committed: Vec<u64> = committed.collect();
    let lines: Vec<u64> = outcome.metrics.iter().map(|line| line.round).collect();
    if committed != lines || lines.iter().enumerate().any(|(at, round)| at as u64 != *round) {
        return Err(format!("monotone: committed {committed:?}, metrics of {lines:?}"));
    }
    match outcome.events.last() {
        Some(RunEvent::Finished { rounds, .. }) if *rounds as usize == lines.len() => Ok(()),
        other => Err(format!("monotone: {} rounds, then {other:?}", lines.len())),
    }
}

/// Between two openings of a round an update of each worker is counted at most once, and what was
/// counted is what was committed.
pub(crate) fn once(outcome: &Outcome) -> Result<(), String> {
    let mut counted: BTreeSet<(u64, &str)> = BTreeSet::new();
    for event in &outcome.events {
        match event {
            // A coordinator that starts again begins its round again, with nothing counted.
            RunEvent::Resumed { .. } => counted.clear(),
            RunEvent::UpdateApplied { round, worker, .. } if !counted.insert((*round, worker)) => {
                return Err(format!("once: {worker} was counted twice in round {round}"));
            }
            RunEvent::RoundCommitted { round, participants, .. } => {
                let of_round = counted.iter().filter(|(counted, _)| counted == round).count();
                // A commit whose announcement a crash swallowed is announced after the restart.
                if of_round != *participants && of_round != 0 {
                    return Err(format!("once: {of_round} counted, {participants} committed in {round}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why an update is not counted whose worker did nothing wrong.
const LATE: [&str; 2] = ["stale round", "not assigned"];

/// No honest worker is found at fault, and nothing is refused but for being late.
pub(crate) fn no_fault(outcome: &Outcome) -> Result<(), String> {
    for event in &outcome.events {
        let fault = match event {
            RunEvent::UpdateRejected { reason, .. } => !LATE.contains(&reason.as_str()),
            RunEvent::Quarantined { .. } | RunEvent::WorkerDeclined { .. } => true,
            _ => false,
        };
        if fault {
            return Err(format!("no_fault: {event:?}"));
        }
    }
    Ok(())
}

/// Faults leave no trace in the models of a run whose rounds wait for everybody.
pub(crate) fn undisturbed(outcome: &Outcome, calm: &Outcome) -> Result<(), String> {
    for (ours, theirs) in outcome.metrics.iter().zip(&calm.metrics) {
        if ours.model_digest != theirs.model_digest {
            let (round, ours, theirs) = (ours.round, ours.model_digest, theirs.model_digest);
            return Err(format!("undisturbed: round {round} gave {ours}, undisturbed {theirs}"));
        }
    }
    if outcome.metrics.len() == calm.metrics.len() { Ok(()) } else { Err("undisturbed: rounds".into()) }
}
