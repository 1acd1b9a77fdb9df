//! The step against its formula, each probe and update against its own.

use super::*;
use crate::LocalRun;
use std::{convert::Infallible, sync::Arc};

const SIZE: StepSize = StepSize { lr: 0.1, weight_decay: 0.01, clip: Some(1.0), compat: false };

fn run(plan: &LocalPlan, size: &StepSize) -> Vec<f32> {
    let start = vec![1.0, -2.0, 0.5];
    let mut w = vec![1.5, -1.0, 0.0];
    let mut grad = vec![3.0, 4.0, 0.0];
    step(&mut w, &mut grad, &start, plan, size);
    w
}

#[test]
fn clean_clips_the_loss_gradient_alone() {
    let plan = LocalPlan { shift: Some(Arc::new(vec![1.0, 0.0, 0.0])), prox: 0.5, ..LocalPlan::default() };
    let got = run(&plan, &SIZE);
    // clip: (0.6, 0.8, 0); + shift; + 0.5 (w - start); + 0.01 w
    let want = [1.5 - 0.1 * (0.6 + 1.0 + 0.25 + 0.015), -1.0 - 0.1 * (0.8 + 0.5 - 0.01), -0.1 * -0.25];
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}

#[test]
fn compat_clips_the_corrected_gradient() {
    let plan = LocalPlan { prox: 0.5, ..LocalPlan::default() };
    let got = run(&plan, &StepSize { compat: true, ..SIZE });
    let g = [3.0 - 0.5, 4.0 + 1.0, -0.25_f64];
    let n = (g.iter().map(|x| x * x).sum::<f64>()).sqrt();
    for ((got, g), w) in got.iter().zip(g).zip([1.5, -1.0, 0.0]) {
        let want = w - 0.1 * (g / n + 0.51 * w);
        assert!((f64::from(*got) - want).abs() < 1e-6);
    }
}

#[test]
fn both_forms_agree_without_a_clip() {
    let plan = LocalPlan {
        grad_scale: 0.3,
        shift: Some(Arc::new(vec![0.1, 0.2, 0.3])),
        prox: 0.7,
        ..LocalPlan::default()
    };
    let clean = run(&plan, &StepSize { clip: None, ..SIZE });
    let compat = run(&plan, &StepSize { clip: None, compat: true, ..SIZE });
    for (a, b) in clean.iter().zip(compat) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn norm_counts_every_element() {
    let x: Vec<f32> = (0..21).map(|i| i as f32).collect();
    assert!((norm(&x) - 2_870.0_f64.sqrt()).abs() < 1e-9);
}

/// Gradient `2 w`, and where it was asked for.
fn asked(plan: &LocalPlan, steps: usize) -> (Vec<Vec<f32>>, LocalRun) {
    let size = StepSize { lr: 0.1, weight_decay: 0.0, clip: None, compat: false };
    let mut walk = Walk::new(&Arc::new(vec![0.6, -0.8]), plan, size);
    let mut points = Vec::new();
    for _ in 0..steps {
        let measured = walk.step(|w, gradient| {
            points.push(w.to_vec());
            gradient.iter_mut().zip(w).for_each(|(g, w)| *g = 2.0 * w);
            Ok::<usize, Infallible>(points.len())
        });
        assert_eq!(measured, Ok(points.len() - usize::from(points.len() > steps)));
    }
    (points, walk.finish())
}

fn near(got: &[f32], want: [f32; 2]) {
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {want:?}");
}

fn probing(probe: Probe) -> LocalPlan {
    LocalPlan { probe, ..LocalPlan::default() }
}

#[test]
fn a_plain_step_asks_at_the_weights() {
    let (points, run) = asked(&LocalPlan::default(), 1);
    assert_eq!(points, [vec![0.6, -0.8]]);
    near(&run.end, [0.48, -0.64]);
    assert_eq!((run.steps, run.carried.len()), (1, 0));
}

#[test]
fn an_offset_moves_the_start_and_the_centre() {
    let offset = Some(Arc::new(vec![0.1, 0.2]));
    let (points, run) = asked(&LocalPlan { offset, prox: 5.0, ..LocalPlan::default() }, 1);
    assert_eq!(points[0], *run.start);
    near(&run.start, [0.7, -0.6]);
    // At the start the pull towards it is zero.
    near(&run.end, [0.56, -0.48]);
}

#[test]
fn a_fixed_perturbation_costs_one_pass() {
    let (points, run) = asked(&probing(Probe::Fixed(Arc::new(vec![0.1, 0.1]))), 1);
    assert_eq!(points.len(), 1);
    near(&points[0], [0.7, -0.7]);
    near(&run.end, [0.6 - 0.14, -0.8 + 0.14]);
}

#[test]
fn an_ascent_goes_its_radius_along_the_gradient() {
    // ‖w‖ = 1, so the unit gradient is w itself.
    let (points, run) = asked(&probing(Probe::ascent(0.5)), 1);
    near(&points[0], [0.6, -0.8]);
    near(&points[1], [0.9, -1.2]);
    near(&run.end, [0.6 - 0.18, -0.8 + 0.24]);
    assert_eq!(Probe::ascent(0.0_f32), Probe::Here);
}

#[test]
fn a_merge_mixes_both_gradients() {
    let (points, run) = asked(&probing(Probe::merged(0.5, 0.25)), 1);
    near(&points[1], [1.2, -1.6]);
    // 0.75 · 2w + 0.25 · 2 · 2w = 2.5 w
    near(&run.end, [0.6 - 0.15, -0.8 + 0.2]);
    assert_eq!(Probe::merged(0.5_f32, 0.0), Probe::Here);
}

#[test]
fn a_dynamic_perturbation_follows_its_dual() {
    let (dual, anchor) = (Arc::new(vec![0.6, -0.8]), Arc::new(vec![0.0, 0.1]));
    let (points, run) = asked(&probing(Probe::Dynamic { rho: 0.5, dual, anchor }), 1);
    // q = g − μ − s = (1.2, −1.6) − (0.6, −0.8) − (0, 0.1) = (0.6, −0.9)
    let length = (0.36_f32 + 0.81).sqrt();
    let e = [0.5 * 0.6 / length, -0.5 * 0.9 / length];
    near(&points[1], [0.6 + e[0], -0.8 + e[1]]);
    near(&run.carried[DUAL], [0.6 + e[0], -0.8 + e[1] - 0.1]);
}

#[test]
fn amsgrad_keeps_the_largest_second_moment() {
    let (second, global) = (Arc::new(vec![0.04_f32, 9.0]), Arc::new(vec![1.0, 1.0]));
    let update = Update::Amsgrad { beta1: 0.9, beta2: 0.5, mix: 0.25, second, global };
    let (points, run) = asked(&LocalPlan { update, ..LocalPlan::default() }, 1);
    assert_eq!(points.len(), 1);
    // g = (1.2, −1.6), m = 0.1 g, v = 0.5 · (0.04, 9) + 0.5 · (1.44, 2.56) = (0.74, 5.78)
    near(&run.carried[SECOND], [0.74, 9.0]);
    let adaptive = [0.12 / 0.74_f32.sqrt(), -0.16 / 3.0];
    near(&run.end, [0.6 - 0.1 * (0.25 * adaptive[0] + 0.75), -0.8 - 0.1 * (0.25 * adaptive[1] + 0.75)]);
}

#[test]
fn a_failed_gradient_is_no_step() {
    let mut walk = Walk::new(&Arc::new(vec![1.0_f32]), &probing(Probe::ascent(0.5)), SIZE);
    assert_eq!(walk.step(|_, _| Err::<(), _>("no data")), Err("no data"));
    assert_eq!((walk.weights(), walk.steps()), ([1.0].as_slice(), 0));
}

#[test]
fn a_heavy_ball_starts_from_rest_and_remembers_every_part_of_a_step() {
    let plan =
        LocalPlan::<f64> { prox: 0.5, update: Update::HeavyBall { momentum: 0.9 }, ..LocalPlan::default() };
    let size = StepSize { lr: 0.1, weight_decay: 0.01, clip: None, compat: false };
    for probe in [Probe::Here, Probe::ascent(0.05)] {
        let plan = LocalPlan { probe: probe.clone(), ..plan.clone() };
        let mut walk = Walk::new(&Arc::new(vec![1.0, -2.0]), &plan, size);
        let slope = |w: &[f64]| [2.0 * (w[0] - 3.0), w[1] + 1.0];
        let (mut w, mut before) = ([1.0, -2.0], [1.0, -2.0]);
        for _ in 0..4 {
            let mut g = slope(&w);
            if let Probe::Ascent { rho } = probe {
                let reach = rho / ((g[0] * g[0] + g[1] * g[1]).sqrt() + 1e-7);
                g = slope(&[w[0] + reach * g[0], w[1] + reach * g[1]]);
            }
            let start = [1.0, -2.0];
            let next = |k: usize| {
                w[k] - 0.1 * (g[k] + 0.5 * (w[k] - start[k]) + 0.01 * w[k]) + 0.9 * (w[k] - before[k])
            };
            (w, before) = ([next(0), next(1)], w);
            walk.step(|at, grad| {
                grad.copy_from_slice(&slope(at));
                Ok::<_, Infallible>(())
            })
            .unwrap();
        }
        let LocalRun { end, .. } = walk.finish();
        assert!(end.iter().zip(w).all(|(got, want)| (got - want).abs() < 1e-12), "{end:?} {w:?}");
    }
}

/// The clean step, a pass for each term.
fn by_passes(w: &mut [f32], grad: &mut [f32], start: &[f32], plan: &LocalPlan, size: &StepSize) {
    crate::scale(grad, plan.grad_scale);
    let factor = clip_factor(grad, size.clip);
    crate::scale(grad, factor);
    if let Some(shift) = &plan.shift {
        crate::axpy(grad, 1.0, shift);
    }
    for ((w, g), s) in w.iter_mut().zip(&*grad).zip(start) {
        *w -= size.lr * (*g + plan.prox * (*w - *s) + size.weight_decay * *w);
    }
}

#[test]
fn one_pass_gives_the_bits_of_several() {
    let numbers = |seed: u64| -> Vec<f32> {
        (0..1_003).map(|i| (crate::seed::unit(crate::seed::mix(seed << 32 ^ i)) - 0.5) as f32).collect()
    };
    let (start, shift) = (numbers(1), Arc::new(numbers(2)));
    for (shifted, prox, clip, grad_scale) in [
        (false, 0.0, None, 1.0),
        (true, 0.0, Some(0.5), 1.0),
        (false, 0.3, Some(1e9), 0.7),
        (true, 0.3, None, 0.7),
        (true, 0.3, Some(0.5), 1.0),
    ] {
        let plan = LocalPlan {
            grad_scale,
            prox,
            shift: shifted.then(|| Arc::clone(&shift)),
            ..LocalPlan::default()
        };
        let size = StepSize { lr: 0.1, weight_decay: 1e-3, clip, compat: false };
        let (mut one, mut several) = (numbers(3), numbers(3));
        for seed in 4..7 {
            step(&mut one, &mut numbers(seed), &start, &plan, &size);
            by_passes(&mut several, &mut numbers(seed), &start, &plan, &size);
        }
        assert!(one.iter().zip(&several).all(|(a, b)| a.to_bits() == b.to_bits()), "{plan:?}, {size:?}");
    }
}
