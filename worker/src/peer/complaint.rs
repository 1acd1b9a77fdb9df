//! Refusals, told without letting whoever is refused fill the log: one line for each caller and while, which
//! says how many it stands for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A caller is complained of once in so long.
const PAUSE: Duration = Duration::from_secs(10);
/// Callers that are remembered: those who are refused need a certificate, so there are few.
const CALLERS: usize = 1_024;

/// By caller: since when, and how many refusals were not told.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<BTreeMap<String, (Instant, u64)>>);

impl Complaints {
    /// Notes a refusal; how many were kept back since the last that was told, if this one is to be.
    pub(super) fn note(&self, who: &str, now: Instant) -> Option<u64> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, kept)) = callers.get_mut(who) {
            if now.duration_since(*since) < PAUSE {
                *kept += 1;
                return None;
            }
            *since = now;
            return Some(std::mem::take(kept));
        }
        if callers.len() >= CALLERS {
            callers.pop_first();
        }
        callers.insert(who.to_owned(), (now, 0));
        Some(0)
    }

    /// Tells of a refusal, unless one of that caller was told a moment ago.
    pub(super) fn tell(&self, who: &str, why: &str) {
        if let Some(more) = self.note(who, Instant::now()) {
            tracing::warn!(who, why, more, "refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_number() {
        let complaints = Complaints::default();
        let began = Instant::now();
        assert_eq!(complaints.note("a", began), Some(0));
        for _ in 0..5_000 {
            assert_eq!(complaints.note("a", began + PAUSE / 2), None);
        }
        assert_eq!(complaints.note("b", began + PAUSE / 2), Some(0), "another caller is not the first one's");
        assert_eq!(complaints.note("a", began + PAUSE), Some(5_000));
        assert_eq!(complaints.note("a", began + 2 * PAUSE), Some(0));
        for caller in 0..2 * CALLERS {
            complaints.note(&format!("c{caller}"), began);
        }
        assert_eq!(complaints.0.lock().unwrap().len(), CALLERS);
    }
}
