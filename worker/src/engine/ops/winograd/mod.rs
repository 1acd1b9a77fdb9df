//! Convolution with 3×3 windows of stride 1 by fewer multiplications: Winograd's F(4×4, 3×3) (Lavin and
//! Gray 2016, arXiv:1509.09308).
//!
//! A tile of 4×4 results comes from one of 6×6 pixels. Pixels and filters are brought to 36 points, where
//! the convolution is a product over channels at each point: 36 multiplications where 144 were. The gradient
//! of the filters is the transpose of that (products over tiles), that of the input a convolution again.
//! Filters are transformed piece by piece where they are used: in the nearest caches that costs less than to
//! keep all of them, which are four times as large as the weights.

mod tiles;
mod transform;

use super::gemm::{Left, Rows, Target, product_panel};
use super::patches::{Geometry, Window};
use std::ops::Range;
use tiles::{Field, Points};
use transform::{POINTS, TAPS};

/// Channels that one pass of the kernel takes. Part of the result's definition.
const DEPTH: usize = 64;
/// Tiles that are worked on at once: enough to be worth a transform of the filters, few enough for the
/// nearer caches.
const TILES: usize = 128;
/// Channels and filters come in multiples of the widest panel.
const CHANNELS: usize = 32;
/// Fewer tiles are not worth a transform of the filters.
const FEWEST: usize = 8;

/// Whether this way is the faster one: a matter of shapes alone.
pub(super) fn pays(g: &Geometry) -> bool {
    let tiles = Field::output(g).tiles;
    g.window == Window { side: TAPS, stride: 1, ..g.window }
        && g.channels.is_multiple_of(CHANNELS)
        && g.filters.is_multiple_of(CHANNELS)
        && g.batch * tiles >= FEWEST
        && g.places() >= 8 * tiles
}

/// Images that are worked on at once.
fn group(g: &Geometry) -> usize {
    let rounds = g.batch.div_ceil(TILES.div_ceil(Field::output(g).tiles)).max(1);
    g.batch.div_ceil(rounds).max(1)
}

/// Writes to `y` the convolution of images with filters `[3, 3, c, f]`; calls `each` with parts of it.
pub(super) fn convolve(g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], each: impl Fn(&mut [f32])) {
    let (input, output, group) = (Field::input(g), Field::output(g), group(g));
    let mut filters = Points::any(1, DEPTH.min(g.channels));
    for (x, y) in x.chunks(group * input.scalars()).zip(y.chunks_mut(group * output.scalars())) {
        let count = y.len() / output.scalars() * output.tiles;
        let (images, mut products) = (input.read(x, transform::image), Points::any(1, count));
        for first in (0..g.filters).step_by(filters.width) {
            for channel in (0..g.channels).step_by(DEPTH) {
                let channels = channel..(channel + DEPTH).min(g.channels);
                filters.set_filters(g, weight, channels.clone(), first);
                multiply(&images, channels, &filters, (&mut products, count));
            }
            output.write(&products, y, first);
        }
        each(y);
    }
}

/// Products of some channels of images with as many of filters at all points: the first ones replace, others
/// are added to those of the channels before.
fn multiply(images: &Points, channels: Range<usize>, filters: &Points, (to, count): (&mut Points, usize)) {
    let width = images.width;
    for point in 0..POINTS {
        let panels = channels.start / width..channels.end / width;
        let segments: Vec<usize> = panels.map(|panel| images.at(panel, point)).collect();
        let left = Left {
            data: &images.values,
            rows: Rows::Every { count, distance: width },
            column: 1,
            run: width,
            segments: &segments,
        };
        let at = to.at(0, point);
        let matrix = &mut to.values[at..];
        let target =
            if channels.start == 0 { Target::replace(matrix, width) } else { Target::add(matrix, width) };
        product_panel(target, left, &filters.values[filters.at(0, point)..]);
    }
}

/// Adds to `dw` `[3, 3, c, f]` the gradient from some images and the gradient of their results.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (input, output, group) = (Field::input(g), Field::output(g), group(g));
    for (x, dy) in x.chunks(group * input.scalars()).zip(dy.chunks(group * output.scalars())) {
        let count = dy.len() / output.scalars() * output.tiles;
        let (images, slopes) = (input.read(x, transform::image), output.read(dy, transform::slopes));
        let width = images.width;
        let mut products = Points::any(1, width);
        for channel in (0..g.channels).step_by(width) {
            for first in (0..g.filters).step_by(width) {
                for point in 0..POINTS {
                    let left = Left {
                        data: &images.values[images.at(channel / width, point)..],
                        rows: Rows::Every { count: width, distance: 1 },
                        column: width,
                        run: count,
                        segments: &[0],
                    };
                    let at = products.at(0, point);
                    let target = Target::replace(&mut products.values[at..], width);
                    product_panel(target, left, &slopes.values[slopes.at(first / width, point)..]);
                }
                products.add_taps(g, dw, channel, first);
            }
        }
    }
}

#[cfg(test)]
mod tests;
