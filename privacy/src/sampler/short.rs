//! Draws of 32 bits, for noise on every step of a training: there each parameter costs a draw a step, so that
//! half the key stream is half the cipher.
//!
//! The law is that of [`Kind::Rounded`](super::Kind), as exactly. Under the density of each block
//! `[jw, (j+1)w)`, `w = 2^k` at most σ/128, lies a box of the height at the block's right end: a point in one
//! of these is uniform in its block, and needs no trial. What is left of the blocks adds up to one box of
//! width w and height 1, whatever σ, of which nearly half counts: a height `h` uniform in (0, 1) names a block,
//! that in which the density falls below it, at `y = √(−2 ln h)·σ/w` blocks from 0, and a point `t` of the
//! block is kept if it lies before `y`. The draw is among all the boxes and the rest, by the alias method. So
//! one look decides 99 % of draws; where bits are left open, more are drawn, up to 256 of them compared in
//! 384-bit arithmetic.
//!
//! A number has its own 32 bits, from the highest on: slot, fraction of the slot, offset, sign; what more it
//! takes comes from a stream beside.
#![allow(clippy::inline_always, reason = "a loop is compiled for a machine only with all that it calls")]
#![allow(clippy::needless_bitwise_bool, reason = "a branch would keep the loop from being vectorised")]

use std::num::NonZeroU64;

use rand_chacha::rand_core::Rng;

use super::{
    ReleaseKey, Stream,
    fixed::Fixed,
    table::{aliases, density, probabilities},
    wide::{Columns, SHEAF},
};
use crate::widest::widest;

const SLOT_BITS: u32 = 12;
const SLOTS: usize = 1 << SLOT_BITS;
/// For fraction and offset together; the sign is one more.
const FREE_BITS: u32 = 31 - SLOT_BITS;
/// Of the fraction at least, so that a cut leaves few draws open.
const LEAST_FRACTION_BITS: u32 = 5;
/// Streams beside those of the vectors of a release.
const BESIDE: u32 = 1 << 31;
/// Draws at a time.
pub const DRAWS: usize = SHEAF;

/// Bounds of what a height's logarithm and a place may be where `f64` decides, and what it may be off by:
/// from 2⁻²⁰ to 13.8 the logarithm of 64 bits of a height is good to 2⁻⁴⁴, and y, below 1,350, to 3e-11.
const SURE_LOG: std::ops::Range<f64> = 1.0 / 1_048_576.0..13.8;
const SURE_PLACE: f64 = 1e-9;

/// A sampler of the rounded Gaussian by 32 bits a draw.
#[derive(Debug, Clone)]
pub struct Short {
    /// From the lowest bit on: what else the slot has a part of, and the leading bits of where it begins. 0
    /// is the rest, `j + 1` block `j`.
    slots: Box<[u32; SLOTS]>,
    exact_cuts: Vec<[u64; 3]>,
    fields: Fields,
    /// σ/w
    scale: f64,
    /// `w²/2σ²`
    kappa: (u128, u128),
    exact_kappa: Fixed,
}

/// Where the parts of a word lie.
#[derive(Debug, Clone, Copy)]
struct Fields {
    /// Of a place in a block: half integers.
    offset_bits: u32,
    offset_mask: u32,
    fraction_mask: u32,
}

impl Fields {
    fn new(offset_bits: u32) -> Self {
        let mask = |bits: u32| (1 << bits) - 1;
        Self { offset_bits, offset_mask: mask(offset_bits), fraction_mask: mask(FREE_BITS - offset_bits) }
    }

    #[inline(always)]
    fn slot(word: u32) -> u32 {
        word >> (32 - SLOT_BITS)
    }

    #[inline(always)]
    fn fraction(self, word: u32) -> u32 {
        word.wrapping_shr(self.offset_bits.wrapping_add(1)) & self.fraction_mask
    }

    #[inline(always)]
    fn offset(self, word: u32) -> u32 {
        word >> 1 & self.offset_mask
    }

    /// The noise of a word with what is known of its slot, unless it is open.
    #[inline(always)]
    fn propose(self, word: u32, slot: u32) -> (i32, bool) {
        let (cut, other) = (slot >> SLOT_BITS, slot & (SLOTS as u32 - 1));
        let fraction = self.fraction(word);
        let outcome = if fraction < cut { Self::slot(word) } else { other };
        let noise = self.noise(word, outcome.wrapping_sub(1), self.offset(word));
        (noise, (outcome == 0) | (fraction == cut))
    }

    /// The integer nearest to a place that is known to half an integer, with the sign of the word.
    #[inline(always)]
    fn noise(self, word: u32, block: u32, offset: u32) -> i32 {
        let size = block.wrapping_shl(self.offset_bits).wrapping_add(offset).wrapping_add(1) >> 1;
        let sign = (word & 1).wrapping_neg();
        (size ^ sign).wrapping_sub(sign) as i32
    }
}

impl Short {
    /// For noise of this variance; `None` if its deviation is not from 2^7 to 2^21: a
    /// [`Sampler`](super::Sampler) draws it.
    pub fn new(variance: NonZeroU64) -> Option<Self> {
        let variance = variance.get();
        let width = (variance.ilog2() / 2).checked_sub(7)?;
        let offset_bits = width + 1;
        let fraction_bits = FREE_BITS.checked_sub(offset_bits).filter(|bits| *bits >= LEAST_FRACTION_BITS)?;
        let kappa = (1_u128 << (2 * width), u128::from(variance) << 1);
        // Beyond it lies a mass below 2^-130.
        let blocks = (93 * kappa.1 / kappa.0).isqrt() as u64 + 1;
        // The box of a block is as high as the density where the next one begins; the rest is as the box that
        // would come before them all.
        let aliases = aliases(probabilities(blocks, kappa, SLOT_BITS), SLOT_BITS);
        let slot = |own: usize| {
            let (cut, other) = aliases[own];
            let cut = cut.map_or(1 << fraction_bits, |cut| cut[0] >> (64 - fraction_bits));
            (cut as u32) << SLOT_BITS | other as u32
        };
        Some(Self {
            slots: Box::new(std::array::from_fn(slot)),
            exact_cuts: aliases.iter().map(|(cut, _)| cut.unwrap_or([u64::MAX; 3])).collect(),
            fields: Fields::new(offset_bits),
            scale: (variance as f64).sqrt() / (1_u64 << width) as f64,
            kappa,
            exact_kappa: Fixed::ratio(kappa.0, kappa.1),
        })
    }

    /// The draws for one shard of a vector of a release, from the first on.
    ///
    /// # Panics
    /// If the vector's number is 2^31 or more.
    pub fn draws(&self, release: &ReleaseKey, (vector, shard): (u32, u32)) -> Draws<'_> {
        assert!(vector < BESIDE, "short draws: vector {vector}, expected one below 2^31");
        Draws {
            sampler: self,
            columns: release.columns(vector, shard),
            beside: release.stream(vector | BESIDE, shard),
            words: [0; DRAWS],
            slots: [0; DRAWS],
            noise: [0; DRAWS],
            open: [0; DRAWS],
        }
    }

    /// Whether the draw in a slot is below its cut; where its bits meet the cut, more bits decide.
    fn is_own(&self, word: u32, slot: u32, random: &mut impl Rng) -> bool {
        let (fraction, cut) = (self.fields.fraction(word), slot >> SLOT_BITS);
        if fraction != cut {
            return fraction < cut;
        }
        let bits = FREE_BITS - self.fields.offset_bits;
        let (mut leading, exact) = (u64::from(fraction), &self.exact_cuts[Fields::slot(word) as usize]);
        for limb in exact {
            let more = random.next_u64();
            let draw = leading << (64 - bits) | more >> bits;
            if draw != *limb {
                return draw < *limb;
            }
            leading = more;
        }
        false
    }

    /// A draw that begins with a word, whatever it takes.
    fn decide(&self, mut word: u32, random: &mut impl Rng) -> i32 {
        loop {
            let own = Fields::slot(word);
            let slot = self.slots[own as usize];
            let (noise, open) = self.fields.propose(word, slot);
            if !open {
                return noise;
            }
            let outcome = if self.is_own(word, slot, random) { own } else { slot & (SLOTS as u32 - 1) };
            if let Some(block) = outcome.checked_sub(1) {
                return self.fields.noise(word, block, self.fields.offset(word));
            }
            if let Some((block, offset)) = self.rest(random) {
                return self.fields.noise(word, block as u32, offset as u32);
            }
            word = random.next_u32();
        }
    }

    /// A place above the boxes, block and offset; `None` if it is above the density, too.
    fn rest(&self, random: &mut impl Rng) -> Option<(u64, u64)> {
        let [height, place] = [random.next_u64(), random.next_u64()];
        let one = 2.0_f64.powi(-64);
        let log = -libm::log((height as f64 + 0.5) * one);
        let y = libm::sqrt(2.0 * log) * self.scale;
        let block = y as u64;
        let (part, t) = (y - block as f64, place as f64 * one);
        let sure = SURE_LOG.contains(&log)
            && part > SURE_PLACE
            && part < 1.0 - SURE_PLACE
            && (t - part).abs() > SURE_PLACE;
        let (block, kept) =
            if sure { (block, t < part) } else { self.rest_exactly([height, place], block, random) };
        kept.then(|| (block, place >> (64 - self.fields.offset_bits)))
    }

    /// The same with 192 more bits of height and place, and a guess of the block. The chance that even these
    /// leave it open is below 2⁻²⁰⁰.
    #[cold]
    fn rest_exactly(&self, [height, place]: [u64; 2], mut block: u64, random: &mut impl Rng) -> (u64, bool) {
        let mut more = |first| Fixed([first, random.next_u64(), random.next_u64(), random.next_u64(), 0, 0]);
        let (height, t) = (more(height), more(place));
        while block < SLOTS as u64 && density(block + 1, self.kappa) > height {
            block += 1;
        }
        while block > 0 && density(block, self.kappa) <= height {
            block -= 1;
        }
        let scaled = self.exact_kappa.mul(t);
        let fall = Fixed::exp_negative(0, scaled.times(2 * block).add(scaled.mul(t)));
        (block, height < density(block, self.kappa).mul(fall))
    }
}

/// Noise, [`DRAWS`] numbers at a time.
pub struct Draws<'a> {
    sampler: &'a Short,
    columns: Columns,
    beside: Stream,
    words: [u32; DRAWS],
    slots: [u32; DRAWS],
    noise: [i32; DRAWS],
    /// Not 0: the draw is open.
    open: [u8; DRAWS],
}

// None may end in a log.
impl std::fmt::Debug for Draws<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Draws(secret)")
    }
}

impl Draws<'_> {
    /// The next ones. At most 14σ + 1 in size.
    pub fn next_batch(&mut self) -> &[i32; DRAWS] {
        self.columns.next(&mut self.words);
        look(&self.sampler.slots, &self.words, &mut self.slots);
        widest(
            #[inline(always)]
            || self.propose(),
        );
        for eighth in 0..DRAWS / 8 {
            let mut open = u64::from_le_bytes(self.open.as_chunks().0[eighth]);
            while open != 0 {
                let i = 8 * eighth + open.trailing_zeros() as usize / 8;
                self.noise[i] = self.sampler.decide(self.words[i], &mut self.beside);
                open &= open - 1;
            }
        }
        &self.noise
    }

    #[inline(always)]
    fn propose(&mut self) {
        let fields = self.sampler.fields;
        for i in 0..DRAWS {
            let (noise, open) = fields.propose(self.words[i], self.slots[i]);
            (self.noise[i], self.open[i]) = (noise, u8::from(open));
        }
    }
}

/// Apart from the rest, since vectors are slow at it.
#[inline(never)]
fn look(slots: &[u32; SLOTS], words: &[u32; DRAWS], found: &mut [u32; DRAWS]) {
    for (found, word) in found.iter_mut().zip(words) {
        *found = slots[Fields::slot(*word) as usize];
    }
}

#[cfg(test)]
mod tests;
