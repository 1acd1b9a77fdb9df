//! How long to wait before trying again: exponential with full jitter, so that a fleet that lost its
//! coordinator does not come back in step (Brooker, "Exponential Backoff and Jitter", AWS, 2015).

use algorithms::seed;
use std::time::Duration;

/// Ceiling of the first wait.
const BASE: Duration = Duration::from_millis(200);
/// Ceiling of every later wait: a coordinator that restarts finds its fleet again within this time.
pub const CAP: Duration = Duration::from_secs(10);

/// The wait before try number `attempt` + 1: uniform in `(0, min(CAP, BASE · 2^attempt)]`.
///
/// `draw` makes waits with the same `attempt` differ.
pub fn delay(key: u64, draw: u64, attempt: u32) -> Duration {
    let ceiling = BASE.saturating_mul(1 << attempt.min(16)).min(CAP);
    let share = 1.0 - seed::unit(seed::derive(key, "backoff", &[draw]));
    ceiling.mul_f64(share).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_fill_their_range() {
        for attempt in 0..40 {
            let ceiling = CAP.min(BASE * 2_u32.pow(attempt.min(10)));
            let waits: Vec<Duration> = (0..200).map(|draw| delay(9, draw, attempt)).collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling), "attempt {attempt}");
            // Full jitter: 200 uniform draws reach both the lowest and the highest tenth.
            assert!(waits.iter().min().unwrap() < &(ceiling / 10));
            assert!(waits.iter().max().unwrap() > &(ceiling / 10 * 9));
        }
    }

    #[test]
    fn two_workers_do_not_come_back_together() {
        let of = |name| delay(seed::word(name), 0, 3);
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
    }
}
