//! Group normalisation of channels-last images (rectifier fused in) and layer normalisation of rows.
//!
//! Both subtract the mean before squaring, because a one-pass variance cancels when the mean is large.

use super::{add_rows, math, rectify, rectify_gradient};
use crate::engine::buffer::Buffer;
use crate::engine::cuda;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

/// Added to a variance before its root is taken, PyTorch's default.
const EPSILON: f32 = 1e-5;

#[derive(Debug, Clone, Copy)]
struct GroupNorm {
    groups: usize,
    relu: bool,
}

/// `x` is `[b, h, w, c]`, `weight` and `bias` are `[c]`; `groups` divides `c`.
pub(in crate::engine) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    relu: bool,
) -> Result<Tensor> {
    apply(GroupNorm { groups, relu }, &[x, weight, bias])
}

/// `x` is `[.., c]`, `weight` and `bias` are `[c]`.
pub(in crate::engine) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    apply(LayerNorm, &[x, weight, bias])
}

impl GroupNorm {
    /// Mean and inverse deviation of each channel's group, repeated for each channel.
    #[inline(always)]
    fn statistics(self, image: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
        let mut mean = vec![0.0; channels];
        add_rows(&mut mean, image);
        self.spread(&mut mean, image.len());
        let mut inverse = vec![0.0f32; channels];
        for pixel in image.chunks_exact(channels) {
            for ((s, &x), &m) in inverse.iter_mut().zip(pixel).zip(&mean) {
                *s += (x - m) * (x - m);
            }
        }
        self.spread(&mut inverse, image.len());
        for v in &mut inverse {
            *v = 1.0 / (*v + EPSILON).sqrt();
        }
        (mean, inverse)
    }

    /// Replaces sums per channel by the mean over the channel's group.
    #[inline(always)]
    fn spread(self, sums: &mut [f32], image: usize) {
        let scale = self.groups as f32 / image as f32;
        for group in sums.chunks_exact_mut(sums.len() / self.groups) {
            let mean = math::sum(group) * scale;
            group.fill(mean);
        }
    }

    /// Gradient of one image; adds to those of weight and bias.
    #[inline(always)]
    fn image_gradient(self, image: Image<'_>, dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
        let Image { x, dy, weight } = image;
        let c = weight.len();
        let (mean, inverse) = self.statistics(x, c);
        let (mut plain, mut scaled) = (vec![0.0f32; c], vec![0.0f32; c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            let sums = plain.iter_mut().zip(&mut scaled);
            for ((((p, s), &x), &g), &m) in sums.zip(x).zip(dy).zip(&mean) {
                *p += g;
                *s += g * (x - m);
            }
        }
        for i in 0..c {
            scaled[i] *= inverse[i];
            dw[i] += scaled[i];
            db[i] += plain[i];
            plain[i] *= weight[i];
            scaled[i] *= weight[i];
        }
        self.spread(&mut plain, x.len());
        self.spread(&mut scaled, x.len());
        // dx = inverse · (dy · weight − mean(dy · weight) − x̂ · mean(dy · weight · x̂)), as a·dy + b·x + d
        let a: Vec<f32> = (0..c).map(|i| inverse[i] * weight[i]).collect();
        let b: Vec<f32> = (0..c).map(|i| -inverse[i] * inverse[i] * scaled[i]).collect();
        let d: Vec<f32> = (0..c).map(|i| -inverse[i] * plain[i]).collect();
        for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
            let factors = a.iter().zip(&b).zip(&d).zip(&mean);
            for (((dx, &x), &dy), (((&a, &b), &d), &m)) in dx.iter_mut().zip(x).zip(dy).zip(factors) {
                *dx = a * dy + b * (x - m) + d;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Image<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
}

impl Operation for GroupNorm {
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        Some(Box::new(cuda::ops::norm::GroupNorm::new(self.groups, self.relu)))
    }

    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, weight, bias] = inputs else { bail!("group norm: three operands") };
        let [_, height, width, c] = x.dims()?;
        if !c.is_multiple_of(self.groups) {
            bail!("{c} channels do not divide into {} groups", self.groups);
        }
        let (weight, bias) = (weight.values(), bias.values());
        let mut y = Buffer::any(x.len());
        let image = height * width * c;
        let images = x.values().chunks_exact(image).zip(y.chunks_exact_mut(image));
        math::vectorised(
            #[inline(always)]
            || {
                for (x, y) in images {
                    let (mean, inverse) = self.statistics(x, c);
                    let scale: Vec<f32> = weight.iter().zip(&inverse).map(|(w, i)| w * i).collect();
                    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                        let factors = scale.iter().zip(bias).zip(&mean);
                        for ((y, &x), ((&s, &b), &m)) in y.iter_mut().zip(x).zip(factors) {
                            *y = (x - m) * s + b;
                        }
                    }
                    if self.relu {
                        rectify(y);
                    }
                }
            },
        );
        Ok(Tensor::new(y, x.shape()))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, bias] = inputs else { bail!("group norm: three operands") };
        let [_, height, width, c] = x.dims()?;
        let mut dy = gradient.into_buffer();
        if self.relu {
            rectify_gradient(&mut dy, result.values());
        }
        let mut dx = Buffer::any(x.len());
        let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
        let size = height * width * c;
        let images = x.values().chunks_exact(size).zip(dy.chunks_exact(size)).zip(dx.chunks_exact_mut(size));
        for ((x, dy), dx) in images {
            let image = Image { x, dy, weight: weight.values() };
            math::vectorised(
                #[inline(always)]
                || self.image_gradient(image, dx, &mut dw, &mut db),
            );
        }
        Ok(vec![
            Some(Tensor::new(dx, x.shape())),
            Some(Tensor::new(dw, weight.shape())),
            Some(Tensor::new(db, bias.shape())),
        ])
    }
}

#[derive(Debug)]
struct LayerNorm;

#[inline(always)]
fn row_statistics(row: &[f32]) -> (f32, f32) {
    let scale = 1.0 / row.len() as f32;
    let mean = math::sum(row) * scale;
    let variance = math::sum_pairs(row, row, |x, _| (x - mean) * (x - mean)) * scale;
    (mean, 1.0 / (variance + EPSILON).sqrt())
}

impl Operation for LayerNorm {
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        Some(Box::new(cuda::ops::norm::LayerNorm::default()))
    }

    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, weight, bias] = inputs else { bail!("layer norm: three operands") };
        let (weight, bias) = (weight.values(), bias.values());
        let mut y = Buffer::any(x.len());
        let c = weight.len();
        let rows = x.values().chunks_exact(c).zip(y.chunks_exact_mut(c));
        math::vectorised(
            #[inline(always)]
            || {
                for (x, y) in rows {
                    let (mean, inverse) = row_statistics(x);
                    for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                        *y = (x - mean) * inverse * w + b;
                    }
                }
            },
        );
        Ok(Tensor::new(y, x.shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, bias] = inputs else { bail!("layer norm: three operands") };
        let c = weight.len();
        let dy = gradient.values();
        let weights = weight.values();
        let mut dx = Buffer::any(x.len());
        let (mut dw, mut db) = (vec![0.0f32; c], vec![0.0f32; c]);
        let (mut hat, mut scaled) = (vec![0.0f32; c], vec![0.0f32; c]);
        let rows = x.values().chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        math::vectorised(
            #[inline(always)]
            || {
                for ((x, dy), dx) in rows {
                    let (mean, inverse) = row_statistics(x);
                    let (dw, db, hat, scaled) = (&mut dw[..c], &mut db[..c], &mut hat[..c], &mut scaled[..c]);
                    let (x, dy, dx, weight) = (&x[..c], &dy[..c], &mut dx[..c], &weights[..c]);
                    for i in 0..c {
                        hat[i] = (x[i] - mean) * inverse;
                        dw[i] += dy[i] * hat[i];
                        db[i] += dy[i];
                        scaled[i] = dy[i] * weight[i];
                    }
                    let scale = 1.0 / c as f32;
                    let first = math::sum(scaled) * scale;
                    let second = math::sum_pairs(scaled, hat, |s, h| s * h) * scale;
                    for i in 0..c {
                        dx[i] = inverse * (scaled[i] - first - hat[i] * second);
                    }
                }
            },
        );
        Ok(vec![
            Some(Tensor::new(dx, x.shape())),
            Some(Tensor::new(dw, weight.shape())),
            Some(Tensor::new(db, bias.shape())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};
    use proptest::strategy::Strategy;

    /// Normalises the elements `i` for which `group(i)` is equal.
    fn naive(v: &[Vec<f64>], group: &dyn Fn(usize) -> usize, relu: bool) -> Vec<f64> {
        let (x, c) = (&v[0], v[1].len());
        (0..x.len())
            .map(|i| {
                let members: Vec<f64> =
                    (0..x.len()).filter(|&j| group(j) == group(i)).map(|j| x[j]).collect();
                let n = members.len() as f64;
                let mean = members.iter().sum::<f64>() / n;
                let variance = members.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n;
                let y = (x[i] - mean) / (variance + f64::from(EPSILON)).sqrt() * v[1][i % c] + v[2][i % c];
                if relu { y.max(0.0) } else { y }
            })
            .collect()
    }

    fn check_groups([b, h, w, c, groups]: [usize; 5], relu: bool) {
        let inputs = [
            tensor(&numbers(b * h * w * c, 1), &[b, h, w, c]).unwrap(),
            tensor(&numbers(c, 2), &[c]).unwrap(),
            tensor(&numbers(c, 3), &[c]).unwrap(),
        ];
        let group = |i: usize| i / (h * w * c) * groups + i % c / (c / groups);
        let ours = |t: &[Tensor]| group_norm(&t[0], &t[1], &t[2], groups, relu);
        check_gradients(&inputs, &ours, &|v| naive(v, &group, relu));
    }

    fn check_rows(rows: usize, c: usize) {
        let inputs = [
            tensor(&numbers(rows * c, 1), &[rows, c]).unwrap(),
            tensor(&numbers(c, 2), &[c]).unwrap(),
            tensor(&numbers(c, 3), &[c]).unwrap(),
        ];
        check_gradients(&inputs, &|t| layer_norm(&t[0], &t[1], &t[2]), &|v| naive(v, &|i| i / c, false));
    }

    #[test]
    fn group_norm_matches_plain_loops_and_differences() {
        for case in [[2, 3, 2, 4, 2], [1, 2, 3, 6, 3], [2, 2, 2, 3, 1]] {
            for relu in [false, true] {
                check_groups(case, relu);
            }
        }
    }

    #[test]
    fn layer_norm_matches_plain_loops_and_differences() {
        for (rows, c) in [(1, 5), (4, 12), (3, 17)] {
            check_rows(rows, c);
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        // A group of one element is its own mean: there is nothing to compare.
        let several = (1..=2_usize, 1..=4_usize, 1..=4_usize, 1..=3_usize, 1..=3_usize)
            .prop_filter("a group has several elements", |(_, h, w, share, _)| h * w * share > 1);
        shapes(16, &several, |(b, h, w, share, groups)| {
            check_groups([b, h, w, share * groups, groups], false);
        });
        shapes(16, &(1..=4_usize, 2..=23_usize), |(rows, c)| check_rows(rows, c));
    }

    #[test]
    fn groups_must_divide_channels() {
        let c = tensor(&[1.0; 3], &[3]).unwrap();
        let x = tensor(&[0.0; 3], &[1, 1, 1, 3]).unwrap();
        assert!(group_norm(&x, &c, &c, 2, false).unwrap_err().to_string().contains("2 groups"));
    }
}
