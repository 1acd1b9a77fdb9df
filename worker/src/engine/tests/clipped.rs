//! Clipped sums of single examples' gradients against one pass for each example.

use super::{batch, small, weights};
use crate::data::{Batch, Inputs};
use crate::engine::ops::testing::assert_close;
use crate::engine::{Clip, EngineError, Model};

/// The batch's examples, each a batch.
fn singles(batch: &Batch) -> Vec<Batch> {
    let share = |length: usize, i: usize| length / batch.size * i..length / batch.size * (i + 1);
    (0..batch.size)
        .map(|i| Batch {
            size: 1,
            inputs: match &batch.inputs {
                Inputs::Dense(x) => Inputs::Dense(x[share(x.len(), i)].to_vec()),
                Inputs::Tokens(x) => Inputs::Tokens(x[share(x.len(), i)].to_vec()),
            },
            labels: batch.labels[share(batch.labels.len(), i)].to_vec(),
        })
        .collect()
}

#[test]
fn every_model_matches_one_pass_for_each_example() {
    for (name, spec, info) in small() {
        let model = Model::new(&spec, &info).unwrap();
        let (w, batch) = (weights(&model), batch(&info, if name.starts_with("resnet") { 3 } else { 27 }));
        let single: Vec<Vec<f32>> = singles(&batch)
            .iter()
            .map(|one| {
                let mut g = vec![0.0; w.len()];
                model.gradient(&w, one, &mut g).unwrap();
                g
            })
            .collect();
        let norm = |g: &Vec<f32>| g.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let want: Vec<f64> = single.iter().map(norm).collect();
        let mut sorted = want.clone();
        sorted.sort_by(f64::total_cmp);
        // Between the norms: some examples are clipped, some are not.
        let clip = f64::midpoint(sorted[0], sorted[sorted.len() - 1]);
        let mut sum = vec![0.0f64; w.len()];
        for (g, norm) in single.iter().zip(&want) {
            sum.iter_mut().zip(g).for_each(|(s, &g)| *s += f64::from(g) * (clip / norm).min(1.0));
        }
        let mut got = vec![f32::NAN; w.len()];
        let clipped = model.clipped_gradient(&w, &batch, clip, &mut got).unwrap();
        for (i, (norm, want)) in clipped.norms.iter().zip(&want).enumerate() {
            assert!((norm / want - 1.0).abs() < 1e-4, "{name}, example {i}: norm {norm}, alone {want}");
        }
        assert_eq!(clipped.norms.len(), batch.size, "{name}");
        // What an example adds depends on no other: else one that is left out would move the others, too.
        for (one, norm) in singles(&batch).iter().zip(&clipped.norms) {
            let alone = model.clipped_gradient(&w, one, clip, &mut vec![0.0; w.len()]).unwrap();
            assert_eq!(alone.norms[0].to_bits(), norm.to_bits(), "{name}");
        }
        assert_close(&got, &sum, 2e-5);
        let (layers, clip) = (model.layers(), clip / 2.0);
        assert_eq!(layers.iter().sum::<usize>(), w.len(), "{name}");
        let mut sum = vec![0.0f64; w.len()];
        for g in &single {
            let mut at = 0;
            for length in &layers {
                let part = at..at + length;
                let norm = g[part.clone()].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let factor = if norm > clip { clip / norm } else { 1.0 };
                sum[part.clone()].iter_mut().zip(&g[part]).for_each(|(s, &g)| *s += f64::from(g) * factor);
                at += length;
            }
        }
        let mut apart = vec![0.0; w.len()];
        model.clipped_gradient(&w, &batch, Clip::PerLayer(clip), &mut apart).unwrap();
        assert_close(&apart, &sum, 2e-5);
        let clip = clip * 2.0;
        let plain = model.evaluate(&w, &batch).unwrap();
        assert_eq!(clipped.outcome.correct, plain.correct, "{name}");
        assert!((clipped.outcome.loss - plain.loss).abs() < 1e-5 * plain.loss.abs(), "{name}");

        for threads in [2, 4] {
            let model = Model::new(&spec, &info).unwrap().with_threads(threads);
            let mut again = vec![0.0; w.len()];
            assert_eq!(model.clipped_gradient(&w, &batch, clip, &mut again).unwrap(), clipped, "{name}");
            assert!(
                got.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{name}, {threads} threads"
            );
        }
    }
}

#[test]
fn a_clip_must_be_a_norm() {
    let (_, spec, info) = small().swap_remove(1);
    let model = Model::new(&spec, &info).unwrap();
    let (w, batch) = (weights(&model), batch(&info, 2));
    for clip in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = model.clipped_gradient(&w, &batch, clip, &mut vec![0.0; w.len()]).unwrap_err();
        assert!(matches!(error, EngineError::Clip(_)), "{error}");
    }
    assert!(model.clipped_gradient(&w, &batch, 1.0, &mut [0.0]).is_err());
}
