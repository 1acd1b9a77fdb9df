//! The discrete Fourier transform of a length that is a power of two (Cooley and Tukey 1965).

use super::complex::Complex;

/// Twiddle factors for one length.
pub(crate) struct Fft {
    twiddles: Vec<Complex>,
}

impl Fft {
    /// `length` must be a power of two.
    pub(crate) fn new(length: usize) -> Self {
        debug_assert!(length.is_power_of_two());
        let angle = |k: usize| -std::f64::consts::TAU * k as f64 / length as f64;
        Self { twiddles: (0..length / 2).map(|k| Complex::polar(1.0, angle(k))).collect() }
    }

    /// `X_k = Σ_j x_j e^{-2πi jk/n}`, in place.
    pub(crate) fn forward(&self, x: &mut [Complex]) {
        let n = x.len();
        debug_assert_eq!(n, 2 * self.twiddles.len());
        let shift = usize::BITS - n.trailing_zeros();
        for i in 0..n {
            let j = i.reverse_bits() >> shift;
            if i < j {
                x.swap(i, j);
            }
        }
        let mut half = 1;
        while half < n {
            let stride = n / (2 * half);
            for block in x.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    let turned = *b * self.twiddles[k * stride];
                    (*a, *b) = (*a + turned, *a - turned);
                }
            }
            half *= 2;
        }
    }

    /// The inverse of `forward`, in place.
    pub(crate) fn inverse(&self, x: &mut [Complex]) {
        let n = x.len();
        self.forward(x);
        x[1..].reverse();
        let scale = 1.0 / n as f64;
        for x in x {
            *x = x.scale(scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_defining_sum_and_its_inverse_undoes_it() {
        let x: Vec<Complex> =
            (0..16).map(|i| Complex::new(f64::from(i * i % 7), f64::from(i) / 3.0)).collect();
        let fft = Fft::new(16);
        let mut y = x.clone();
        fft.forward(&mut y);
        for (k, y) in y.iter().enumerate() {
            let term = |j: usize| x[j] * Complex::polar(1.0, -std::f64::consts::TAU * (j * k) as f64 / 16.0);
            let sum = (0..16).map(term).fold(Complex::ZERO, |a, b| a + b);
            assert!((*y - sum).norm() < 1e-12);
        }
        fft.inverse(&mut y);
        assert!(x.iter().zip(&y).all(|(x, y)| (*x - *y).norm() < 1e-13));
    }
}
