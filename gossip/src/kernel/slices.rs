//! The loops over whole vectors that a round of gossip consists of. Each goes through memory once, in blocks that
//! stay in the nearest cache while several vectors are folded into one. What is done to one scalar, and in which
//! order, does not depend on the blocks: results are those of the plain loops to the bit.
//!
//! They are written for `f32` and `f64` by name, so that they are compiled here, with this crate's optimisation,
//! whoever calls them.

/// Scalars of a block: three of them, of `f64`, fit into half of the smallest first-level cache.
const BLOCK: usize = 1 << 9;

/// The loops over vectors of a scalar.
pub trait Slices: Sized {
    /// Whether all are finite.
    fn all_finite(x: &[Self]) -> bool;

    /// `y ← y + Σ x`, in the order of `x`.
    ///
    /// # Panics
    /// If the lengths differ.
    fn add_all(y: &mut [Self], x: &[&[Self]]);

    /// `y ← y + factor · x`.
    ///
    /// # Panics
    /// If the lengths differ.
    fn axpy(y: &mut [Self], factor: Self, x: &[Self]);

    /// `to ← factor · x`, whatever `to` held.
    fn scaled(factor: Self, x: &[Self], to: &mut Vec<Self>);

    /// `to ← factor · (theirs − mine)`, whatever `to` held.
    fn towards(factor: Self, ends: (&[Self], &[Self]), to: &mut Vec<Self>);

    /// `x / divisor`, rounded once.
    fn divided(x: &[Self], divisor: f64) -> Vec<Self>;

    /// Splits shares off: `share_k ← factor_k · x` for all k, of the `x` before, then `x ← x − Σ share_k` in
    /// their order. The shares hold nothing before.
    fn split(x: &mut [Self], shares: &mut [(Self, Vec<Self>)]);
}

macro_rules! slices {
    ($scalar:ty, $bits:ty, $exponent:expr) => {
        impl Slices for $scalar {
            fn all_finite(x: &[Self]) -> bool {
                const EXPONENT: $bits = $exponent;
                // All of a block without leaving early, which the compiler can do many at a time.
                let block = |block: &[Self]| {
                    block.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT))
                };
                !x.chunks(BLOCK).any(block)
            }

            fn add_all(y: &mut [Self], x: &[&[Self]]) {
                assert!(x.iter().all(|x| x.len() == y.len()), "add: equal lengths");
                for (at, y) in (0..).step_by(BLOCK).zip(y.chunks_mut(BLOCK)) {
                    for x in x {
                        for (y, x) in y.iter_mut().zip(&x[at..]) {
                            *y += *x;
                        }
                    }
                }
            }

            fn axpy(y: &mut [Self], factor: Self, x: &[Self]) {
                assert_eq!(y.len(), x.len(), "axpy: equal lengths");
                for (y, x) in y.iter_mut().zip(x) {
                    *y += factor * *x;
                }
            }

            fn scaled(factor: Self, x: &[Self], to: &mut Vec<Self>) {
                to.clear();
                to.extend(x.iter().map(|x| factor * *x));
            }

            fn towards(factor: Self, (mine, theirs): (&[Self], &[Self]), to: &mut Vec<Self>) {
                to.clear();
                to.extend(mine.iter().zip(theirs).map(|(mine, theirs)| factor * (*theirs - *mine)));
            }

            fn divided(x: &[Self], divisor: f64) -> Vec<Self> {
                x.iter().map(|x| (f64::from(*x) / divisor) as $scalar).collect()
            }

            fn split(x: &mut [Self], shares: &mut [(Self, Vec<Self>)]) {
                for (_, share) in &mut *shares {
                    share.clear();
                    share.reserve_exact(x.len());
                }
                for x in x.chunks_mut(BLOCK) {
                    for (factor, share) in &mut *shares {
                        share.extend(x.iter().map(|x| *factor * *x));
                    }
                    for (_, share) in &*shares {
                        let from = share.len() - x.len();
                        for (x, share) in x.iter_mut().zip(&share[from..]) {
                            *x -= *share;
                        }
                    }
                }
            }
        }
    };
}

slices!(f32, u32, 0x7f80_0000);
slices!(f64, u64, 0x7ff0_0000_0000_0000);

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seed: u32, length: usize) -> Vec<f32> {
        (0..length as u32)
            .map(|k| (k.wrapping_mul(2_654_435_761).wrapping_add(seed) % 1_000) as f32 * 0.37 - 180.0)
            .collect()
    }

    #[test]
    fn blocks_change_no_bit() {
        for length in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 17] {
            let (a, b, c) = (vector(1, length), vector(2, length), vector(3, length));
            let mut sum = a.clone();
            f32::add_all(&mut sum, &[&b, &c]);
            let plain: Vec<f32> = (0..length).map(|k| a[k] + b[k] + c[k]).collect();
            assert_eq!(sum, plain);
            let mut left = a.clone();
            let mut shares = vec![(0.3, vec![9.0; 4]), (0.2, Vec::new())];
            f32::split(&mut left, &mut shares);
            for k in 0..length {
                let (p, q) = (0.3 * a[k], 0.2 * a[k]);
                assert_eq!((shares[0].1[k], shares[1].1[k], left[k]), (p, q, a[k] - p - q));
            }
            assert!(shares.iter().all(|(_, share)| share.len() == length));
        }
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        let sound = vector(4, 2 * BLOCK + 5);
        assert!(f32::all_finite(&sound) && f32::all_finite(&[]) && f64::all_finite(&[f64::MAX]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, BLOCK, sound.len() - 1] {
                let mut one = sound.clone();
                one[at] = bad;
                assert!(!f32::all_finite(&one), "{bad} at {at}");
            }
        }
        assert!(!f64::all_finite(&[0.0, f64::NAN]));
    }
}
