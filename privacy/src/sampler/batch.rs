//! Attempts by the hundred: what 64 bits decide is decided for all of a batch without a branch, so that
//! the compiler can use the vectors of the machine; the few that they leave open follow one by one.
//!
//! All of it is integers, so that every machine draws the same from the same key.
#![allow(clippy::inline_always, reason = "a loop is compiled for a machine only with all that it calls")]
#![allow(clippy::needless_bitwise_bool, reason = "a branch would keep the loop from being vectorised")]

use rand_chacha::rand_core::Rng;

use super::{
    Kind,
    table::{CUT_BITS, NARROW_BITS, OFFSET_BITS, SLOT_BITS, SURE_BITS, Slot, TRIAL_BITS, Table},
};
use crate::widest::widest;

/// Attempts at a time.
const BATCH: usize = 512;
/// Instead of noise: the attempt was in vain.
const DROPPED: i64 = i64::MIN;

/// The 64 bits of an attempt, from the highest on: slot, fraction of the slot, offset, trial, sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(pub(super) u64);

impl Word {
    #[inline(always)]
    pub(super) fn slot(self) -> u64 {
        self.0 >> (64 - SLOT_BITS)
    }

    #[inline(always)]
    pub(super) fn fraction(self) -> u64 {
        self.0 >> (64 - SLOT_BITS - CUT_BITS) & ((1 << CUT_BITS) - 1)
    }

    /// With eight more bits, which matter where blocks are wide.
    #[inline(always)]
    pub(super) fn offset(self, low: u8) -> u64 {
        let leading = self.0 >> (TRIAL_BITS + 1) & ((1 << NARROW_BITS) - 1);
        leading << (OFFSET_BITS - NARROW_BITS) | u64::from(low)
    }

    #[inline(always)]
    pub(super) fn trial(self) -> u64 {
        self.0 >> 1 & ((1 << TRIAL_BITS) - 1)
    }
}

/// The noise of an attempt that its bits decide, and whether they do.
#[inline(always)]
fn propose((table, slot): (&Table, Slot), word: Word, low: u8) -> (i64, bool) {
    let (block, sure) = slot.choose(word.slot(), word.fraction() < slot.cut());
    let open = (word.trial() >> (TRIAL_BITS - SURE_BITS) >= sure) | (word.fraction() == slot.cut());
    (noise(table, word, low, block), open)
}

#[inline(always)]
fn noise(table: &Table, word: Word, low: u8, block: u64) -> i64 {
    let size = table.shape.position(block, word.offset(low)) as i64;
    let sign = ((word.0 & 1) as i64).wrapping_neg();
    // 0 of the discrete law has one sign only.
    let twice = (table.kind == Kind::Discrete) & (size.wrapping_add(sign) == -1);
    if twice { DROPPED } else { (size ^ sign).wrapping_sub(sign) }
}

/// An attempt that its bits do not decide.
fn decide(table: &Table, word: Word, low: u8, random: &mut impl Rng) -> i64 {
    let block = table.block(word, random);
    let kept = table.accepts(block, word.offset(low), word.trial(), random);
    if kept { noise(table, word, low, block) } else { DROPPED }
}

/// One draw.
pub(super) fn single(table: &Table, random: &mut impl Rng) -> i64 {
    loop {
        let word = Word(random.next_u64());
        let low = if table.wide() { random.next_u32() as u8 } else { 0 };
        let (noise, open) = propose((table, table.slot(word)), word, low);
        let noise = if open { decide(table, word, low, random) } else { noise };
        if noise != DROPPED {
            return noise;
        }
    }
}

/// A batch of attempts, and what became of them.
#[derive(Debug)]
pub(super) struct Batch {
    words: [u8; 8 * BATCH],
    low: [u8; BATCH],
    slots: [Slot; BATCH],
    pub(super) noise: [i64; BATCH],
    /// Not 0: the attempt is open.
    pub(super) open: [u8; BATCH],
}

impl Batch {
    pub(super) const EMPTY: Self = Self {
        words: [0; 8 * BATCH],
        low: [0; BATCH],
        slots: [Slot::NONE; BATCH],
        noise: [0; BATCH],
        open: [0; BATCH],
    };

    pub(super) fn fill(&mut self, table: &Table, random: &mut impl Rng) {
        random.fill_bytes(&mut self.words);
        if table.wide() {
            random.fill_bytes(&mut self.low);
        }
    }

    #[inline(always)]
    fn word(&self, i: usize) -> Word {
        Word(u64::from_le_bytes(self.words.as_chunks().0[i]))
    }

    /// Proposes for all, with the widest vectors that this machine has.
    pub(super) fn propose(&mut self, table: &Table) {
        self.look(table);
        widest(
            #[inline(always)]
            || self.propose_anywhere(table),
        );
    }

    /// Apart from the rest, since vectors are slow at it.
    #[inline(never)]
    pub(super) fn look(&mut self, table: &Table) {
        let (words, _) = self.words.as_chunks();
        for (slot, word) in self.slots.iter_mut().zip(words) {
            *slot = table.slot(Word(u64::from_le_bytes(*word)));
        }
    }

    #[inline(always)]
    pub(super) fn propose_anywhere(&mut self, table: &Table) {
        for i in 0..BATCH {
            let (noise, open) = propose((table, self.slots[i]), self.word(i), self.low[i]);
            (self.noise[i], self.open[i]) = (noise, u8::from(open));
        }
    }

    fn decide(&mut self, table: &Table, random: &mut impl Rng) {
        for eighth in 0..BATCH / 8 {
            let mut open = u64::from_le_bytes(self.open.as_chunks().0[eighth]);
            while open != 0 {
                let i = 8 * eighth + open.trailing_zeros() as usize / 8;
                self.noise[i] = decide(table, self.word(i), self.low[i], random);
                open &= open - 1;
            }
        }
    }
}

/// Adds a draw, times `unit`, to each number, wrapping on overflow.
pub(super) fn add(table: &Table, mut sum: &mut [i64], unit: i64, random: &mut impl Rng) {
    let mut batch = Batch::EMPTY;
    while !sum.is_empty() {
        batch.fill(table, random);
        batch.propose(table);
        batch.decide(table, random);
        let mut at = 0;
        for noise in batch.noise {
            let Some(x) = sum.get_mut(at) else { break };
            let kept = noise != DROPPED;
            *x = x.wrapping_add(if kept { noise.wrapping_mul(unit) } else { 0 });
            at += usize::from(kept);
        }
        sum = &mut sum[at..];
    }
}
