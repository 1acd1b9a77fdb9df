//! A random rotation that everyone knows: it spreads what lies in few coordinates over all of them, so
//! that a coarse grid of integers and a small modulus hold a sum of many vectors.
//!
//! `x ↦ H·D·x/√d` with public random signs `D` and the Walsh-Hadamard matrix `H` (Kairouz, Liu and Steinke
//! 2021, section 4). Each coordinate of the result is subgaussian with variance `‖x‖²/d`. Lengths are filled
//! up with zeros to a power of two. Privacy does not rest on it.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

/// Coordinates of a rotated vector of that length.
pub fn padded(length: usize) -> usize {
    length.max(1).next_power_of_two()
}

/// The rotation of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    seed: u64,
}

impl Rotation {
    /// The rotation of a public seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Rotates in place. The norm stays, but for the rounding of `f32`.
    ///
    /// # Panics
    /// If the length is no power of two: see [`padded`].
    pub fn forward(self, x: &mut [f32]) {
        self.flip(x);
        transform(x);
    }

    /// Rotates back.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn backward(self, x: &mut [f32]) {
        transform(x);
        self.flip(x);
    }

    fn flip(self, x: &mut [f32]) {
        let mut random = ChaCha20Rng::seed_from_u64(self.seed);
        for block in x.chunks_mut(64) {
            let bits = random.next_u64();
            for (bit, x) in block.iter_mut().enumerate() {
                *x = if bits >> bit & 1 == 1 { -*x } else { *x };
            }
        }
    }
}

/// `H·x/√d`, its own inverse, by butterflies.
fn transform(x: &mut [f32]) {
    assert!(x.len().is_power_of_two(), "rotation: the length is no power of two");
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    for x in x {
        *x *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn four_coordinates_by_hand() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        transform(&mut x);
        assert_eq!(x, [5.0, -1.0, -2.0, 0.0]);
        assert_eq!([0, 1, 5, 8, 9].map(padded), [1, 1, 8, 8, 16]);
    }

    #[test]
    fn what_lies_in_one_coordinate_is_spread() {
        let mut x = vec![0.0; 4096];
        x[17] = 64.0;
        Rotation::new(3).forward(&mut x);
        assert!(x.iter().all(|x| x.abs() == 1.0));
        // All alike is what a transform without signs would gather in one coordinate.
        let mut flat = vec![1.0; 4096];
        let mut other = flat.clone();
        Rotation::new(3).forward(&mut flat);
        Rotation::new(4).forward(&mut other);
        assert_ne!(flat, other);
        let most = flat.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(most < 6.0, "{most}");
    }

    proptest! {
        #[test]
        fn back_and_forth_is_nothing_and_the_norm_stays(
            x in prop::collection::vec(-10.0_f32..10.0, 1..300), seed: u64,
        ) {
            let mut rotated = x.clone();
            rotated.resize(padded(x.len()), 0.0);
            let before = crate::clip::l2_norm(&rotated);
            Rotation::new(seed).forward(&mut rotated);
            prop_assert!((crate::clip::l2_norm(&rotated) - before).abs() <= 1e-4 * before);
            Rotation::new(seed).backward(&mut rotated);
            for (a, b) in x.iter().zip(&rotated) {
                prop_assert!((a - b).abs() < 1e-4, "{} {}", a, b);
            }
        }
    }
}
