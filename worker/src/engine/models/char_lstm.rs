//! Character-level LSTM that predicts the next character at each position (McMahan et al. 2017).
//!
//! ```python
//! class CharLstm(nn.Module):
//!     def __init__(self, vocabulary, embedding=8, hidden=256, layers=2):
//!         super().__init__()
//!         self.embedding = nn.Embedding(vocabulary, embedding)
//!         self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
//!         self.fc = nn.Linear(hidden, vocabulary)
//!     def forward(self, x):                               # [batch, time] of indices
//!         return self.fc(self.lstm(self.embedding(x))[0]) # [batch, time, vocabulary]
//! ```

use super::{Built, Network, positive, text};
use crate::data::DataInfo;
use crate::engine::layers::Linear;
use crate::engine::layout::{Init, Layout, Params, Slot};
use crate::engine::ops::embedding::embedding;
use crate::engine::ops::linear::linear;
use crate::engine::ops::lstm::recurrence;
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

#[derive(Debug)]
struct Layer {
    weight_ih: Slot,
    weight_hh: Slot,
    bias_ih: Slot,
    bias_hh: Slot,
}

#[derive(Debug)]
struct CharLstm {
    sequence: usize,
    embedding: Slot,
    layers: Vec<Layer>,
    fc: Linear,
}

pub(super) fn build([embedding, hidden, layers]: [usize; 3], info: &DataInfo, layout: &mut Layout) -> Built {
    let (vocabulary, sequence) = text("char-lstm", info)?;
    positive("char-lstm", &[("embedding", embedding), ("hidden", hidden), ("layers", layers)])?;
    let table = layout.tensor("embedding.weight", &[vocabulary, embedding], Init::Normal(1.0));
    let init = Init::Uniform(1.0 / (hidden as f32).sqrt());
    let stack = (0..layers)
        .map(|l| {
            let inputs = if l == 0 { embedding } else { hidden };
            let mut tensor =
                |part: &str, shape: &[usize]| layout.tensor(format!("lstm.{part}_l{l}"), shape, init);
            Layer {
                weight_ih: tensor("weight_ih", &[4 * hidden, inputs]),
                weight_hh: tensor("weight_hh", &[4 * hidden, hidden]),
                bias_ih: tensor("bias_ih", &[4 * hidden]),
                bias_hh: tensor("bias_hh", &[4 * hidden]),
            }
        })
        .collect();
    let fc = Linear::new(layout, "fc", hidden, vocabulary);
    Ok(Box::new(CharLstm { sequence, embedding: table, layers: stack, fc }))
}

impl Network for CharLstm {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let mut x = embedding(params.get(self.embedding), shard.characters(), self.sequence)?;
        for layer in &self.layers {
            let gates = linear(&x, params.get(layer.weight_ih), Some(params.get(layer.bias_ih)), false)?;
            x = recurrence(&gates, params.get(layer.weight_hh), params.get(layer.bias_hh))?;
        }
        self.fc.forward(params, &x)
    }
}
