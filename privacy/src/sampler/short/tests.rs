//! Short draws against the exact law, each of their parts against the slow way.

use super::super::{Key, Kind, tests::score};
use super::*;

fn variance(x: u64) -> NonZeroU64 {
    NonZeroU64::new(x).unwrap()
}

/// The least, two that models have, and the largest.
const VARIANCES: [u64; 5] = [1 << 14, 1 << 20, 5_000_000_000, (1 << 34) + 12_345, (1 << 42) - 1];

fn draw(squared: u64, count: usize, key: u8) -> Vec<i64> {
    let short = Short::new(variance(squared)).unwrap();
    let release = Key::new([key; 32]).release(squared);
    let mut draws = short.draws(&release, (0, 3));
    let batches = (0..count.div_ceil(DRAWS)).flat_map(|_| *draws.next_batch());
    batches.map(i64::from).take(count).collect()
}

#[test]
fn draws_follow_the_exact_law() {
    for squared in VARIANCES {
        let draws = draw(squared, 800_000, 7);
        let z = score(Kind::Rounded, variance(squared), &draws);
        assert!(z.abs() < 4.5, "{squared}: {z}");
        let mean = draws.iter().map(|x| *x as f64).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 5.0 * (squared as f64 / draws.len() as f64).sqrt(), "{squared}: {mean}");
    }
}

#[test]
fn only_variances_that_fit_are_taken() {
    for squared in [1, (1 << 14) - 1, 1 << 42, 1 << 60] {
        assert!(Short::new(variance(squared)).is_none(), "{squared}");
    }
}

/// Of all draws a word at a time, from the ordinary order of the cipher's blocks: other code than the batches'
/// on this machine, and that of every machine without wide vectors.
#[test]
fn a_batch_is_what_single_draws_give_on_every_machine() {
    for squared in VARIANCES {
        let short = Short::new(variance(squared)).unwrap();
        let release = Key::new([3; 32]).release(squared);
        let mut draws = short.draws(&release, (5, 2));
        let (mut stream, mut beside) = (release.stream(5, 2), release.stream(5 | BESIDE, 2));
        let mut open = 0;
        for _ in 0..40 {
            let mut words = [0; DRAWS];
            for at in 0..DRAWS {
                let (block, word) = (at / 16, at % 16);
                words[block / 16 * 256 + word * 16 + block % 16] = stream.next_u32();
            }
            let batch = *draws.next_batch();
            for (word, noise) in words.into_iter().zip(batch) {
                assert_eq!(noise, short.decide(word, &mut beside));
            }
            open += draws.open.iter().filter(|open| **open != 0).count();
        }
        assert!(open > 40, "{open}");
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

/// Between the bounds that a tie's bits leave lie the exact probabilities of the boxes and of the rest.
#[test]
fn slots_have_the_exact_probabilities() {
    for squared in [1 << 14, 5_000_000_000, (1 << 42) - 1] {
        let short = Short::new(variance(squared)).unwrap();
        let bits = FREE_BITS - short.fields.offset_bits;
        let mut bounds = vec![[0_u32; 2]; SLOTS];
        for (own, slot) in (0..).zip(*short.slots) {
            let (cut, other) = (slot >> SLOT_BITS, (slot % SLOTS as u32) as usize);
            for (outcome, sure) in [(own, cut), (other, (1 << bits) - cut)] {
                bounds[outcome].iter_mut().for_each(|count| *count += sure);
            }
            if cut < 1 << bits {
                // The cut is somewhere between this fraction and the next.
                let word = (own << (32 - SLOT_BITS)) as u32 | cut << (short.fields.offset_bits + 1);
                let [low, high] =
                    [Stuck(0), Stuck(u64::MAX)].map(|mut random| short.is_own(word, slot, &mut random));
                assert!(!high && low == (short.exact_cuts[own] != [0; 3]));
                bounds[own][1] += 1;
                bounds[other][0] -= 1;
            }
        }
        let kappa = short.kappa.0 as f64 / short.kappa.1 as f64;
        let weight = |j: usize| (-kappa * (j as f64).powi(2)).exp();
        let total: f64 = (0..SLOTS).map(weight).sum();
        let all = 2.0_f64.powi((SLOT_BITS + bits) as i32);
        for (j, [least, most]) in bounds.into_iter().enumerate() {
            let exact = weight(j) / total * all;
            let inside = f64::from(least) <= exact + 1e-6 && exact - 1e-6 <= f64::from(most);
            assert!(inside, "{squared}: {j} has {least} to {most} of {all}, expected {exact}");
        }
    }
}

/// What a rest decides, by `f64` alone where that is sure, or by the slow path always.
fn rests(short: &Short, count: usize, slow: bool) -> Vec<f64> {
    let mut random = Key::new([u8::from(slow); 32]).release(9).stream(0, 0);
    let mut kept = vec![0.0; 4 * SLOTS];
    let quarter = |block: u64, offset: u64| (4 * block + (offset << 2 >> short.fields.offset_bits)) as usize;
    for _ in 0..count {
        if !slow {
            if let Some((block, offset)) = short.rest(&mut random) {
                kept[quarter(block, offset)] += 1.0;
            }
            continue;
        }
        let [height, place] = [random.next_u64(), random.next_u64()];
        let guess = (-2.0 * (height as f64 * 2.0_f64.powi(-64)).ln()).sqrt() * short.scale;
        let (block, keep) = short.rest_exactly([height, place], guess as u64, &mut random);
        if keep {
            kept[quarter(block, place >> (64 - short.fields.offset_bits))] += 1.0;
        }
    }
    kept
}

#[test]
fn the_rest_is_what_the_boxes_leave_of_the_density_by_either_way() {
    let short = Short::new(variance(5_000_000_000)).unwrap();
    let kappa = short.kappa.0 as f64 / short.kappa.1 as f64;
    let density = |x: f64| (-kappa * x * x).exp();
    for (slow, count) in [(false, 2_000_000), (true, 20_000)] {
        let kept = rests(&short, count, slow);
        let (mut square, mut cells, mut expected, mut found) = (0.0, 0.0, 0.0, 0.0);
        for (at, here) in kept.iter().enumerate() {
            // Simpson's rule over a quarter of a block.
            let (from, box_height) = (at as f64 / 4.0, density((at / 4 + 1) as f64));
            let area = (density(from) + 4.0 * density(from + 0.125) + density(from + 0.25)) / 24.0;
            expected += count as f64 * (area - box_height / 4.0);
            found += here;
            if expected > 25.0 {
                square += (found - expected).powi(2) / expected;
                (cells, expected, found) = (cells + 1.0, 0.0, 0.0);
            }
        }
        let z = (square - cells) / (2.0_f64 * cells).sqrt();
        assert!(z.abs() < 4.5 && cells > 60.0, "{slow}: {z} in {cells}");
    }
}

#[test]
fn the_ways_agree_wherever_the_fast_one_is_sure() {
    let short = Short::new(variance(5_000_000_000)).unwrap();
    let mut random = Key::new([8; 32]).release(1).stream(0, 0);
    let mut kept = [0; 2];
    for _ in 0..3_000 {
        let height = random.next_u64();
        let y = (-2.0 * (height as f64 * 2.0_f64.powi(-64)).ln()).sqrt() * short.scale;
        // Near the edge, where a wrong margin would show.
        let near = (y.fract() + 1e-8 * (random.next_u64() % 21) as f64 - 1e-7).clamp(0.0, 0.999_999);
        let place = (near * 2.0_f64.powi(64)) as u64;
        let exact = short.rest_exactly([height, place], y as u64 + random.next_u64() % 2, &mut random);
        let fast = short.rest(&mut Told(vec![place, height]));
        assert_eq!(
            fast,
            exact.1.then_some((exact.0, place >> (64 - short.fields.offset_bits))),
            "{height} {place}"
        );
        kept[usize::from(exact.1)] += 1;
    }
    assert!(kept[0] > 300 && kept[1] > 300, "{kept:?}");
}

/// Says what it was told to, the last first, then nothing.
struct Told(Vec<u64>);
impl rand_chacha::rand_core::TryRng for Told {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.pop().unwrap_or(0))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.fill(0);
        Ok(())
    }
}

#[test]
fn the_ends_of_the_rest_are_in_bounds() {
    let short = Short::new(variance(1 << 34)).unwrap();
    for height in [0, 1, u64::MAX - 1, u64::MAX] {
        for place in [0, 1 << 63, u64::MAX] {
            let found = short.rest(&mut Told(vec![place, height]));
            assert!(
                found.is_none_or(|(block, offset)| block < 3_600 && offset < 1 << short.fields.offset_bits)
            );
        }
    }
}

#[test]
fn draws_follow_from_key_and_shard_alone() {
    let short = Short::new(variance(1 << 32)).unwrap();
    let batch = |key: u8, place| {
        let release = Key::new([key; 32]).release(4);
        *short.draws(&release, place).next_batch()
    };
    assert_eq!(batch(1, (0, 0)), batch(1, (0, 0)));
    for other in [batch(2, (0, 0)), batch(1, (1, 0)), batch(1, (0, 1))] {
        assert_ne!(batch(1, (0, 0)), other);
    }
    let digest = draw(1 << 32, 20_000, 3)
        .iter()
        .fold(0_u64, |digest, x| digest.wrapping_mul(0x100_0000_01b3) ^ *x as u64);
    assert_eq!(digest, 12_262_969_176_896_130_510);
    let release = Key::new([1; 32]).release(4);
    assert_eq!(format!("{:?}", short.draws(&release, (0, 0))), "Draws(secret)");
}
