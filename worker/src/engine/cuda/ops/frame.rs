//! The frame of a visual prompt.

use super::super::lane::args;
use super::gradient_of;
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

/// On images `[b, h, w, c]`: images, up, down, left, right.
#[derive(Debug)]
pub(in crate::engine) struct Frame {
    padding: usize,
}

impl Frame {
    pub(in crate::engine) fn new(padding: usize) -> Self {
        Self { padding }
    }
}

impl Operation for Frame {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [images, up, down, left, right] = inputs else { bail!("frame: five operands") };
        let [batch, height, width, _] = images.dims()?;
        let x = images.array()?;
        let (n, y) = (x.len(), x.lane().scratch::<f32>(x.len())?);
        let parts = args![x, up.array()?, down.array()?, left.array()?, right.array()?, &y];
        let sizes = args![n, batch, height, width, self.padding];
        x.lane().each("frame", n, &[parts.as_slice(), sizes.as_slice()].concat())?;
        Ok(Tensor::device(y, images.shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [batch, height, width, _] = inputs[0].dims()?;
        let (p, dy) = (self.padding, gradient.array()?.clone());
        let inner = height - 2 * p;
        let corners =
            [[0, 0, p, width], [height - p, 0, p, width], [p, 0, inner, p], [p, width - p, inner, p]];
        let mut gradients = vec![inputs[0].tracked().then_some(gradient)];
        for (part, [top, left, rows, columns]) in inputs[1..].iter().zip(corners) {
            let out = gradient_of(part)?;
            if !out.is_empty() {
                let sizes = args![&dy, &out, out.len(), batch, height, width, top, left, rows, columns];
                dy.lane().each("frame_back", out.len(), sizes)?;
            }
            gradients.push(Some(Tensor::device(out, part.shape())));
        }
        Ok(gradients)
    }
}
