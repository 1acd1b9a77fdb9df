//! Each operation by itself, forward and backward, over shapes that fit nothing.

use super::super::array::Array;
use super::super::device::Device;
use super::super::lane::Lane;
use super::super::placement::Precision;
use super::{Finding, error, finding, indices, limit, numbers};
use crate::engine::EngineError;
use crate::engine::ops::patches::Window;
use crate::engine::ops::{activation, attention, conv, embedding, linear, lstm, norm, pool};
use crate::engine::shards::Characters;
use crate::engine::tape::Tape;
use crate::engine::tensor::{Result, Tensor};
use std::sync::Arc;

/// How a tensor's values lie on the device.
#[derive(Clone, Copy, PartialEq)]
enum Lay {
    /// As in memory.
    Rows,
    /// `[b, h, w, c]` as `[c, b, h, w]`.
    Images,
    /// `[side, side, c, f]` as `[f, c, side, side]`.
    Filters,
}

impl Lay {
    /// For each place on the device, the place in memory.
    fn places(self, shape: &[usize]) -> Vec<usize> {
        let n = shape.iter().product();
        let [a, b, c, d] = match (self, shape) {
            (Self::Rows, _) => return (0..n).collect(),
            (_, &[a, b, c, d]) => [a, b, c, d],
            _ => unreachable!("images and filters have four dimensions"),
        };
        let mut places = Vec::with_capacity(n);
        match self {
            Self::Images => (0..d).for_each(|channel| places.extend((0..a * b * c).map(|p| p * d + channel))),
            _ => (0..d).for_each(|filter| {
                (0..c).for_each(|channel| {
                    places.extend((0..a * b).map(|tap| (tap * c + channel) * d + filter));
                });
            }),
        }
        places
    }

    fn leaf(self, lane: &Arc<Lane>, tensor: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> =
            self.places(tensor.shape()).into_iter().map(|place| tensor.values()[place]).collect();
        let array = lane.fresh::<f32>(values.len())?;
        lane.upload(&array, &values)?;
        let gradient = lane.fresh::<f32>(values.len())?;
        Ok(Tensor::device(array.with_leaf(Some(gradient), None), tensor.shape()))
    }

    fn read(self, array: &Array, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = vec![0.0; array.len()];
        array.lane().download(&mut values, array)?;
        let mut back = vec![0.0; values.len()];
        self.places(shape).into_iter().zip(values).for_each(|(place, value)| back[place] = value);
        Ok(back)
    }
}

type Apply<'a> = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + 'a>;

/// One operation at one shape.
struct Case<'a> {
    what: String,
    /// Shapes and places of the operands, and of the result.
    operands: Vec<(Vec<usize>, Lay)>,
    result: Lay,
    /// Whether rounding may turn a choice, and with it a whole gradient.
    turns: bool,
    apply: Apply<'a>,
}

impl Case<'_> {
    /// The largest error of result and gradients.
    fn error(&self, lane: &Arc<Lane>) -> Result<f64> {
        let length = |shape: &[usize]| shape.iter().product();
        let host: Vec<Tensor> = (self.operands.iter().enumerate())
            .map(|(i, (shape, _))| Tensor::leaf(numbers(length(shape), 7 + i as u64), shape))
            .collect();
        let (want, tape) = Tape::record(|| (self.apply)(&host));
        let want = want?;
        let seed = numbers(want.len(), 3);
        let gradients = tape.gradients(&want, Tensor::new(seed.clone(), want.shape()))?;

        let placed = host.iter().zip(&self.operands).map(|(tensor, (_, lay))| lay.leaf(lane, tensor));
        let device = placed.collect::<Result<Vec<_>>>()?;
        let (got, tape) = Tape::record(|| (self.apply)(&device));
        let got = got?;
        let seed = Tensor::leaf(seed, want.shape());
        let seed = self.result.leaf(lane, &seed)?.array()?.part(0, seed.len());
        let found = tape.gradients(&got, Tensor::device(seed, want.shape()))?;
        let mut worst = error(&self.result.read(got.array()?, want.shape())?, want.values());
        for ((on, off), (shape, lay)) in device.iter().zip(&host).zip(&self.operands) {
            let (Some(on), Some(off)) = (found.get(on), gradients.get(off)) else {
                return Err(EngineError::Device("an operand has no gradient".into()));
            };
            worst = worst.max(error(&lay.read(on.array()?, shape)?, off.values()));
        }
        Ok(worst)
    }
}

fn case<'a>(
    what: impl Into<String>,
    operands: &[(&[usize], Lay)],
    result: Lay,
    apply: impl Fn(&[Tensor]) -> Result<Tensor> + 'a,
) -> Case<'a> {
    let operands = operands.iter().map(|(shape, lay)| (shape.to_vec(), *lay)).collect();
    Case { what: what.into(), operands, result, turns: false, apply: Box::new(apply) }
}

fn images() -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for [b, h, w, c, f, side, stride, padding] in [
        [2, 5, 7, 3, 4, 3, 1, 1],
        [3, 6, 8, 2, 5, 5, 1, 2],
        [1, 9, 7, 1, 3, 3, 2, 1],
        [2, 4, 4, 6, 7, 1, 1, 0],
        [2, 7, 5, 3, 2, 1, 2, 0],
        [1, 13, 12, 3, 8, 7, 2, 3],
        [5, 12, 12, 32, 33, 5, 1, 2],
    ] {
        let window = Window { side, stride, padding };
        for relu in [false, true] {
            let shapes: [(&[usize], Lay); 3] =
                [(&[b, h, w, c], Lay::Images), (&[side, side, c, f], Lay::Filters), (&[f], Lay::Rows)];
            let what = format!("conv {b}×{h}×{w}×{c} → {f}, window {side}/{stride}/{padding}, relu {relu}");
            let with = shapes.len() - usize::from(relu);
            cases.push(case(what, &shapes[..with], Lay::Images, move |t| {
                conv::conv(&t[0], &t[1], t.get(2), window, relu)
            }));
        }
    }
    for [b, h, w, c, side, stride, padding] in
        [[2, 4, 6, 3, 2, 2, 0], [1, 5, 7, 2, 2, 2, 0], [3, 7, 6, 5, 3, 2, 1], [1, 6, 6, 1, 3, 1, 1]]
    {
        let window = Window { side, stride, padding };
        let what = format!("max_pool {b}×{h}×{w}×{c}, window {side}/{stride}/{padding}");
        let shape: &[usize] = &[b, h, w, c];
        cases.push(case(what, &[(shape, Lay::Images)], Lay::Images, move |t| pool::max_pool(&t[0], window)));
    }
    for [b, h, w, c, f, side, stride, padding, pool] in [
        [2, 5, 7, 3, 4, 3, 1, 1, 2],
        [3, 6, 8, 2, 5, 5, 1, 2, 2],
        [1, 10, 9, 1, 3, 3, 1, 1, 3],
        [2, 9, 9, 2, 3, 3, 2, 0, 2],
        [70, 12, 16, 3, 33, 5, 1, 2, 2],
    ] {
        let windows = (Window { side, stride, padding }, Window { side: pool, stride: pool, padding: 0 });
        let shapes: [(&[usize], Lay); 3] =
            [(&[b, h, w, c], Lay::Images), (&[side, side, c, f], Lay::Filters), (&[f], Lay::Rows)];
        for with in [2, 3] {
            let what = format!(
                "conv {b}×{h}×{w}×{c} → {f}, window {side}/{stride}/{padding}, pooled by {pool}, {with} operands"
            );
            let pooled = move |t: &[Tensor]| conv::conv_pooled(&t[0], &t[1], t.get(2), windows);
            cases.push(Case { turns: true, ..case(what, &shapes[..with], Lay::Images, pooled) });
        }
    }
    for (shape, groups) in [([2, 3, 5, 4], 2), ([5, 4, 4, 6], 3), ([1, 9, 11, 3], 1), ([3, 1, 1, 512], 2)] {
        let c = shape[3];
        for relu in [false, true] {
            let operands: [(&[usize], Lay); 3] =
                [(&shape, Lay::Images), (&[c], Lay::Rows), (&[c], Lay::Rows)];
            let what = format!("group_norm {shape:?}, {groups} groups, relu {relu}");
            cases.push(case(what, &operands, Lay::Images, move |t| {
                norm::group_norm(&t[0], &t[1], &t[2], groups, relu)
            }));
        }
        let image: [(&[usize], Lay); 1] = [(&shape, Lay::Images)];
        cases.push(case(format!("global_mean {shape:?}"), &image, Lay::Rows, |t| pool::global_mean(&t[0])));
        cases.push(case(format!("flatten {shape:?}"), &image, Lay::Rows, |t| pool::flatten(&t[0])));
        let twice: [(&[usize], Lay); 2] = [(&shape, Lay::Images); 2];
        cases.push(case(format!("sum {shape:?}"), &twice, Lay::Images, |t| {
            activation::sum(&t[0], &t[1], true)
        }));
    }
    cases
}

fn rows(lane: &Arc<Lane>) -> Result<Vec<Case<'static>>> {
    let mut cases = Vec::new();
    for (rows, k, n) in [(1, 3, 2), (5, 7, 11), (50, 33, 10), (67, 130, 65), (700, 9, 40)] {
        for relu in [false, true] {
            let operands: [(&[usize], Lay); 3] =
                [(&[rows, k], Lay::Rows), (&[n, k], Lay::Rows), (&[n], Lay::Rows)];
            let with = 3 - usize::from(relu && rows % 2 == 0);
            let what = format!("linear {rows}×{k} → {n}, relu {relu}");
            cases.push(case(what, &operands[..with], Lay::Rows, move |t| {
                linear::linear(&t[0], &t[1], t.get(2), relu)
            }));
        }
        let operands: [(&[usize], Lay); 3] = [(&[rows, k], Lay::Rows), (&[k], Lay::Rows), (&[k], Lay::Rows)];
        cases.push(case(format!("layer_norm {rows}×{k}"), &operands, Lay::Rows, |t| {
            norm::layer_norm(&t[0], &t[1], &t[2])
        }));
        let one: [(&[usize], Lay); 1] = [(&[rows, k], Lay::Rows)];
        cases.push(case(format!("gelu {rows}×{k}"), &one, Lay::Rows, |t| activation::gelu(&t[0])));
        let repeated: [(&[usize], Lay); 2] = [(&[rows, k, n], Lay::Rows), (&[k, n], Lay::Rows)];
        cases.push(case(format!("sum {rows}×{k}×{n}, repeated"), &repeated, Lay::Rows, |t| {
            activation::sum(&t[0], &t[1], false)
        }));
    }
    for [b, t, width, heads] in [[2, 3, 4, 2], [1, 7, 6, 3], [3, 35, 10, 1], [2, 80, 64, 2]] {
        let packed: [(&[usize], Lay); 1] = [(&[b, t, 3 * width], Lay::Rows)];
        cases.push(case(
            format!("attention {b}×{t}×{width}, {heads} heads"),
            &packed,
            Lay::Rows,
            move |v| attention::causal_attention(&v[0], heads),
        ));
    }
    for [b, t, h] in [[1, 2, 1], [3, 6, 5], [2, 9, 33]] {
        let operands: [(&[usize], Lay); 3] =
            [(&[b, t, 4 * h], Lay::Rows), (&[4 * h, h], Lay::Rows), (&[4 * h], Lay::Rows)];
        cases.push(case(format!("recurrence {b}×{t}×{h}"), &operands, Lay::Rows, |v| {
            lstm::recurrence(&v[0], &v[1], &v[2])
        }));
    }
    for (n, width, count, length) in [(5, 4, 6, 3), (31, 33, 700, 7)] {
        let values = indices(count, n, 5);
        let on = lane.fresh::<u32>(count)?;
        lane.upload(&on, &values)?;
        let table: [(&[usize], Lay); 1] = [(&[n, width], Lay::Rows)];
        cases.push(case(format!("embedding {n}×{width}, {count} rows"), &table, Lay::Rows, move |t| {
            let rows = if t[0].is_on_device() { Characters::Device(&on) } else { Characters::Host(&values) };
            embedding::embedding(&t[0], rows, length)
        }));
    }
    Ok(cases)
}

/// All operations.
pub(super) fn check(device: &Arc<Device>, precision: Precision, tell: &mut dyn FnMut(Finding)) {
    let lane = Lane::new(device, precision).map_err(EngineError::from);
    let lane = match lane.and_then(|lane| rows(&lane).map(|rows| (lane, rows))) {
        Ok((lane, rows)) => (lane, images().into_iter().chain(rows)),
        Err(failure) => return tell(finding(format!("a lane, {precision}"), 0.0, Err(failure))),
    };
    for case in lane.1 {
        let what = format!("{}, {precision}", case.what);
        let turned = if case.turns && precision != Precision::F32 { 2.5 } else { 1.0 };
        tell(finding(what, turned * limit(precision, 1e-5), case.error(&lane.0)));
    }
}
