//! A few of the numbers, exactly, and where they were.

use super::{
    CompressError,
    bits::{Input, flag, pack, put},
};
use crate::seed;

/// Positions as a list of `u32`.
const LIST: u8 = 0;
/// Positions as one bit for each scalar.
const MAP: u8 = 1;

/// Places of the k largest magnitudes, ascending; of equal ones the first.
fn largest(x: &[f32], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..x.len()).collect();
    let order = |a: &usize, b: &usize| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b));
    if k < places.len() {
        places.select_nth_unstable_by(k, order);
        places.truncate(k);
    }
    places.sort_unstable();
    places
}

/// Whether a list of positions is smaller than a map.
fn is_listed(k: usize, d: usize) -> bool {
    4 * k < d.div_ceil(8)
}

pub(super) fn top_size(k: usize, d: usize) -> usize {
    1 + if is_listed(k, d) { 4 * k } else { d.div_ceil(8) } + 4 * k
}

pub(super) fn encode_top(x: &[f32], k: usize) -> Vec<u8> {
    let places = largest(x, k);
    let mut out = Vec::new();
    if is_listed(k, x.len()) {
        out.push(LIST);
        out.extend(places.iter().flat_map(|place| (*place as u32).to_le_bytes()));
    } else {
        out.push(MAP);
        let mut next = places.iter().peekable();
        pack((0..x.len()).map(|at| next.next_if(|place| **place == at).is_some()), &mut out);
    }
    put(places.iter().map(|place| x[*place]), &mut out);
    out
}

pub(super) fn decode_top(input: &mut Input<'_>, k: usize, d: usize) -> Result<Vec<f32>, CompressError> {
    let places: Vec<usize> = match input.take(1)?[0] {
        LIST => input.words(k)?.into_iter().map(|word| u32::from_le_bytes(word) as usize).collect(),
        MAP => {
            let map = input.take(d.div_ceil(8))?;
            (0..d).filter(|at| flag(map, *at)).collect()
        }
        other => return Err(CompressError::Bytes(format!("{other} is no form of positions"))),
    };
    let ascending = places.is_sorted_by(|a, b| a < b) && places.last().is_none_or(|last| *last < d);
    if places.len() != k || !ascending {
        return Err(CompressError::Bytes(format!(
            "{} positions, expected {k} below {d}, ascending",
            places.len()
        )));
    }
    let values = input.floats(k)?;
    Ok(scatter(d, &places, &values))
}

fn scatter(d: usize, places: &[usize], values: &[f32]) -> Vec<f32> {
    let mut x = vec![0.0; d];
    for (place, value) in places.iter().zip(values) {
        x[*place] = *value;
    }
    x
}

/// k places of d, ascending, by selection sampling (Knuth, algorithm S).
fn drawn(k: usize, d: usize, seed: u64) -> Vec<usize> {
    let key = seed::derive(seed, "random-k", &[]);
    let mut places = Vec::with_capacity(k);
    for at in 0..d {
        let (needed, left) = ((k - places.len()) as f64, (d - at) as f64);
        if seed::unit(seed::mix(key ^ at as u64)) * left < needed {
            places.push(at);
        }
    }
    places
}

pub(super) fn encode_random(x: &[f32], k: usize, factor: f64, seed: u64) -> Vec<u8> {
    let mut out = seed.to_le_bytes().to_vec();
    let places = drawn(k, x.len(), seed);
    put(places.iter().map(|place| (f64::from(x[*place]) * factor) as f32), &mut out);
    out
}

pub(super) fn decode_random(input: &mut Input<'_>, k: usize, d: usize) -> Result<Vec<f32>, CompressError> {
    let seed = u64::from_le_bytes(input.words(1)?[0]);
    let values = input.floats(k)?;
    Ok(scatter(d, &drawn(k, d, seed), &values))
}

pub(super) fn encode_groups(x: &[f32], keep: usize, group: usize) -> Vec<u8> {
    let kept: Vec<Vec<usize>> = x.chunks(group).map(|group| largest(group, keep)).collect();
    let mut out = Vec::new();
    let map =
        x.chunks(group).zip(&kept).flat_map(|(group, kept)| (0..group.len()).map(|at| kept.contains(&at)));
    pack(map, &mut out);
    let values = x.chunks(group).zip(&kept).flat_map(|(group, kept)| kept.iter().map(|at| group[*at]));
    put(values, &mut out);
    out
}

pub(super) fn decode_groups(
    input: &mut Input<'_>,
    keep: usize,
    group: usize,
    d: usize,
) -> Result<Vec<f32>, CompressError> {
    let map = input.take(d.div_ceil(8))?;
    let places: Vec<usize> = (0..d).filter(|at| flag(map, *at)).collect();
    let mut counts = vec![0; d.div_ceil(group)];
    for place in &places {
        counts[place / group] += 1;
    }
    let due = |at: usize| keep.min(d - at * group);
    if let Some(at) = (0..counts.len()).find(|at| counts[*at] != due(*at)) {
        return Err(CompressError::Bytes(format!(
            "{} values in group {at}, expected {}",
            counts[at],
            due(at)
        )));
    }
    let values = input.floats(places.len())?;
    Ok(scatter(d, &places, &values))
}
