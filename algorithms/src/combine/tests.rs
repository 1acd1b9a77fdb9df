//! Combiners against hand-made numbers, against each other, and against attackers.

use super::{attacks::Attack, *};
use crate::seed;
use proptest::prelude::*;

fn combine(combiner: Combiner, updates: &[Vec<f32>]) -> Result<Vec<f32>, CombineError> {
    let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
    combiner.combine(&updates, &vec![1.0; updates.len()], None)
}

fn column(values: &[f32]) -> Vec<Vec<f32>> {
    values.iter().map(|v| vec![*v]).collect()
}

/// One of each, for k honest-looking updates.
fn all() -> Vec<Combiner> {
    vec![
        Combiner::Mean {},
        Combiner::WeightedMean {},
        Combiner::NormBounded { bound: 1e3 },
        Combiner::Median {},
        Combiner::TrimmedMean { trim: 0.25 },
        Combiner::Krum { byzantine: 2 },
        Combiner::MultiKrum { byzantine: 2, keep: None },
        Combiner::Bulyan { byzantine: 2 },
        Combiner::GeometricMedian { iterations: 100, smoothing: 1e-9 },
        Combiner::CentredClipping { radius: 1.0, iterations: 100 },
    ]
}

#[test]
fn values_by_hand() {
    let five = column(&[1.0, 2.0, 3.0, 4.0, 100.0]);
    let of = |combiner| combine(combiner, &five).unwrap()[0];
    assert_eq!(of(Combiner::Mean {}), 22.0);
    assert_eq!(of(Combiner::Median {}), 3.0);
    assert_eq!(of(Combiner::TrimmedMean { trim: 0.2 }), 3.0);
    assert_eq!(of(Combiner::TrimmedMean { trim: 0.1 }), 22.0);
    assert_eq!(of(Combiner::NormBounded { bound: 5.0 }), 3.0);
    // f = 1: two neighbours; 2 has 1 + 1, as has 3, and comes first.
    assert_eq!(of(Combiner::Krum { byzantine: 1 }), 2.0);
    assert_eq!(of(Combiner::MultiKrum { byzantine: 1, keep: Some(2) }), 2.5);
    assert_eq!(of(Combiner::MultiKrum { byzantine: 1, keep: None }), 2.5);
    // On a line the geometric median is the median.
    assert!((of(Combiner::GeometricMedian { iterations: 200, smoothing: 1e-9 }) - 3.0).abs() < 1e-3);
    assert_eq!(combine(Combiner::Median {}, &column(&[4.0, 1.0, 3.0, 2.0])).unwrap(), [2.5]);
    // One step from 0 with radius 1: each pulls by at most 1.
    let step = Combiner::CentredClipping { radius: 1.0, iterations: 1 };
    assert!((combine(step, &column(&[0.5, 3.0, -8.0, 100.0])).unwrap()[0] - 0.375).abs() < 1e-6);
    // f = 1, k = 7: five are chosen, and in them three around the median.
    let seven = column(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e6]);
    let bulyan = combine(Combiner::Bulyan { byzantine: 1 }, &seven).unwrap()[0];
    assert!((2.0..=5.0).contains(&bulyan), "{bulyan}");
}

#[test]
fn weights_count() {
    let updates: [&[f32]; 2] = [&[0.0], &[1.0]];
    let weighted = Combiner::WeightedMean {}.combine(&updates, &[1.0, 3.0], None).unwrap();
    assert_eq!(weighted, [0.75]);
    assert_eq!(Combiner::Mean {}.combine(&updates, &[1.0, 3.0], None).unwrap(), [0.5]);
}

#[test]
fn the_clipping_centre_is_the_last_aggregate() {
    let updates: [&[f32]; 2] = [&[10.0, 0.0], &[10.0, 0.0]];
    let clip = Combiner::CentredClipping { radius: 1.0, iterations: 2 };
    let moved = clip.combine(&updates, &[1.0; 2], Some(&[5.0, 0.0])).unwrap();
    assert!((moved[0] - 7.0).abs() < 1e-5 && moved[1] == 0.0, "{moved:?}");
}

#[test]
fn what_is_needed_is_said() {
    use Needs::{All, Distances, Each};
    let needs: Vec<Needs> = all().iter().map(Combiner::needs).collect();
    let rest = vec![Distances; 5];
    assert_eq!(needs, [vec![Each, Each, Each, All, All], rest].concat());
}

#[test]
fn too_few_and_wrong_keys_are_named() {
    let three = column(&[1.0, 2.0, 3.0]);
    let message = |combiner| combine(combiner, &three).unwrap_err().to_string();
    assert!(message(Combiner::Krum { byzantine: 1 }).contains("at least 5 updates, there are 3"));
    assert!(message(Combiner::Bulyan { byzantine: 1 }).contains("at least 7"));
    assert!(message(Combiner::TrimmedMean { trim: 0.5 }).contains("`trim`"));
    assert!(message(Combiner::NormBounded { bound: 0.0 }).contains("`bound`"));
    assert!(message(Combiner::GeometricMedian { iterations: 0, smoothing: 1.0 }).contains("`iterations`"));
    assert!(message(Combiner::CentredClipping { radius: -1.0, iterations: 1 }).contains("`radius`"));
    assert!(combine(Combiner::Mean {}, &[]).is_err());
    let uneven: [&[f32]; 2] = [&[0.0], &[1.0, 2.0]];
    assert!(Combiner::Median {}.combine(&uneven, &[1.0; 2], None).is_err());
    assert!(Combiner::Median {}.combine(&uneven[..1], &[f64::NAN], None).is_err());
    assert!(Combiner::Mean {}.combine(&uneven[..1], &[1.0; 2], None).is_err());
}

#[test]
fn keys_are_those_of_a_file() {
    let parsed: Combiner = serde_json::from_str(r#"{"kind":"multi-krum","byzantine":3}"#).unwrap();
    assert_eq!(parsed, Combiner::MultiKrum { byzantine: 3, keep: None });
    assert!(serde_json::from_str::<Combiner>(r#"{"kind":"median","trim":1}"#).is_err());
}

/// 20 workers around (1, …, 1), of which the last `liars` lie.
fn attacked(attack: Attack, liars: usize) -> Vec<Vec<f32>> {
    let noise = |i: u64, k: u64| seed::unit(seed::derive(3, "noise", &[i, k])) as f32 - 0.5;
    let own = |i: u64| (0..40).map(|k| 1.0 + noise(i, k)).collect::<Vec<f32>>();
    let honest: Vec<Vec<f32>> = (0..20 - liars as u64).map(own).collect();
    let seen: Vec<&[f32]> = honest.iter().map(Vec::as_slice).collect();
    let forged = (0..liars as u64).map(|i| attack.forge(&own(100 + i), &seen, liars));
    honest.iter().cloned().chain(forged.collect::<Vec<_>>()).collect()
}

/// Distance from (1, …, 1), per coordinate.
fn error(combiner: Combiner, updates: &[Vec<f32>]) -> f64 {
    let got = combine(combiner, updates).unwrap();
    (got.iter().map(|v| f64::from(v - 1.0) * f64::from(v - 1.0)).sum::<f64>() / 40.0).sqrt()
}

#[test]
fn robust_combiners_survive_what_the_mean_does_not() {
    let robust = |liars: usize| {
        vec![
            Combiner::Median {},
            Combiner::TrimmedMean { trim: 0.25 },
            Combiner::Krum { byzantine: liars },
            Combiner::MultiKrum { byzantine: liars, keep: None },
            Combiner::Bulyan { byzantine: liars },
            Combiner::GeometricMedian { iterations: 8, smoothing: 1e-6 },
            Combiner::CentredClipping { radius: 2.0, iterations: 8 },
        ]
    };
    for attack in [
        Attack::SignFlip { scale: 10.0 },
        Attack::Scaled { factor: 50.0 },
        Attack::InnerProduct { epsilon: 10.0 },
    ] {
        let updates = attacked(attack, 4);
        assert!(error(Combiner::Mean {}, &updates) > 1.0, "{attack:?} does nothing");
        for combiner in robust(4) {
            let error = error(combiner, &updates);
            assert!(error < 0.5, "{combiner:?} under {attack:?}: {error}");
        }
    }
}

#[test]
fn a_little_is_enough_hides_in_the_spread() {
    let updates = attacked(Attack::Alie { z: Some(1.0) }, 4);
    // Every coordinate of the lie lies within the honest ones', and still it moves the median.
    for k in 0..40 {
        let column = || updates[..16].iter().map(|update| update[k]);
        let (low, high) = (column().fold(f32::MAX, f32::min), column().fold(f32::MIN, f32::max));
        assert!((low..=high).contains(&updates[19][k]));
    }
    let bias = |updates: &[Vec<f32>]| {
        let median = combine(Combiner::Median {}, updates).unwrap();
        median.iter().map(|v| v - 1.0).sum::<f32>() / 40.0
    };
    let (lied, honest) = (bias(&updates), bias(&attacked(Attack::Scaled { factor: 1.0 }, 4)));
    assert!(lied < -0.05 && honest > -0.05, "{lied} {honest}");
    // n = 50, m = 24: s = 2, Φ(z) = 24/26.
    let z = attacks::little_enough(50, 24);
    assert!((z - 1.4261).abs() < 1e-3, "{z}");
}

proptest! {
    #[test]
    fn order_scale_and_shift_of_updates_do_not_matter(
        values in prop::collection::vec(prop::collection::vec(-4_i8..4, 3), 11..14),
        rotate in 0_usize..11,
    ) {
        let updates: Vec<Vec<f32>> =
            values.iter().map(|v| v.iter().map(|v| f32::from(*v)).collect()).collect();
        let mut turned = updates.clone();
        turned.rotate_left(rotate);
        for combiner in [
            Combiner::Median {},
            Combiner::TrimmedMean { trim: 0.2 },
            Combiner::GeometricMedian { iterations: 4, smoothing: 1e-3 },
            Combiner::CentredClipping { radius: 1.5, iterations: 3 },
        ] {
            let (a, b) = (combine(combiner, &updates).unwrap(), combine(combiner, &turned).unwrap());
            for (a, b) in a.iter().zip(&b) {
                prop_assert!((a - b).abs() < 1e-4, "{:?}", combiner);
            }
        }
    }

    #[test]
    fn blocks_give_what_the_whole_gives(
        updates in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 9), 11..13),
        cut in 1_usize..8,
    ) {
        for combiner in all() {
            let whole = combine(combiner, &updates).unwrap();
            let block = |from: usize, to: usize| updates.iter().map(|u| &u[from..to]).collect::<Vec<_>>();
            let mut distances = Distances::new(updates.len());
            distances.add(&block(0, cut), None);
            distances.add(&block(cut, 9), None);
            let choice = combiner.choose(&vec![1.0; updates.len()], &distances).unwrap();
            let mut out = [0.0; 9];
            choice.apply(&block(0, cut), None, &mut out[..cut]);
            choice.apply(&block(cut, 9), None, &mut out[cut..]);
            for (a, b) in out.iter().zip(&whole) {
                prop_assert!((a - b).abs() < 1e-5, "{:?}", combiner);
            }
        }
    }

    #[test]
    fn equal_updates_combine_to_themselves(value in prop::collection::vec(-1.0_f32..1.0, 5)) {
        for combiner in all() {
            let got = combine(combiner, &vec![value.clone(); 11]).unwrap();
            for (got, value) in got.iter().zip(&value) {
                prop_assert!((got - value).abs() < 1e-5, "{:?}: {} {}", combiner, got, value);
            }
        }
    }
}
