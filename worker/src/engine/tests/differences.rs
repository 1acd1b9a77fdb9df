//! Each model's gradient against central differences of its own loss.

use super::{batch, gradient, small, symmetric, weights};
use crate::engine::Model;

/// Tensors that are tried per model; those of ResNet alike are many, and each try costs four passes.
const TRIED: usize = 12;

/// For every tensor, the loss must change as the gradient says, both along the gradient (a wrong scale
/// or a missing term shows) and along random signs (a wrong direction shows).
#[test]
fn gradients_match_differences_of_the_loss() {
    for (name, spec, info) in small() {
        let model = Model::new(&spec, &info).unwrap();
        let (mut w, batch) = (weights(&model), batch(&info, 3));
        let (_, grad) = gradient(&model, &w, &batch);
        let count = model.tensors().len();
        let every = count.div_ceil(TRIED);
        let mut start = 0;
        for (i, tensor) in model.tensors().iter().enumerate() {
            let range = start..start + tensor.shape.iter().product::<usize>();
            start = range.end;
            if i % every != 0 && i != count - 1 {
                continue;
            }
            let g: Vec<f64> = grad[range.clone()].iter().map(|&v| f64::from(v)).collect();
            let norm = g.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!(norm > 0.0, "{name}, {}: nothing to compare", tensor.name);
            let along: Vec<f64> = g.iter().map(|v| v / norm).collect();
            let signs: Vec<f64> = along
                .iter()
                .zip(symmetric(g.len(), 77))
                .map(|(a, s)| a + s.signum() / (g.len() as f64).sqrt())
                .collect();
            for direction in [along, signs] {
                let slope: f64 = g.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let step = 1e-3 / norm.max(0.3);
                let centre = w[range.clone()].to_vec();
                let mut loss = |sign: f64| {
                    for ((w, c), d) in w[range.clone()].iter_mut().zip(&centre).zip(&direction) {
                        *w = (f64::from(*c) + sign * step * d) as f32;
                    }
                    model.evaluate(&w, &batch).unwrap().loss
                };
                let measured = (loss(1.0) - loss(-1.0)) / (2.0 * step);
                w[range.clone()].copy_from_slice(&centre);
                // Rectifiers bend within a step; a wrong kernel is off by far more.
                let error = (measured - slope).abs() / norm;
                assert!(error < 0.03, "{name}, {}: measured {measured}, gradient says {slope}", tensor.name);
            }
        }
        assert_eq!(start, model.parameters());
    }
}
