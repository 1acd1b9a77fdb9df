//! Look-up of rows.

use super::super::array::Array;
use super::super::lane::args;
use super::{gradient_of, sum_columns};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor};

#[derive(Debug, Clone)]
pub(in crate::engine) struct Embedding {
    rows: Array,
    length: usize,
}

impl Embedding {
    /// Of rows that lie on the device, in sequences of `length`.
    pub(in crate::engine) fn new(rows: Array, length: usize) -> Self {
        Self { rows, length }
    }
}

impl Operation for Embedding {
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        Some(Box::new(self.clone()))
    }

    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [_, width] = inputs[0].dims()?;
        let table = inputs[0].array()?;
        let y = table.lane().scratch::<f32>(self.rows.len() * width)?;
        table.lane().each("embedding", y.len(), args![table, &self.rows, &y, y.len(), width])?;
        Ok(Tensor::device(y, &[self.rows.len() / self.length, self.length, width]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [n, width] = inputs[0].dims()?;
        let (d, count) = (gradient_of(&inputs[0])?, self.rows.len());
        let (lane, parts) = (d.lane(), (count / 64).clamp(1, 32));
        let dy = gradient.array()?;
        if parts == 1 {
            lane.grid("embedding_back", (n, 1), args![dy, &self.rows, &d, count, width])?;
        } else {
            let partial = lane.scratch::<f32>(parts * n * width)?;
            lane.grid("embedding_back", (n, parts), args![dy, &self.rows, &partial, count, width])?;
            sum_columns(lane, &partial, &d, parts, n * width)?;
        }
        Ok(vec![Some(Tensor::device(d, inputs[0].shape()))])
    }
}
