//! Correlated noise: its inverse, its sensitivity and its streams.

use super::*;
use crate::ClipNorm;

fn n(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

const LENGTH: usize = 4000;

fn grid() -> Grid {
    Grid::new(ClipNorm::new(1.0).unwrap(), n(LENGTH as u64)).unwrap()
}

fn toeplitz_of(factor: Factor, rounds: u64) -> Strategy {
    Strategy::Toeplitz {
        factor,
        participation: Participation { rounds: n(rounds), most: n(1), separation: n(1) },
    }
}

fn strategies() -> Vec<Strategy> {
    vec![
        Strategy::Tree { longest: n(16) },
        toeplitz_of(Factor::SquareRoot, 16),
        toeplitz_of(Factor::banded(vec![1.0, 0.5, 0.25]).unwrap(), 16),
        toeplitz_of(Factor::buffered(vec![0.3, 0.2], vec![0.9, 0.3]).unwrap(), 16),
        toeplitz_of(Factor::banded(vec![1.0]).unwrap(), 16),
    ]
}

fn run(strategy: &Strategy, rounds: usize, seed: u8, sum: impl Fn(usize) -> i64) -> Vec<Vec<i64>> {
    let noise =
        CorrelatedNoise::new(strategy, NoiseMultiplier::new(1.0).unwrap(), grid(), n(LENGTH as u64)).unwrap();
    let (key, mut state) = (Key::new([seed; 32]), noise.start(LENGTH));
    let round = |t| {
        let mut x = vec![sum(t); LENGTH];
        noise.advance(&key, (0, 0), &mut state, &mut x).unwrap();
        x
    };
    (0..rounds).map(round).collect()
}

/// The variance of prefix sums is what the strategy says, per unit of `z`.
#[test]
fn prefix_sums_have_the_variance_of_the_strategy() {
    for strategy in strategies() {
        let rounds = 16;
        let releases = run(&strategy, rounds, 7, |_| 0);
        let mut prefix = vec![0_i64; LENGTH];
        let mut total = 0.0;
        for release in &releases {
            prefix.iter_mut().zip(release).for_each(|(sum, x)| *sum += x);
            total += prefix.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / LENGTH as f64;
        }
        let deviation = (total / rounds as f64).sqrt() / grid().sensitivity().get() as f64;
        let want = strategy.error();
        assert!((deviation / want - 1.0).abs() < 0.03, "{strategy:?}: {deviation} {want}");
    }
}

/// `e` solves `C e = z` with independent `z` of the right size: so the law of `C x̂ − C x` is that of
/// what was paid for.
#[test]
fn the_strategy_applied_to_the_noise_is_white() {
    for strategy in strategies() {
        let Strategy::Toeplitz { factor, .. } = &strategy else { continue };
        let c = factor.coefficients(16);
        let releases = run(&strategy, 16, 8, |_| 0);
        let white = |t: usize, i: usize| (0..=t).map(|j| c[j] * releases[t - j][i] as f64).sum::<f64>();
        let z: Vec<Vec<f64>> = (0..16).map(|t| (0..LENGTH).map(|i| white(t, i)).collect()).collect();
        let size = grid().sensitivity().get() as f64;
        let product = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / LENGTH as f64 / (size * size)
        };
        for t in 0..16 {
            let variance = product(&z[t], &z[t]);
            assert!((0.9..1.1).contains(&variance), "{strategy:?} {t}: {variance}");
            for s in 0..t {
                let covariance = product(&z[t], &z[s]);
                assert!(covariance.abs() < 0.09, "{strategy:?} {t} {s}: {covariance}");
            }
        }
    }
}

/// The noise does not depend on the sums, but for the rounding of buffers: nothing of the sum can show
/// in it.
#[test]
fn what_is_added_does_not_depend_on_the_sum() {
    for strategy in strategies() {
        let sums = |t: usize| (t as i64 * t as i64 * 7919) % 100_003 - 50_000;
        let (bare, full) = (run(&strategy, 16, 9, |_| 0), run(&strategy, 16, 9, sums));
        let buffered = matches!(&strategy, Strategy::Toeplitz { factor: Factor::Buffered { .. }, .. });
        for t in 0..16 {
            for (bare, full) in bare[t].iter().zip(&full[t]) {
                let gap = (full - sums(t) - bare).abs();
                assert!(gap <= i64::from(buffered), "{strategy:?} {t}: {gap}");
            }
        }
    }
}

#[test]
fn a_round_that_is_retried_from_its_state_gets_the_same_noise() {
    for strategy in strategies() {
        let noise =
            CorrelatedNoise::new(&strategy, NoiseMultiplier::new(0.5).unwrap(), grid(), n(8)).unwrap();
        let (key, mut state) = (Key::new([1; 32]), noise.start(8));
        for _ in 0..5 {
            noise.advance(&key, (0, 3), &mut state, &mut [0; 8]).unwrap();
        }
        let stored = serde_json::to_string(&state).unwrap();
        let next = |mut state: State| {
            let mut sum = [100; 8];
            noise.advance(&key, (0, 3), &mut state, &mut sum).unwrap();
            (sum, state)
        };
        assert_eq!(next(state.clone()), next(serde_json::from_str(&stored).unwrap()));
        let (other, _) = next(state.clone());
        assert!(other.iter().any(|x| *x != 100));
        let wrong = State { memory: vec![vec![0; 8]; 9], ..state.clone() };
        assert!(noise.advance(&key, (0, 3), &mut wrong.clone(), &mut [0; 8]).is_err(), "{strategy:?}");
        if let Strategy::Toeplitz { .. } = strategy {
            let end = State { round: 16, ..state };
            let message = noise.advance(&key, (0, 3), &mut end.clone(), &mut [0; 8]).unwrap_err().to_string();
            assert_eq!(message, "round 17 is beyond the 16 rounds of the strategy");
        }
    }
}

#[test]
fn a_restarted_tree_adds_to_what_the_one_before_left() {
    // Three rounds a tree: the prefix noise of round 4 is that of the whole first tree and one leaf.
    let strategy = Strategy::Tree { longest: n(3) };
    let releases = run(&strategy, 6, 3, |_| 0);
    let size = grid().sensitivity().get() as f64;
    let mut prefix = vec![0_i64; LENGTH];
    let mut nodes = Vec::new();
    for release in &releases {
        prefix.iter_mut().zip(release).for_each(|(sum, x)| *sum += x);
        nodes.push(prefix.iter().map(|x| (*x as f64 / size).powi(2)).sum::<f64>() / LENGTH as f64);
    }
    for (got, want) in nodes.iter().zip([1.0, 1.0, 2.0, 3.0, 3.0, 4.0]) {
        assert!((got / want - 1.0).abs() < 0.1, "{nodes:?}");
    }
}

#[test]
fn rounding_the_matrix_is_paid_for() {
    // The variance covers the sensitivity of the rounded matrix at least.
    let strategy = toeplitz_of(Factor::SquareRoot, 500);
    let z = NoiseMultiplier::new(1.0).unwrap();
    let noise = CorrelatedNoise::new(&strategy, z, grid(), n(LENGTH as u64)).unwrap();
    let Form::Toeplitz { coefficients } = &noise.form else { panic!() };
    let exact = coefficients.iter().map(|c| (*c as f64).powi(2)).sum::<f64>().sqrt();
    let mu = exact * grid().sensitivity().get() as f64 / (noise.variance() as f64).sqrt();
    assert!(mu <= strategy.sensitivity() && mu > 0.99 * strategy.sensitivity(), "{mu}");
    assert!(coefficients.windows(2).all(|pair| pair[0] >= pair[1]));
    let message =
        CorrelatedNoise::new(&strategy, NoiseMultiplier::new(1e5).unwrap(), grid(), n(1)).unwrap_err();
    assert_eq!(message.parameter, "noise_multiplier");
}
