//! Element-wise steps that are worth one pass instead of several: GELU, and the rectified sum that
//! ends a residual block.

use super::{like, math, operand, output, rectified, values};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

#[derive(Debug)]
struct Gelu;

/// `x · Φ(x)` with the exact normal distribution function, PyTorch's default `nn.GELU()`.
pub(in crate::engine) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Gelu)
}

fn distribution(x: f32) -> f32 {
    0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        output(operand(x, layout)?.iter().map(|&x| x * distribution(x)).collect(), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        const DENSITY: f32 = 0.398_942_3;
        let grad = grad.contiguous()?;
        let (xs, g) = (values(x)?, values(&grad)?);
        let slope = |x: f32| distribution(x) + x * DENSITY * math::exp(-0.5 * x * x);
        like(xs.iter().zip(g.iter()).map(|(&x, &g)| g * slope(x)).collect(), x)
    }
}

#[derive(Debug)]
struct AddRelu;

/// `max(a + b, 0)` of equal shapes.
pub(in crate::engine) fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.apply_op2(b, AddRelu)
}

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add-relu"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if al.shape() != bl.shape() {
            candle_core::bail!("add-relu: shapes {:?} and {:?} differ", al.shape(), bl.shape());
        }
        let (a, b) = (operand(a, al)?, operand(b, bl)?);
        output(a.iter().zip(b).map(|(a, b)| (a + b).max(0.0)).collect(), al.shape().clone())
    }

    fn bwd(
        &self,
        a: &Tensor,
        _b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let both = like(rectified(&values(&grad)?, &values(res)?), a)?;
        Ok((both.clone(), both))
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
        check_gradients(&both, &|t| add_relu(&t[0], &t[1]), &|v| {
            v[0].iter().zip(&v[1]).map(|(a, b)| (a + b).max(0.0)).collect()
        });
    }
}
