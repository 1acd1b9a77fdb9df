//! Blocks of the half line with exact probabilities, and the comparison that keeps or drops a point.
//!
//! Block `j` covers `[jw, (j+1)w)` with `w = 2^k` at most σ/32, and is drawn with a probability in
//! proportion to `e^{−(jw)²/2σ²}`. A point at `(j + t)w` is kept with `e^{−κt(2j+t)}`, `κ = w²/2σ²`,
//! which is never below 0.65.
//!
//! Blocks are drawn by the alias method (Walker 1977; Vose 1991): a slot is one of two blocks, so that a
//! draw needs one look at the table and no loop.
#![allow(clippy::inline_always, reason = "a loop is compiled for a machine only with all that it calls")]

use rand_chacha::rand_core::Rng;

use super::{Kind, batch::Word, fixed::Fixed};

/// There are fewer blocks than slots.
pub(super) const SLOT_BITS: u32 = 10;
pub(super) const SLOTS: usize = 1 << SLOT_BITS;
/// Leading bits of where a slot changes from its own block to the other.
pub(super) const CUT_BITS: u32 = 14;
/// Leading bits of the trials below which a point is kept wherever it lies.
pub(super) const SURE_BITS: u32 = 16;
/// Bits of an offset in a block, and how many of them the 64 bits of an attempt hold.
pub(super) const OFFSET_BITS: u32 = 28;
pub(super) const NARROW_BITS: u32 = 20;
pub(super) const TRIAL_BITS: u32 = 19;

/// Bound of the relative error of an exponential function in `f64`, with room.
const EXP_ERROR: f64 = 3e-14;

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) kind: Kind,
    pub(super) variance: u64,
    slots: Box<[Slot; SLOTS]>,
    /// The cuts to 192 bits.
    pub(super) exact_cuts: Vec<[u64; 3]>,
    pub(super) shape: Shape,
    /// Bits of the offset that are drawn with each attempt.
    pub(super) known_bits: u32,
    pub(super) kappa: f64,
    pub(super) exact_kappa: Fixed,
}

/// How the integer follows from a block and an offset: `(block·2^bits + offset + round) >> shift`, with
/// the leading `bits` of the offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    bits: u32,
    round: u64,
    shift: u32,
}

impl Shape {
    fn new(kind: Kind, width: i32) -> Self {
        let (bits, shift) = match kind {
            Kind::Discrete => (width as u32, 0),
            Kind::Rounded => ((width + 1).max(0) as u32, (-width).max(1) as u32),
        };
        Self { bits, round: (1 << shift) >> 1, shift }
    }

    /// The integer at an offset in a block.
    #[inline(always)]
    pub(super) fn position(self, block: u64, offset: u64) -> u64 {
        let place = block
            .wrapping_shl(self.bits)
            .wrapping_add(offset.wrapping_shr(OFFSET_BITS.wrapping_sub(self.bits)));
        place.wrapping_add(self.round).wrapping_shr(self.shift)
    }
}

/// What is known of a slot at one look: from the lowest bit on, its cut, its other block, and for its own
/// and for the other the trials that are sure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) const NONE: Self = Self(0);

    fn new(cut: u64, other: u64, (own_sure, other_sure): (u64, u64)) -> Self {
        Self(cut | other << 16 | own_sure << 26 | other_sure << 43)
    }

    #[inline(always)]
    pub(super) fn cut(self) -> u64 {
        self.0 & 0xffff
    }

    #[inline(always)]
    fn other(self) -> u64 {
        self.0 >> 16 & 0x3ff
    }

    /// A block and the leading bits of its sure trials.
    #[inline(always)]
    pub(super) fn choose(self, own: u64, is_own: bool) -> (u64, u64) {
        let sure = if is_own { self.0 >> 26 } else { self.0 >> 43 };
        (if is_own { own } else { self.other() }, sure & 0x1_ffff)
    }
}

impl Table {
    pub(super) fn new(kind: Kind, variance: u64) -> Self {
        let finest = if kind == Kind::Discrete { 0 } else { i32::MIN };
        let width = (variance.ilog2() as i32 - 10).div_euclid(2).max(finest);
        // (jw)²/2σ² = j²·numerator/denominator.
        let numerator = 1_u128 << (2 * width.max(0));
        let denominator = u128::from(variance) << (1 + 2 * (-width).max(0));
        let blocks = (93 * denominator / numerator).isqrt() as u64 + 1;
        let kappa = numerator as f64 / denominator as f64;
        let certain = kind == Kind::Discrete && width == 0;
        let sure = |j: u64| {
            let least = libm::exp(-kappa * (2 * j + 1) as f64) * (1.0 - EXP_ERROR);
            if certain { 1 << SURE_BITS } else { (least * f64::from(1 << SURE_BITS)) as u64 }
        };
        let aliases = aliases(probabilities(blocks, (numerator, denominator), SLOT_BITS), SLOT_BITS);
        let slot = |own: usize| {
            let (cut, other) = aliases[own];
            let cut = cut.map_or(1 << CUT_BITS, |cut| cut[0] >> (64 - CUT_BITS));
            Slot::new(cut, other as u64, (sure(own as u64), sure(other as u64)))
        };
        let shape = Shape::new(kind, width);
        Self {
            kind,
            variance,
            slots: Box::new(std::array::from_fn(slot)),
            exact_cuts: aliases.iter().map(|(cut, _)| cut.unwrap_or([u64::MAX; 3])).collect(),
            shape,
            known_bits: if shape.bits > NARROW_BITS { OFFSET_BITS } else { NARROW_BITS },
            kappa,
            exact_kappa: Fixed::ratio(numerator, denominator),
        }
    }

    /// All slots, and bits, round and shift of the shape.
    pub(super) fn looks(&self) -> (Vec<u64>, [u64; 3]) {
        let Shape { bits, round, shift } = self.shape;
        (self.slots.iter().map(|slot| slot.0).collect(), [bits.into(), round, shift.into()])
    }

    /// Whether an attempt needs more bits of the offset than its 64 bits hold.
    #[inline]
    pub(super) fn wide(&self) -> bool {
        self.known_bits > NARROW_BITS
    }

    #[inline(always)]
    pub(super) fn slot(&self, word: Word) -> Slot {
        self.slots[word.slot() as usize]
    }

    /// The block that a draw lies in; where its bits meet the cut of its slot, more bits decide.
    pub(super) fn block(&self, word: Word, random: &mut impl Rng) -> u64 {
        let slot = self.slot(word);
        let is_own = if word.fraction() == slot.cut() {
            let more = [random.next_u64(), random.next_u64(), random.next_u64()];
            let draw = [
                word.fraction() << (64 - CUT_BITS) | more[0] >> CUT_BITS,
                more[0] << (64 - CUT_BITS) | more[1] >> CUT_BITS,
                more[1] << (64 - CUT_BITS) | more[2] >> CUT_BITS,
            ];
            draw < self.exact_cuts[word.slot() as usize]
        } else {
            word.fraction() < slot.cut()
        };
        slot.choose(word.slot(), is_own).0
    }

    /// Whether a point is kept. The bits of its offset and of the trial that are not drawn yet leave an
    /// interval for either; if they do not decide, more are drawn.
    pub(super) fn accepts(&self, block: u64, offset: u64, trial: u64, random: &mut impl Rng) -> bool {
        let (known, bits) = self.known(offset);
        let cell = 2.0_f64.powi(-(bits as i32));
        let unknown = if self.kind == Kind::Discrete { 0.0 } else { cell };
        let low = known as f64 * cell;
        let kept = |t: f64| libm::exp(-self.kappa * t * (2.0 * block as f64 + t));
        let one = 2.0_f64.powi(-(TRIAL_BITS as i32));
        if (trial + 1) as f64 * one <= kept(low + unknown) * (1.0 - EXP_ERROR) {
            return true;
        }
        if trial as f64 * one >= kept(low) * (1.0 + EXP_ERROR) {
            return false;
        }
        self.accepts_exactly(block, offset, trial, random)
    }

    /// What is drawn of an offset and counts, and its bits. Below the resolution of the integers nothing
    /// of a discrete law counts.
    fn known(&self, offset: u64) -> (u64, u32) {
        let bits = if self.kind == Kind::Discrete { self.shape.bits } else { self.known_bits };
        (offset >> (OFFSET_BITS - bits), bits)
    }

    /// The same with 192 more bits of the trial and of the offset. The chance that even these leave it
    /// open is below 2⁻²⁰⁰; then the point is dropped.
    #[cold]
    pub(super) fn accepts_exactly(&self, block: u64, offset: u64, trial: u64, random: &mut impl Rng) -> bool {
        let (known, bits) = self.known(offset);
        let rest = |random: &mut dyn FnMut() -> u64| Fixed([random(), random(), random(), 0, 0, 0]);
        let mut next = || random.next_u64();
        let exact = self.kind == Kind::Discrete;
        let fraction = if exact { Fixed::ZERO } else { rest(&mut next).shift_right(bits) };
        let t = Fixed::ratio(u128::from(known), 1 << bits).add(fraction);
        let scaled = self.exact_kappa.mul(t);
        let exponent = scaled.times(2 * block).add(scaled.mul(t));
        let trial =
            Fixed::ratio(u128::from(trial), 1 << TRIAL_BITS).add(rest(&mut next).shift_right(TRIAL_BITS));
        trial < Fixed::exp_negative(0, exponent)
    }
}

/// The density at the left end of a block, relative to that at 0, for `w²/2σ² = numerator/denominator`.
pub(super) fn density(block: u64, (numerator, denominator): (u128, u128)) -> Fixed {
    let product = u128::from(block * block) * numerator;
    let part = Fixed::ratio(product % denominator, denominator);
    Fixed::exp_negative((product / denominator) as u32, part)
}

/// Of each block, to 192 bits. There are at most `2^bits`.
pub(super) fn probabilities(blocks: u64, kappa: (u128, u128), bits: u32) -> Vec<Fixed> {
    // A sum of at most 2^bits terms of at most 1, over 2^(bits + 2).
    let weights: Vec<Fixed> = (0..blocks).map(|j| density(j, kappa).shift_right(bits + 2)).collect();
    let total = weights.iter().fold(Fixed::ZERO, |sum, weight| sum.add(*weight));
    let share = |weight: Fixed| {
        let [high, middle, low] = weight.divided_by(total);
        Fixed([high, middle, low, 0, 0, 0])
    };
    weights.into_iter().map(share).collect()
}

/// For each of `2^bits` slots the part of it, to 192 bits, that is its own block's (`None`: all) and the block
/// that has the rest. All exact but for the probabilities' rounding, which the last slots take up.
pub(super) fn aliases(mut rest: Vec<Fixed>, bits: u32) -> Vec<(Option<[u64; 3]>, usize)> {
    let slots = 1 << bits;
    let full = Fixed::ratio(1, slots as u128);
    rest.resize(slots, Fixed::ZERO);
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..slots).partition(|j| rest[*j] < full);
    let mut slots: Vec<_> = (0..slots).map(|own| (None, own)).collect();
    while let (Some(&other), Some(own)) = (large.last(), small.pop()) {
        let [a, b, c, d, ..] = rest[own].0;
        let up = |high: u64, low: u64| high << bits | low >> (64 - bits);
        slots[own] = (Some([up(a, b), up(b, c), up(c, d)]), other);
        rest[other] = rest[other].sub(full.sub(rest[own]));
        if rest[other] < full {
            large.pop();
            small.push(other);
        }
    }
    slots
}
