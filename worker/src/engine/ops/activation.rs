//! Element-wise steps that are worth one pass instead of several: GELU, and the sum that joins
//! a residual branch.

use super::{add, column_sums, math, rectify, rectify_gradient};
use crate::engine::buffer::Buffer;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

/// Keeps the slope for the way back: the error function is dear.
#[derive(Debug)]
struct Gelu {
    slope: Buffer,
}

/// `x · Φ(x)` with the exact normal distribution function, PyTorch's default `nn.GELU()`.
pub(in crate::engine) fn gelu(x: &Tensor) -> Result<Tensor> {
    apply(Gelu { slope: Buffer::default() }, &[x])
}

#[inline(always)]
fn distribution(x: f32) -> f32 {
    0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl Operation for Gelu {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        const DENSITY: f32 = 0.398_942_3;
        let x = inputs[0];
        let mut y = Buffer::any(x.len());
        let tracked = x.tracked();
        self.slope = Buffer::any(if tracked { x.len() } else { 0 });
        let slope = &mut self.slope;
        math::vectorised(
            #[inline(always)]
            || {
                if tracked {
                    for ((y, s), &x) in y.iter_mut().zip(slope.iter_mut()).zip(x.values()) {
                        let phi = distribution(x);
                        *y = x * phi;
                        *s = phi + x * DENSITY * math::exp(-0.5 * x * x);
                    }
                } else {
                    for (y, &x) in y.iter_mut().zip(x.values()) {
                        *y = x * distribution(x);
                    }
                }
            },
        );
        Ok(Tensor::new(y, x.shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut dx = gradient.into_buffer();
        for (d, s) in dx.iter_mut().zip(self.slope.iter()) {
            *d *= s;
        }
        Ok(vec![Some(Tensor::new(dx, inputs[0].shape()))])
    }
}

#[derive(Debug)]
struct Sum {
    relu: bool,
}

/// `a + b`, where `b` may lack leading dimensions of `a` and is then repeated; rectified if asked for.
pub(in crate::engine) fn sum(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    apply(Sum { relu }, &[a, b])
}

impl Operation for Sum {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        if !a.shape().ends_with(b.shape()) {
            bail!("sum: {:?} does not end in {:?}", a.shape(), b.shape());
        }
        let mut y = Buffer::copy(a.values());
        for y in y.chunks_exact_mut(b.len()) {
            add(y, b.values());
        }
        if self.relu {
            math::vectorised(
                #[inline(always)]
                || rectify(&mut y),
            );
        }
        Ok(Tensor::new(y, a.shape()))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let da = if self.relu {
            let mut da = gradient.into_buffer();
            rectify_gradient(&mut da, result.values());
            Tensor::new(da, a.shape())
        } else {
            gradient
        };
        let db = if a.len() == b.len() {
            da.clone()
        } else {
            Tensor::new(column_sums(da.values(), b.len()), b.shape())
        };
        Ok(vec![Some(da), Some(db)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        shapes(16, &(1..=5_usize, 1..=40_usize, 0..=9_u64), |(rows, n, seed)| {
            let wide: Vec<f32> = numbers(rows * n, seed).iter().map(|v| v * 4.0).collect();
            let x = [tensor(&wide, &[rows, n]).unwrap()];
            check_gradients(&x, &|t| gelu(&t[0]), &|v| {
                v[0].iter().map(|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))).collect()
            });
            let both = [x[0].clone(), tensor(&numbers(n, seed + 1), &[n]).unwrap()];
            check_gradients(&both, &|t| sum(&t[0], &t[1], false), &|v| {
                v[0].iter().zip(v[1].iter().cycle()).map(|(a, b)| a + b).collect()
            });
        });
    }

    #[test]
    fn match_plain_loops_and_differences() {
        let scaled: Vec<f32> = numbers(61, 1).iter().map(|v| v * 4.0).collect();
        let x = [tensor(&scaled, &[61]).unwrap()];
        check_gradients(&x, &|t| gelu(&t[0]), &|v| {
            v[0].iter().map(|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))).collect()
        });
        let both = [tensor(&numbers(14, 2), &[2, 7]).unwrap(), tensor(&numbers(14, 3), &[2, 7]).unwrap()];
        check_gradients(&both, &|t| sum(&t[0], &t[1], true), &|v| {
            v[0].iter().zip(&v[1]).map(|(a, b)| (a + b).max(0.0)).collect()
        });
        let repeated =
            [tensor(&numbers(24, 2), &[3, 2, 4]).unwrap(), tensor(&numbers(8, 3), &[2, 4]).unwrap()];
        check_gradients(&repeated, &|t| sum(&t[0], &t[1], false), &|v| {
            v[0].iter().zip(v[1].iter().cycle()).map(|(a, b)| a + b).collect()
        });
        assert!(sum(&repeated[0], &both[0], false).is_err());
    }
}
