//! From stored pixels to the numbers that a network sees: scale, normalise, flip, crop.
//!
//! Augmentation is FL-Simulator's (`algorithms.md` §5.1): a horizontal flip with probability ½, then
//! with probability ½ a random crop after zero padding, both on normalised values (so the padding is
//! the mean colour). Padding is 4, and 8 for images of 64 rows or more.

use super::dataset::Normalisation;
use super::random::{Rng, below, uniform};

/// Which augmentations keep the meaning of an image.
///
/// A mirrored 3 or 7 is no longer that digit, so greyscale sources (IDX, digits, greyscale Parquet and
/// folders: mostly glyphs) are cropped only; colour sources (photographs) are flipped and cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Augment {
    pub(crate) flip: bool,
    pub(crate) crop: bool,
}

impl Augment {
    pub(crate) const NONE: Self = Self { flip: false, crop: false };

    pub(crate) fn for_channels(channels: usize) -> Self {
        Self { flip: channels == 3, crop: true }
    }
}

/// Shape of one stored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl std::fmt::Display for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}×{} (channels × rows × columns)", self.channels, self.height, self.width)
    }
}

/// What one draw of the augmentation does to an image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pose {
    pub(crate) mirrored: bool,
    /// Rows and columns by which the source is shifted.
    pub(crate) shift: (isize, isize),
}

impl Pose {
    fn draw(augment: Augment, padding: usize, rng: &mut Rng) -> Self {
        let mirrored = augment.flip && uniform(rng) < 0.5;
        let mut offset = || below(rng, 2 * padding + 1) as isize - padding as isize;
        let shift = (offset(), offset());
        let cropped = augment.crop && uniform(rng) < 0.5;
        Self { mirrored, shift: if cropped { shift } else { (0, 0) } }
    }
}

impl Pixels {
    pub(crate) fn len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// `rows` of `pixels` as normalised `rows × channels × height × width`.
    pub(crate) fn batch(
        self,
        pixels: &[u8],
        rows: &[usize],
        normalisation: &Normalisation,
        augment: Option<(&mut Rng, Augment)>,
    ) -> Vec<f32> {
        let tables = tables(normalisation);
        let poses = self.poses(rows.len(), augment);
        let mut dense = vec![0.0; rows.len() * self.len()];
        for ((&row, pose), out) in rows.iter().zip(poses).zip(dense.chunks_exact_mut(self.len())) {
            self.place(&pixels[row * self.len()..][..self.len()], &tables, pose, out);
        }
        dense
    }

    /// Draws what happens to so many images; nothing without a generator.
    pub(crate) fn poses(self, count: usize, augment: Option<(&mut Rng, Augment)>) -> Vec<Pose> {
        let padding = if self.height >= 64 { 8 } else { 4 };
        let mut poses = vec![Pose::default(); count];
        if let Some((rng, augment)) = augment {
            poses.fill_with(|| Pose::draw(augment, padding, rng));
        }
        poses
    }

    /// Writes one image; what the pose moves in from outside stays zero.
    fn place(self, image: &[u8], tables: &[[f32; 256]], pose: Pose, out: &mut [f32]) {
        let plane = self.height * self.width;
        let planes = image.chunks_exact(plane).zip(out.chunks_exact_mut(plane)).zip(tables);
        for ((source, target), table) in planes {
            for (y, line) in target.chunks_exact_mut(self.width).enumerate() {
                let Some(from) = shifted(y, pose.shift.0, self.height) else { continue };
                let source = &source[from * self.width..][..self.width];
                for (x, value) in line.iter_mut().enumerate() {
                    if let Some(x) = shifted(x, pose.shift.1, self.width) {
                        let x = if pose.mirrored { self.width - 1 - x } else { x };
                        *value = table[usize::from(source[x])];
                    }
                }
            }
        }
    }
}

fn shifted(position: usize, shift: isize, len: usize) -> Option<usize> {
    position.checked_add_signed(shift).filter(|&p| p < len)
}

/// The normalised value of each of the 256 pixel values, per channel.
pub(crate) fn tables(normalisation: &Normalisation) -> Vec<[f32; 256]> {
    let channels = normalisation.mean.iter().zip(&normalisation.std);
    channels.map(|(mean, std)| std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::stream;

    const SHAPE: Pixels = Pixels { channels: 3, height: 6, width: 5 };

    fn unit() -> Normalisation {
        Normalisation { mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] }
    }

    fn image() -> Vec<u8> {
        (1..=90).collect()
    }

    fn reference(mirrored: bool, dy: isize, dx: isize) -> Vec<f32> {
        let at = |c: usize, y: isize, x: isize| {
            if !(0..6).contains(&y) || !(0..5).contains(&x) {
                return 0.0;
            }
            let x = if mirrored { 4 - x } else { x };
            image()[c * 30 + y as usize * 5 + x as usize] as f32
        };
        let positions = (0..3).flat_map(|c| (0..6).flat_map(move |y| (0..5).map(move |x| (c, y, x))));
        positions.map(|(c, y, x)| at(c, y + dy, x + dx)).collect()
    }

    #[test]
    fn placing_matches_flip_then_padded_crop() {
        for mirrored in [false, true] {
            for (dy, dx) in [(0, 0), (4, -4), (-3, 2), (1, 4)] {
                let mut out = vec![0.0; 90];
                SHAPE.place(&image(), &tables(&unit()), Pose { mirrored, shift: (dy, dx) }, &mut out);
                let expected = reference(mirrored, dy, dx);
                assert!(out.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{dy} {dx}");
            }
        }
    }

    #[test]
    fn draws_flip_half_and_crop_half_of_the_images() {
        let mut rng = stream("test", &[]);
        let both = Augment { flip: true, crop: true };
        let poses: Vec<Pose> = (0..4000).map(|_| Pose::draw(both, 4, &mut rng)).collect();
        let flips = poses.iter().filter(|p| p.mirrored).count();
        let moved = poses.iter().filter(|p| p.shift != (0, 0)).count();
        assert!((1850..2150).contains(&flips), "{flips}");
        // Half of all, less the one shift in 81 that moves nothing.
        assert!((1820..2130).contains(&moved), "{moved}");
        assert!(poses.iter().any(|p| p.shift == (4, -4)) && poses.iter().all(|p| p.shift.0.abs() <= 4));
        let crop = Augment::for_channels(1);
        assert!((0..1000).all(|_| !Pose::draw(crop, 4, &mut rng).mirrored));
    }
}
