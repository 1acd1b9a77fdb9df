//! The bound on what one contribution can change: L2 clipping of a flat vector.
//!
//! `x · min(1, C / ‖x‖)` in floating point may come out a little longer than C, and sensitivity is
//! then not what the accountant was told. Here the result is never longer than C: the target is
//! `C (1 − 2⁻²³)`, and rounding each product to `f32` lengthens a vector by a factor of at most
//! `1 + 2⁻²⁴`, the error of the norm (f64 sums in 8 lanes, up to 2³⁰ elements) by at most `1 + 2⁻²⁶`.
//!
//! This is the guard on a whole update; the clip of a local step, which is an optimiser's matter,
//! is `algorithms::local`.

use crate::ClipNorm;

const LANES: usize = 8;
const SLACK: f64 = 1.0 - 1.0 / 8_388_608.0;

/// The vector has no norm; it was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("element {index} is not finite, so that the vector cannot be clipped")]
pub struct NotFinite {
    /// Position of the first such element.
    pub index: usize,
}

/// Shortens `x` to an L2 norm of at most `bound`, in place, and returns the factor in (0, 1] that it
/// was multiplied by; 1 means that it was not touched.
pub fn clip(x: &mut [f32], bound: ClipNorm) -> Result<f64, NotFinite> {
    if let Some(index) = x.iter().position(|x| !x.is_finite()) {
        return Err(NotFinite { index });
    }
    let target = bound.get() * SLACK;
    let norm = l2_norm(x);
    if norm <= target {
        return Ok(1.0);
    }
    let factor = target / norm;
    for x in x {
        *x = (f64::from(*x) * factor) as f32;
    }
    Ok(factor)
}

/// L2 norm, summed in `f64` in an order that depends on the length alone.
pub(crate) fn l2_norm(x: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    for block in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    lanes.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound(norm: f64) -> ClipNorm {
        ClipNorm::new(norm).unwrap()
    }

    #[test]
    fn a_long_vector_keeps_its_direction() {
        let mut x = [3.0, 0.0, -4.0];
        let factor = clip(&mut x, bound(1.0)).unwrap();
        assert!((factor - 0.2).abs() < 1e-7, "{factor}");
        for (got, want) in x.iter().zip([0.6, 0.0, -0.8]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn a_short_vector_is_not_touched() {
        for mut x in [vec![], vec![0.0; 9], vec![0.1; 3]] {
            let before = x.clone();
            assert_eq!(clip(&mut x, bound(1.0)), Ok(1.0));
            assert_eq!(x, before);
        }
    }

    #[test]
    fn a_vector_without_a_norm_is_refused_and_left_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [5.0, bad, 7.0];
            assert_eq!(clip(&mut x, bound(1.0)), Err(NotFinite { index: 1 }));
            assert_eq!((x[0], x[2]), (5.0, 7.0));
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut x = [f32::MAX; 20];
        assert!(clip(&mut x, bound(1.0)).unwrap() > 0.0);
        assert!(l2_norm(&x) <= 1.0 && l2_norm(&x) > 0.999);
    }

    proptest! {
        #[test]
        fn the_result_is_never_longer_than_the_bound(
            x in prop::collection::vec(-1e3_f32..1e3, 1..60),
            norm in prop_oneof![1e-20..1e-15, 1e-3..1.0, 1.0..1e4],
        ) {
            let mut clipped = x.clone();
            let factor = clip(&mut clipped, bound(norm)).unwrap();
            prop_assert!(l2_norm(&clipped) <= norm);
            prop_assert!(factor > 0.0 && factor <= 1.0);
            prop_assert!(factor < 1.0 || clipped == x);
            // No shorter than need be.
            prop_assert!(l2_norm(&clipped) >= (norm.min(l2_norm(&x))) * (1.0 - 1e-6));
        }
    }
}
