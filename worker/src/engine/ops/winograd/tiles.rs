//! Brings images, filters and gradients to the points of the transform and back.
//!
//! At the points everything lies as the matrix kernel reads it: in panels of some channels, for each point
//! a matrix with a row for each tile of an image or for each channel of a filter.

use super::transform::{self, LANES, Lanes, POINTS, RESULTS, SIDE, TAPS, both, lanes};
use crate::engine::buffer::Buffer;
use crate::engine::ops::gemm::panel_width;
use crate::engine::ops::math;
use crate::engine::ops::patches::Geometry;
use std::ops::Range;

/// A row or column outside the image: no slice reaches it, whatever is added.
const OUTSIDE: usize = usize::MAX / 4;
static ZEROS: Lanes = [0.0; LANES];

/// Matrices at all points, in panels.
pub(super) struct Points {
    pub(super) values: Buffer,
    /// Columns of a matrix.
    pub(super) width: usize,
    /// Distance of two points' matrices: an odd number of cache lines, so that the same place of all of them
    /// does not fall into one set of a cache.
    pub(super) stride: usize,
}

impl Points {
    /// Any values.
    pub(super) fn any(panels: usize, rows: usize) -> Self {
        let width = panel_width();
        let stride = (rows * width).next_multiple_of(2 * LANES) + LANES;
        Self { values: Buffer::any(panels * POINTS * stride), width, stride }
    }

    /// Where a matrix begins.
    pub(super) fn at(&self, panel: usize, point: usize) -> usize {
        (panel * POINTS + point) * self.stride
    }

    /// Distances of the points.
    fn steps(&self) -> [usize; POINTS] {
        std::array::from_fn(|point| point * self.stride)
    }

    /// Filters `[3, 3, c, f]`: rows are some channels, columns the filters from `first` on.
    pub(super) fn set_filters(&mut self, g: &Geometry, weight: &[f32], channels: Range<usize>, first: usize) {
        let (width, steps) = (self.width, self.steps());
        // In one place first: rows of filters lie pages apart, too far to be fetched in time one by one.
        let part = channels.len() * width;
        let mut near = Buffer::any(TAPS * TAPS * part);
        for (tap, near) in near.chunks_exact_mut(part).enumerate() {
            let rows = &weight[(tap * g.channels + channels.start) * g.filters..];
            for (to, row) in near.chunks_exact_mut(width).zip(rows.chunks(g.filters)) {
                to.copy_from_slice(&row[first..first + width]);
            }
        }
        let taps: [usize; TAPS * TAPS] = std::array::from_fn(|tap| tap * part);
        math::vectorised(
            #[inline(always)]
            || {
                for at in (0..part).step_by(LANES) {
                    let (from, to) = (&near[at..], &mut self.values[at..]);
                    both(
                        #[inline(always)]
                        |i, j| lanes(&from[taps[i * TAPS + j]..]),
                        transform::filter,
                        #[inline(always)]
                        |i, j, y| put(&mut to[steps[i * SIDE + j]..], y),
                    );
                }
            },
        );
    }

    /// Adds to `dw` `[3, 3, c, f]` what comes of products with a row for each channel from `channel` on and a
    /// column for each filter from `first` on.
    pub(super) fn add_taps(&self, g: &Geometry, dw: &mut [f32], channel: usize, first: usize) {
        let (width, steps) = (self.width, self.steps());
        let part = width * width;
        let mut near = Buffer::any(TAPS * TAPS * part);
        let taps: [usize; TAPS * TAPS] = std::array::from_fn(|tap| tap * part);
        math::vectorised(
            #[inline(always)]
            || {
                for at in (0..part).step_by(LANES) {
                    let (from, to) = (&self.values[at..], &mut near[at..]);
                    both(
                        #[inline(always)]
                        |i, j| lanes(&from[steps[i * SIDE + j]..]),
                        transform::taps,
                        #[inline(always)]
                        |i, j, y| put(&mut to[taps[i * TAPS + j]..], y),
                    );
                }
                for (tap, near) in near.chunks_exact(part).enumerate() {
                    let rows = &mut dw[(tap * g.channels + channel) * g.filters..];
                    for (row, near) in rows.chunks_mut(g.filters).zip(near.chunks_exact(width)) {
                        for (to, near) in row[first..first + width].iter_mut().zip(near) {
                            *to += near;
                        }
                    }
                }
            },
        );
    }
}

#[inline(always)]
fn put(to: &mut [f32], y: Lanes) {
    for (to, y) in to[..LANES].iter_mut().zip(y) {
        *to = y;
    }
}

/// Images whose tiles are read or written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    height: usize,
    width: usize,
    channels: usize,
    padding: usize,
    /// Tiles of a row.
    across: usize,
    /// Tiles of an image.
    pub(super) tiles: usize,
}

impl Field {
    /// What a convolution reads.
    pub(super) fn input(g: &Geometry) -> Self {
        let Geometry { height, width, channels, .. } = *g;
        Self { height, width, channels, padding: g.window.padding, ..Self::output(g) }
    }

    /// What it writes.
    pub(super) fn output(g: &Geometry) -> Self {
        let across = g.columns.div_ceil(RESULTS);
        let tiles = across * g.rows.div_ceil(RESULTS);
        Self { height: g.rows, width: g.columns, channels: g.filters, padding: 0, across, tiles }
    }

    /// Scalars of an image.
    pub(super) fn scalars(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Offsets of the rows and of the columns of a tile.
    #[inline(always)]
    fn offsets<const N: usize>(&self, tile: usize) -> ([usize; N], [usize; N]) {
        let (y, x) = (tile / self.across * RESULTS, tile % self.across * RESULTS);
        let offset = |place: usize, extent: usize, distance: usize| {
            let place = place.wrapping_sub(self.padding);
            if place < extent { place * distance } else { OUTSIDE }
        };
        (
            std::array::from_fn(|i| offset(y + i, self.height, self.width * self.channels)),
            std::array::from_fn(|j| offset(x + j, self.width, self.channels)),
        )
    }

    /// All tiles of images at the points.
    pub(super) fn read<const N: usize>(
        &self,
        images: &[f32],
        transform: impl Fn([f32; N]) -> [f32; SIDE],
    ) -> Points {
        let count = images.len() / self.scalars() * self.tiles;
        let mut points = Points::any(self.channels / panel_width(), count);
        let (width, steps) = (points.width, points.steps());
        math::vectorised(
            #[inline(always)]
            || {
                for tile in 0..count {
                    let image = &images[tile / self.tiles * self.scalars()..][..self.scalars()];
                    let (rows, columns) = self.offsets::<N>(tile % self.tiles);
                    for first in (0..self.channels).step_by(LANES) {
                        let at = points.at(first / width, 0) + tile * width + first % width;
                        let to = &mut points.values[at..];
                        both(
                            #[inline(always)]
                            |i, j| {
                                let at = rows[i] + columns[j] + first;
                                lanes(image.get(at..at + LANES).unwrap_or(&ZEROS))
                            },
                            &transform,
                            #[inline(always)]
                            |i, j, y| put(&mut to[steps[i * SIDE + j]..], y),
                        );
                    }
                }
            },
        );
        points
    }

    /// Writes the channels from `first` on to all tiles of images.
    pub(super) fn write(&self, products: &Points, images: &mut [f32], first: usize) {
        let count = images.len() / self.scalars() * self.tiles;
        let (width, steps) = (products.width, products.steps());
        math::vectorised(
            #[inline(always)]
            || {
                for tile in 0..count {
                    let image = &mut images[tile / self.tiles * self.scalars()..][..self.scalars()];
                    let (rows, columns) = self.offsets::<RESULTS>(tile % self.tiles);
                    for l in (0..width).step_by(LANES) {
                        let from = &products.values[tile * width + l..];
                        both(
                            #[inline(always)]
                            |i, j| lanes(&from[steps[i * SIDE + j]..]),
                            transform::results,
                            #[inline(always)]
                            |i, j, y| {
                                let at = rows[i] + columns[j] + first + l;
                                if let Some(to) = image.get_mut(at..at + LANES) {
                                    put(to, y);
                                }
                            },
                        );
                    }
                }
            },
        );
    }
}
