//! Element-wise steps that are worth one pass instead of several: GELU, and the sum that joins
//! a residual branch.

use super::{add_rows, like, math, operand, output, rectified, rectify, shaped, values};
use crate::engine::tape::{apply1, apply2};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

#[derive(Debug)]
struct Gelu;

/// `x · Φ(x)` with the exact normal distribution function, PyTorch's default `nn.GELU()`.
pub(in crate::engine) fn gelu(x: &Tensor) -> Result<Tensor> {
    apply1(x, Gelu)
}

#[inline(always)]
fn distribution(x: f32) -> f32 {
    0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, layout)?;
        let mut y = x.to_vec();
        math::vectorised(
            #[inline(always)]
            || {
                for y in &mut y {
                    *y *= distribution(*y);
                }
            },
        );
        output(y, layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        const DENSITY: f32 = 0.398_942_3;
        let grad = grad.contiguous()?;
        let (xs, g) = (values(x)?, values(&grad)?);
        let mut dx = g.to_vec();
        math::vectorised(
            #[inline(always)]
            || {
                for (d, &x) in dx.iter_mut().zip(xs.iter()) {
                    *d *= distribution(x) + x * DENSITY * math::exp(-0.5 * x * x);
                }
            },
        );
        like(dx, x)
    }
}

#[derive(Debug)]
struct Sum {
    relu: bool,
}

/// `a + b`, where `b` may lack leading dimensions of `a` and is then repeated; rectified if asked for.
pub(in crate::engine) fn sum(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    apply2(a, b, Sum { relu })
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if !al.dims().ends_with(bl.dims()) {
            candle_core::bail!("sum: {:?} does not end in {:?}", al.shape(), bl.shape());
        }
        let (a, b) = (operand(a, al)?, operand(b, bl)?);
        let mut y = a.to_vec();
        y.chunks_exact_mut(b.len()).for_each(|y| y.iter_mut().zip(b).for_each(|(y, b)| *y += b));
        if self.relu {
            rectify(&mut y);
        }
        output(y, al.shape().clone())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let da = if self.relu { shaped(rectified(&values(&grad)?, &values(res)?), a)? } else { grad };
        let db = if a.elem_count() == b.elem_count() {
            Some(da.clone())
        } else {
            let mut db = vec![0.0; b.elem_count()];
            add_rows(&mut db, &values(&da)?);
            like(db, b)?
        };
        Ok((Some(da), db))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, tensor};

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
