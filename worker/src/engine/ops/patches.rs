//! The sizes of a convolution, and where the patches of a channels-last image lie.
//!
//! A patch consists of `side` contiguous runs of pixels, so that adding patches back to where they came
//! from (col2im) adds whole runs.

use crate::engine::tensor::{Result, Tensor, bail};

/// A square window that slides over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Window {
    /// Side length in pixels.
    pub(in crate::engine) side: usize,
    /// Step in pixels.
    pub(in crate::engine) stride: usize,
    /// Rows and columns added on each side of the image.
    pub(in crate::engine) padding: usize,
}

impl Window {
    /// How many places the window has along `extent` pixels; `None` if it does not fit.
    pub(in crate::engine) fn places(self, extent: usize) -> Option<usize> {
        Some((extent + 2 * self.padding).checked_sub(self.side)? / self.stride + 1)
    }
}

/// Places that are computed at once: enough for the product to run at full speed, few enough for the
/// padded images to stay near the second-level cache.
const ROWS: usize = 256;

/// Sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Geometry {
    pub(in crate::engine) window: Window,
    pub(in crate::engine) batch: usize,
    pub(in crate::engine) height: usize,
    pub(in crate::engine) width: usize,
    pub(in crate::engine) channels: usize,
    pub(in crate::engine) filters: usize,
    /// Rows of the result.
    pub(in crate::engine) rows: usize,
    /// Columns of the result.
    pub(in crate::engine) columns: usize,
}

impl Geometry {
    pub(in crate::engine) fn new(window: Window, x: &Tensor, weight: &Tensor) -> Result<Self> {
        let [batch, height, width, channels] = x.dims()?;
        let [side, _, inputs, filters] = weight.dims()?;
        let (Some(rows), Some(columns)) = (window.places(height), window.places(width)) else {
            bail!("a {side}×{side} window does not fit an image of {height}×{width}")
        };
        if inputs != channels || side != window.side {
            bail!("filters {:?} do not fit images {:?}", weight.shape(), x.shape());
        }
        Ok(Self { window, batch, height, width, channels, filters, rows, columns })
    }

    /// Pixels of one output image.
    pub(in crate::engine) fn places(&self) -> usize {
        self.rows * self.columns
    }

    /// Scalars in one input image.
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Scalars in one patch.
    pub(in crate::engine) fn patch(&self) -> usize {
        self.window.side * self.window.side * self.channels
    }

    /// Images that are computed at once.
    pub(super) fn group(&self) -> usize {
        let rounds = self.batch.div_ceil(ROWS.div_ceil(self.places())).max(1);
        self.batch.div_ceil(rounds).max(1)
    }

    /// Calls `f` with (offset in the image, offset in the patch matrix, length) of every run of a
    /// patch that lies inside the image.
    #[inline(always)]
    fn runs(&self, mut f: impl FnMut(usize, usize, usize)) {
        let Window { side, stride, padding } = self.window;
        let c = self.channels;
        for oy in 0..self.rows {
            for ox in 0..self.columns {
                let left = (ox * stride) as isize - padding as isize;
                let first = (-left).max(0) as usize;
                let last = side.min((self.width as isize - left).max(0) as usize);
                if first >= last {
                    continue;
                }
                let column = (left + first as isize) as usize;
                let patch = (oy * self.columns + ox) * self.patch();
                for ky in 0..side {
                    let Some(y) = (oy * stride + ky).checked_sub(padding).filter(|&y| y < self.height) else {
                        continue;
                    };
                    let from = (y * self.width + column) * c;
                    f(from, patch + (ky * side + first) * c, (last - first) * c);
                }
            }
        }
    }

    /// Adds the rows of `patches` to where they came from in `image`.
    #[inline(always)]
    pub(super) fn scatter(&self, patches: &[f32], image: &mut [f32]) {
        self.runs(
            #[inline(always)]
            |to, from, length| {
                for (a, &b) in image[to..to + length].iter_mut().zip(&patches[from..from + length]) {
                    *a += b;
                }
            },
        );
    }
}
