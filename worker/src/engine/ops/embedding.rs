//! Look-up of rows by index, with the gradient scattered back.

use super::{like, operand, output, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

#[derive(Debug)]
struct Embedding {
    rows: Vec<u32>,
}

/// `table` is `[n, width]`; the result is `[rows.len(), width]`.
pub(in crate::engine) fn embedding(table: &Tensor, rows: &[u32]) -> Result<Tensor> {
    table.apply_op1(Embedding { rows: rows.to_vec() })
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let table = operand(table, layout)?;
        let mut y = Vec::with_capacity(self.rows.len() * width);
        for &row in &self.rows {
            let row = row as usize;
            if row >= n {
                bail!("row {row} of an embedding of {n}");
            }
            y.extend_from_slice(&table[row * width..(row + 1) * width]);
        }
        output(y, (self.rows.len(), width))
    }

    fn bwd(&self, table: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = table.dims2()?;
        let grad = grad.contiguous()?;
        let mut d = vec![0.0; table.elem_count()];
        for (&row, g) in self.rows.iter().zip(values(&grad)?.chunks_exact(width)) {
            let start = row as usize * width;
            for (d, &g) in d[start..start + width].iter_mut().zip(g) {
                *d += g;
            }
        }
        like(d, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, tensor};

    #[test]
    fn matches_plain_loops_and_differences() {
        let rows = [3, 0, 3, 3, 2];
        let table = [tensor(&numbers(20, 1), &[5, 4]).unwrap()];
        check_gradients(&table, &|t| embedding(&t[0], &rows), &|v| {
            rows.iter().flat_map(|&r| v[0][r as usize * 4..(r as usize + 1) * 4].to_vec()).collect()
        });
    }

    #[test]
    fn a_row_outside_is_an_error() {
        let table = tensor(&[0.0; 4], &[2, 2]).unwrap();
        assert!(embedding(&table, &[2]).is_err());
    }
}
