//! Shares end to end: sums come back, bounds hold in integers, and the audit tells sound from broken.

use proptest::prelude::*;

use super::*;
use crate::{
    Adjacency, Event, Ledger, Mu, Probability, Sampling, Unit,
    accountants::report,
    audit::{distinguish, refutes},
    sampler::Key,
};

fn n(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

fn wanted(law: Law, parameters: u64, (least, most): (u64, u64), bits: u32) -> Wanted {
    Wanted {
        law,
        clip_norm: ClipNorm::new(0.7).unwrap(),
        parameters: n(parameters),
        least: n(least),
        most: n(most),
        modulus_bits: ModulusBits::try_from(bits).unwrap(),
    }
}

fn z(multiplier: f64) -> NoiseMultiplier {
    NoiseMultiplier::new(multiplier).unwrap()
}

fn key(number: u64) -> ReleaseKey {
    Key::new([5; 32]).release(number)
}

#[test]
fn a_sum_comes_back_with_noise_of_the_promised_size() {
    for law in [Law::DiscreteGaussian, Law::Skellam] {
        for bits in [14, 20, 24] {
            let shares = Shares::plan(wanted(law, 300, (8, 10), bits), z(2.0)).checked().unwrap();
            let (noise, rotation) = (shares.noise().unwrap(), Rotation::new(7));
            let mut exact = vec![0.0_f64; 300];
            let mut sum = vec![0; shares.length()];
            for client in 0..10_u64 {
                let x: Vec<f32> =
                    (0..300).map(|i| ((i as f32 + 1.0) * (client as f32 + 0.3)).sin()).collect();
                let norm = crate::clip::l2_norm(&x);
                exact.iter_mut().zip(&x).for_each(|(sum, x)| *sum += f64::from(*x) * 0.7 / norm);
                let sent = shares.encode(&x, rotation, (&noise, &key(client))).unwrap();
                shares.add(&mut sum, &sent).unwrap();
            }
            let back = shares.decode(&sum, rotation);
            assert_eq!(back.len(), 300);
            let error =
                back.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>() / 300.0;
            let quantum = shares.quantum();
            let due = 10.0 * (shares.variance().get() as f64 + 0.1) * quantum * quantum;
            // 300 squares: 8 % of deviation; rounding adds at most a quarter of a quantum's square each.
            assert!(error > 0.6 * due && error < 1.5 * due, "{law:?} {bits}: {error} {due}");
            // Eight shares alone are worth what was asked for, of the norm as it was rounded.
            let least = 8.0 * shares.variance().get() as f64;
            assert!(least.sqrt() >= 2.0 * shares.norm() * (1.0 - 1e-12));
        }
    }
}

#[test]
fn more_bits_are_a_finer_grid_and_too_few_are_refused() {
    let on = |bits| Shares::plan(wanted(Law::DiscreteGaussian, 8000, (900, 1000), bits), z(10.0));
    let (coarse, fine) = (on(16).checked().unwrap(), on(24).checked().unwrap());
    assert!(fine.quantum() <= coarse.quantum() / 200.0);
    // The rounding's share of the norm.
    let inflation = |shares: &Shares| shares.norm() * shares.quantum() / 0.7;
    assert!(inflation(&fine) < 1.001 && inflation(&coarse) > inflation(&fine), "{coarse:?}");
    let error = on(8).checked().unwrap_err().to_string();
    assert!(error.contains("`modulus_bits` is 8, expected more bits"), "{error}");
    assert!(on(24).variance().get() >= 4 && on(8).variance().get() >= 4);
    let skellam = Shares::plan(wanted(Law::Skellam, 8000, (900, 1000), 24), z(10.0)).checked().unwrap();
    assert!(skellam.variance().get() <= skellam::MOST_VARIANCE);
    for bits in [0, 7, 25] {
        assert_eq!(ModulusBits::try_from(bits), Err(ModulusError(bits)));
    }
}

#[test]
fn what_cannot_be_a_share_is_not_added() {
    let shares = Shares::plan(wanted(Law::DiscreteGaussian, 3, (2, 3), 12), z(1.0)).checked().unwrap();
    let mut sum = vec![1; 4];
    let mut refuse = |sent: [f32; 4]| shares.add(&mut sum, &sent).unwrap_err().to_string();
    assert!(refuse([0.0, 0.5, 0.0, 0.0]).contains("element 1 is 0.5"));
    assert!(
        refuse([0.0, 0.0, 2048.0, 0.0]).contains("element 2 is 2048, expected a whole number of at most 12")
    );
    assert!(refuse([f32::NAN, 0.0, 0.0, 0.0]).contains("element 0 is NaN"));
    assert!(refuse([-2048.0, 2047.0, -2048.0, 2047.0]).contains("the norm is"));
    assert_eq!(sum, [1; 4]);
    assert!(
        shares
            .encode(&[0.0, f32::INFINITY, 0.0], Rotation::new(1), (&shares.noise().unwrap(), &key(0)))
            .is_err()
    );
}

#[test]
fn numbers_wrap_around_and_back() {
    let shares = Shares::plan(wanted(Law::DiscreteGaussian, 4, (1, 4), 12), z(1.0));
    assert_eq!(
        [2047, 2048, -2048, -2049, 4096, 0].map(|x| shares.centred(x)),
        [2047, -2048, -2048, 2047, 0, 0]
    );
    let mut sum = vec![2000, 0, 0, 0];
    shares.add(&mut sum, &[100.0, 0.0, 0.0, 0.0]).unwrap();
    assert_eq!(sum[0], 2100 - 4096);
}

proptest! {
    #[test]
    fn a_rounded_contribution_is_within_the_norm_in_integers(
        x in prop::collection::vec(prop_oneof![-1e3_f32..1e3, Just(0.0), Just(1e-30), Just(1e30)], 1..200),
        bits in 12..24_u32, seed: u64,
    ) {
        let wanted = wanted(Law::DiscreteGaussian, x.len() as u64, (4, 5), bits);
        let shares = Shares::plan(wanted, z(0.5));
        let quanta = shares.rounded(&x, Rotation::new(seed), &key(seed)).unwrap();
        prop_assert!(square(&quanta) <= u128::from(shares.square));
    }
}

/// Scores of runs of the real mechanism with or without a canary whose contribution has five times the
/// norm: `noise` scales the variance of the shares, `clips` says whether anybody shortens.
fn scores(canary: bool, law: Law, noise: f64, clips: bool) -> Vec<f64> {
    let wanted = wanted(law, 4, (3, 3), 18);
    let sound = Shares::plan(wanted, z(1.0)).checked().unwrap();
    let weak = n((sound.variance.get() as f64 * noise) as u64);
    let mut used = Shares { variance: weak, ..sound };
    if !clips {
        used.wanted.clip_norm = ClipNorm::new(1e9).unwrap();
        used.square = u64::MAX;
    }
    let sampler = used.noise().unwrap();
    (0..6000)
        .map(|run| {
            let rotation = Rotation::new(run);
            let mut sum = vec![0; used.length()];
            for client in 0..3_u64 {
                let last = client == 2;
                let long = if last && canary { [3.5, 0.0, 0.0, 0.0] } else { [0.0; 4] };
                let other = [0.0, 0.3, 0.1 * client as f32, 0.0];
                let key = Key::new([if canary { 1 } else { 2 }; 32]).release(3 * run + client);
                let x = if last { long } else { other };
                let sent = used.encode(&x, rotation, (&sampler, &key)).unwrap();
                sum.iter_mut().zip(&sent).for_each(|(sum, x)| *sum = used.centred(*sum + *x as i64));
            }
            f64::from(used.decode(&sum, rotation)[0])
        })
        .collect()
}

#[test]
fn the_audit_passes_sound_shares_and_catches_half_the_noise_and_a_missing_clip() {
    let ask = |law, noise, clips| {
        let (with, without) = (scores(true, law, noise, clips), scores(false, law, noise, clips));
        distinguish(&with, &without, 1e-5, Probability::new(0.99).unwrap()).unwrap()
    };
    let claimed = Mu::new(1.0).unwrap();
    for law in [Law::DiscreteGaussian, Law::Skellam] {
        let shares = Shares::plan(wanted(law, 4, (3, 3), 18), z(1.0));
        let mut ledger = Ledger::new(Unit::Client, Adjacency::ZeroOut);
        let mechanism = shares.mechanism().unwrap();
        ledger.record(Event { mechanism, sampling: Sampling::Everyone, count: n(1) }).unwrap();
        let epsilon = report::epsilon(&ledger, 1e-5, 1).epsilon;
        let sound = ask(law, 1.0, true);
        assert!(!refutes(sound, claimed) && sound.epsilon <= epsilon && sound.mu > 0.7, "{law:?} {sound:?}");
        let halved = ask(law, 0.25, true);
        assert!(refutes(halved, claimed) && halved.mu > 1.7, "{law:?} {halved:?}");
        let unclipped = ask(law, 1.0, false);
        assert!(
            refutes(unclipped, claimed) && unclipped.epsilon > epsilon,
            "{law:?} {unclipped:?} {epsilon}"
        );
    }
}
