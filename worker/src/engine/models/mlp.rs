//! Fully connected network with ReLU.
//!
//! ```python
//! class Mlp(nn.Module):
//!     def __init__(self, inputs, hidden, classes):      # hidden = [200, 200]
//!         super().__init__()
//!         self.fc1 = nn.Linear(inputs, hidden[0])
//!         self.fc2 = nn.Linear(hidden[0], hidden[1])
//!         self.fc3 = nn.Linear(hidden[1], classes)      # one more than there are hidden layers
//!     def forward(self, x):
//!         x = F.relu(self.fc1(x.flatten(1)))
//!         x = F.relu(self.fc2(x))
//!         return self.fc3(x)
//! ```

use super::{Built, Network, flat, positive};
use crate::data::DataInfo;
use crate::engine::layers::Linear;
use crate::engine::layout::{Layout, Params};
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

#[derive(Debug)]
struct Mlp {
    inputs: usize,
    hidden: Vec<Linear>,
    last: Linear,
}

pub(super) fn build(hidden: &[usize], info: &DataInfo, layout: &mut Layout) -> Built {
    let (inputs, classes) = flat("mlp", info)?;
    let mut width = inputs;
    let mut layers = Vec::new();
    for (i, &next) in hidden.iter().enumerate() {
        positive("mlp", &[("the width of a hidden layer", next)])?;
        layers.push(Linear::new(layout, &format!("fc{}", i + 1), width, next));
        width = next;
    }
    let last = Linear::new(layout, &format!("fc{}", hidden.len() + 1), width, classes);
    Ok(Box::new(Mlp { inputs, hidden: layers, last }))
}

impl Network for Mlp {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let mut x = shard.rows(self.inputs)?;
        for layer in &self.hidden {
            x = layer.forward_relu(params, &x)?;
        }
        self.last.forward(params, &x)
    }
}
