//! Who takes part in a round: uniform sampling without replacement, as a pure function of
//! (seed, round, names). Other ways to draw are in [`draw`], a choice for diversity in [`diverse`].
//!
//! Each worker gets a rank from a keyed hash and the lowest ranks are chosen. The order in which
//! workers connected cannot matter, and one worker that joins or leaves changes at most one place:
//! a shuffle seeded by the round would reshuffle everybody.

pub mod diverse;
pub mod draw;

use crate::seed;

/// How many of `eligible` workers take part: all, a fraction (rounded, at least one) or a number.
pub fn cohort_size(eligible: usize, fraction: Option<f64>, size: Option<usize>) -> usize {
    match (size, fraction) {
        (Some(size), _) => size.min(eligible),
        (None, Some(fraction)) => ((eligible as f64 * fraction).round() as usize).clamp(1, eligible.max(1)),
        (None, None) => eligible,
    }
}

/// The cohort of a round, in name order. `attempt` gives substitutes when a round has to be filled
/// up after its deadline.
pub fn sample<'a>(seed: u64, round: u64, attempt: u64, eligible: &[&'a str], size: usize) -> Vec<&'a str> {
    let key = seed::derive(seed, "cohort", &[round, attempt]);
    let mut ranked: Vec<(u64, &str)> =
        eligible.iter().map(|name| (seed::mix(key ^ seed::word(name)), *name)).collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.truncate(size);
    let mut chosen: Vec<&str> = ranked.into_iter().map(|(_, name)| name).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    #[test]
    fn order_of_arrival_does_not_matter() {
        let mut reversed = NAMES;
        reversed.reverse();
        for round in 0..50 {
            assert_eq!(sample(7, round, 0, &NAMES, 3), sample(7, round, 0, &reversed, 3));
        }
    }

    #[test]
    fn each_worker_is_drawn_equally_often() {
        let mut counts = [0_u32; 6];
        for round in 0..6_000 {
            for name in sample(1, round, 0, &NAMES, 2) {
                counts[NAMES.iter().position(|n| *n == name).unwrap()] += 1;
            }
        }
        // Binomial(6000, 1/3): sd 36.5; five of them on each side.
        assert!(counts.iter().all(|&count| (1_817..=2_183).contains(&count)), "{counts:?}");
    }

    #[test]
    fn one_leaver_changes_one_place() {
        let without: Vec<&str> = NAMES.into_iter().filter(|name| *name != "c").collect();
        for round in 0..50 {
            let before = sample(3, round, 0, &NAMES, 3);
            let after = sample(3, round, 0, &without, 3);
            let kept = before.iter().filter(|name| after.contains(name)).count();
            assert_eq!(kept, if before.contains(&"c") { 2 } else { 3 });
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(cohort_size(10, None, None), 10);
        assert_eq!(cohort_size(10, Some(0.25), None), 3);
        assert_eq!(cohort_size(10, Some(0.001), None), 1);
        assert_eq!(cohort_size(10, None, Some(30)), 10);
    }
}
