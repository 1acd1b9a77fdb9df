//! Every wait has an end: a run is finished within a bound after the faults stopped.

use crate::{Report, Schedule};

/// # Errors
/// If the run was not finished by [`Schedule::bound`], or not with all its rounds.
pub fn bounded(schedule: &Schedule, report: &Report) -> Result<(), String> {
    let bound = schedule.bound();
    match report.finished {
        Some(at) if at <= bound && report.rounds.len() as u64 == schedule.rounds => Ok(()),
        at => Err(format!(
            "{} of {} rounds; over at {at:?}, faults stopped at {}, the bound is {bound}",
            report.rounds.len(),
            schedule.rounds,
            schedule.faults.until
        )),
    }
}
