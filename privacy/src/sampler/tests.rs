//! The samplers against their exact laws, the slow path too.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;

use super::{
    batch::{Batch, Word},
    table::{CUT_BITS, OFFSET_BITS, SLOT_BITS, SLOTS, TRIAL_BITS},
    *,
};

/// A stream of its own for each test.
fn key_stream(seed: [u8; 32], number: u64) -> impl Rng {
    Key::new(seed).release(number).stream(0, 0)
}

fn variance(x: u64) -> NonZeroU64 {
    NonZeroU64::new(x).unwrap()
}

fn probability(kind: Kind, variance: NonZeroU64, x: i64) -> f64 {
    match kind {
        Kind::Discrete => discrete_probability(variance, x),
        Kind::Rounded => rounded_probability(variance, x),
    }
}

/// χ² of draws against the exact law, as a standard normal score. Cells of one integer for small σ,
/// of σ/64 for large; those that expect fewer than 20 draws are pooled.
pub(super) fn score(kind: Kind, variance: NonZeroU64, draws: &[i64]) -> f64 {
    let sd = (variance.get() as f64).sqrt();
    let width = ((sd / 64.0) as i64).max(1);
    let mut counts = BTreeMap::<i64, f64>::new();
    for x in draws {
        *counts.entry(x.div_euclid(width)).or_default() += 1.0;
    }
    let n = draws.len() as f64;
    let (mut square, mut cells, mut rest, mut left) = (0.0, 0, n, n);
    let reach = (6.0 * sd / width as f64) as i64 + 2;
    for cell in -reach..=reach {
        let inside = |x: i64| probability(kind, variance, x);
        let sum = if width > 4096 {
            // The law is smooth: its mean over the cell, by five points.
            (0..5).map(|i| inside(cell * width + (2 * i + 1) * width / 10)).sum::<f64>() * width as f64 / 5.0
        } else {
            (cell * width..(cell + 1) * width).map(inside).sum()
        };
        let expected = n * sum;
        if expected < 20.0 {
            continue;
        }
        let count = counts.get(&cell).copied().unwrap_or(0.0);
        square += (count - expected).powi(2) / expected;
        (cells, rest, left) = (cells + 1, rest - expected, left - count);
    }
    if rest > 1.0 {
        square += (left - rest).powi(2) / rest;
        cells += 1;
    }
    let freedom = f64::from(cells - 1);
    (square - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn draws_follow_the_exact_law() {
    for kind in [Kind::Rounded, Kind::Discrete] {
        for squared in [1, 2, 9, 16, 255, 1000, 1 << 20, 1 << 32, (1 << 60) - 12345] {
            let sampler = Sampler::new(kind, variance(squared)).unwrap();
            let mut draws = vec![0; 400_000];
            sampler.add_noise(&mut draws, &mut key_stream([7; 32], squared));
            let z = score(kind, variance(squared), &draws);
            assert!(z.abs() < 4.5, "{kind:?} {squared}: {z}");
            let mean = draws.iter().map(|x| *x as f64).sum::<f64>() / draws.len() as f64;
            assert!(
                mean.abs() < 5.0 * (squared as f64 / draws.len() as f64).sqrt(),
                "{kind:?} {squared}: {mean}"
            );
        }
    }
}

/// As [`Sampler::sample`], with every comparison by the slow path.
fn slow_draws(sampler: &Sampler, count: usize, random: &mut impl Rng) -> Vec<i64> {
    let table = &sampler.table;
    let mut draws = Vec::new();
    while draws.len() < count {
        let word = Word(random.next_u64());
        let (block, offset) = (table.block(word, random), word.offset(0));
        let size = table.shape.position(block, offset) as i64;
        let negative = word.0 & 1 == 1;
        let zero_twice = negative && size == 0 && sampler.kind() == Kind::Discrete;
        if !zero_twice && table.accepts_exactly(block, offset, word.trial(), random) {
            draws.push(if negative { -size } else { size });
        }
    }
    draws
}

#[test]
fn the_slow_path_draws_from_the_same_law() {
    for kind in [Kind::Rounded, Kind::Discrete] {
        for squared in [9, 1000, 1 << 20] {
            let sampler = Sampler::new(kind, variance(squared)).unwrap();
            let draws = slow_draws(&sampler, 20_000, &mut key_stream([8; 32], squared));
            let z = score(kind, variance(squared), &draws);
            assert!(z.abs() < 4.5, "{kind:?} {squared}: {z}");
        }
    }
}

#[test]
fn the_paths_agree_wherever_the_fast_one_decides() {
    let mut random = key_stream([9; 32], 0);
    for kind in [Kind::Rounded, Kind::Discrete] {
        let sampler = Sampler::new(kind, variance(1 << 22)).unwrap();
        let table = &sampler.table;
        let mut both = [0; 2];
        for _ in 0..3000 {
            let block = random.next_u64() % 500;
            let offset = random.next_u64() % (1 << 20);
            // Near the threshold, where a wrong margin would show.
            let t = offset as f64 / f64::from(1 << 20);
            // Of a block of 64 integers only the integer counts.
            let t = if kind == Kind::Discrete { (t * 64.0).floor() / 64.0 } else { t };
            let kappa = 1.0 / 2048.0;
            let near = (-kappa * t * (2.0 * block as f64 + t)).exp() * f64::from(1 << TRIAL_BITS);
            let trial = (near as u64 + random.next_u64() % 21).saturating_sub(10).min((1 << TRIAL_BITS) - 1);
            let offset = offset << (OFFSET_BITS - 20);
            let exact = table.accepts_exactly(block, offset, trial, &mut random);
            let fast = table.accepts(block, offset, trial, &mut random);
            // Only a trial that the bits drawn so far leave open may differ.
            let open = (trial as f64 - near).abs() < 3.0;
            assert!(fast == exact || open, "{kind:?} {block} {offset} {trial} {near}");
            both[usize::from(exact)] += 1;
        }
        assert!(both[0] > 300 && both[1] > 300, "{both:?}");
    }
}

/// A generator that always says the same.
struct Stuck(u64);
impl rand_chacha::rand_core::TryRng for Stuck {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0 as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0)
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.fill(self.0 as u8);
        Ok(())
    }
}

/// With all bits of a tie 0 it goes to a slot's own block, with all 1 to the other: between the two lie
/// the exact probabilities.
#[test]
fn slots_have_the_blocks_exact_probabilities() {
    for (kind, squared) in [(Kind::Rounded, 3), (Kind::Discrete, 1000), (Kind::Rounded, (1 << 42) - 1)] {
        let sampler = Sampler::new(kind, variance(squared)).unwrap();
        let mut bounds = vec![[0_u32; 2]; SLOTS];
        for leading in 0..1_u64 << (SLOT_BITS + CUT_BITS) {
            let word = Word(leading << (64 - SLOT_BITS - CUT_BITS));
            let low = sampler.table.block(word, &mut Stuck(0)) as usize;
            let high = sampler.table.block(word, &mut Stuck(u64::MAX)) as usize;
            if low == high {
                bounds[low].iter_mut().for_each(|count| *count += 1);
            } else {
                bounds[low][1] += 1;
                bounds[high][1] += 1;
            }
        }
        let width = 2.0_f64.powi((squared.ilog2() as i32 - 10).div_euclid(2));
        let width = if kind == Kind::Discrete { width.max(1.0) } else { width };
        let weight = |j: usize| (-(j as f64 * width).powi(2) / (2.0 * squared as f64)).exp();
        let blocks = (186.0 * squared as f64).sqrt() / width;
        let total: f64 = (0..=blocks as usize).map(weight).sum();
        let all = 2.0_f64.powi((SLOT_BITS + CUT_BITS) as i32);
        for (j, [least, most]) in bounds.into_iter().enumerate() {
            let exact = if j as f64 <= blocks { weight(j) / total * all } else { 0.0 };
            let inside = f64::from(least) <= exact + 1e-6 && exact - 1e-6 <= f64::from(most);
            assert!(inside, "{kind:?} {squared}: block {j} has {least} to {most} of {all}, expected {exact}");
        }
    }
}

#[test]
fn every_machine_proposes_the_same() {
    let mut random = key_stream([4; 32], 0);
    for kind in [Kind::Rounded, Kind::Discrete] {
        for squared in [1, 1000, 1 << 40, 1 << 58] {
            let sampler = Sampler::new(kind, variance(squared)).unwrap();
            let mut batch = Batch::EMPTY;
            for _ in 0..20 {
                batch.fill(&sampler.table, &mut random);
                batch.propose(&sampler.table);
                let here = (batch.noise, batch.open);
                batch.propose_anywhere(&sampler.table);
                assert_eq!((batch.noise, batch.open), here, "{kind:?} {squared}");
            }
        }
    }
}

/// Noise that is made again after a restart must be that of before: whoever changes the stream has to
/// raise [`STREAM`], with which runs under way are refused.
#[test]
fn the_stream_is_that_of_its_version() {
    let mut digest = 0_u64;
    for (kind, squared) in [(Kind::Rounded, 9), (Kind::Discrete, 1 << 20), (Kind::Rounded, 1 << 52)] {
        let sampler = Sampler::new(kind, variance(squared)).unwrap();
        let mut sum = vec![0; 20_000];
        Key::new([3; 32]).release(1).add_noise(&sampler, (0, 0), &mut sum, 1);
        digest = sum.iter().fold(digest, |digest, x| digest.wrapping_mul(0x100_0000_01b3) ^ *x as u64);
    }
    assert_eq!((STREAM, digest), (2, 16_110_314_759_906_176_134));
}

#[test]
fn shards_may_be_done_in_any_order() {
    let sampler = Sampler::new(Kind::Rounded, variance(1 << 20)).unwrap();
    let key = Key::new([5; 32]).release(3);
    let mut forward = vec![9_i64; 2 * SHARD + 100];
    let mut backward = forward.clone();
    for (shard, part) in shards(&mut forward) {
        key.add_noise(&sampler, (1, shard), part, 1 << 10);
    }
    let mut parts: Vec<_> = shards(&mut backward).collect();
    parts.reverse();
    for (shard, part) in parts {
        key.add_noise(&sampler, (1, shard), part, 1 << 10);
    }
    assert_eq!(forward, backward);
    assert_ne!(forward[..50], forward[SHARD..SHARD + 50]);
    assert!(forward.iter().all(|x| (x - 9) % 1024 == 0));
    let mut other = vec![9; 50];
    key.add_noise(&sampler, (2, 0), &mut other, 1 << 10);
    assert_ne!(forward[..50], other[..]);
    assert_eq!(format!("{:?} {:?}", Key::new([1; 32]), key), "Key(secret) ReleaseKey(secret)");
}

#[test]
fn equal_seeds_give_equal_noise_and_streams_differ() {
    let sampler = Sampler::new(Kind::Rounded, variance(1 << 20)).unwrap();
    let draw = |seed, stream| {
        let mut sum = [100_i64; 50];
        sampler.add_noise(&mut sum, &mut key_stream([seed; 32], stream));
        sum
    };
    assert_eq!(draw(1, 2), draw(1, 2));
    assert_ne!(draw(1, 2), draw(1, 3));
    assert_ne!(draw(1, 2), draw(2, 2));
    let one = sampler.sample(&mut key_stream([1; 32], 2));
    assert!(one.unsigned_abs() <= 14 << 10);
    assert_eq!((sampler.kind(), sampler.variance()), (Kind::Rounded, 1 << 20));
    let message = Sampler::new(Kind::Rounded, variance(u64::MAX)).unwrap_err().to_string();
    assert!(message.contains("from 1 to 2^60"), "{message}");
}
