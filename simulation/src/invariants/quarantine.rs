//! Whoever is rejected again and again is in quarantine.

use std::collections::{BTreeMap, BTreeSet};

/// `strikes` are rejections in a row for a fault, by worker; `after` is how many are too many.
///
/// # Errors
/// If a worker has too many and is not in `quarantine`.
pub fn quarantine(
    strikes: &BTreeMap<String, u32>,
    after: u32,
    quarantine: &BTreeSet<String>,
) -> Result<(), String> {
    match strikes.iter().find(|(worker, strikes)| **strikes >= after && !quarantine.contains(*worker)) {
        Some((worker, strikes)) => {
            Err(format!("{worker} was rejected {strikes} times and is not in quarantine"))
        }
        None => Ok(()),
    }
}
