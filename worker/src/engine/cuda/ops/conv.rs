//! Convolution: one product of the filters with the windows of the whole batch.

use super::super::array::Array;
use super::super::lane::{Arg, Factor, args};
use super::super::placement::Precision;
use super::{factor, finish, gradient_of, slopes, sum_segments};
use crate::engine::ops::patches::{Geometry, Window};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
pub(in crate::engine) struct Conv {
    window: Window,
    relu: bool,
    /// The windows `[channels · side², batch · places]` as a factor.
    windows: Option<Array>,
}

impl Conv {
    pub(in crate::engine) fn new(window: Window, relu: bool) -> Self {
        Self { window, relu, windows: None }
    }

    /// Whether the windows are the image itself.
    fn is_product(&self) -> bool {
        let Window { side, stride, padding } = self.window;
        side == 1 && stride == 1 && padding == 0
    }

    fn windows(&self, g: &Geometry, x: &Array) -> Result<Array> {
        if self.is_product() {
            return factor(x);
        }
        let (lane, places) = (x.lane(), g.batch * g.places());
        let narrow = lane.precision() == Precision::Bf16;
        let length = g.patch() * places;
        let (out, kernel) = if narrow {
            (lane.scratch::<u16>(length)?, "im2col_narrow")
        } else {
            (lane.scratch::<f32>(length)?, "im2col_wide")
        };
        let step = if g.columns.is_multiple_of(4) { 4 } else { 1 };
        let places = args![x, &out];
        let blocks = (g.batch * g.places() / step).div_ceil(super::THREADS).clamp(1, 1_024);
        lane.grid(kernel, (blocks, g.patch()), &[places.as_slice(), &sizes(g)].concat())?;
        Ok(out)
    }

    /// The gradient of the input from that of its windows.
    fn collect(&self, g: &Geometry, (weight, dy): (&Array, &Array), x: &Tensor) -> Result<Array> {
        let (lane, n) = (dy.lane(), g.batch * g.places());
        let dx = gradient_of(x)?;
        let factors = (Factor::columns(weight, g.patch()), Factor::rows(dy, n));
        let product =
            |to: &Array| lane.product([g.patch(), n, g.filters], factors, (Factor::rows(to, n), false));
        if self.is_product() {
            product(&dx)?;
            return Ok(dx);
        }
        let length = g.patch() * n;
        let (windows, kernel) = match lane.precision() {
            Precision::Bf16 => (lane.scratch::<u16>(length)?, "col2im_narrow"),
            _ => (lane.scratch::<f32>(length)?, "col2im_wide"),
        };
        product(&windows)?;
        let places = args![&windows, &dx, dx.len()];
        lane.each(kernel, dx.len(), &[places.as_slice(), &sizes(g)].concat())?;
        Ok(dx)
    }
}

fn sizes(g: &Geometry) -> [Arg; 8] {
    let Window { side, stride, padding } = g.window;
    [g.batch, g.height, g.width, g.rows, g.columns, side, stride, padding].map(Arg::from)
}

impl Operation for Conv {
    fn forward(&mut self, operands: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (operands[0], operands[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let n = g.batch * g.places();
        let windows = self.windows(&g, x.array()?)?;
        let (lane, w) = (windows.lane(), factor(weight.array()?)?);
        let y = lane.scratch::<f32>(g.filters * n)?;
        let factors = (Factor::rows(&w, g.patch()), Factor::rows(&windows, n));
        lane.product([g.filters, n, g.patch()], factors, (Factor::rows(&y, n), false))?;
        finish(&y, operands.get(2).copied(), (n, g.filters), self.relu)?;
        self.windows = weight.tracked().then(|| windows.clone());
        Ok(Tensor::device(y, &[g.batch, g.rows, g.columns, g.filters]))
    }

    fn backward(
        &self,
        operands: &[Tensor],
        result: &Tensor,
        gradient: Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&operands[0], &operands[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let n = g.batch * g.places();
        let rectified = if self.relu { Some(result.array()?) } else { None };
        let (wide, dy) = slopes(gradient.array()?, rectified)?;
        drop(gradient);
        let lane = dy.lane();
        let Some(windows) = &self.windows else { bail!("convolution: backward before forward") };

        let dw = gradient_of(weight)?;
        let factors = (Factor::rows(&dy, n), Factor::columns(windows, n));
        lane.product([g.filters, g.patch(), n], factors, (Factor::rows(&dw, g.patch()), false))?;
        let mut gradients = vec![None, Some(Tensor::device(dw, weight.shape()))];
        if let Some(bias) = operands.get(2) {
            let db = gradient_of(bias)?;
            sum_segments(lane, &wide, &db, g.filters, n)?;
            gradients.push(Some(Tensor::device(db, bias.shape())));
        }
        if x.tracked() {
            let w = factor(weight.array()?)?;
            gradients[0] = Some(Tensor::device(self.collect(&g, (&w, &dy), x)?, x.shape()));
        }
        Ok(gradients)
    }
}
