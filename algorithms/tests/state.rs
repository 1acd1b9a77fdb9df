//! What is lost when client state is lost, or counted on one side only: over the whole registry, by
//! what each rule declares of itself. The round machine's promise is that none of it happens; these
//! tests say what the promise is worth.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use algorithms::{Rule, Vectors, rules::RULES};
use common::{Federation, golden, norm};
use serde_json::{Value, json};

const FULL: &[usize] = &[0, 1, 2, 3];

/// Perturbation moves the limit of SAM, and adaptive steps never come to rest: both off.
fn params(rule: &Rule) -> Value {
    let keys = (rule.defaults)();
    let mut params = json!({});
    for (key, value) in [("rho", json!(0.0)), ("prox", json!(1.0))] {
        if keys.contains_key(key) {
            params.as_object_mut().unwrap().insert(key.to_owned(), value);
        }
    }
    params
}

fn plain(rule: &Rule) -> Federation<f64> {
    Federation::plain(&golden().problem, rule.name, &params(rule))
}

/// The limit's `‖∇F‖` after `event`, in a run that had converged.
fn after(rule: &Rule, event: fn(&mut Federation<f64>)) -> f64 {
    let mut federation = plain(rule);
    for _ in 0..1_500 {
        federation.round(0, FULL);
    }
    event(&mut federation);
    for _ in 0..3_000 {
        federation.round(0, FULL);
    }
    norm(&federation.global_gradient())
}

fn lose(federation: &mut Federation<f64>) {
    federation.states[0] = Vectors::new();
}

fn forget(federation: &mut Federation<f64>) {
    // Before the limit, where an update is not zero.
    let w = federation.w().iter().map(|w| w + 1.0).collect();
    federation.server.insert(algorithms::MODEL.to_owned(), std::sync::Arc::new(w));
    federation.forgetful = vec![1];
}

fn mirrors(rule: &Rule) -> bool {
    !plain(rule).algorithm.mirrored().is_empty()
}

#[test]
fn a_state_lost_on_one_side_biases_mirrored_rules_for_ever() {
    let mut seen = 0;
    for rule in RULES.iter().filter(|rule| mirrors(rule)) {
        let undisturbed = after(rule, |_| {});
        assert!(undisturbed < 1e-10, "{}: {undisturbed:e}", rule.name);
        for (what, event) in
            [("lost", lose as fn(&mut Federation<f64>)), ("not committed", forget as fn(&mut _))]
        {
            let biased = after(rule, event);
            assert!(biased > 1e-2, "{}, {what}: {biased:e}", rule.name);
        }
        seen += 1;
    }
    assert!(seen >= 7, "{seen} rules with mirrored vectors");
}

#[test]
fn the_bias_of_feddyn_is_the_lost_memory() {
    // ∇F(w∞) = λ h_0 / N with the memory that was lost.
    let rule = RULES.iter().find(|rule| rule.name == "feddyn").unwrap();
    let mut federation = plain(rule);
    federation.run(&[FULL.to_vec()], 2_000);
    let lost = federation.states[0]["h"].clone();
    lose(&mut federation);
    federation.run(&[FULL.to_vec()], 4_000);
    for (slope, lost) in federation.global_gradient().iter().zip(lost.iter()) {
        assert!((slope - lost / 4.0).abs() < 1e-8, "{slope} {lost}");
    }
}

#[test]
fn a_lost_control_variate_stays_lost() {
    // mean c_i − c = −c_0/N for ever.
    let rule = RULES.iter().find(|rule| rule.name == "scaffold").unwrap();
    let mut federation = plain(rule);
    federation.run(&[FULL.to_vec()], 500);
    let lost = federation.states[0]["c"].clone();
    lose(&mut federation);
    federation.run(&[FULL.to_vec()], 500);
    let largest = lost.iter().fold(0.0_f64, |largest, c| largest.max(c.abs()));
    assert!((federation.imbalance(4) - largest / 4.0).abs() < 1e-8);
}

#[test]
fn a_lost_dual_of_afedpd_is_a_bias_too() {
    // It has no mirrored vector: absent workers' duals move with the server's.
    let rule = RULES.iter().find(|rule| rule.name == "afedpd").unwrap();
    assert!(after(rule, |_| {}) < 1e-10);
    let biased = after(rule, lose);
    assert!(biased > 1e-2, "{biased:e}");
}

#[test]
fn rules_whose_server_has_no_memory_heal() {
    for name in ["fedpd", "fedadmm", "fedlesam", "fedinit"] {
        let rule = RULES.iter().find(|rule| rule.name == name).unwrap();
        let (before, healed) = (after(rule, |_| {}), after(rule, lose));
        assert!((before - healed).abs() < 1e-9, "{name}: {before:e} {healed:e}");
    }
    // The perturbation's dual of FedSMOO may be lost, its memory not.
    let rule = RULES.iter().find(|rule| rule.name == "fedsmoo").unwrap();
    let healed = after(rule, |federation| {
        federation.states[0].remove("mu");
    });
    assert!(healed < 1e-10, "{healed:e}");
}

#[test]
fn stateless_rules_have_nothing_to_lose() {
    let mut seen = 0;
    for rule in RULES {
        let mut federation = plain(rule);
        federation.run(&[vec![0, 1], vec![2, 3], vec![1, 2]], 9);
        let kept = federation.states.iter().any(|state| !state.is_empty());
        assert_eq!(kept, federation.algorithm.has_client_state(), "{}", rule.name);
        seen += usize::from(!kept);
    }
    assert!(seen >= 8, "{seen} stateless rules");
}

#[test]
fn mirrored_vectors_are_in_balance_through_a_run() {
    for rule in RULES {
        let problem = golden().problem;
        let mut double = Federation::<f64>::new(&problem, rule.name, &json!({}));
        let mut single = Federation::<f32>::new(&problem, rule.name, &json!({}));
        for t in 0..60 {
            let cohort = &problem.schedule[t % problem.schedule.len()];
            double.round(t, cohort);
            single.round(t, cohort);
            let gaps = (double.imbalance(4), single.imbalance(4));
            assert!(gaps.0 < 1e-12 && gaps.1 < 3e-5, "{}, round {t}: {gaps:?}", rule.name);
        }
    }
}

#[test]
fn a_lossy_way_leaves_both_sides_in_balance() {
    let mut seen = 0;
    for rule in RULES.iter().filter(|rule| mirrors(rule)) {
        let problem = golden().problem;
        let mut federation = Federation::<f64>::new(&problem, rule.name, &json!({}));
        federation.read = 0.75;
        for t in 0..60 {
            federation.round(t, &problem.schedule[t % problem.schedule.len()]);
            let gap = federation.imbalance(4);
            assert!(gap < 1e-12, "{}, round {t}: {gap:e}", rule.name);
        }
        seen += 1;
    }
    assert!(seen >= 7, "{seen} rules with mirrored vectors");
}
