//! Causal self-attention on packed queries, keys and values.

use super::super::array::Array;
use super::super::lane::{Arg, Lane, args};
use super::{THREADS, gradient_of};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};

/// Side of the squares of a product, as in `sequence.cu`.
const TILE: usize = 16;

#[derive(Debug)]
pub(in crate::engine) struct Attention {
    heads: usize,
    /// `[batch, heads, length, length]`
    weights: Option<Array>,
}

/// Sizes of a launch.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    length: usize,
    width: usize,
    head: usize,
}

impl Sizes {
    fn new(packed: &Tensor, heads: usize) -> Result<Self> {
        let [batch, length, packed] = packed.dims()?;
        if !packed.is_multiple_of(3 * heads) {
            bail!("attention: {packed} does not divide into three times {heads} heads");
        }
        Ok(Self { batch, heads, length, width: packed / 3, head: packed / 3 / heads })
    }

    fn scale(self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// `out = factor · a bᵀ` below the diagonal.
    fn products(self, lane: &Lane, (a, b): (Side<'_>, Side<'_>), out: &Array, factor: f32) -> Result<()> {
        let tiles = self.length.div_ceil(TILE);
        let grid = (tiles * tiles, self.batch * self.heads);
        let sizes = [self.heads, self.length, self.head, a.1, b.1].map(Arg::from);
        let places = [a.0, b.0, Arg::from(out)];
        lane.grid("attention_products", grid, &[places.as_slice(), &sizes, args![factor, tiles]].concat())
    }

    /// Rows of `a` mixed by the rows or the columns of `m`.
    fn mix(self, lane: &Lane, kernel: &'static str, m: &Array, (a, out): (Side<'_>, Side<'_>)) -> Result<()> {
        let grid = ((self.length * self.head).div_ceil(THREADS), self.batch * self.heads);
        let sizes = [self.heads, self.length, self.head, a.1, out.1].map(Arg::from);
        lane.grid(kernel, grid, &[args![m].as_slice(), &[a.0, out.0], &sizes].concat())
    }

    fn softmax_grid(self) -> (usize, usize) {
        ((self.batch * self.heads * self.length).div_ceil(THREADS / 32), 1)
    }
}

/// Where a matrix begins, and the scalars from row to row.
type Side<'a> = (Arg, usize, std::marker::PhantomData<&'a Array>);

fn side(array: &Array, offset: usize, stride: usize) -> Side<'_> {
    (Arg::Pointer(array.pointer() + 4 * offset as u64), stride, std::marker::PhantomData)
}

impl Attention {
    pub(in crate::engine) fn new(heads: usize) -> Self {
        Self { heads, weights: None }
    }
}

impl Operation for Attention {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let s = Sizes::new(inputs[0], self.heads)?;
        let x = inputs[0].array()?;
        let (lane, row) = (x.lane(), 3 * s.width);
        let y = lane.scratch::<f32>(s.batch * s.length * s.width)?;
        let weights = lane.scratch::<f32>(s.batch * s.heads * s.length * s.length)?;
        let [q, k, v] = [0, s.width, 2 * s.width].map(|at| side(x, at, row));
        s.products(lane, (q, k), &weights, s.scale())?;
        let rows = s.batch * s.heads * s.length;
        lane.grid("attention_softmax", s.softmax_grid(), args![&weights, rows, s.length])?;
        s.mix(lane, "attention_rows", &weights, (v, side(&y, 0, s.width)))?;
        self.weights = Some(weights);
        Ok(Tensor::device(y, &[s.batch, s.length, s.width]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let s = Sizes::new(&inputs[0], self.heads)?;
        let Some(weights) = &self.weights else { bail!("attention: backward before forward") };
        let (x, dx) = (inputs[0].array()?, gradient_of(&inputs[0])?);
        let (lane, row) = (x.lane(), 3 * s.width);
        let [q, k, v] = [0, s.width, 2 * s.width].map(|at| side(x, at, row));
        let [dq, dk, dv] = [0, s.width, 2 * s.width].map(|at| side(&dx, at, row));
        let dy = side(gradient.array()?, 0, s.width);
        let scores = lane.scratch::<f32>(weights.len())?;
        s.mix(lane, "attention_columns", weights, (dy, dv))?;
        s.products(lane, (dy, v), &scores, 1.0)?;
        let rows = s.batch * s.heads * s.length;
        let sizes = args![&scores, weights, rows, s.length, s.scale()];
        lane.grid("attention_softmax_back", s.softmax_grid(), sizes)?;
        s.mix(lane, "attention_rows", &scores, (k, dq))?;
        s.mix(lane, "attention_columns", &scores, (q, dk))?;
        Ok(vec![Some(Tensor::device(dx, inputs[0].shape()))])
    }
}
