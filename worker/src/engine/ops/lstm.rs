//! The recurrent part of an LSTM layer over a whole sequence, with its backward pass through time.
//!
//! The input projections of all steps are one ordinary linear layer outside; what is left per step is
//! one small product and one fused pass over the gates. Gates lie in PyTorch's order: input, forget,
//! cell, output.

use super::gemm::{Matrix, Target, product};
use super::math::{sigmoid, tanh};
use super::{add_rows, like, operand, output, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::sync::OnceLock;

#[derive(Debug)]
struct Recurrence {
    memory: OnceLock<Memory>,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug)]
struct Memory {
    /// Activated gates `[b, t, 4h]`.
    gates: Vec<f32>,
    /// Cell states `[b, t, h]`.
    cells: Vec<f32>,
}

/// `projected` is `[b, t, 4h]` (input weights and their bias applied), `weight` `[4h, h]`, `bias`
/// `[4h]`; the result is the hidden states `[b, t, h]`. Starts from zero states.
pub(in crate::engine) fn recurrence(projected: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    projected.apply_op3(weight, bias, Recurrence { memory: OnceLock::new() })
}

fn sizes(projected: &Shape, weight: &Shape) -> Result<(usize, usize, usize)> {
    let (b, t, four) = projected.dims3()?;
    let (rows, h) = weight.dims2()?;
    if rows != four || four != 4 * h {
        bail!("recurrence: weights {weight:?} do not fit gates {projected:?}");
    }
    Ok((b, t, h))
}

/// Four equal parts of a row of gates.
fn quarters(row: &[f32]) -> [&[f32]; 4] {
    let (low, high) = row.split_at(row.len() / 2);
    let ((i, f), (g, o)) = (low.split_at(low.len() / 2), high.split_at(high.len() / 2));
    [i, f, g, o]
}

fn quarters_mut(row: &mut [f32]) -> [&mut [f32]; 4] {
    let (low, high) = row.split_at_mut(row.len() / 2);
    let (i, f) = low.split_at_mut(low.len() / 2);
    let (g, o) = high.split_at_mut(high.len() / 2);
    [i, f, g, o]
}

/// One step of one sequence: activates `gates` in place, updates `cell`, writes the hidden state.
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

fn forward(gates: &mut [f32], weight: &[f32], [b, t, h]: [usize; 3]) -> (Vec<f32>, Vec<f32>) {
    let zero = vec![0.0; h];
    let mut cells = vec![0.0; b * t * h];
    let mut hidden = vec![0.0; b * t * h];
    for step in 0..t {
        if step > 0 {
            let last = Matrix::rows(&hidden[(step - 1) * h..], t * h);
            let target = Target::add(&mut gates[step * 4 * h..], t * 4 * h);
            product([b, 4 * h, h], target, last, Matrix::columns(weight, h));
        }
        for j in 0..b {
            let at = (j * t + step) * h;
            let (past, now) = cells.split_at_mut(at);
            let before = if step > 0 { &past[at - h..] } else { &zero[..] };
            activate(&mut gates[4 * at..4 * (at + h)], before, &mut now[..h], &mut hidden[at..at + h]);
        }
    }
    (cells, hidden)
}

fn backward(memory: &Memory, weight: &[f32], above: &[f32], [b, t, h]: [usize; 3]) -> Vec<f32> {
    let zero = vec![0.0; h];
    let mut gradient = vec![0.0; b * t * 4 * h];
    let (mut next, mut carried) = (vec![0.0; b * h], vec![0.0; b * h]);
    for step in (0..t).rev() {
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
        if step > 0 {
            let gates = Matrix::rows(&gradient[step * 4 * h..], t * 4 * h);
            product([b, h, 4 * h], Target::replace(&mut next, h), gates, Matrix::rows(weight, h));
        }
    }
    gradient
}

impl CustomOp3 for Recurrence {
    fn name(&self) -> &'static str {
        "lstm-recurrence"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        pl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, t, h) = sizes(pl.shape(), wl.shape())?;
        let mut gates = operand(p, pl)?.to_vec();
        let bias = operand(bias, bl)?;
        for row in gates.chunks_exact_mut(4 * h) {
            row.iter_mut().zip(bias).for_each(|(g, b)| *g += b);
        }
        let (cells, hidden) = forward(&mut gates, operand(w, wl)?, [b, t, h]);
        let _ = self.memory.set(Memory { gates, cells });
        output(hidden, (b, t, h))
    }

    fn bwd(
        &self,
        p: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(memory) = self.memory.get() else { bail!("recurrence: backward before forward") };
        let (b, t, h) = sizes(p.shape(), w.shape())?;
        let grad = grad.contiguous()?;
        let (weight, hidden, above) = (values(w)?, values(res)?, values(&grad)?);
        let gradient = backward(memory, &weight, &above, [b, t, h]);

        // Hidden states one step late, so that one product sums over all steps and sequences.
        let mut before = vec![0.0; b * t * h];
        for (to, from) in before.chunks_exact_mut(t * h).zip(hidden.chunks_exact(t * h)) {
            to[h..].copy_from_slice(&from[..(t - 1) * h]);
        }
        let mut dw = vec![0.0; weight.len()];
        let (left, right) = (Matrix::columns(&gradient, 4 * h), Matrix::rows(&before, h));
        product([4 * h, h, b * t], Target::replace(&mut dw, h), left, right);
        let mut db = vec![0.0; 4 * h];
        add_rows(&mut db, &gradient);
        Ok((like(gradient, p)?, like(dw, w)?, like(db, bias)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, tensor};

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

    #[test]
    fn matches_plain_loops_and_differences() {
        for case in [[1, 2, 1], [2, 3, 3], [3, 6, 5], [1, 9, 4]] {
            let [b, t, h] = case;
            let inputs = [
                tensor(&numbers(b * t * 4 * h, 1), &[b, t, 4 * h]).unwrap(),
                tensor(&numbers(4 * h * h, 2), &[4 * h, h]).unwrap(),
                tensor(&numbers(4 * h, 3), &[4 * h]).unwrap(),
            ];
            check_gradients(&inputs, &|v| recurrence(&v[0], &v[1], &v[2]), &|v| naive(v, case));
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let p = tensor(&[0.0; 8], &[1, 1, 8]).unwrap();
        let w = tensor(&[0.0; 4], &[4, 1]).unwrap();
        assert!(recurrence(&p, &w, &tensor(&[0.0; 4], &[4]).unwrap()).is_err());
    }
}
