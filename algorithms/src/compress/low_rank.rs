//! Two thin factors for a matrix. One power iteration from a drawn start: `P = M Q₀`, orthonormal, then
//! `Q = Mᵀ P`; `P Qᵀ` is M projected onto the span of P.

use super::{
    CompressError, Matrix,
    bits::{Input, put},
};
use crate::seed;

/// Whether factors are smaller than the matrix.
fn is_factored(matrix: Matrix, rank: usize) -> bool {
    rank.saturating_mul(matrix.rows.saturating_add(matrix.columns)) < matrix.rows * matrix.columns
}

pub(super) fn size(matrices: &[Matrix], rank: usize) -> usize {
    let scalars = |matrix: &Matrix| {
        let Matrix { rows, columns } = *matrix;
        if is_factored(*matrix, rank) { rank * (rows + columns) } else { rows * columns }
    };
    4 * matrices.iter().map(scalars).sum::<usize>()
}

pub(super) fn encode(x: &[f32], matrices: &[Matrix], rank: usize, seed: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = x;
    for (number, matrix) in matrices.iter().enumerate() {
        let (values, after) = rest.split_at(matrix.rows * matrix.columns);
        rest = after;
        if is_factored(*matrix, rank) {
            let key = seed::derive(seed, "low-rank", &[number as u64]);
            let (p, q) = factors(values, *matrix, rank, key);
            put(p.into_iter().chain(q).map(|v| v as f32), &mut out);
        } else {
            put(values.iter().copied(), &mut out);
        }
    }
    out
}

pub(super) fn decode(
    input: &mut Input<'_>,
    matrices: &[Matrix],
    rank: usize,
) -> Result<Vec<f32>, CompressError> {
    let mut x = Vec::new();
    for matrix in matrices {
        if !is_factored(*matrix, rank) {
            x.extend(input.floats(matrix.rows * matrix.columns)?);
            continue;
        }
        let p = input.floats(matrix.rows * rank)?;
        let q = input.floats(matrix.columns * rank)?;
        for p in p.chunks(rank) {
            x.extend(
                q.chunks(rank)
                    .map(|q| p.iter().zip(q).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum::<f64>() as f32),
            );
        }
    }
    Ok(x)
}

/// P (rows × rank) and Q (columns × rank), row by row.
fn factors(m: &[f32], matrix: Matrix, rank: usize, key: u64) -> (Vec<f64>, Vec<f64>) {
    let Matrix { rows, columns } = matrix;
    let mut q: Vec<f64> =
        (0..columns * rank).map(|at| seed::unit(seed::mix(key ^ at as u64)) - 0.5).collect();
    let mut p = vec![0.0; rows * rank];
    for (row, p) in m.chunks(columns).zip(p.chunks_mut(rank)) {
        for (v, q) in row.iter().zip(q.chunks(rank)) {
            p.iter_mut().zip(q).for_each(|(p, q)| *p += f64::from(*v) * q);
        }
    }
    orthonormalise(&mut p, rank);
    q.fill(0.0);
    for (row, p) in m.chunks(columns).zip(p.chunks(rank)) {
        for (v, q) in row.iter().zip(q.chunks_mut(rank)) {
            q.iter_mut().zip(p).for_each(|(q, p)| *q += f64::from(*v) * p);
        }
    }
    (p, q)
}

/// Modified Gram-Schmidt over columns; a column that depends on those before it becomes zero.
fn orthonormalise(p: &mut [f64], rank: usize) {
    for column in 0..rank {
        let before: f64 = p.chunks(rank).map(|row| row[column] * row[column]).sum();
        for other in 0..column {
            let along: f64 = p.chunks(rank).map(|row| row[column] * row[other]).sum();
            p.chunks_mut(rank).for_each(|row| row[column] -= along * row[other]);
        }
        let left: f64 = p.chunks(rank).map(|row| row[column] * row[column]).sum();
        let factor = if left > 1e-20 * before { 1.0 / left.sqrt() } else { 0.0 };
        p.chunks_mut(rank).for_each(|row| row[column] *= factor);
    }
}
