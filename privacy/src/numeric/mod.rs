//! The numbers below the accountants: special functions that keep their relative precision in the
//! tails, complex exponentials, a Fourier transform, roots. All of it is private to the crate.

pub(crate) mod complex;
pub(crate) mod fft;
pub(crate) mod search;
pub(crate) mod special;
pub(crate) mod trigonometry;
