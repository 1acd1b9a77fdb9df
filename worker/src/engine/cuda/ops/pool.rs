//! Pooling, and the end of an image.

use super::super::array::Array;
use super::super::lane::args;
use super::{gradient_of, twin};
use crate::engine::ops::patches::Window;
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
pub(in crate::engine) struct MaxPool {
    window: Window,
    /// For each output, which place of its window held the maximum.
    chosen: Option<Array>,
}

impl MaxPool {
    pub(in crate::engine) fn new(window: Window) -> Self {
        Self { window, chosen: None }
    }

    fn places(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        match (self.window.places(height), self.window.places(width)) {
            (Some(rows), Some(columns)) => Ok((rows, columns)),
            _ => bail!("a {0}×{0} window does not fit an image of {height}×{width}", self.window.side),
        }
    }
}

impl Operation for MaxPool {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let (rows, columns) = self.places(height, width)?;
        let x = inputs[0].array()?;
        let n = batch * rows * columns * c;
        let (y, chosen) = (x.lane().scratch::<f32>(n)?, x.lane().scratch::<u8>(n)?);
        let Window { side, stride, padding } = self.window;
        let sizes = args![x, &y, &chosen, n, height, width, rows, columns, side, stride, padding];
        x.lane().each("max_pool", n, sizes)?;
        self.chosen = Some(chosen);
        Ok(Tensor::device(y, &[batch, rows, columns, c]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let [_, height, width, _] = x.dims()?;
        let (rows, columns) = self.places(height, width)?;
        let Some(chosen) = &self.chosen else { bail!("maximum: backward before forward") };
        let (dx, Window { side, stride, padding }) = (gradient_of(x)?, self.window);
        let dy = gradient.array()?;
        let sizes = args![dy, chosen, &dx, dx.len(), height, width, rows, columns, side, stride, padding];
        dx.lane().each("max_pool_back", dx.len(), sizes)?;
        Ok(vec![Some(Tensor::device(dx, x.shape()))])
    }
}

#[derive(Debug)]
pub(in crate::engine) struct GlobalMean;

impl Operation for GlobalMean {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let (x, inner) = (inputs[0].array()?, height * width);
        let y = x.lane().scratch::<f32>(batch * c)?;
        x.lane().each("global_mean", y.len(), args![x, &y, y.len(), c, batch, inner, 1.0 / inner as f32])?;
        Ok(Tensor::device(y, &[batch, c]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let (dx, inner) = (gradient_of(&inputs[0])?, height * width);
        let sizes = args![gradient.array()?, &dx, dx.len(), c, batch, inner, 1.0 / inner as f32];
        dx.lane().each("global_mean_back", dx.len(), sizes)?;
        Ok(vec![Some(Tensor::device(dx, inputs[0].shape()))])
    }
}

/// To rows of `c · h · w`, channels first as PyTorch flattens.
#[derive(Debug)]
pub(in crate::engine) struct Flatten;

impl Operation for Flatten {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let x = inputs[0].array()?;
        let (y, narrow) = (x.lane().scratch::<f32>(x.len())?, twin(x.lane(), x.len())?);
        let sizes = args![x, &y, narrow.as_ref(), y.len(), c, batch, height * width];
        x.lane().each("swap_outer", y.len(), sizes)?;
        Ok(Tensor::device(y.with_leaf(None, narrow), &[batch, height * width * c]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let dx = gradient_of(&inputs[0])?;
        let sizes = args![gradient.array()?, &dx, None, dx.len(), batch, c, height * width];
        dx.lane().each("swap_outer", dx.len(), sizes)?;
        Ok(vec![Some(Tensor::device(dx, inputs[0].shape()))])
    }
}
