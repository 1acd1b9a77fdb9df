//! FedBuff and FedAsync on a parabola, against closed forms: whoever trains for long on `a/2 (w − b)²` ends at
//! `b + q (w − b)` with `q = (1 − η a)^K`, so that every sequence of versions is a linear recurrence.

use algorithms::{
    MODEL, Params, RoundFacts, Vector, Vectors, make_as,
    staleness::{Staleness, mix},
};
use std::sync::Arc;

const B: f64 = 3.0;
const Q: f64 = 0.6;
const START: f64 = -1.0;

/// `Δ` of a worker that was given `w`.
fn change(w: f64) -> f64 {
    (Q - 1.0) * (w - B)
}

fn server() -> Vectors<f64> {
    Vectors::from([(MODEL.to_owned(), Arc::new(vec![START]) as Vector<f64>)])
}

/// One move of a rule by the change that a buffer or a mix amounts to.
fn step(rule: &str, keys: &Params, server: &mut Vectors<f64>, mean: f64) {
    let rule = make_as::<f64>(rule, keys).expect("a rule");
    let mean = Vectors::from([("delta".to_owned(), Arc::new(vec![mean]))]);
    let facts = RoundFacts { included: 1, population: 1, population_before: 1 };
    rule.apply(server, &mean, &facts);
}

fn near(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-9, "{got}, expected {want}");
}

#[test]
fn a_worker_alone_mixes_geometrically() {
    for alpha in [0.1, 0.6, 1.0] {
        let mut server = server();
        for t in 1..30 {
            let w = server[MODEL][0];
            let mut mixed = [change(w)];
            mix(&mut mixed, &[w], &[w], alpha);
            step("fedavg", &Params::new(), &mut server, mixed[0]);
            near(server[MODEL][0], B + (1.0 - alpha * (1.0 - Q)).powi(t) * (START - B));
        }
    }
}

#[test]
fn mixing_models_that_are_one_version_old_follows_its_recurrence() {
    // w_{t+1} = (1 − α s) w_t + α s (b + q (w_{t−1} − b)): e² = (1 − α s) e + α s q for e_t = w_t − b.
    let share = 0.8 * Staleness::Polynomial { exponent: 0.5 }.weight(1);
    let (p, r) = (1.0 - share, share * Q);
    let root = (p * p + 4.0 * r).sqrt();
    let (e1, e2) = (f64::midpoint(p, root), f64::midpoint(p, -root));
    // The first two versions are alike: nobody was a version behind before.
    let first = START - B;
    let (a, b) = ((first - e2 * first) / (e1 - e2), (e1 * first - first) / (e1 - e2));
    let (mut server, mut older) = (server(), START);
    for t in 1..40 {
        let w = server[MODEL][0];
        near(w - B, a * e1.powi(t) + b * e2.powi(t));
        let mut mixed = [change(older)];
        mix(&mut mixed, &[older], &[w], share);
        step("fedavg", &Params::new(), &mut server, mixed[0]);
        older = w;
    }
}

#[test]
fn a_buffer_of_stale_changes_follows_its_recurrence() {
    // w_{t+1} = w_t + η_g s (q − 1)(w_{t−1} − b): e² = e − c with c = η_g s (1 − q).
    let weight = Staleness::Hinge { a: 1.0, b: 0 }.weight(1);
    near(weight, 0.5);
    let c = 0.9 * weight * (1.0 - Q);
    let root = (1.0 - 4.0 * c).sqrt();
    let (e1, e2) = (f64::midpoint(1.0, root), f64::midpoint(1.0, -root));
    let first = START - B;
    let (a, b) = ((first - e2 * first) / (e1 - e2), (e1 * first - first) / (e1 - e2));
    let keys: Params = [("server_lr".to_owned(), 0.9.into())].into_iter().collect();
    let (mut server, mut older) = (server(), START);
    for t in 1..40 {
        let w = server[MODEL][0];
        near(w - B, a * e1.powi(t) + b * e2.powi(t));
        // Four updates of the same age: their weighted sum over their number.
        let mean = (0..4).map(|_| weight * change(older)).sum::<f64>() / 4.0;
        step("fedavg", &keys, &mut server, mean);
        older = w;
    }
}

#[test]
fn a_buffer_feeds_any_server_optimiser() {
    // FedAdam's first step from one fresh buffer: m = (1 − β1) D, v = τ² β2 + (1 − β2) D².
    let (rule, keys) = ("fedadam", Params::new());
    let mut buffered = algorithms::fresh_server(
        make_as::<f64>(rule, &keys).expect("a rule").as_ref(),
        Arc::new(vec![START]),
    );
    let mut alone = buffered.clone();
    let mean = [1.0, 1.0, 1.0].map(|weight| weight * change(START)).iter().sum::<f64>() / 3.0;
    step(rule, &keys, &mut buffered, mean);
    step(rule, &keys, &mut alone, change(START));
    near(buffered[MODEL][0], alone[MODEL][0]);
    assert!(buffered[MODEL][0] > START);
}
