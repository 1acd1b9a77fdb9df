//! GELU, residual sums, and the sum of two gradients.

use super::super::lane::args;
use super::{gradient_of, slopes, sum_columns};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
pub(in crate::engine) struct Gelu;

impl Operation for Gelu {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0].array()?;
        let y = x.lane().scratch::<f32>(x.len())?;
        x.lane().each("gelu", x.len(), args![x, &y, x.len()])?;
        Ok(Tensor::device(y, inputs[0].shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let dx = gradient_of(&inputs[0])?;
        let places = args![inputs[0].array()?, gradient.array()?, &dx, dx.len()];
        dx.lane().each("gelu_back", dx.len(), places)?;
        Ok(vec![Some(Tensor::device(dx, inputs[0].shape()))])
    }
}

/// `a + b`, where `b` may lack leading dimensions of `a`.
#[derive(Debug)]
pub(in crate::engine) struct Sum {
    pub(in crate::engine) relu: bool,
}

impl Operation for Sum {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        if !a.shape().ends_with(b.shape()) {
            bail!("sum: {:?} does not end in {:?}", a.shape(), b.shape());
        }
        added(a, b, self.relu)
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let rectified = if self.relu { Some(result.array()?) } else { None };
        let da = match rectified {
            Some(_) => Tensor::device(slopes(gradient.array()?, rectified)?.0, a.shape()),
            None => gradient,
        };
        if !b.tracked() {
            return Ok(vec![Some(da), None]);
        }
        let db = if a.len() == b.len() && !b.is_leaf() {
            da.clone()
        } else {
            let db = gradient_of(b)?;
            sum_columns(db.lane(), da.array()?, &db, a.len() / b.len(), b.len())?;
            Tensor::device(db, b.shape())
        };
        Ok(vec![Some(da), Some(db)])
    }
}

/// `a + b` in new memory, b repeated.
pub(in crate::engine) fn added(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    let x = a.array()?;
    let y = x.lane().scratch::<f32>(x.len())?;
    x.lane().each("sum_act", x.len(), args![x, b.array()?, &y, x.len(), b.len(), relu])?;
    Ok(Tensor::device(y, a.shape()))
}
