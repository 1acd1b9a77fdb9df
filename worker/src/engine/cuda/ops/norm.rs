//! Group and layer normalisation.

use super::super::array::Array;
use super::super::lane::args;
use super::{THREADS, gradient_of, lanes, parts, sum_columns, sum_segments};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
pub(in crate::engine) struct GroupNorm {
    groups: usize,
    relu: bool,
    /// Mean and inverse deviation `[batch, groups]`.
    statistics: Option<(Array, Array)>,
}

impl GroupNorm {
    pub(in crate::engine) fn new(groups: usize, relu: bool) -> Self {
        Self { groups, relu, statistics: None }
    }
}

impl Operation for GroupNorm {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, weight, bias] = inputs else { bail!("group norm: three operands") };
        let [batch, height, width, c] = x.dims()?;
        if !c.is_multiple_of(self.groups) {
            bail!("{c} channels do not divide into {} groups", self.groups);
        }
        let (shape, inner) = (x.shape(), height * width);
        let x = x.array()?;
        let lane = x.lane();
        let mean = lane.scratch::<f32>(batch * self.groups)?;
        let inverse = lane.scratch::<f32>(batch * self.groups)?;
        let y = lane.scratch::<f32>(x.len())?;
        let [means, squares] = [lane.scratch::<f32>(c * batch)?, lane.scratch::<f32>(c * batch)?];
        let lanes = lanes(inner);
        let blocks = (c * batch).div_ceil(THREADS / lanes);
        lane.grid("plane_moments", (blocks, 1), args![x, &means, &squares, c * batch, inner, lanes])?;
        let places = args![&means, &squares, &mean, &inverse, c, batch, inner];
        lane.grid("group_moments", (self.groups, batch), places)?;
        let factors = args![
            x,
            &y,
            &mean,
            &inverse,
            weight.array()?,
            bias.array()?,
            x.len(),
            c,
            batch,
            inner,
            self.groups,
            self.relu
        ];
        lane.each("group_norm", x.len(), factors)?;
        self.statistics = Some((mean, inverse));
        Ok(Tensor::device(y, shape))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [input, weight, bias] = inputs else { bail!("group norm: three operands") };
        let Some((mean, inverse)) = &self.statistics else { bail!("group norm: backward before forward") };
        let [batch, height, width, c] = input.dims()?;
        let (groups, inner) = (self.groups, height * width);
        let (x, dy) = (input.array()?, gradient.array()?);
        let y = if self.relu { Some(result.array()?) } else { None };
        let lane = x.lane();
        let [plain, scaled] = [lane.scratch::<f32>(c * batch)?, lane.scratch::<f32>(c * batch)?];
        let lanes = lanes(inner);
        let sizes = args![x, dy, y, mean, inverse, &plain, &scaled, c, batch, inner, groups, lanes];
        lane.grid("group_sums", ((c * batch).div_ceil(THREADS / lanes), 1), sizes)?;
        let [dw, db] = [gradient_of(weight)?, gradient_of(bias)?];
        sum_segments(lane, &scaled, &dw, c, batch)?;
        sum_segments(lane, &plain, &db, c, batch)?;
        let dx = if input.tracked() {
            let [first, second] =
                [lane.scratch::<f32>(batch * groups)?, lane.scratch::<f32>(batch * groups)?];
            let w = weight.array()?;
            let sizes = args![&plain, &scaled, w, &first, &second, c, batch, inner];
            lane.grid("group_totals", (groups, batch), sizes)?;
            let dx = gradient_of(input)?;
            let n = x.len();
            let sizes = args![x, dy, y, &dx, mean, inverse, &first, &second, w, n, c, batch, inner, groups];
            lane.each("group_norm_back", n, sizes)?;
            Some(Tensor::device(dx, input.shape()))
        } else {
            None
        };
        Ok(vec![dx, Some(Tensor::device(dw, weight.shape())), Some(Tensor::device(db, bias.shape()))])
    }
}

#[derive(Debug, Default)]
pub(in crate::engine) struct LayerNorm {
    /// Mean and inverse deviation of each row.
    statistics: Option<(Array, Array)>,
}

impl Operation for LayerNorm {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [input, weight, bias] = inputs else { bail!("layer norm: three operands") };
        let (x, width) = (input.array()?, weight.len());
        let (lane, rows, lanes) = (x.lane(), x.len() / width, lanes(width));
        let y = lane.scratch::<f32>(x.len())?;
        let [mean, inverse] = [lane.scratch::<f32>(rows)?, lane.scratch::<f32>(rows)?];
        let sizes = args![x, &y, &mean, &inverse, weight.array()?, bias.array()?, rows, width, lanes];
        lane.grid("layer_norm", (rows.div_ceil(THREADS / lanes), 1), sizes)?;
        self.statistics = Some((mean, inverse));
        Ok(Tensor::device(y, input.shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [input, weight, bias] = inputs else { bail!("layer norm: three operands") };
        let Some((mean, inverse)) = &self.statistics else { bail!("layer norm: backward before forward") };
        let (x, dy, width) = (input.array()?, gradient.array()?, weight.len());
        let (lane, rows, lanes) = (x.lane(), x.len() / width, lanes(width));
        let dx = gradient_of(input)?;
        let sizes = args![x, dy, &dx, mean, inverse, weight.array()?, rows, width, lanes];
        lane.grid("layer_norm_back", (rows.div_ceil(THREADS / lanes), 1), sizes)?;
        let [dw, db] = [gradient_of(weight)?, gradient_of(bias)?];
        let parts = parts(rows);
        let [pw, pb] = match parts {
            1 => [dw.clone(), db.clone()],
            _ => [lane.scratch::<f32>(parts * width)?, lane.scratch::<f32>(parts * width)?],
        };
        let sizes = args![x, dy, mean, inverse, &pw, &pb, rows, width];
        lane.grid("layer_norm_columns", (width.div_ceil(32), parts), sizes)?;
        if parts > 1 {
            sum_columns(lane, &pw, &dw, parts, width)?;
            sum_columns(lane, &pb, &db, parts, width)?;
        }
        Ok(vec![
            Some(Tensor::device(dx, input.shape())),
            Some(Tensor::device(dw, weight.shape())),
            Some(Tensor::device(db, bias.shape())),
        ])
    }
}
