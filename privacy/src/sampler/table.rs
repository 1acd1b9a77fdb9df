//! Blocks of the half line with exact probabilities, and the comparison that keeps or drops a point.
//!
//! Block `j` covers `[jw, (j+1)w)` with `w = 2^k` at most σ/16, and is drawn with a probability in
//! proportion to `e^{−(jw)²/2σ²}`. A point at `(j + t)w` is kept with `e^{−κt(2j+t)}`, `κ = w²/2σ²`,
//! which is never below 0.42.

use rand_chacha::rand_core::Rng;

use super::{Kind, fixed::Fixed};

/// The 64 bits of an attempt: block, offset in the block, trial, sign.
pub(super) const BLOCK_BITS: u32 = 24;
pub(super) const OFFSET_BITS: u32 = 20;
pub(super) const TRIAL_BITS: u32 = 19;

const GUIDE_BITS: u32 = 12;
/// Bound of the relative error of an exponential function in `f64`, with room.
const EXP_ERROR: f64 = 3e-14;

#[derive(Debug, Clone)]
pub(super) struct Table {
    kind: Kind,
    pub(super) variance: u64,
    /// `log2 w`.
    width: i32,
    /// Bits of the offset that the result needs.
    pub(super) offset_bits: u32,
    /// Where each block ends: the first bits of the cumulated probability; the last end is beyond all.
    ends: Vec<u32>,
    /// The same to 192 bits.
    exact_ends: Vec<[u64; 3]>,
    /// The first block that a draw with these leading bits may lie in.
    guide: Vec<u16>,
    /// Trials below are kept wherever the point lies.
    pub(super) sure: Vec<u64>,
    kappa: f64,
    exact_kappa: Fixed,
}

impl Table {
    pub(super) fn new(kind: Kind, variance: u64) -> Self {
        let finest = if kind == Kind::Discrete { 0 } else { i32::MIN };
        let width = (variance.ilog2() as i32 - 8).div_euclid(2).max(finest);
        // (jw)²/2σ² = j²·numerator/denominator.
        let numerator = 1_u128 << (2 * width.max(0));
        let denominator = u128::from(variance) << (1 + 2 * (-width).max(0));
        let blocks = (93 * denominator / numerator).isqrt() as u64 + 1;
        let (ends, exact_ends) = ends(blocks, numerator, denominator);
        let first = |i: u32| ends.partition_point(|end| *end < i << (BLOCK_BITS - GUIDE_BITS)) as u16;
        let guide = (0..1 << GUIDE_BITS).map(first).collect();
        let kappa = numerator as f64 / denominator as f64;
        let certain = kind == Kind::Discrete && width == 0;
        let sure = |j: u64| {
            let least = (-kappa * (2 * j + 1) as f64).exp() * (1.0 - EXP_ERROR);
            if certain { 1 << TRIAL_BITS } else { (least * f64::from(1 << TRIAL_BITS)) as u64 }
        };
        let offset_bits = match kind {
            Kind::Discrete => width as u32,
            Kind::Rounded => (width + 1).max(0) as u32,
        };
        let sure = (0..blocks).map(sure).collect();
        let exact_kappa = Fixed::ratio(numerator, denominator);
        Self { kind, variance, width, offset_bits, ends, exact_ends, guide, sure, kappa, exact_kappa }
    }

    /// The block that the leading bits of a draw lie in; where they meet the end of a block, more bits
    /// decide.
    #[inline]
    pub(super) fn block(&self, leading: u64, random: &mut impl Rng) -> usize {
        let leading = leading as u32;
        let mut block = usize::from(self.guide[(leading >> (BLOCK_BITS - GUIDE_BITS)) as usize]);
        while self.ends[block] < leading {
            block += 1;
        }
        if self.ends[block] == leading { self.block_exactly(block, leading, random) } else { block }
    }

    #[cold]
    fn block_exactly(&self, mut block: usize, leading: u32, random: &mut impl Rng) -> usize {
        let more = [random.next_u64(), random.next_u64(), random.next_u64()];
        let draw = [
            u64::from(leading) << (64 - BLOCK_BITS) | more[0] >> BLOCK_BITS,
            more[0] << (64 - BLOCK_BITS) | more[1] >> BLOCK_BITS,
            more[1] << (64 - BLOCK_BITS) | more[2] >> BLOCK_BITS,
        ];
        while block + 1 < self.ends.len() && self.exact_ends[block] <= draw {
            block += 1;
        }
        block
    }

    /// The integer at an offset in a block.
    #[inline]
    pub(super) fn position(&self, block: usize, offset: u64, lower: u64) -> i64 {
        let block = block as i64;
        if self.width < 0 {
            // (block · 2^k + ½), rounded down; the offset cannot change it.
            let shift = -self.width;
            return (block + (1 << (shift - 1))) >> shift;
        }
        let bits = self.offset_bits;
        let leading = if bits <= OFFSET_BITS {
            offset >> (OFFSET_BITS - bits)
        } else {
            offset << (bits - OFFSET_BITS) | lower
        } as i64;
        let inside = if self.kind == Kind::Rounded { (leading + 1) >> 1 } else { leading };
        (block << self.width) + inside
    }

    /// Whether a point is kept. The bits of its offset and of the trial that are not drawn yet leave an
    /// interval for either; if they do not decide, more are drawn.
    pub(super) fn accepts(
        &self,
        block: usize,
        offset: (u64, u64),
        trial: u64,
        random: &mut impl Rng,
    ) -> bool {
        let cell = 2.0_f64.powi(-(OFFSET_BITS as i32));
        let (low, high) = match self.kind {
            // Bits below the resolution of the integers do not count.
            Kind::Discrete => {
                let inside = self.position(0, offset.0, offset.1) as f64;
                let exact = inside / 2.0_f64.powi(self.width);
                (exact, exact)
            }
            Kind::Rounded => (offset.0 as f64 * cell, (offset.0 + 1) as f64 * cell),
        };
        let kept = |t: f64| libm::exp(-self.kappa * t * (2.0 * block as f64 + t));
        let one = 2.0_f64.powi(-(TRIAL_BITS as i32));
        if (trial + 1) as f64 * one <= kept(high) * (1.0 - EXP_ERROR) {
            return true;
        }
        if trial as f64 * one >= kept(low) * (1.0 + EXP_ERROR) {
            return false;
        }
        self.accepts_exactly(block, offset, trial, random)
    }

    /// The same with 192 more bits of the trial and of the offset. The chance that even these leave it
    /// open is below 2⁻²⁰⁰; then the point is dropped.
    #[cold]
    pub(super) fn accepts_exactly(
        &self,
        block: usize,
        (offset, lower): (u64, u64),
        trial: u64,
        random: &mut impl Rng,
    ) -> bool {
        let wide = self.offset_bits.saturating_sub(OFFSET_BITS);
        let (known, bits) = match self.kind {
            Kind::Discrete => (self.position(0, offset, lower) as u64, self.width as u32),
            Kind::Rounded => (offset << wide | lower, OFFSET_BITS + wide),
        };
        let rest = |random: &mut dyn FnMut() -> u64| Fixed([random(), random(), random(), 0, 0, 0]);
        let mut next = || random.next_u64();
        let exact = self.kind == Kind::Discrete;
        let fraction = if exact { Fixed::ZERO } else { rest(&mut next).shift_right(bits) };
        let t = Fixed::ratio(u128::from(known), 1 << bits).add(fraction);
        let scaled = self.exact_kappa.mul(t);
        let exponent = scaled.times(2 * block as u64).add(scaled.mul(t));
        let trial =
            Fixed::ratio(u128::from(trial), 1 << TRIAL_BITS).add(rest(&mut next).shift_right(TRIAL_BITS));
        trial < Fixed::exp_negative(0, exponent)
    }
}

/// Cumulated probabilities at the end of each block, to 24 and to 192 bits.
fn ends(blocks: u64, numerator: u128, denominator: u128) -> (Vec<u32>, Vec<[u64; 3]>) {
    // A sum of at most 2^9 terms of at most 1, over 2^11.
    let weight = |j: u64| {
        let product = u128::from(j * j) * numerator;
        let part = Fixed::ratio(product % denominator, denominator);
        Fixed::exp_negative((product / denominator) as u32, part).shift_right(11)
    };
    let cumulated: Vec<Fixed> = (0..blocks)
        .scan(Fixed::ZERO, |sum, j| {
            *sum = sum.add(weight(j));
            Some(*sum)
        })
        .collect();
    let total = cumulated[cumulated.len() - 1];
    let mut exact: Vec<[u64; 3]> = cumulated.iter().map(|sum| sum.divided_by(total)).collect();
    let mut ends: Vec<u32> = exact.iter().map(|end| (end[0] >> (64 - BLOCK_BITS)) as u32).collect();
    if let (Some(end), Some(exact)) = (ends.last_mut(), exact.last_mut()) {
        (*end, *exact) = (u32::MAX, [u64::MAX; 3]);
    }
    (ends, exact)
}
