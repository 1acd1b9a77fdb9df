//! Toy data: each client pulls the model towards its own point, with its own strength.

use algorithms::{
    LocalRun, Vector,
    local::{LocalPlan, StepSize, Walk},
    seed,
};
use std::convert::Infallible;

/// `f_i(w) = ½ Σ_k a_k (w_k − b_k)²`; clients differ in `a` and `b`, so that their optima disagree.
#[derive(Debug, Clone)]
pub(crate) struct Quadratic {
    a: Vec<f32>,
    b: Vec<f32>,
    /// Its weight in a mean.
    pub(crate) examples: u64,
}

impl Quadratic {
    /// The data of a client: a function of seed and name.
    pub(crate) fn new(seed: u64, name: &str, dimension: usize) -> Self {
        let key = seed::derive(seed, "objective", &[seed::word(name)]);
        let draw = |purpose, k| seed::unit(seed::derive(key, purpose, &[k]));
        let all = 0..dimension as u64;
        Self {
            a: all.clone().map(|k| 0.5 + draw("a", k) as f32).collect(),
            b: all.map(|k| 4.0 * draw("b", k) as f32 - 2.0).collect(),
            examples: 50 + (draw("examples", 0) * 200.0) as u64,
        }
    }

    /// A local run. `noise` moves the optimum: real training never repeats itself bit for bit.
    pub(crate) fn train(
        &self,
        model: &Vector,
        plan: &LocalPlan,
        (steps, lr): (u32, f32),
        noise: f32,
    ) -> LocalRun {
        let size = StepSize { lr, weight_decay: 0.001, clip: Some(10.0), compat: false };
        let mut walk = Walk::new(model, plan, size);
        let gap = |w: &[f32], k: usize| w[k] - self.b[k] - noise;
        let loss = |w: &[f32]| (0..w.len()).map(|k| 0.5 * f64::from(self.a[k] * gap(w, k) * gap(w, k))).sum();
        let start_loss = plan.start_loss.then(|| loss(walk.weights()));
        for _ in 0..steps {
            let Ok(()) = walk.step(|w, gradient| {
                for (k, g) in gradient.iter_mut().enumerate() {
                    *g = self.a[k] * gap(w, k);
                }
                Ok::<(), Infallible>(())
            });
        }
        LocalRun { start_loss, ..walk.finish() }
    }
}
