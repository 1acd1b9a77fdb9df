//! Against plain loops in f64 and against the direct path, over odd shapes.

use super::*;
use crate::engine::ops::conv::conv;
use crate::engine::ops::testing::{assert_close, numbers, shapes, tensor};
use crate::engine::tape::Tape;
use crate::engine::tensor::Tensor;
use proptest::strategy::Strategy;

/// Largest error to the largest value, direct products being at 3e-7.
const TOLERANCE: f64 = 5e-6;

/// batch, height, width, channels, filters, padding
type Case = [usize; 6];

fn geometry([batch, height, width, channels, filters, padding]: Case) -> Geometry {
    let window = Window { side: TAPS, stride: 1, padding };
    let places = |extent| window.places(extent).expect("the window fits");
    let (rows, columns) = (places(height), places(width));
    Geometry { window, batch, height, width, channels, filters, rows, columns }
}

/// Calls `f` with the places in image, filters and result of each product of a convolution.
fn products(g: &Geometry, mut f: impl FnMut([usize; 3])) {
    let (c, n) = (g.channels, g.filters);
    for place in 0..g.batch * g.rows * g.columns {
        let (image, y, x) = (place / g.places(), place / g.columns % g.rows, place % g.columns);
        for tap in 0..TAPS * TAPS {
            let at =
                |place: usize, extent: usize| place.checked_sub(g.window.padding).filter(|&p| p < extent);
            let (Some(y), Some(x)) = (at(y + tap / TAPS, g.height), at(x + tap % TAPS, g.width)) else {
                continue;
            };
            let pixel = (image * g.height + y) * g.width + x;
            for i in 0..c * n {
                f([pixel * c + i / n, tap * c * n + i, place * n + i % n]);
            }
        }
    }
}

/// Result, gradient of the images and gradient of the filters in f64, where `dy` is that of the result.
fn plain(g: &Geometry, x: &[f32], weight: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    products(g, |[i, j, k]| {
        let [x, w, d] = [x[i], weight[j], dy[k]].map(f64::from);
        y[k] += x * w;
        dx[i] += d * w;
        dw[j] += d * x;
    });
    [y, dx, dw]
}

fn check(case: Case) {
    let g = geometry(case);
    let [b, h, w, c, f, _] = case;
    let (x, weight) = (numbers(b * h * w * c, 1), numbers(9 * c * f, 2));
    let dy = numbers(b * g.places() * f, 3);
    let [want, _, slope] = plain(&g, &x, &weight, &dy);
    let mut y = vec![f32::NAN; dy.len()];
    convolve(&g, &x, &weight, &mut y, |part| part.iter_mut().for_each(|v| *v += 1.0));
    let want: Vec<f64> = want.iter().map(|v| v + 1.0).collect();
    assert_close(&y, &want, TOLERANCE);
    // Gradients are added to what is there.
    let mut dw = vec![0.5; weight.len()];
    weight_gradient(&g, &x, &dy, &mut dw);
    let slope: Vec<f64> = slope.iter().map(|v| v + 0.5).collect();
    assert_close(&dw, &slope, TOLERANCE);
}

#[test]
fn odd_shapes_match_plain_loops() {
    for case in [
        [1, 1, 1, 32, 32, 1],
        [1, 3, 3, 32, 64, 0],
        [2, 1, 1, 64, 32, 2],
        [1, 4, 4, 96, 32, 1],
        [3, 5, 7, 32, 32, 1],
        [1, 9, 2, 32, 32, 2],
        // Depth in several passes, images in several groups.
        [2, 6, 6, 160, 32, 1],
        [5, 32, 33, 32, 32, 1],
    ] {
        check(case);
    }
    let sizes = (1..=3_usize, 1..=9_usize, 1..=9_usize, 1..=2_usize, 1..=2_usize, 0..=3_usize);
    let fitting = sizes.prop_filter("the window fits", |(_, h, w, .., padding)| h.min(w) + 2 * padding >= 3);
    shapes(12, &fitting, |(b, h, w, c, f, padding)| check([b, h, w, 32 * c, 32 * f, padding]));
}

/// The whole operation with bias and rectifier, its gradients, and that it goes this way.
#[test]
fn the_operation_and_its_gradients_match_plain_loops() {
    for (case, relu) in
        [([2, 8, 7, 32, 64, 1], true), ([3, 9, 9, 64, 32, 0], false), ([2, 5, 6, 32, 32, 2], true)]
    {
        let (g, [b, h, w, c, f, padding]) = (geometry(case), case);
        assert!(pays(&g), "{g:?}");
        let inputs = [
            tensor(&numbers(b * h * w * c, 1), &[b, h, w, c]).unwrap(),
            tensor(&numbers(9 * c * f, 2), &[3, 3, c, f]).unwrap(),
            tensor(&numbers(f, 9), &[f]).unwrap(),
        ];
        let [x, weight, bias] = inputs.each_ref();
        let window = Window { side: 3, stride: 1, padding };
        let (y, tape) = Tape::record(|| conv(x, weight, Some(bias), window, relu).unwrap());
        let dy = numbers(y.len(), 3);
        let grads = tape.gradients(&y, Tensor::new(dy.clone(), y.shape())).unwrap();

        let open: Vec<f32> =
            dy.iter().zip(y.values()).map(|(d, y)| if relu && *y == 0.0 { 0.0 } else { *d }).collect();
        let [want, dx, dw] = plain(&g, x.values(), weight.values(), &open);
        let finish = |(i, v): (usize, &f64)| {
            let v = v + f64::from(bias.values()[i % f]);
            if relu { v.max(0.0) } else { v }
        };
        assert_close(y.values(), &want.iter().enumerate().map(finish).collect::<Vec<_>>(), TOLERANCE);
        let mut db = vec![0.0; f];
        open.iter().enumerate().for_each(|(i, d)| db[i % f] += f64::from(*d));
        for (what, want) in [(x, dx), (weight, dw), (bias, db)] {
            assert_close(grads.get(what).unwrap().values(), &want, TOLERANCE);
        }
    }
}

/// A convolution of one image has the same bytes in any batch that goes this way.
#[test]
fn images_do_not_touch_each_other() {
    let [b, h, w, c, f, padding] = [7, 13, 10, 32, 32, 1];
    let (x, weight) = (numbers(b * h * w * c, 1), numbers(9 * c * f, 2));
    let run = |x: &[f32]| {
        let g = geometry([x.len() / (h * w * c), h, w, c, f, padding]);
        let mut y = vec![0.0; g.batch * g.places() * f];
        convolve(&g, x, &weight, &mut y, |_| {});
        y
    };
    let apart: Vec<f32> = x.chunks(h * w * c).flat_map(&run).collect();
    assert!(run(&x).iter().zip(&apart).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn small_or_other_convolutions_keep_the_direct_path() {
    let good: Case = [25, 8, 8, 64, 64, 1];
    assert!(pays(&geometry(good)));
    for (case, why) in [
        ([25, 8, 8, 3, 64, 1], "few channels"),
        ([25, 8, 8, 64, 48, 1], "filters that fill no panel"),
        ([25, 2, 2, 512, 512, 1], "tiles that are mostly outside"),
        ([1, 4, 4, 512, 512, 1], "one tile for all those filters"),
    ] {
        assert!(!pays(&geometry(case)), "{why}");
    }
    for window in [Window { side: 3, stride: 2, padding: 1 }, Window { side: 5, stride: 1, padding: 1 }] {
        assert!(!pays(&Geometry { window, ..geometry(good) }), "{window:?}");
    }
}
