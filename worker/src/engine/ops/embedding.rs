//! Look-up of rows by index, with the gradient scattered back.

use crate::engine::buffer::Buffer;
use crate::engine::cuda;
use crate::engine::shards::Characters;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

/// Rows in memory.
#[derive(Debug)]
struct Embedding {
    rows: Vec<u32>,
    length: usize,
}

/// `table` is `[n, width]`, `rows` holds sequences of `length`; the result is `[sequences, length, width]`.
pub(in crate::engine) fn embedding(table: &Tensor, rows: Characters<'_>, length: usize) -> Result<Tensor> {
    match rows {
        Characters::Host(rows) => apply(Embedding { rows: rows.to_vec(), length }, &[table]),
        Characters::Device(rows) => {
            apply(cuda::ops::embedding::Embedding::new(rows.clone(), length), &[table])
        }
    }
}

impl Operation for Embedding {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [n, width] = inputs[0].dims()?;
        let table = inputs[0].values();
        let mut y = Buffer::any(self.rows.len() * width);
        for (y, &row) in y.chunks_exact_mut(width).zip(&self.rows) {
            let row = row as usize;
            if row >= n {
                bail!("row {row} of an embedding of {n}");
            }
            y.copy_from_slice(&table[row * width..(row + 1) * width]);
        }
        Ok(Tensor::new(y, &[self.rows.len() / self.length, self.length, width]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let table = &inputs[0];
        let [_, width] = table.dims()?;
        let mut d = Buffer::zeros(table.len());
        for (&row, g) in self.rows.iter().zip(gradient.values().chunks_exact(width)) {
            let start = row as usize * width;
            for (d, &g) in d[start..start + width].iter_mut().zip(g) {
                *d += g;
            }
        }
        Ok(vec![Some(Tensor::new(d, table.shape()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};

    fn check(rows: &[u32], length: usize, [n, width]: [usize; 2]) {
        let table = [tensor(&numbers(n * width, 1), &[n, width]).unwrap()];
        check_gradients(&table, &|t| embedding(&t[0], Characters::Host(rows), length), &|v| {
            rows.iter().flat_map(|&r| v[0][r as usize * width..(r as usize + 1) * width].to_vec()).collect()
        });
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        check(&[3, 0, 3, 3, 2, 1], 3, [5, 4]);
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        let sizes = (1..=3_usize, 1..=6_usize, 1..=9_usize, 1..=9_usize, 0..=9_u64);
        shapes(16, &sizes, |(sequences, length, n, width, seed)| {
            let row = |v: f32| ((v + 1.0) * 1e3) as u32 % n as u32;
            let rows: Vec<u32> = numbers(sequences * length, seed).into_iter().map(row).collect();
            check(&rows, length, [n, width]);
        });
    }

    #[test]
    fn a_row_outside_is_an_error() {
        let table = tensor(&[0.0; 4], &[2, 2]).unwrap();
        assert!(embedding(&table, Characters::Host(&[2]), 1).is_err());
    }
}
