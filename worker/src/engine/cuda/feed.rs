//! Examples that lie on a device, and the batch that a step takes of them.

use super::array::Array;
use super::lane::{Lane, args};
use crate::data::{Batch, DataInfo, Dataset, Inputs, Parts, Store, tables};
use crate::engine::EngineError;
use crate::engine::tensor::Tensor;
use bytemuck::Pod;
use std::sync::Arc;

/// Integers of a record, as in `steps.cu`.
const RECORD: usize = 5;

/// What one batch is made from, an example each.
#[derive(Debug, Default)]
pub(in crate::engine) struct Records(Vec<i32>);

impl Records {
    /// Appends a batch of `examples`; draws what [`Dataset::batch`] draws.
    pub(in crate::engine) fn push(
        &mut self,
        examples: &Dataset,
        indices: &[usize],
        augment: Option<&mut crate::data::Rng>,
    ) {
        for (row, label, pose) in examples.records(indices, augment) {
            let shift = [pose.shift.0 as i32, pose.shift.1 as i32];
            self.0.extend([row as i32, label as i32, i32::from(pose.mirrored), shift[0], shift[1]]);
        }
    }

    /// The examples of `batch` in their order.
    pub(super) fn of_batch(batch: &Batch) -> Self {
        let label =
            |row: usize| if let Inputs::Dense(_) = batch.inputs { batch.labels[row] as i32 } else { 0 };
        Self((0..batch.size).flat_map(|row| [row as i32, label(row), 0, 0, 0]).collect())
    }

    pub(super) fn values(&self) -> &[i32] {
        &self.0
    }

    /// Examples.
    pub(super) fn len(&self) -> usize {
        self.0.len() / RECORD
    }
}

/// Memory for the records of so many examples.
pub(super) fn records_memory(lane: &Arc<Lane>, examples: usize) -> Result<Array, EngineError> {
    lane.fresh::<i32>(examples * RECORD)
}

/// Examples on a device.
#[derive(Debug)]
pub(super) enum Resident {
    /// Bytes, and the value of each by channel.
    Pixels { bytes: Array, tables: Array, sides: [usize; 3] },
    /// Numbers, and what they are shifted and scaled by.
    Numbers { values: Array, normalisation: Option<(Array, Array)>, channels: usize, inner: usize },
    /// Characters, what follows each, and where sequences begin.
    Text { characters: Array, following: Array, starts: Array, length: usize },
}

fn filled<T: Pod>(lane: &Arc<Lane>, values: &[T]) -> Result<Array, EngineError> {
    let array = lane.fresh::<T>(values.len().max(1))?;
    lane.upload(&array, values)?;
    Ok(array)
}

impl Resident {
    /// All examples of a data set.
    pub(super) fn of(lane: &Arc<Lane>, parts: &Parts) -> Result<Self, EngineError> {
        let normalisation = &parts.normalisation;
        let resident = match &parts.store {
            Store::Pixels { shape, bytes } => Self::Pixels {
                bytes: filled(lane, bytes)?,
                tables: filled(lane, &tables(normalisation).concat())?,
                sides: [shape.channels, shape.height, shape.width],
            },
            Store::Features { dimension, values } => Self::Numbers {
                values: filled(lane, values)?,
                normalisation: Some((filled(lane, &normalisation.mean)?, filled(lane, &normalisation.std)?)),
                channels: 1,
                inner: *dimension,
            },
            Store::Windows { sequence, tokens, starts } => {
                let tokens: Vec<u32> = tokens.iter().map(|t| u32::from(*t)).collect();
                let characters = filled(lane, &tokens)?;
                let following = characters.part(1, tokens.len().saturating_sub(1));
                Self::Text { characters, following, starts: filled(lane, starts)?, length: *sequence }
            }
        };
        // Other lanes will read it.
        lane.wait()?;
        Ok(resident)
    }

    /// One batch as it is.
    pub(super) fn of_batch(lane: &Arc<Lane>, batch: &Batch, info: &DataInfo) -> Result<Self, EngineError> {
        match &batch.inputs {
            Inputs::Dense(values) => {
                let channels = if let DataInfo::Images { channels, .. } = info { *channels } else { 1 };
                let inner = values.len() / batch.size.max(1) / channels;
                Ok(Self::Numbers { values: filled(lane, values)?, normalisation: None, channels, inner })
            }
            Inputs::Tokens(tokens) => {
                let length = tokens.len() / batch.size.max(1);
                let starts: Vec<u32> = (0..batch.size).map(|row| (row * length) as u32).collect();
                let starts = filled(lane, &starts)?;
                let following = filled(lane, &batch.labels)?;
                Ok(Self::Text { characters: filled(lane, tokens)?, following, starts, length })
            }
        }
    }
}

/// The inputs and labels of the present batch.
#[derive(Debug)]
pub(in crate::engine) struct Feed {
    inputs: Array,
    labels: Array,
    size: usize,
    channels: usize,
}

impl Feed {
    /// Memory for a batch of `size`.
    pub(super) fn new(lane: &Arc<Lane>, of: &Resident, size: usize) -> Result<Self, EngineError> {
        let (inputs, labels, channels) = match of {
            Resident::Pixels { sides, .. } => {
                (lane.fresh::<f32>(size * sides.iter().product::<usize>())?, size, sides[0])
            }
            Resident::Numbers { channels, inner, .. } => {
                (lane.fresh::<f32>(size * channels * inner)?, size, *channels)
            }
            Resident::Text { length, .. } => (lane.fresh::<u32>(size * length)?, size * length, 1),
        };
        Ok(Self { inputs, labels: lane.fresh::<u32>(labels)?, size, channels })
    }

    /// Asks for the batch at the present state.
    pub(super) fn gather(&self, of: &Resident, records: &Array, state: &Array) -> Result<(), EngineError> {
        let Self { inputs, labels, size, .. } = self;
        let (lane, n) = (inputs.lane(), inputs.len());
        match of {
            Resident::Pixels { bytes, tables, sides: [channels, height, width] } => {
                let (c, h, w) = (*channels, *height, *width);
                let places = args![bytes, records, tables, inputs, labels, state, n, c, *size, h, w];
                lane.each("gather_pixels", n, places)
            }
            Resident::Numbers { values, normalisation, channels, inner } => {
                let (mean, deviation) =
                    normalisation.as_ref().map(|(mean, deviation)| (mean, deviation)).unzip();
                let sizes = args![*channels, *size, *inner];
                let places = args![values, records, mean, deviation, inputs, labels, state, n];
                lane.each("gather_numbers", n, &[places.as_slice(), sizes.as_slice()].concat())
            }
            Resident::Text { characters, following, starts, length } => {
                let places = args![characters, following, starts, records, inputs, labels, state, n, *length];
                lane.each("gather_text", n, places)
            }
        }
    }

    /// Images [channels, batch, inner], or characters.
    pub(in crate::engine) fn inputs(&self) -> &Array {
        &self.inputs
    }

    pub(super) fn labels(&self) -> &Array {
        &self.labels
    }

    /// Number of examples.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The inputs as rows of `width`.
    pub(in crate::engine) fn rows(&self, size: usize, width: usize) -> Result<Tensor, EngineError> {
        let (x, shape) = (&self.inputs, [size, width]);
        if self.channels == 1 {
            return Ok(Tensor::device(x.clone(), &shape));
        }
        let rows = x.lane().scratch::<f32>(x.len())?;
        let inner = width / self.channels;
        x.lane().each("swap_outer", x.len(), args![x, &rows, None, x.len(), self.channels, size, inner])?;
        Ok(Tensor::device(rows, &shape))
    }
}
