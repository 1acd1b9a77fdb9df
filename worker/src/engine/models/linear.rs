//! Multinomial logistic regression.
//!
//! ```python
//! class Linear(nn.Module):
//!     def __init__(self, inputs, classes):
//!         super().__init__()
//!         self.fc = nn.Linear(inputs, classes)
//!     def forward(self, x):
//!         return self.fc(x.flatten(1))
//! ```

use super::{Built, Network, flat};
use crate::data::DataInfo;
use crate::engine::layers::Linear;
use crate::engine::layout::{Layout, Params};
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

#[derive(Debug)]
struct Regression {
    inputs: usize,
    fc: Linear,
}

pub(super) fn build(info: &DataInfo, layout: &mut Layout) -> Built {
    let (inputs, classes) = flat("linear", info)?;
    Ok(Box::new(Regression { inputs, fc: Linear::new(layout, "fc", inputs, classes) }))
}

impl Network for Regression {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        self.fc.forward(params, &shard.rows(self.inputs)?)
    }
}
