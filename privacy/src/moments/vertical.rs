//! Moments along a vertical line of the complex plane: what does not change along it is computed once,
//! so that a node costs one sine and cosine a point.

use crate::{
    loss::Points,
    numeric::{complex::Complex, trigonometry},
};

/// Points whose share of the moment is below this are left out.
const NEGLIGIBLE: f64 = 1e-24;
const LANES: usize = 8;

/// `E_Q[e^{tL}]` for `t = re + i·im` with one `re`.
pub(crate) struct Vertical {
    /// L/2.
    halves: Vec<[f64; LANES]>,
    /// `q·e^{re·L − top}`.
    weights: Vec<[f64; LANES]>,
    top: f64,
    /// Without the imaginary part: the moment over `e^top`, or, when `top` is 0, less 1.
    real: f64,
    /// `E_Q[e^L − 1]` of the quadrature, which is taken off as in [`Points::ln_moment`].
    slope: f64,
    largest: f64,
}

impl Vertical {
    /// Number of points.
    pub(crate) fn len(&self) -> usize {
        self.halves.len() * LANES
    }

    /// `ln E_Q[e^{tL}]`.
    pub(crate) fn ln_moment(&self, im: f64) -> Complex {
        let (mut squares, mut products) = ([0.0; LANES], [0.0; LANES]);
        let fits = self.largest * im.abs() <= trigonometry::LARGEST;
        for (halves, weights) in self.halves.iter().zip(&self.weights) {
            let angles = halves.map(|half| half * im);
            let (sines, cosines) = if fits { trigonometry::sin_cos(angles) } else { exactly(angles) };
            for i in 0..LANES {
                let weighted = weights[i] * sines[i];
                squares[i] += weighted * sines[i];
                products[i] += weighted * cosines[i];
            }
        }
        // e^{iφ} − 1 = −2 sin²(φ/2) + 2i·sin(φ/2)·cos(φ/2)
        let re = self.real - 2.0 * squares.iter().sum::<f64>();
        let im = 2.0 * products.iter().sum::<f64>() - im * self.slope;
        if self.top == 0.0 {
            return Complex::new(re, im).ln_1p();
        }
        Complex::real(self.top) + Complex::new(re, im).ln()
    }
}

fn exactly(angles: [f64; LANES]) -> ([f64; LANES], [f64; LANES]) {
    (angles.map(libm::sin), angles.map(libm::cos))
}

impl Points {
    /// The line through a real `t`.
    pub(crate) fn vertical(&self, re: f64) -> Vertical {
        let most = self.top(re);
        let top = if most > 300.0 { most } else { 0.0 };
        let weight = |(ln_q, loss): (f64, f64)| (ln_q + re * loss - top).exp();
        let all: f64 = self.iter().map(weight).sum();
        let kept: Vec<(f64, f64)> = self
            .iter()
            .map(|point| (0.5 * point.1, weight(point)))
            .filter(|(_, weight)| *weight > NEGLIGIBLE * all)
            .collect();
        let lanes = |value: &dyn Fn(&(f64, f64)) -> f64| -> Vec<[f64; LANES]> {
            let block = |block: &[(f64, f64)]| std::array::from_fn(|i| block.get(i).map_or(0.0, value));
            kept.chunks(LANES).map(block).collect()
        };
        let scaled = top != 0.0;
        let slope = |(ln_q, loss): (f64, f64)| ln_q.exp() * loss.exp_m1();
        Vertical {
            halves: lanes(&|point| point.0),
            weights: lanes(&|point| point.1),
            top,
            real: if scaled { all } else { self.ln_moment(re).exp_m1() },
            slope: if scaled { 0.0 } else { self.iter().map(slope).sum() },
            largest: kept.iter().map(|point| point.0.abs()).fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_defining_sum() {
        // Q uniform on three points, L such that E_Q[e^L] = 1.
        let loss = [1e-9_f64, 0.5, 0.0];
        let rest = 3.0 - loss[0].exp() - loss[1].exp();
        let loss = [loss[0], loss[1], rest.ln()];
        let points = Points { ln_q: vec![(1.0_f64 / 3.0).ln(); 3], loss: loss.to_vec() };
        for re in [-0.5, 3.0, 900.0] {
            let line = points.vertical(re);
            for im in [0.0, 0.3, 40.0, 3e6] {
                let top = points.top(re);
                let term = |i: usize| Complex::new(points.ln_q[i] + re * loss[i] - top, im * loss[i]).exp();
                let sum = term(0) + term(1) + term(2);
                let got = line.ln_moment(im) - Complex::real(top);
                assert!((got.exp() - sum).norm() < 1e-9, "{re} {im}: {got:?} {sum:?}");
            }
        }
        assert_eq!(points.vertical(1.0).len(), LANES);
    }
}
