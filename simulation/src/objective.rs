//! Toy data: each client pulls the model towards its own point, with its own strength.

use algorithms::{
    LocalRun, Vector,
    local::{LocalPlan, StepSize, step},
    seed,
};

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
        start: &Vector,
        plan: &LocalPlan,
        (steps, lr): (u32, f32),
        noise: f32,
    ) -> LocalRun {
        let size = StepSize { lr, weight_decay: 0.001, clip: Some(10.0), compat: false };
        let mut w = start.as_ref().clone();
        for _ in 0..steps {
            let mut gradient: Vec<f32> =
                w.iter().zip(&self.a).zip(&self.b).map(|((w, a), b)| a * (w - b - noise)).collect();
            step(&mut w, &mut gradient, start, plan, &size);
        }
        LocalRun { start: start.clone(), end: w, steps, lr }
    }
}
