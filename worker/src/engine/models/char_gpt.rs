//! Character-level decoder-only transformer: GPT-2's pre-norm block (Radford et al. 2019) with learned
//! positions, in nanoGPT's names. The output layer is not tied to the embedding.
//!
//! ```python
//! class Attention(nn.Module):
//!     def __init__(self, width, heads):
//!         super().__init__()
//!         self.heads = heads
//!         self.c_attn = nn.Linear(width, 3 * width)
//!         self.c_proj = nn.Linear(width, width)
//!     def forward(self, x):
//!         b, t, c = x.shape
//!         q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
//!                    for y in self.c_attn(x).split(c, dim=2))
//!         y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
//!         return self.c_proj(y.transpose(1, 2).reshape(b, t, c))
//! class Mlp(nn.Module):
//!     def __init__(self, width):
//!         super().__init__()
//!         self.c_fc = nn.Linear(width, 4 * width)
//!         self.c_proj = nn.Linear(4 * width, width)
//!     def forward(self, x):
//!         return self.c_proj(F.gelu(self.c_fc(x)))
//! class Block(nn.Module):
//!     def __init__(self, width, heads):
//!         super().__init__()
//!         self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
//!         self.attn, self.mlp = Attention(width, heads), Mlp(width)
//!     def forward(self, x):
//!         x = x + self.attn(self.ln_1(x))
//!         return x + self.mlp(self.ln_2(x))
//! class CharGpt(nn.Module):
//!     def __init__(self, vocabulary, sequence, width=128, heads=4, layers=4):
//!         super().__init__()
//!         self.wte = nn.Embedding(vocabulary, width)
//!         self.wpe = nn.Embedding(sequence, width)
//!         self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
//!         self.ln_f = nn.LayerNorm(width)
//!         self.lm_head = nn.Linear(width, vocabulary, bias=False)
//!     def forward(self, x):                               # [batch, time] of indices
//!         x = self.wte(x) + self.wpe.weight[:x.shape[1]]
//!         for block in self.h:
//!             x = block(x)
//!         return self.lm_head(self.ln_f(x))
//! ```

use super::{Built, Network, positive, text, unfit};
use crate::data::DataInfo;
use crate::engine::layers::{Linear, Norm};
use crate::engine::layout::{Init, Layout, Params, Slot};
use crate::engine::ops::activation::{gelu, sum};
use crate::engine::ops::attention::causal_attention;
use crate::engine::ops::embedding::embedding;
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

/// Deviation of fresh embeddings, GPT-2's.
const DEVIATION: f32 = 0.02;

#[derive(Debug)]
struct Block {
    ln_1: Norm,
    c_attn: Linear,
    attn_proj: Linear,
    ln_2: Norm,
    c_fc: Linear,
    mlp_proj: Linear,
}

#[derive(Debug)]
struct CharGpt {
    sequence: usize,
    heads: usize,
    wte: Slot,
    wpe: Slot,
    blocks: Vec<Block>,
    ln_f: Norm,
    lm_head: Linear,
}

pub(super) fn build([width, heads, layers]: [usize; 3], info: &DataInfo, layout: &mut Layout) -> Built {
    const MODEL: &str = "char-gpt";
    let (vocabulary, sequence) = text(MODEL, info)?;
    positive(MODEL, &[("width", width), ("heads", heads), ("layers", layers)])?;
    if !width.is_multiple_of(heads) {
        return Err(unfit(MODEL, format!("width {width} is not divisible by {heads} heads")));
    }
    let wte = layout.tensor("wte.weight", &[vocabulary, width], Init::Normal(DEVIATION));
    let wpe = layout.tensor("wpe.weight", &[sequence, width], Init::Normal(DEVIATION));
    let blocks = (0..layers).map(|i| Block::new(layout, &format!("h.{i}"), width)).collect();
    let ln_f = Norm::new(layout, "ln_f", width);
    let lm_head = Linear::without_bias(layout, "lm_head", width, vocabulary);
    Ok(Box::new(CharGpt { sequence, heads, wte, wpe, blocks, ln_f, lm_head }))
}

impl Block {
    fn new(layout: &mut Layout, name: &str, width: usize) -> Self {
        Self {
            ln_1: Norm::new(layout, &format!("{name}.ln_1"), width),
            c_attn: Linear::new(layout, &format!("{name}.attn.c_attn"), width, 3 * width),
            attn_proj: Linear::new(layout, &format!("{name}.attn.c_proj"), width, width),
            ln_2: Norm::new(layout, &format!("{name}.ln_2"), width),
            c_fc: Linear::new(layout, &format!("{name}.mlp.c_fc"), width, 4 * width),
            mlp_proj: Linear::new(layout, &format!("{name}.mlp.c_proj"), 4 * width, width),
        }
    }

    fn forward(&self, p: &Params, x: &Tensor, heads: usize) -> Result<Tensor> {
        let y = self.c_attn.forward(p, &self.ln_1.layer(p, x)?)?;
        let x = sum(x, &self.attn_proj.forward(p, &causal_attention(&y, heads)?)?, false)?;
        let y = gelu(&self.c_fc.forward(p, &self.ln_2.layer(p, &x)?)?)?;
        sum(&x, &self.mlp_proj.forward(p, &y)?, false)
    }
}

impl Network for CharGpt {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let characters = embedding(params.get(self.wte), shard.characters(), self.sequence)?;
        let mut x = sum(&characters, params.get(self.wpe), false)?;
        for block in &self.blocks {
            x = block.forward(params, &x, self.heads)?;
        }
        self.lm_head.forward(params, &self.ln_f.layer(params, &x)?)
    }
}
