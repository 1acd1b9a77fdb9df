//! The recurrent part of an LSTM layer over a whole sequence, with its backward pass through time.
//!
//! The input projections of all steps are one ordinary linear layer outside; what is left per step is
//! one small product and one fused pass over the gates. Gates lie in PyTorch's order: input, forget,
//! cell, output.

use super::column_sums;
use super::gemm::{Matrix, Packed, Target, product, product_packed};
use super::math::{sigmoid, tanh, vectorised};
use crate::engine::buffer::Buffer;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

/// What the backward pass needs of the forward pass.
#[derive(Debug, Default)]
struct Recurrence {
    /// Activated gates `[b, t, 4h]`.
    gates: Buffer,
    /// Cell states `[b, t, h]`.
    cells: Buffer,
}

/// `projected` is `[b, t, 4h]` (input weights and their bias applied), `weight` `[4h, h]`, `bias`
/// `[4h]`; the result is the hidden states `[b, t, h]`. Starts from zero states.
pub(in crate::engine) fn recurrence(projected: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    apply(Recurrence::default(), &[projected, weight, bias])
}

fn sizes(projected: &Tensor, weight: &Tensor) -> Result<[usize; 3]> {
    let [b, t, four] = projected.dims()?;
    let [rows, h] = weight.dims()?;
    if rows != four || four != 4 * h {
        bail!("recurrence: weights {:?} do not fit gates {:?}", weight.shape(), projected.shape());
    }
    Ok([b, t, h])
}

/// Four equal parts of a row of gates.
#[inline(always)]
fn quarters(row: &[f32]) -> [&[f32]; 4] {
    let (low, high) = row.split_at(row.len() / 2);
    let ((i, f), (g, o)) = (low.split_at(low.len() / 2), high.split_at(high.len() / 2));
    [i, f, g, o]
}

#[inline(always)]
fn quarters_mut(row: &mut [f32]) -> [&mut [f32]; 4] {
    let (low, high) = row.split_at_mut(row.len() / 2);
    let (i, f) = low.split_at_mut(low.len() / 2);
    let (g, o) = high.split_at_mut(high.len() / 2);
    [i, f, g, o]
}

/// One step of one sequence: activates `gates` in place, updates `cell`, writes the hidden state.
#[inline(always)]
fn activate(gates: &mut [f32], before: &[f32], cell: &mut [f32], hidden: &mut [f32]) {
    let [i, f, g, o] = quarters_mut(gates);
    let n = cell.len();
    let (i, f, g, o, before, hidden) =
        (&mut i[..n], &mut f[..n], &mut g[..n], &mut o[..n], &before[..n], &mut hidden[..n]);
    for e in 0..n {
        i[e] = sigmoid(i[e]);
        f[e] = sigmoid(f[e]);
        g[e] = tanh(g[e]);
        o[e] = sigmoid(o[e]);
        cell[e] = f[e] * before[e] + i[e] * g[e];
        hidden[e] = o[e] * tanh(cell[e]);
    }
}

/// One step of one sequence, backwards.
struct Step<'a> {
    gates: &'a [f32],
    before: &'a [f32],
    cell: &'a [f32],
    /// Gradient that reaches this step's hidden state from above.
    above: &'a [f32],
    /// Gradient that reaches this step's hidden state from the next step.
    next: &'a [f32],
}

impl Step<'_> {
    /// Writes the gradient of the gates before activation, and turns the cell's gradient after this
    /// step into the one before it.
    #[inline(always)]
    fn back(&self, carried: &mut [f32], gradient: &mut [f32]) {
        let [i, f, g, o] = quarters(self.gates);
        let [di, df, dg, dout] = quarters_mut(gradient);
        let n = carried.len();
        let (i, f, g, o, before, cell) =
            (&i[..n], &f[..n], &g[..n], &o[..n], &self.before[..n], &self.cell[..n]);
        let (above, next) = (&self.above[..n], &self.next[..n]);
        let (di, df, dg, dout) = (&mut di[..n], &mut df[..n], &mut dg[..n], &mut dout[..n]);
        for e in 0..n {
            let squashed = tanh(cell[e]);
            let dh = above[e] + next[e];
            let dc = carried[e] + dh * o[e] * (1.0 - squashed * squashed);
            dout[e] = dh * squashed * o[e] * (1.0 - o[e]);
            di[e] = dc * g[e] * i[e] * (1.0 - i[e]);
            dg[e] = dc * i[e] * (1.0 - g[e] * g[e]);
            df[e] = dc * before[e] * f[e] * (1.0 - f[e]);
            carried[e] = dc * f[e];
        }
    }
}

fn forward(gates: &mut [f32], weight: &[f32], [b, t, h]: [usize; 3]) -> (Buffer, Buffer) {
    let zero = vec![0.0; h];
    let mut cells = Buffer::any(b * t * h);
    let mut hidden = Buffer::any(b * t * h);
    let weight = Packed::new(Matrix::columns(weight, h), h, 4 * h);
    for step in 0..t {
        if step > 0 {
            let last = Matrix::rows(&hidden[(step - 1) * h..], t * h);
            product_packed(b, Target::add(&mut gates[step * 4 * h..], t * 4 * h), last, &weight);
        }
        vectorised(
            #[inline(always)]
            || {
                for j in 0..b {
                    let at = (j * t + step) * h;
                    let (past, now) = cells.split_at_mut(at);
                    let before = if step > 0 { &past[at - h..] } else { &zero[..] };
                    activate(
                        &mut gates[4 * at..4 * (at + h)],
                        before,
                        &mut now[..h],
                        &mut hidden[at..at + h],
                    );
                }
            },
        );
    }
    (cells, hidden)
}

fn backward(memory: &Recurrence, weight: &[f32], above: &[f32], [b, t, h]: [usize; 3]) -> Buffer {
    let zero = vec![0.0; h];
    let mut gradient = Buffer::any(b * t * 4 * h);
    let (mut next, mut carried) = (Buffer::zeros(b * h), Buffer::zeros(b * h));
    let weight = Packed::new(Matrix::rows(weight, h), 4 * h, h);
    for step in (0..t).rev() {
        vectorised(
            #[inline(always)]
            || {
                for j in 0..b {
                    let at = (j * t + step) * h;
                    let parts = Step {
                        gates: &memory.gates[4 * at..4 * (at + h)],
                        before: if step > 0 { &memory.cells[at - h..at] } else { &zero },
                        cell: &memory.cells[at..at + h],
                        above: &above[at..at + h],
                        next: &next[j * h..(j + 1) * h],
                    };
                    parts.back(&mut carried[j * h..(j + 1) * h], &mut gradient[4 * at..4 * (at + h)]);
                }
            },
        );
        if step > 0 {
            let gates = Matrix::rows(&gradient[step * 4 * h..], t * 4 * h);
            product_packed(b, Target::replace(&mut next, h), gates, &weight);
        }
    }
    gradient
}

impl Operation for Recurrence {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [projected, weight, bias] = inputs else { bail!("recurrence: three operands") };
        let [b, t, h] = sizes(projected, weight)?;
        let mut gates = Buffer::any(projected.len());
        let rows = projected.values().chunks_exact(4 * h);
        for (to, row) in gates.chunks_exact_mut(4 * h).zip(rows) {
            for ((to, p), b) in to.iter_mut().zip(row).zip(bias.values()) {
                *to = p + b;
            }
        }
        let (cells, hidden) = forward(&mut gates, weight.values(), [b, t, h]);
        (self.gates, self.cells) = (gates, cells);
        Ok(Tensor::new(hidden, &[b, t, h]))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [projected, weight, bias] = inputs else { bail!("recurrence: three operands") };
        let [b, t, h] = sizes(projected, weight)?;
        let hidden = result.values();
        let gradient = backward(self, weight.values(), gradient.values(), [b, t, h]);

        // Hidden states one step late, so that one product sums over all steps and sequences.
        let mut before = Buffer::any(b * t * h);
        for (to, from) in before.chunks_exact_mut(t * h).zip(hidden.chunks_exact(t * h)) {
            to[..h].fill(0.0);
            to[h..].copy_from_slice(&from[..(t - 1) * h]);
        }
        let mut dw = Buffer::any(weight.len());
        let (left, right) = (Matrix::columns(&gradient, 4 * h), Matrix::rows(&before, h));
        product([4 * h, h, b * t], Target::replace(&mut dw, h), left, right);
        let db = column_sums(&gradient, 4 * h);
        Ok(vec![
            Some(Tensor::new(gradient, projected.shape())),
            Some(Tensor::new(dw, weight.shape())),
            Some(Tensor::new(db, bias.shape())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};

    fn naive(v: &[Vec<f64>], [b, t, h]: [usize; 3]) -> Vec<f64> {
        let s = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut out = vec![0.0; b * t * h];
        for j in 0..b {
            let (mut hidden, mut cell) = (vec![0.0; h], vec![0.0; h]);
            for step in 0..t {
                let gate = |q: usize, e: usize| {
                    let row = q * h + e;
                    v[0][(j * t + step) * 4 * h + row]
                        + v[2][row]
                        + (0..h).map(|k| v[1][row * h + k] * hidden[k]).sum::<f64>()
                };
                let now: Vec<(f64, f64)> = (0..h)
                    .map(|e| {
                        let c = s(gate(1, e)) * cell[e] + s(gate(0, e)) * gate(2, e).tanh();
                        (c, s(gate(3, e)) * c.tanh())
                    })
                    .collect();
                for (e, (c, y)) in now.into_iter().enumerate() {
                    (cell[e], hidden[e]) = (c, y);
                    out[(j * t + step) * h + e] = y;
                }
            }
        }
        out
    }

    fn check([b, t, h]: [usize; 3]) {
        let inputs = [
            tensor(&numbers(b * t * 4 * h, 1), &[b, t, 4 * h]).unwrap(),
            tensor(&numbers(4 * h * h, 2), &[4 * h, h]).unwrap(),
            tensor(&numbers(4 * h, 3), &[4 * h]).unwrap(),
        ];
        check_gradients(&inputs, &|v| recurrence(&v[0], &v[1], &v[2]), &|v| naive(v, [b, t, h]));
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        for case in [[1, 2, 1], [2, 3, 3], [3, 6, 5], [1, 9, 4]] {
            check(case);
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        // One step sees no earlier state: its weights have no gradient to compare.
        shapes(16, &(1..=3_usize, 2..=6_usize, 1..=5_usize), |(b, t, h)| check([b, t, h]));
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let p = tensor(&[0.0; 8], &[1, 1, 8]).unwrap();
        let w = tensor(&[0.0; 4], &[4, 1]).unwrap();
        assert!(recurrence(&p, &w, &tensor(&[0.0; 4], &[4]).unwrap()).is_err());
    }
}
