//! Fully connected layer.

use super::super::array::Array;
use super::super::product::Factor;
use super::{factor, finish, gradient_of, slopes, sum_columns, twin};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(in crate::engine) struct Linear {
    pub(in crate::engine) relu: bool,
    /// The input as a factor.
    x: Option<Array>,
}

impl Linear {
    pub(in crate::engine) fn new(relu: bool) -> Self {
        Self { relu, x: None }
    }
}

impl Operation for Linear {
    fn forward(&mut self, operands: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (operands[0], operands[1]);
        let [outputs, inputs] = weight.dims()?;
        let mut shape = x.shape().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => bail!("linear: input {:?} does not end in {inputs}", x.shape()),
        }
        let rows = x.len() / inputs;
        let (x, w) = (factor(x.array()?)?, factor(weight.array()?)?);
        let y = x.lane().scratch::<f32>(rows * outputs)?;
        let factors = (Factor::rows(&x, inputs), Factor::columns(&w, inputs));
        x.lane().product([rows, outputs, inputs], factors, (Factor::rows(&y, outputs), false))?;
        // What is rectified goes to another layer.
        let narrow = if self.relu { twin(x.lane(), y.len())? } else { None };
        finish(&y, operands.get(2).copied(), (1, outputs), self.relu, narrow.as_ref())?;
        self.x = Some(x);
        Ok(Tensor::device(y.with_leaf(None, narrow), &shape))
    }

    fn backward(
        &self,
        operands: &[Tensor],
        result: &Tensor,
        gradient: Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&operands[0], &operands[1]);
        let [outputs, inputs] = weight.dims()?;
        let rows = x.len() / inputs;
        let rectified = if self.relu { Some(result.array()?) } else { None };
        let (wide, dy) = slopes(gradient.array()?, rectified)?;
        let lane = dy.lane();
        let Some(kept) = &self.x else { bail!("linear: backward before forward") };

        let mut gradients = vec![None];
        if x.tracked() {
            let dx = gradient_of(x)?;
            let w = factor(weight.array()?)?;
            let factors = (Factor::rows(&dy, outputs), Factor::rows(&w, inputs));
            lane.product([rows, inputs, outputs], factors, (Factor::rows(&dx, inputs), false))?;
            gradients[0] = Some(Tensor::device(dx, x.shape()));
        }
        let dw = gradient_of(weight)?;
        let factors = (Factor::columns(&dy, outputs), Factor::rows(kept, inputs));
        lane.product([outputs, inputs, rows], factors, (Factor::rows(&dw, inputs), false))?;
        gradients.push(Some(Tensor::device(dw, weight.shape())));
        if let Some(bias) = operands.get(2) {
            let db = gradient_of(bias)?;
            sum_columns(lane, &wide, &db, rows, outputs)?;
            gradients.push(Some(Tensor::device(db, bias.shape())));
        }
        Ok(gradients)
    }
}
