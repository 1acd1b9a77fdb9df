//! A federation without a network: an algorithm's two sides, means, and the four-client quadratic
//! problem of the reference, in `f32` (with the real accumulators) or in `f64`.
#![allow(
    clippy::needless_range_loop,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, not every test uses all"
)]

use algorithms::{
    Algorithm, LocalRun, MODEL, Params, RoundFacts, Scalar, Vector, Vectors,
    fold::{Scale, UploadFacts, Weighting, accumulators},
    fresh_server,
    local::{LocalPlan, StepSize, Walk},
    make_as,
    personal::{OWN, Own},
};
use serde::Deserialize;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

#[derive(Deserialize)]
pub struct Golden {
    pub problem: Problem,
    pub trajectories: BTreeMap<String, Trajectory>,
    pub wstar_wd0: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Trajectory {
    pub overrides: serde_json::Map<String, serde_json::Value>,
    pub w: Vec<Vec<f64>>,
}

#[derive(Deserialize, Clone)]
pub struct Problem {
    #[serde(rename = "A")]
    pub a: Vec<Vec<Vec<f64>>>,
    #[serde(rename = "B")]
    pub b: Vec<Vec<f64>>,
    pub w0: Vec<f64>,
    pub sizes: Vec<f64>,
    pub schedule: Vec<Vec<usize>>,
    pub defaults: BTreeMap<String, f64>,
}

pub fn golden() -> Golden {
    serde_json::from_str(include_str!("../fixtures/golden.json")).unwrap()
}

impl Problem {
    pub fn gradient<S: Scalar>(&self, client: usize, w: &[S]) -> Vec<S> {
        let diff: Vec<f64> = w.iter().zip(&self.b[client]).map(|(w, b)| w.wide() - b).collect();
        let row = |row: &Vec<f64>| S::of(row.iter().zip(&diff).map(|(a, d)| a * d).sum::<f64>());
        self.a[client].iter().map(row).collect()
    }

    /// `½ (w − b)ᵀ A (w − b)`.
    pub fn loss<S: Scalar>(&self, client: usize, w: &[S]) -> f64 {
        let gradient: Vec<f64> = self.gradient(client, &wide(w));
        w.iter().zip(&self.b[client]).zip(gradient).map(|((w, b), g)| 0.5 * (w.wide() - b) * g).sum()
    }
}

pub fn wide<S: Scalar>(w: &[S]) -> Vec<f64> {
    w.iter().map(|w| w.wide()).collect()
}

/// Largest difference of an element.
pub fn distance<A: Scalar, B: Scalar>(a: &[Vec<A>], b: &[Vec<B>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let gaps = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a.wide() - b.wide()).abs());
    gaps.fold(0.0, |largest, gap| if gap > largest || gap.is_nan() { gap } else { largest })
}

/// The upload of a client.
pub struct Sent<S> {
    vectors: Vectors<S>,
    examples: u64,
    steps: u32,
    lr: S,
}

/// A number type with its way to take means.
pub trait Mean: Scalar {
    fn means(algorithm: &dyn Algorithm<Self>, sent: &[Sent<Self>], d: usize) -> Vectors<Self>;
}

impl Mean for f32 {
    fn means(algorithm: &dyn Algorithm, sent: &[Sent<Self>], d: usize) -> Vectors {
        let mut folds = accumulators(algorithm, d);
        for Sent { vectors, examples, steps, lr } in sent {
            for fold in &mut folds {
                let facts = UploadFacts { examples: *examples, steps: *steps, lr: *lr };
                fold.accumulate(&vectors[fold.fold().from], &facts);
            }
        }
        folds.into_iter().map(|f| (f.fold().into.to_owned(), Arc::new(f.mean().unwrap()))).collect()
    }
}

impl Mean for f64 {
    fn means(algorithm: &dyn Algorithm<Self>, sent: &[Sent<Self>], _: usize) -> Vectors<Self> {
        let mean = |fold: algorithms::fold::Fold| {
            let (mut sum, mut total) = (vec![0.0; sent[0].vectors[fold.from].len()], 0.0);
            for Sent { vectors, examples, steps, lr } in sent {
                let weight = match fold.weighting {
                    Weighting::Examples => *examples as f64,
                    Weighting::Uniform => 1.0,
                };
                let scale = match fold.scale {
                    Scale::One => 1.0,
                    Scale::InverseSteps => 1.0 / f64::from(*steps),
                    Scale::InverseStepsLr => 1.0 / (f64::from(*steps) * lr),
                };
                algorithms::axpy(&mut sum, weight * scale, &vectors[fold.from]);
                total += weight;
            }
            algorithms::scale(&mut sum, 1.0 / total);
            (fold.into.to_owned(), Arc::new(sum))
        };
        algorithm.folds().into_iter().map(mean).collect()
    }
}

pub struct Federation<S: Scalar> {
    pub problem: Problem,
    pub algorithm: Box<dyn Algorithm<S>>,
    pub server: Vectors<S>,
    pub states: Vec<Vectors<S>>,
    /// The server's vectors after the round that counted each client last.
    pub recalled: Vec<Option<Vectors<S>>>,
    pub clip: Option<f64>,
    pub compat: bool,
    /// Local steps of each client.
    pub steps: Vec<u32>,
    pub weight_decay: f64,
    pub lr: f64,
    pub lr_decay: f64,
    /// Clients whose next state is forgotten in the next round: counted by the server only.
    pub forgetful: Vec<usize>,
    /// The server reads this part of every upload only: what a lossy way does to it.
    pub read: f64,
}

impl<S: Mean> Federation<S> {
    pub fn new(problem: &Problem, kind: &str, params: &serde_json::Value) -> Self {
        let params: Params = params.as_object().unwrap().clone();
        let algorithm: Box<dyn Algorithm<S>> = make_as(kind, &params).unwrap();
        let w: Vec<S> = problem.w0.iter().map(|v| S::of(*v)).collect();
        let clients = problem.sizes.len();
        Self {
            problem: problem.clone(),
            server: fresh_server(algorithm.as_ref(), Arc::new(w)),
            algorithm,
            states: vec![Vectors::new(); clients],
            recalled: vec![None; clients],
            clip: Some(10.0),
            compat: true,
            steps: vec![3; clients],
            weight_decay: 0.001,
            lr: 0.1,
            lr_decay: 0.998,
            forgetful: Vec::new(),
            read: 1.0,
        }
    }

    /// For limits: constant step size, five local steps, nothing but the loss.
    pub fn plain(problem: &Problem, kind: &str, params: &serde_json::Value) -> Self {
        let new = Self::new(problem, kind, params);
        let steps = vec![5; new.steps.len()];
        Self { clip: None, compat: false, steps, weight_decay: 0.0, lr_decay: 1.0, ..new }
    }

    pub fn w(&self) -> Vec<S> {
        self.server[MODEL].as_ref().clone()
    }

    /// What a client receives: the declared vectors and nothing else.
    pub fn down(&self, client: usize) -> Vectors<S> {
        let names = [MODEL].into_iter().chain(self.algorithm.down().iter().copied());
        let now = names.map(|name| (name.to_owned(), self.server[name].clone()));
        let then = self.recalled[client].iter().flat_map(|then| {
            self.algorithm.recalled().iter().map(|(name, under)| ((*under).to_owned(), then[*name].clone()))
        });
        now.chain(then).collect()
    }

    fn train(&self, client: usize, down: &Vectors<S>, lr: f64) -> LocalRun<S> {
        let state = &self.states[client];
        let personal = self.algorithm.personal(down, state);
        let personal = personal.map(|own| self.walk(client, (&own.start, own.plan), lr).end);
        let run = self.walk(client, (&down[MODEL], self.algorithm.plan(down, state)), lr);
        LocalRun { personal: personal.map(Arc::new), ..run }
    }

    /// A client's local steps from some weights.
    pub fn walk(&self, client: usize, (from, plan): (&Vector<S>, LocalPlan<S>), lr: f64) -> LocalRun<S> {
        let size = StepSize {
            lr: S::of(lr),
            weight_decay: S::of(self.weight_decay),
            clip: self.clip.map(S::of),
            compat: self.compat,
        };
        let mut walk = Walk::new(from, &plan, size);
        let start_loss = plan.start_loss.then(|| self.problem.loss(client, walk.weights()));
        for _ in 0..self.steps[client] {
            let done: Result<(), Infallible> = walk.step(|w, gradient| {
                gradient.copy_from_slice(&self.problem.gradient(client, w));
                Ok(())
            });
            done.unwrap();
        }
        LocalRun { start_loss, ..walk.finish() }
    }

    pub fn round(&mut self, t: usize, cohort: &[usize]) -> Vec<S> {
        let population = self.problem.sizes.len();
        self.round_of(t, cohort, (population, population))
    }

    /// A round in which `population` clients are members, `before` were.
    pub fn round_of(&mut self, t: usize, cohort: &[usize], (population, before): (usize, usize)) -> Vec<S> {
        let lr = self.lr * self.lr_decay.powi(t as i32);
        let mut sent = Vec::new();
        for &client in cohort {
            let down = self.down(client);
            let run = self.train(client, &down, lr);
            let steps = run.steps;
            let mut finished = self.algorithm.finish(run, &down, &self.states[client]);
            if self.read < 1.0 {
                let lost = |part: f64| {
                    let of = |(name, vector): (&String, &algorithms::Vector<S>)| {
                        let mut vector = vector.as_ref().clone();
                        algorithms::scale(&mut vector, S::of(part));
                        (name.clone(), Arc::new(vector))
                    };
                    finished.upload.iter().map(of).collect::<Vectors<S>>()
                };
                let (sent, error) = (lost(self.read), lost(self.read - 1.0));
                finished.upload = sent;
                self.algorithm.realign(&mut finished.next, &error, (steps, S::of(lr)));
            }
            if !self.forgetful.contains(&client) {
                self.states[client] = finished.next;
            }
            let examples = self.problem.sizes[client] as u64;
            sent.push(Sent { vectors: finished.upload, examples, steps, lr: S::of(lr) });
        }
        self.forgetful.clear();
        let mean = S::means(self.algorithm.as_ref(), &sent, self.problem.w0.len());
        let facts = RoundFacts { included: cohort.len(), population, population_before: before };
        self.algorithm.apply(&mut self.server, &mean, &facts);
        for &client in cohort {
            self.recalled[client] = Some(self.server.clone());
        }
        self.w()
    }

    /// A round of all clients, of whose models some parts are their own, as workers do it.
    pub fn personal_round(&mut self, t: usize, own: &Own, parts: &mut [Vectors<S>]) {
        let lr = self.lr * self.lr_decay.powi(t as i32);
        let mut sent = Vec::new();
        for client in 0..self.states.len() {
            let mut down = self.down(client);
            let merged = own.merge(&down[MODEL], &parts[client]);
            down.insert(MODEL.to_owned(), merged);
            let mut run = self.train(client, &down, lr);
            let (steps, examples) = (run.steps, self.problem.sizes[client] as u64);
            parts[client].insert(OWN.to_owned(), own.take(&mut run));
            let mut finished = self.algorithm.finish(run, &down, &self.states[client]);
            own.blank(&mut finished.upload);
            self.states[client] = finished.next;
            sent.push(Sent { vectors: finished.upload, examples, steps, lr: S::of(lr) });
        }
        let mean = S::means(self.algorithm.as_ref(), &sent, self.problem.w0.len());
        let population = self.states.len();
        let facts = RoundFacts { included: population, population, population_before: population };
        self.algorithm.apply(&mut self.server, &mean, &facts);
        self.recalled.fill(Some(self.server.clone()));
    }

    pub fn run(&mut self, schedule: &[Vec<usize>], rounds: usize) -> Vec<Vec<S>> {
        (0..rounds).map(|t| self.round(t, &schedule[t % schedule.len()])).collect()
    }

    /// Largest gap between a mirrored server vector and the mean of the clients'.
    pub fn imbalance(&self, population: usize) -> f64 {
        let mut largest = 0.0_f64;
        for name in self.algorithm.mirrored() {
            for (k, server) in self.server[*name].iter().enumerate() {
                let own: f64 =
                    self.states.iter().map(|state| state.get(*name).map_or(0.0, |own| own[k].wide())).sum();
                largest = largest.max((own / population as f64 - server.wide()).abs());
            }
        }
        largest
    }

    /// `‖Σ_i ∇F_i(w)‖ / N`.
    pub fn global_gradient(&self) -> Vec<f64> {
        let clients = self.problem.sizes.len();
        let mut total = vec![0.0; self.problem.w0.len()];
        for client in 0..clients {
            algorithms::axpy(
                &mut total,
                1.0 / clients as f64,
                &self.problem.gradient(client, &wide(&self.w())),
            );
        }
        total
    }
}

pub fn norm(x: &[f64]) -> f64 {
    algorithms::local::norm(x)
}
