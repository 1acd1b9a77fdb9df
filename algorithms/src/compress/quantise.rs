//! A few bits for a number: each block has a scale, and a number goes up or down by chance, so that its
//! expectation is itself.

use super::{
    CompressError,
    bits::{Input, put},
};
use crate::seed;

/// Largest integer of `BITS` bits, the same on both sides of 0.
const fn levels<const BITS: u32>() -> f32 {
    ((1_u32 << (BITS - 1)) - 1) as f32
}

pub(super) fn encode<const BITS: u32>(x: &[f32], block: usize, seed: u64) -> Vec<u8> {
    let key = seed::derive(seed, "quantise", &[]);
    let mut out = Vec::with_capacity(x.len() * BITS as usize / 8 + x.len() / block * 4 + 8);
    let scales: Vec<f32> = x.chunks(block).map(scale::<BITS>).collect();
    put(scales.iter().copied(), &mut out);
    let level = |(at, v): (usize, &f32)| {
        let scale = scales[at / block];
        let exact = if scale > 0.0 { f64::from(*v) / f64::from(scale) } else { 0.0 };
        let up = exact - exact.floor() > seed::unit(seed::mix(key ^ at as u64));
        let most = f64::from(levels::<BITS>());
        (exact.floor() + f64::from(u8::from(up))).clamp(-most, most) as i8
    };
    let levels = x.iter().enumerate().map(level);
    if BITS == 8 {
        out.extend(levels.map(|level| level as u8));
    } else {
        let nibbles: Vec<u8> = levels.map(|level| level as u8 & 0xF).collect();
        out.extend(nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)));
    }
    out
}

fn scale<const BITS: u32>(block: &[f32]) -> f32 {
    block.iter().fold(0.0_f32, |largest, v| largest.max(v.abs())) / levels::<BITS>()
}

pub(super) fn decode<const BITS: u32>(
    input: &mut Input<'_>,
    block: usize,
    d: usize,
) -> Result<Vec<f32>, CompressError> {
    let scales = input.floats(d.div_ceil(block))?;
    let packed = input.take((d * BITS as usize).div_ceil(8))?;
    let level = |at: usize| {
        if BITS == 8 {
            return packed[at] as i8;
        }
        // Shifted up and down again: the sign of the nibble spreads.
        ((packed[at / 2] >> (at % 2 * 4) << 4) as i8) >> 4
    };
    Ok((0..d).map(|at| scales[at / block] * f32::from(level(at))).collect())
}
