//! Sizes, errors and expectations of every compressor, and error feedback on a problem that biased ones
//! fail without it.

use super::*;
use crate::seed;
use proptest::prelude::*;

const MATRICES: [Matrix; 2] = [Matrix { rows: 20, columns: 30 }, Matrix { rows: 20, columns: 1 }];
const D: usize = 620;

pub(super) fn all() -> Vec<Compressor> {
    vec![
        Compressor::None {},
        Compressor::F16 {},
        Compressor::Bf16 {},
        Compressor::Int8 { block: 64 },
        Compressor::Int4 { block: 64 },
        Compressor::TopK { ratio: 0.1 },
        Compressor::TopK { ratio: 0.01 },
        Compressor::RandomK { ratio: 0.1, unbiased: false },
        Compressor::RandomK { ratio: 0.1, unbiased: true },
        Compressor::NOfM { keep: 2, group: 4 },
        Compressor::Sign { block: 64 },
        Compressor::LowRank { rank: 3 },
    ]
}

/// Bell-shaped enough: a sum of four uniform numbers.
fn some(salt: u64) -> Vec<f32> {
    let draw = |k: u64, part: u64| seed::unit(seed::derive(salt, "x", &[k, part])) - 0.5;
    (0..D as u64).map(|k| (0..4).map(|part| draw(k, part)).sum::<f64>() as f32).collect()
}

fn round_trip(compressor: Compressor, x: &[f32], seed: u64) -> (usize, Vec<f32>) {
    let bytes = compressor.encode(x, &MATRICES, seed).unwrap();
    (bytes.len(), compressor.decode(&bytes, &MATRICES, x.len()).unwrap())
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

fn loss(x: &[f32], y: &[f32]) -> f64 {
    let gap: Vec<f32> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    energy(&gap) / energy(x)
}

#[test]
fn sizes_are_as_documented() {
    let sizes: Vec<usize> =
        all().into_iter().map(|compressor| round_trip(compressor, &some(1), 7).0).collect();
    let blocks = 4 * D.div_ceil(64);
    let map = D.div_ceil(8);
    let dense = 4 * D;
    let low_rank = 4 * 3 * 50 + 4 * 20;
    let expected = [
        dense,
        dense / 2,
        dense / 2,
        D + blocks,
        D / 2 + blocks,
        1 + map + 4 * 62,
        1 + 8 * 7,
        8 + 4 * 62,
        8 + 4 * 62,
        map + 4 * D / 2,
        map + blocks,
        low_rank,
    ];
    assert_eq!(sizes, expected);
}

#[test]
fn losses_are_bounded() {
    let x = some(1);
    for (compressor, most) in [
        (Compressor::None {}, 0.0),
        (Compressor::F16 {}, 1e-6),
        (Compressor::Bf16 {}, 1e-4),
        (Compressor::Int8 { block: 64 }, 1e-3),
        (Compressor::Int4 { block: 64 }, 0.1),
        (Compressor::TopK { ratio: 0.1 }, 0.72),
        (Compressor::NOfM { keep: 2, group: 4 }, 0.2),
        (Compressor::Sign { block: 64 }, 0.45),
        (Compressor::LowRank { rank: 3 }, 0.85),
    ] {
        let lost = loss(&x, &round_trip(compressor, &x, 7).1);
        assert!(lost <= most, "{compressor:?}: {lost}");
    }
}

#[test]
fn what_is_kept_is_what_matters_most() {
    let x = [0.1_f32, -5.0, 3.0, 0.2, 3.0, -0.3, 0.0, 0.4];
    let of =
        |compressor: Compressor| compressor.decode(&compressor.encode(&x, &[], 1).unwrap(), &[], 8).unwrap();
    assert_eq!(of(Compressor::TopK { ratio: 0.25 }), [0.0, -5.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(of(Compressor::NOfM { keep: 1, group: 4 }), [0.0, -5.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
    assert_eq!(of(Compressor::Sign { block: 4 })[..4], [2.075, -2.075, 2.075, 2.075]);
}

#[test]
fn a_matrix_of_low_rank_survives_its_factors() {
    let column = |k: u64, salt: u64| seed::unit(seed::derive(salt, "m", &[k])) - 0.5;
    let entry = |r: u64, c: u64| (0..3).map(|s| column(r, s) * column(c, s + 9)).sum::<f64>() as f32;
    let x: Vec<f32> = (0..20).flat_map(|r| (0..30).map(move |c| (r, c))).map(|(r, c)| entry(r, c)).collect();
    let compressor = Compressor::LowRank { rank: 3 };
    let bytes = compressor.encode(&x, &MATRICES[..1], 5).unwrap();
    let y = compressor.decode(&bytes, &MATRICES[..1], x.len()).unwrap();
    assert!(loss(&x, &y) < 1e-10, "{}", loss(&x, &y));
    // A zero matrix has no directions at all.
    let zero = vec![0.0; 600];
    let bytes = compressor.encode(&zero, &MATRICES[..1], 5).unwrap();
    assert_eq!(compressor.decode(&bytes, &MATRICES[..1], 600).unwrap(), zero);
}

#[test]
fn random_rounding_and_drawing_are_right_on_average() {
    let x = some(2);
    for (compressor, noise) in [
        (Compressor::Int8 { block: 64 }, 0.001),
        (Compressor::Int4 { block: 64 }, 0.01),
        (Compressor::RandomK { ratio: 0.1, unbiased: true }, 0.15),
    ] {
        let mut mean = vec![0.0_f32; D];
        for seed in 0..4_000 {
            crate::axpy(&mut mean, 1.0 / 4_000.0, &round_trip(compressor, &x, seed).1);
        }
        let worst = x.iter().zip(&mean).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        // Four to five standard deviations of the mean of the worst of all coordinates.
        assert!(worst < noise * 1.6, "{compressor:?}: {worst}");
    }
}

#[test]
fn bytes_of_others_are_refused() {
    let x = some(3);
    for compressor in all() {
        let bytes = compressor.encode(&x, &MATRICES, 7).unwrap();
        let refused = |bytes: &[u8]| compressor.decode(bytes, &MATRICES, D).is_err();
        assert!(
            refused(&bytes[1..]) && refused(&[&bytes[..], &[0]].concat()) && refused(&[]),
            "{compressor:?}"
        );
    }
    let top = Compressor::TopK { ratio: 0.01 };
    let mut bytes = top.encode(&x, &[], 7).unwrap();
    bytes[0] = 9;
    assert!(top.decode(&bytes, &[], D).unwrap_err().to_string().contains("no form"));
    bytes[0] = 0;
    bytes[4] = 0xFF;
    assert!(top.decode(&bytes, &[], D).unwrap_err().to_string().contains("ascending"));
}

#[test]
fn wrong_keys_and_layouts_are_named() {
    let message = |compressor: Compressor| compressor.encode(&[1.0], &[], 1).unwrap_err().to_string();
    assert!(message(Compressor::Int8 { block: 0 }).contains("`block`"));
    assert!(message(Compressor::TopK { ratio: 0.0 }).contains("`ratio`"));
    assert!(message(Compressor::NOfM { keep: 5, group: 4 }).contains("`keep`"));
    assert!(message(Compressor::NOfM { keep: 5, group: 65 }).contains("`group`"));
    assert!(message(Compressor::LowRank { rank: 0 }).contains("`rank`"));
    assert!(message(Compressor::LowRank { rank: 1 }).contains("the vector has 1"));
    let residual = Feedback::compress(Compressor::None {}, &[1.0], Some(&[1.0, 2.0]), &[], 1);
    assert!(residual.unwrap_err().to_string().contains("residual"));
    let parsed: Compressor = serde_json::from_str(r#"{"kind":"n-of-m","keep":2,"group":4}"#).unwrap();
    assert_eq!(parsed, Compressor::NOfM { keep: 2, group: 4 });
}

/// What is left of a fixed vector that is sent 200 times, each time compressed.
fn left(compressor: Compressor, feedback: bool) -> f64 {
    let x = some(4);
    let mut total = vec![0.0; D];
    let mut residual: Option<Vec<f32>> = None;
    for round in 0..200 {
        let kept = residual.as_deref().filter(|_| feedback);
        let sent = Feedback::compress(compressor, &x, kept, &MATRICES, round).unwrap();
        crate::axpy(&mut total, 1.0 / 200.0, &sent.decoded);
        residual = Some(sent.residual);
    }
    loss(&x, &total)
}

#[test]
fn feedback_gives_back_what_was_lost() {
    for compressor in [
        Compressor::TopK { ratio: 0.1 },
        Compressor::NOfM { keep: 1, group: 4 },
        Compressor::Sign { block: 64 },
        Compressor::RandomK { ratio: 0.1, unbiased: false },
    ] {
        let (with, without) = (left(compressor, true), left(compressor, false));
        assert!(with < 0.02 && with < without / 10.0, "{compressor:?}: {with} {without}");
    }
    let (with, without) =
        (left(Compressor::LowRank { rank: 3 }, true), left(Compressor::LowRank { rank: 3 }, false));
    assert!(with < without, "{with} {without}");
}

proptest! {
    #[test]
    fn any_vector_goes_there_and_back(
        x in prop::collection::vec(-1e3_f32..1e3, 0..200),
        seed in any::<u64>(),
    ) {
        let matrices = [Matrix { rows: x.len(), columns: 1 }];
        for compressor in all() {
            let bytes = compressor.encode(&x, &matrices, seed).unwrap();
            prop_assert_eq!(&compressor.encode(&x, &matrices, seed).unwrap(), &bytes);
            prop_assert_eq!(compressor.size(&matrices, x.len()), bytes.len());
            let y = compressor.decode(&bytes, &matrices, x.len()).unwrap();
            prop_assert!(y.len() == x.len() && y.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), d in 0_usize..64) {
        let matrices = [Matrix { rows: d, columns: 1 }];
        for compressor in all() {
            let _ = compressor.decode(&bytes, &matrices, d);
        }
    }
}
