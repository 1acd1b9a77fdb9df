//! opendp 0.16 as an oracle: its exact sampler (rejection with big rational numbers, Canonne, Kamath and
//! Steinke 2020) and ours must draw from one law, and its privacy map must give our zCDP.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, num::NonZeroU64};

use opendp::{
    domains::{AtomDomain, VectorDomain},
    measurements::make_gaussian,
    measures::ZeroConcentratedDivergence,
    metrics::L2Distance,
};
use privacy::sampler::{Key, Kind, Sampler};

const DRAWS: usize = 8_000;

fn oracle(deviation: f64) -> (Vec<i64>, f64) {
    let domain = VectorDomain::new(AtomDomain::<i64>::default());
    let noise = make_gaussian::<_, _, ZeroConcentratedDivergence>(
        domain,
        L2Distance::<f64>::default(),
        deviation,
        None,
    );
    let noise = noise.unwrap();
    (noise.invoke(&vec![0; DRAWS]).unwrap(), noise.map(&3.0).unwrap())
}

/// χ² of two samples of one size over cells of half a deviation, as a standard normal score.
fn score(a: &[i64], b: &[i64], deviation: f64) -> f64 {
    let width = ((0.5 * deviation) as i64).max(1);
    let mut cells = BTreeMap::<i64, [f64; 2]>::new();
    for (which, draws) in [a, b].into_iter().enumerate() {
        for x in draws {
            cells.entry(x.div_euclid(width)).or_default()[which] += 1.0;
        }
    }
    let full = cells.values().filter(|[a, b]| a + b >= 20.0);
    let square: f64 = full.clone().map(|[a, b]| (a - b).powi(2) / (a + b)).sum();
    let freedom = full.count() as f64;
    (square - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn both_samplers_draw_from_one_law() {
    for deviation in [1_u64, 3, 40, 1 << 16] {
        let variance = NonZeroU64::new(deviation * deviation).unwrap();
        let sampler = Sampler::new(Kind::Discrete, variance).unwrap();
        let mut ours = vec![0_i64; DRAWS];
        Key::new([11; 32]).release(deviation).add_noise(&sampler, (0, 0), &mut ours, 1);
        let deviation = deviation as f64;
        let (theirs, rho) = oracle(deviation);
        // Their generator has no seed: 6 deviations leave a false alarm a chance of about 1e-8.
        let z = score(&ours, &theirs, deviation);
        assert!(z < 6.0, "{deviation}: {z}");
        assert!((rho / (4.5 / (deviation * deviation)) - 1.0).abs() < 1e-9, "{deviation}: {rho}");
        // The test can fail.
        let wider: Vec<i64> =
            ours.iter().map(|x| if deviation < 4.0 { x + x % 2 } else { x * 11 / 10 }).collect();
        assert!(score(&wider, &theirs, deviation) > 6.0, "{deviation}");
    }
}
