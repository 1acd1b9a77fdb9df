//! Every kernel against plain loops in f64, for lengths around the blocks and 1, 2 and 4 threads.

use super::{Adam, Cpu, QUANTUM, Step, VectorKernels, blocks};
use crate::engine::ops::testing::{assert_close, numbers};

const LENGTHS: [usize; 5] = [0, 1, 257, 16 * 1_024 + 3, 70_001];

/// Runs `f` with 1, 2 and 4 threads; the results must be the same bytes.
fn same<T: PartialEq + std::fmt::Debug>(f: impl Fn(&Cpu) -> T) -> T {
    let [one, two, four] = [1, 2, 4].map(|threads| f(&Cpu::new(threads)));
    assert!(one == two && one == four, "threads changed the result");
    one
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn combinations_of_up_to_six() {
    for n in LENGTHS {
        let x: Vec<Vec<f32>> = (0..6).map(|i| numbers(n, i)).collect();
        for count in 0..=6 {
            let terms: Vec<(f32, &[f32])> = (0..count).map(|i| (0.5 - i as f32, &x[i][..])).collect();
            let got = same(|k| {
                let mut to = vec![f32::NAN; n];
                k.combine(&mut to, &terms);
                to
            });
            let want: Vec<f64> =
                (0..n).map(|i| terms.iter().map(|(a, x)| f64::from(*a) * f64::from(x[i])).sum()).collect();
            assert_close(&got, &want, 1e-6);
        }
    }
}

#[test]
#[should_panic(expected = "at most 6")]
fn seven_terms_are_refused() {
    Cpu::new(1).combine(&mut [0.0], &[(1.0, &[0.0][..]); 7]);
}

#[test]
#[should_panic(expected = "differ")]
fn lengths_must_agree() {
    Cpu::new(1).dot(&[0.0; 3], &[0.0; 2]);
}

#[test]
fn sums_clips_and_perturbations() {
    for n in LENGTHS {
        let (a, b) = (numbers(n, 1), numbers(n, 2));
        let dot: f64 = wide(&a).iter().zip(wide(&b)).map(|(a, b)| a * b).sum();
        assert!((same(|k| k.dot(&a, &b)) - dot).abs() < 1e-4);
        let norm = wide(&a).iter().map(|a| a * a).sum::<f64>().sqrt();
        for limit in [0.5 * norm + 0.1, 2.0 * norm + 0.1] {
            let (x, got) = same(|k| {
                let mut x = a.clone();
                let norm = k.clip(&mut x, limit);
                (x, norm)
            });
            assert!((got - norm).abs() < 1e-5 * norm.max(1.0));
            let factor = (limit / norm.max(1e-30)).min(1.0);
            assert_close(&x, &wide(&a).iter().map(|a| a * factor).collect::<Vec<_>>(), 1e-6);
        }
        let got = same(|k| {
            let mut to = vec![f32::NAN; n];
            k.perturb(&mut to, &b, &a, 0.3);
            to
        });
        let want: Vec<f64> =
            wide(&a).iter().zip(wide(&b)).map(|(a, b)| b + 0.3 * a / (norm + 1e-7)).collect();
        assert_close(&got, &want, 1e-6);
    }
}

#[test]
fn steps_of_descent_and_adam() {
    for n in LENGTHS {
        let [w, g, m, v, start] = [3, 4, 5, 6, 7].map(|seed| numbers(n, seed));
        for (shift, prox, momentum) in
            [(false, 0.0, 0.0), (true, 0.0, 0.0), (false, 0.5, 0.0), (true, 0.5, 0.9), (false, 0.0, 0.9)]
        {
            let step = Step {
                lr: 0.1,
                scale: 0.7,
                weight_decay: 0.01,
                prox,
                momentum,
                shift: shift.then_some(&v[..]),
                start: (prox > 0.0).then_some(&start[..]),
            };
            let (got, moved) = same(|k| {
                let (mut w, mut m) = (w.clone(), m.clone());
                k.descend(&mut w, &g, (momentum > 0.0).then_some(&mut m[..]), &step);
                (w, m)
            });
            let at = |x: &[f32], i: usize| f64::from(x[i]);
            let direction: Vec<f64> = (0..n)
                .map(|i| {
                    let shift = if shift { at(&v, i) } else { 0.0 };
                    let pull = f64::from(prox) * (at(&w, i) - at(&start, i));
                    let g = 0.7 * at(&g, i) + shift + pull + 0.01 * at(&w, i);
                    if momentum > 0.0 { f64::from(momentum) * at(&m, i) + g } else { g }
                })
                .collect();
            let want: Vec<f64> = (0..n).map(|i| at(&w, i) - 0.1 * direction[i]).collect();
            assert_close(&got, &want, 1e-6);
            if momentum > 0.0 {
                assert_close(&moved, &direction, 1e-6);
            }
        }
        let second: Vec<f32> = v.iter().map(|v| v.abs()).collect();
        let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1 };
        let (got, ..) = same(|k| {
            let (mut w, mut m, mut v) = (w.clone(), m.clone(), second.clone());
            k.adam(&mut w, &g, [&mut m, &mut v], &adam);
            (w, m, v)
        });
        let want: Vec<f64> = (0..n)
            .map(|i| {
                let [w, g, m, v] = [&w, &g, &m, &second].map(|x| f64::from(x[i]));
                let (m, v) = (0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g);
                w - 0.01 * (m / (v.sqrt() + 1e-3) + 0.1 * w)
            })
            .collect();
        assert_close(&got, &want, 1e-5);
    }
}

#[test]
fn fixed_point_and_bytes() {
    for n in LENGTHS {
        let x = numbers(n, 8);
        let scale = 1_234_567.25;
        let sums = same(|k| {
            let mut sums: Vec<i64> = (0..n as i64).collect();
            k.encode(&mut sums, &x, scale);
            sums
        });
        for (i, (sum, x)) in sums.iter().zip(&x).enumerate() {
            assert_eq!(*sum, i as i64 + (f64::from(*x) * scale).round_ties_even() as i64);
        }
        let back = same(|k| {
            let (mut codes, mut scales) = (vec![0; n], vec![0.0; n.div_ceil(QUANTUM)]);
            let mut back = vec![f32::NAN; n];
            k.quantise(&x, &mut codes, &mut scales);
            k.dequantise(&codes, &scales, &mut back);
            back
        });
        for (x, back) in x.chunks(QUANTUM).zip(back.chunks(QUANTUM)) {
            let largest = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            assert!(x.iter().zip(back).all(|(x, b)| (x - b).abs() <= largest * 0.501 / 127.0));
        }
    }
}

#[test]
fn writing_past_the_caches_gives_the_same_bytes() {
    for n in LENGTHS {
        let (a, b) = (numbers(n, 11), numbers(n, 12));
        let combined = |past| {
            let mut to = vec![f32::NAN; n];
            blocks::combine(&mut to, &[(0.3, &a), (-2.0, &b)], past);
            to
        };
        assert!(combined(true) == combined(false));
        let (mut codes, mut scales) = (vec![0; n], vec![0.0; n.div_ceil(QUANTUM)]);
        Cpu::new(1).quantise(&a, &mut codes, &mut scales);
        let read = |past| {
            let mut x = vec![f32::NAN; n];
            blocks::dequantise(&codes, &scales, &mut x, past);
            x
        };
        assert!(read(true) == read(false));
    }
}

#[test]
fn the_largest_are_kept() {
    for n in LENGTHS {
        // Coarse, so that many are equal.
        let x: Vec<f32> = numbers(n, 9).iter().map(|v| (v * 50.0).round()).collect();
        for k in [0, 1, n / 10, n / 2, n, n + 5] {
            let got = same(|kernels| {
                let mut x = x.clone();
                kernels.keep_largest(&mut x, k);
                x
            });
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| x[b].abs().total_cmp(&x[a].abs()).then(a.cmp(&b)));
            let mut want = vec![0.0; n];
            order.iter().take(k).for_each(|&i| want[i] = x[i]);
            assert!(got == want, "{k} of {n}");
        }
        for (keep, of) in [(2, 4), (1, 2), (3, 8), (0, 4), (4, 4), (2, 5)] {
            let got = same(|k| {
                let mut x = x.clone();
                k.keep_of(&mut x, keep, of);
                x
            });
            for (x, got) in x.chunks(of).zip(got.chunks(of)) {
                let mut order: Vec<usize> = (0..x.len()).collect();
                order.sort_by(|&a, &b| x[b].abs().total_cmp(&x[a].abs()).then(a.cmp(&b)));
                for (rank, i) in order.into_iter().enumerate() {
                    assert_eq!(got[i], if rank < keep { x[i] } else { 0.0 }, "{keep} of {of}");
                }
            }
        }
    }
}

#[test]
fn clipped_sums_of_rows() {
    let (count, width) = (5, 20_001);
    let rows = numbers(count * width, 10);
    let norm = |row: &[f32]| wide(row).iter().map(|v| v * v).sum::<f64>().sqrt();
    let clip = norm(&rows[..width]) * 0.9999;
    let (sum, norms) = same(|k| {
        let mut sum = vec![1.0; width];
        let norms = k.clipped_sum(&rows, clip, &mut sum);
        (sum, norms)
    });
    let mut want = vec![1.0; width];
    for (row, got) in rows.chunks(width).zip(norms) {
        assert!((got / norm(row) - 1.0).abs() < 1e-6);
        want.iter_mut().zip(row).for_each(|(w, v)| *w += f64::from(*v) * (clip / norm(row)).min(1.0));
    }
    assert_close(&sum, &want, 1e-6);
}

#[test]
fn noise_is_normal_and_named_by_its_key() {
    let n = 200_001;
    let draw = |key| {
        same(|k| {
            let mut x = vec![0.0; n];
            k.add_noise(&mut x, 2.0, key);
            x
        })
    };
    let x = draw(7);
    assert_eq!(x, draw(7));
    assert_ne!(x, draw(8));
    let moment = |p: i32| wide(&x).iter().map(|v| (v / 2.0).powi(p)).sum::<f64>() / n as f64;
    for (p, want, tolerance) in [(1, 0.0, 0.01), (2, 1.0, 0.02), (3, 0.0, 0.04), (4, 3.0, 0.1)] {
        assert!((moment(p) - want).abs() < tolerance, "moment {p}: {}", moment(p));
    }
}
