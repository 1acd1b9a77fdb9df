//! The payload of a compressed upload.

use super::Reader;
use algorithms::{
    compress::{Compressor, Packing},
    personal::Own,
};

/// Two matrices and a vector, of 44 scalars; one scalar besides.
const TENSORS: [&[usize]; 3] = [&[4, 2, 3], &[4, 4], &[4]];
const LENGTH: usize = 44;

fn compressors() -> [Compressor; 11] {
    [
        Compressor::None {},
        Compressor::F16 {},
        Compressor::Bf16 {},
        Compressor::Int8 { block: 16 },
        Compressor::Int4 { block: 16 },
        Compressor::TopK { ratio: 0.3 },
        Compressor::TopK { ratio: 0.02 },
        Compressor::RandomK { ratio: 0.3, unbiased: false },
        Compressor::NOfM { keep: 2, group: 8 },
        Compressor::Sign { block: 16 },
        Compressor::LowRank { rank: 1 },
    ]
}

/// With the second matrix as a worker's own, or all of it shared.
fn packing(compressor: Compressor, personal: bool) -> Packing {
    let tensors = TENSORS.map(<[usize]>::to_vec);
    let shapes = vec![("delta", LENGTH), ("steps", 1)];
    let packing = Packing::new((compressor, true), shapes, &tensors).expect("the keys are right");
    if !personal {
        return packing;
    }
    let named = [("a", 24), ("b", 16), ("c", 4)].map(|(name, length)| (name.to_owned(), length));
    packing.without(Own::new(&["b".to_owned()], &named).expect("there is such").expect("one"))
}

fn words(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_bits(u32::from_le_bytes(*word))).collect()
}

/// Any words, read by any compressor: accepted are as many as announced, and they give as many scalars as
/// the upload has.
pub(super) fn compressed(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let all = compressors();
    let which = usize::from(input.byte());
    let packing = packing(all[which % all.len()], which / all.len() % 2 == 1);
    let words = words(input.0);
    let Ok(values) = packing.unpack(&words) else { return false };
    assert_eq!(values.len(), LENGTH + 1);
    assert_eq!(words.len(), packing.wire().iter().map(|(_, words)| words).sum::<usize>());
    true
}

/// What each compressor makes of an upload.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let delta: Vec<f32> = (0..LENGTH).map(|at| (at as f32 * 0.37).sin()).collect();
    let all = compressors();
    let sample = |number: usize| {
        let packing = packing(all[number % all.len()], number >= all.len());
        let parts =
            [&delta[..], &[3.0]].map(|x| packing.pack(x, None, 9).expect("it has the right length").words);
        let bytes = parts.concat().into_iter().flat_map(f32::to_le_bytes);
        [number as u8].into_iter().chain(bytes).collect()
    };
    (0..2 * all.len()).map(sample).collect()
}
