//! What must hold for every ledger: the order of recording changes nothing, more releases never cost
//! less, more noise never costs more, and accountants that are sound agree.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::num::NonZeroU64;

use common::{count, gaussian, laplace, ledger, poisson, positive, probability};
use privacy::{
    Accountant, Adjacency, Event, Ledger, Mechanism, Sampling,
    accountants::{pld, rdp, report},
};
use proptest::prelude::*;

type Release = (Mechanism, Sampling, u64);

fn release() -> impl Strategy<Value = Release> {
    let mechanism = prop_oneof![
        3 => (0.7..8.0_f64).prop_map(gaussian),
        1 => (2.0..30.0_f64).prop_map(laplace),
        1 => (2.0..9.0_f64, 1..3_u64).prop_map(|(deviation, sensitivity)| Mechanism::DiscreteGaussian {
            deviation: positive(deviation),
            sensitivity: count(sensitivity),
            dimensions: count(1),
        }),
    ];
    let sampling = prop_oneof![Just(Sampling::Everyone), (0.01..0.5_f64).prop_map(poisson)];
    (mechanism, sampling, 1..40_u64)
}

fn releases() -> impl Strategy<Value = Vec<Release>> {
    prop::collection::vec(release(), 1..4)
}

fn adjacency() -> impl Strategy<Value = Adjacency> {
    prop_oneof![Just(Adjacency::AddRemove), Just(Adjacency::ReplaceOne), Just(Adjacency::ZeroOut)]
}

/// As `ledger`, without what the adjacency does not cover.
fn covered(adjacency: Adjacency, releases: &[Release]) -> Ledger {
    let mut ledger = Ledger::new(privacy::Unit::Client, adjacency);
    for (mechanism, sampling, times) in releases {
        let event = Event { mechanism: mechanism.clone(), sampling: *sampling, count: count(*times) };
        ledger.record(event).unwrap();
    }
    ledger
}

/// The same cases each time: a bound between two numerical methods must not fail by a new draw.
fn config() -> ProptestConfig {
    let rng_seed = proptest::test_runner::RngSeed::Fixed(7);
    ProptestConfig { cases: 24, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_order_of_recording_does_not_matter(
        (releases, shuffled) in releases().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        adjacency in adjacency(),
    ) {
        let (one, other) = (covered(adjacency, &releases), covered(adjacency, &shuffled));
        prop_assert_eq!(report::epsilon(&one, 1e-6, 1), report::epsilon(&other, 1e-6, 1));
        prop_assert_eq!(rdp::epsilon(&one, 1e-6, 1), rdp::epsilon(&other, 1e-6, 1));
        // Nor does it whether equal events are one entry or many.
        let mut split = Ledger::new(privacy::Unit::Client, adjacency);
        for event in one.events() {
            for _ in 0..event.count.get() {
                split.record(Event { count: NonZeroU64::MIN, ..event.clone() }).unwrap();
            }
        }
        prop_assert_eq!(report::epsilon(&one, 1e-6, 1), report::epsilon(&split, 1e-6, 1));
    }

    #[test]
    fn every_release_costs(releases in releases(), more in release(), adjacency in adjacency()) {
        let before = covered(adjacency, &releases);
        let after = covered(adjacency, &[releases, vec![more]].concat());
        let cost = |ledger: &Ledger| rdp::epsilon(ledger, 1e-6, 1).unwrap().epsilon;
        prop_assert!(cost(&after) >= cost(&before) * (1.0 - 1e-7));
        let least = |ledger: &Ledger| report::epsilon(ledger, 1e-6, 1).epsilon;
        prop_assert!(least(&after) >= least(&before) * (1.0 - 2e-3));
    }

    #[test]
    fn the_least_is_at_most_any_and_at_least_none(releases in releases(), adjacency in adjacency()) {
        let ledger = covered(adjacency, &releases);
        let least = report::epsilon(&ledger, 1e-6, 1);
        for accountant in Accountant::ALL {
            let Ok(epsilon) = accountant.epsilon(&ledger, 1e-6, 1) else { continue };
            // The contour adds a millionth for its quadrature.
            prop_assert!(least.epsilon <= epsilon * (1.0 + 2e-6), "{accountant:?} {epsilon} {least:?}");
            // The grid is near the exact value from above: nobody that is sound can be far below it.
            let grid = pld::epsilon(&ledger, 1e-6, 1).unwrap();
            prop_assert!(epsilon >= grid * 0.995, "{accountant:?} {epsilon} {grid}");
        }
        let (delta, _) = report::delta(&ledger, least.epsilon, 1);
        prop_assert!(delta < 1.1e-6, "{delta} {least:?}");
        // Where all losses are a few thousandths the grid's cells are coarse beside them.
        prop_assert!(delta > 0.99e-6 || least.epsilon < 0.01, "{delta} {least:?}");
    }

    #[test]
    fn noise_time_delta_and_groups_act_as_they_should(z in 0.6..5.0_f64, q in 0.001..0.9_f64, rounds in 2..2000_u64) {
        let at = |z: f64, q: f64, rounds: u64| {
            ledger(Adjacency::AddRemove, &[(gaussian(z), Sampling::Poisson { rate: probability(q) }, rounds)])
        };
        let one = at(z, q, rounds);
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            let epsilon = |ledger: &Ledger, delta: f64, group| accountant.epsilon(ledger, delta, group).unwrap();
            let base = epsilon(&one, 1e-6, 1);
            let slack = 1.0 - 1e-3;
            prop_assert!(epsilon(&at(1.1 * z, q, rounds), 1e-6, 1) <= base / slack);
            prop_assert!(epsilon(&at(z, 0.9 * q, rounds), 1e-6, 1) <= base / slack);
            prop_assert!(epsilon(&at(z, q, rounds / 2), 1e-6, 1) <= base / slack);
            prop_assert!(epsilon(&one, 1e-8, 1) >= base * slack);
            prop_assert!(epsilon(&one, 1e-6, 2) >= base * slack);
            let whole = covered(Adjacency::ReplaceOne, &[(gaussian(z), poisson(q), rounds)]);
            prop_assert!(epsilon(&whole, 1e-6, 1) >= base * slack);
        }
    }
}

#[test]
fn nothing_released_costs_nothing_by_every_accountant() {
    let empty = ledger(Adjacency::ZeroOut, &[]);
    assert_eq!(report::epsilon(&empty, 1e-5, 1).epsilon, 0.0);
    for accountant in Accountant::ALL {
        // One that makes no statement says so.
        assert!(accountant.epsilon(&empty, 1e-5, 1).unwrap_or(0.0) == 0.0, "{accountant:?}");
        assert!(accountant.delta(&empty, 0.5, 1).unwrap_or(0.0) == 0.0, "{accountant:?}");
    }
}

/// Losses that left the grid at one end came back at the other, and ε was 0.
#[test]
fn the_grid_refuses_rather_than_wraps() {
    for rounds in [1_000_000_000, 1_000_000_000_000, u64::MAX] {
        for rate in [1.0, 0.5, 1e-4] {
            let whole = ledger(Adjacency::ZeroOut, &[(gaussian(1.0), poisson(rate), rounds)]);
            let rdp = Accountant::Rdp.epsilon(&whole, 1e-5, 1).unwrap();
            let grid = Accountant::Pld.epsilon(&whole, 1e-5, 1).unwrap_or(f64::INFINITY);
            assert!(grid > 0.5 * rdp, "{rate} {rounds}: {grid} {rdp}");
        }
    }
    // One Laplace release: δ = 1 − e^{(ε − 1)/2}, with an atom at the largest loss.
    for delta in [0.1_f64, 1e-2, 1e-3] {
        let once = ledger(Adjacency::ZeroOut, &[(laplace(1.0), Sampling::Everyone, 1)]);
        let (exact, grid) =
            (1.0 + 2.0 * (1.0 - delta).ln(), Accountant::Pld.epsilon(&once, delta, 1).unwrap());
        assert!(grid >= exact * (1.0 - 1e-9) && grid <= exact * (1.0 + 1e-3), "{delta}: {grid} {exact}");
    }
}

/// Where a tilt stopped short of its saddle, or as much was cut off as was asked for, ε came out too small, by
/// up to a factor of four. Reference values: mpmath, 360 digits.
#[test]
fn tiny_delta_and_huge_noise_do_not_make_epsilon_too_small() {
    for (z, rounds, delta, want) in [
        (1e9, 1, 1e-30, 9.268_073_833_725_844e-9),
        (1e9, 1, 1e-100, 2.012_980_680_506_297_4e-8),
        (1e9, 1, 1e-300, 3.638_523_703_969_641_6e-8),
        (1e9, 1_000_000, 1e-30, 9.971_408_172_920_805e-6),
        (1e9, 1_000_000, 1e-300, 3.657_431_251_424_889e-5),
        (1.0, 1, 1e-300, 37.448_847_912_139_11),
        (1e5, 100, 1e-300, 0.003_669_987_236_549_905),
    ] {
        let whole = ledger(Adjacency::ZeroOut, &[(gaussian(z), Sampling::Everyone, rounds)]);
        let exact = Accountant::Gaussian.epsilon(&whole, delta, 1).unwrap();
        assert!((exact / want - 1.0).abs() < 1e-9, "{z} {rounds} {delta:e}: {exact:e} {want:e}");
        for accountant in [Accountant::Rdp, Accountant::Contour, Accountant::Pld] {
            match accountant.epsilon(&whole, delta, 1) {
                Ok(epsilon) => assert!(epsilon >= want, "{accountant:?} {z} {rounds} {delta:e}: {epsilon:e}"),
                Err(why) => assert!(!why.to_string().is_empty() && delta < 1e-20, "{accountant:?}: {why}"),
            }
        }
    }
    for (q, z, rounds, delta) in
        [(0.5, 1e7, 10, 1e-100), (0.01, 1e9, 1_000_000, 1e-30), (0.01, 1e4, 1_000_000, 1e-100)]
    {
        let whole = ledger(Adjacency::ZeroOut, &[(gaussian(z), poisson(q), rounds)]);
        // So little a round is one Gaussian of μ = q√T/z, from below up to the mixture's skewness.
        let limit = ledger(
            Adjacency::ZeroOut,
            &[(gaussian(z / (q * (rounds as f64).sqrt())), Sampling::Everyone, 1)],
        );
        let limit = Accountant::Gaussian.epsilon(&limit, delta, 1).unwrap();
        let least = report::epsilon(&whole, delta, 1).epsilon;
        assert!(least > 0.99 * limit && least < 1.05 * limit, "{q} {z} {rounds}: {least:e} {limit:e}");
        for accountant in [Accountant::Contour, Accountant::Pld] {
            assert!(accountant.epsilon(&whole, delta, 1).is_ok_and(|x| x >= least) || delta < 1e-20);
        }
    }
}
