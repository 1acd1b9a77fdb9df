//! The recurrent part of an LSTM layer: per step a product and one kernel.

use super::super::array::Array;
use super::super::lane::args;
use super::super::product::Factor;
use super::{factor, gradient_of, sum_columns};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug, Default)]
pub(in crate::engine) struct Recurrence {
    /// Activated gates `[b, t, 4h]` and cells `[b, t, h]`.
    memory: Option<(Array, Array)>,
}

fn sizes(projected: &Tensor, weight: &Tensor) -> Result<[usize; 3]> {
    let [b, t, four] = projected.dims()?;
    let [rows, h] = weight.dims()?;
    if rows != four || four != 4 * h {
        bail!("recurrence: weights {:?} do not fit gates {:?}", weight.shape(), projected.shape());
    }
    Ok([b, t, h])
}

impl Operation for Recurrence {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [projected, weight, bias] = inputs else { bail!("recurrence: three operands") };
        let [b, t, h] = sizes(projected, weight)?;
        let (x, w) = (projected.array()?, weight.array()?);
        let lane = x.lane();
        let gates = lane.scratch::<f32>(x.len())?;
        lane.each("bias_act", x.len(), args![x, &gates, None, bias.array()?, x.len(), 1, 4 * h, false])?;
        let [cells, hidden] = [lane.scratch::<f32>(b * t * h)?, lane.scratch::<f32>(b * t * h)?];
        for step in 0..t {
            if step > 0 {
                let before = Factor::rows(&hidden, t * h).from((step - 1) * h);
                let to = Factor::rows(&gates, t * 4 * h).from(step * 4 * h);
                lane.product([b, 4 * h, h], (before, Factor::columns(w, h)), (to, true))?;
            }
            lane.each("lstm_step", b * h, args![&gates, &cells, &hidden, b, t, h, step])?;
        }
        self.memory = Some((gates, cells));
        Ok(Tensor::device(hidden, &[b, t, h]))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [projected, weight, bias] = inputs else { bail!("recurrence: three operands") };
        let [b, t, h] = sizes(projected, weight)?;
        let Some((gates, cells)) = &self.memory else { bail!("recurrence: backward before forward") };
        let (w, above) = (weight.array()?, gradient.array()?);
        let lane = w.lane();
        let slopes = gradient_of(projected)?;
        let [next, carried] = [lane.scratch::<f32>(b * h)?, lane.scratch::<f32>(b * h)?];
        for step in (0..t).rev() {
            let places = args![gates, cells, above, &next, &carried, &slopes, b, t, h, step];
            lane.each("lstm_step_back", b * h, places)?;
            if step > 0 {
                let from = Factor::rows(&slopes, t * 4 * h).from(step * 4 * h);
                let factors = (from, Factor::rows(w, h));
                lane.product([b, h, 4 * h], factors, (Factor::rows(&next, h), false))?;
            }
        }
        let late = lane.scratch::<f32>(b * t * h)?;
        lane.each("lstm_late", late.len(), args![result.array()?, &late, late.len(), t, h])?;
        let [dw, db] = [gradient_of(weight)?, gradient_of(bias)?];
        let (left, right) = (factor(&slopes)?, factor(&late)?);
        let factors = (Factor::columns(&left, 4 * h), Factor::rows(&right, h));
        lane.product([4 * h, h, b * t], factors, (Factor::rows(&dw, h), false))?;
        sum_columns(lane, &slopes, &db, b * t, 4 * h)?;
        Ok(vec![
            Some(Tensor::device(slopes, projected.shape())),
            Some(Tensor::device(dw, weight.shape())),
            Some(Tensor::device(db, bias.shape())),
        ])
    }
}
