//! One bit for a number, times the mean magnitude of its block.

use super::{
    CompressError,
    bits::{Input, flag, pack, put},
};

pub(super) fn encode(x: &[f32], block: usize) -> Vec<u8> {
    let mean =
        |block: &[f32]| (block.iter().map(|v| f64::from(v.abs())).sum::<f64>() / block.len() as f64) as f32;
    let mut out = Vec::new();
    put(x.chunks(block).map(mean), &mut out);
    pack(x.iter().map(|v| v.is_sign_negative()), &mut out);
    out
}

pub(super) fn decode(input: &mut Input<'_>, block: usize, d: usize) -> Result<Vec<f32>, CompressError> {
    let means = input.floats(d.div_ceil(block))?;
    let signs = input.take(d.div_ceil(8))?;
    Ok((0..d).map(|at| if flag(signs, at) { -means[at / block] } else { means[at / block] }).collect())
}
