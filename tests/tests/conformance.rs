//! What every algorithm of the registry must keep, whichever file it comes from. The machines rely
//! on these properties: a retry repeats a computation and must give the same bytes, and a vector of
//! the wrong name or length would be found only in the middle of a run.

use algorithms::{
    Algorithm, LocalRun, MODEL, Params, RoundFacts, Rule, Vector, Vectors,
    fold::{Accumulator, UploadFacts, accumulators},
    fresh_server,
    local::{StepSize, Walk},
    make,
    rules::RULES,
};
use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

const D: usize = 6;
const CLIENTS: usize = 4;
const STEPS: u32 = 4;
const LR: f32 = 0.1;
const FACTS: RoundFacts = RoundFacts { included: CLIENTS, population: CLIENTS, population_before: CLIENTS };

fn each(check: impl Fn(&Rule, &dyn Algorithm)) {
    for rule in RULES {
        let algorithm = (rule.make)(&(rule.defaults)())
            .unwrap_or_else(|error| panic!("{}: its own defaults are refused: {error}", rule.name));
        check(rule, algorithm.as_ref());
    }
}

/// Different numbers for each `salt`, none of them zero.
fn some_vector(salt: usize) -> Vector {
    Arc::new((0..D).map(|k| ((k * 7 + salt * 3) % 11) as f32 * 0.1 - 0.45).collect())
}

/// A server in the middle of a run: no vector is zero.
fn busy_server(algorithm: &dyn Algorithm) -> Vectors {
    let names = [MODEL].into_iter().chain(algorithm.server_vectors().iter().copied());
    // Second moments are never negative; what else there is does not mind.
    let sized = |(salt, name): (usize, &str)| {
        let vector = some_vector(salt + 1);
        let positive = || Arc::new(vector.iter().map(|x| x.abs()).collect());
        (name.to_owned(), if name == MODEL { Arc::clone(&vector) } else { positive() })
    };
    names.enumerate().map(sized).collect()
}

/// What a worker receives, and nothing else.
fn sent_down(algorithm: &dyn Algorithm, server: &Vectors) -> Vectors {
    let names = [MODEL].into_iter().chain(algorithm.down().iter().copied());
    names.map(|name| (name.to_owned(), server[name].clone())).collect()
}

fn some_run(start: &Vector) -> LocalRun {
    let end = start.iter().enumerate().map(|(k, w)| w - 0.02 * (k + 1) as f32).collect();
    LocalRun::new(start.clone(), end, STEPS, LR)
}

fn names(vectors: &Vectors) -> BTreeSet<&str> {
    vectors.keys().map(String::as_str).collect()
}

// === The registry ===

#[test]
fn rules_are_cited_and_named_once() {
    let mut seen = BTreeSet::new();
    for rule in RULES {
        assert!(!rule.citation.trim().is_empty(), "{} cites no paper", rule.name);
        assert!(seen.insert(rule.name), "{} is there twice", rule.name);
        let kebab = rule.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        assert!(kebab, "{}", rule.name);
    }
    assert!(seen.contains("fedavg"));
}

#[test]
fn defaults_build_and_so_does_an_empty_section() {
    each(|rule, _| {
        assert!(make(rule.name, &(rule.defaults)()).is_ok(), "{}", rule.name);
        assert!(make(rule.name, &Params::new()).is_ok(), "{}: a key lacks a default", rule.name);
    });
}

#[test]
fn a_wrong_key_or_value_is_refused_by_name() {
    for rule in RULES {
        let message = |key: &str, value: serde_json::Value| {
            let mut params = (rule.defaults)();
            params.insert(key.to_owned(), value);
            make(rule.name, &params).err().map(|error| error.to_string())
        };
        let unknown = message("no_such_key", 1.into()).expect("unknown keys are errors");
        assert!(unknown.contains(rule.name) && unknown.contains("no_such_key"), "{unknown}");
        for (key, default) in &(rule.defaults)() {
            assert!(message(key, serde_json::json!([[1]])).is_some(), "{}: `{key}` is a list", rule.name);
            // Beyond f32: becomes infinite on its way into the configuration.
            if default.is_f64() {
                let infinite = message(key, 1e300.into()).expect("an infinite number is refused");
                assert!(infinite.contains(key), "{infinite}");
            }
        }
    }
}

#[test]
fn no_value_of_a_key_panics() {
    let values = serde_json::json!([null, -1, 0, 1, 1e-300, 1e300, u64::MAX, "", "x", true, [], {}]);
    for rule in RULES {
        for key in (rule.defaults)().keys() {
            for value in values.as_array().unwrap() {
                let mut params = (rule.defaults)();
                params.insert(key.clone(), value.clone());
                if let Ok(algorithm) = make(rule.name, &params) {
                    let server = busy_server(algorithm.as_ref());
                    algorithm.plan(&sent_down(algorithm.as_ref(), &server), &Vectors::new());
                }
            }
        }
    }
}

// === Names and lengths ===

#[test]
fn declared_names_fit_together() {
    each(|rule, algorithm| {
        let server: BTreeSet<_> = algorithm.server_vectors().iter().copied().collect();
        assert_eq!(server.len(), algorithm.server_vectors().len(), "{}: a name twice", rule.name);
        assert!(!server.contains(MODEL), "{}: the model is not declared", rule.name);
        assert!(algorithm.down().iter().all(|name| server.contains(name)), "{}", rule.name);

        let shapes = algorithm.upload(D);
        assert!(shapes.is_sorted_by(|a, b| a.0 < b.0), "{}: {shapes:?} are not in name order", rule.name);
        let upload: BTreeSet<_> = shapes.iter().map(|(name, _)| *name).collect();
        let known = algorithm.recalled().iter().all(|(name, under)| {
            server.contains(name) && !algorithm.down().contains(under) && *under != MODEL
        });
        assert!(known, "{}: {:?}", rule.name, algorithm.recalled());
        assert!(algorithm.mirrored().iter().all(|name| server.contains(name)), "{}", rule.name);
        let folds = algorithm.folds();
        assert!(!folds.is_empty(), "{}: nothing is aggregated", rule.name);
        assert!(folds.iter().all(|fold| upload.contains(fold.from)), "{}: {folds:?}", rule.name);
        let into: BTreeSet<_> = folds.iter().map(|fold| fold.into).collect();
        assert_eq!(into.len(), folds.len(), "{}: two folds write one mean", rule.name);
    });
}

#[test]
fn uploads_states_and_plans_are_as_declared() {
    each(|rule, algorithm| {
        let server = busy_server(algorithm);
        let down = sent_down(algorithm, &server);
        let mut state = Vectors::new();
        for round in 0..3 {
            let plan = algorithm.plan(&down, &state);
            assert!(plan.shift.is_none_or(|shift| shift.len() == D), "{}, round {round}", rule.name);
            let finished = algorithm.finish(some_run(&server[MODEL]), &down, &state);
            let shapes: Vec<_> = finished.upload.iter().map(|(name, v)| (name.as_str(), v.len())).collect();
            assert_eq!(shapes, algorithm.upload(D), "{}, round {round}", rule.name);
            assert_eq!(finished.next.is_empty(), !algorithm.has_client_state(), "{}", rule.name);
            assert!(finished.next.values().all(|vector| vector.len() == D), "{}, round {round}", rule.name);
            state = finished.next;
        }
    });
}

#[test]
fn the_server_keeps_its_vectors_and_their_lengths() {
    each(|rule, algorithm| {
        let mut server = busy_server(algorithm);
        let before = server.clone();
        algorithm.apply(&mut server, &means(algorithm, 5), &FACTS);
        assert_eq!(names(&server), names(&before), "{}", rule.name);
        assert!(server.values().all(|vector| vector.len() == D), "{}", rule.name);
        assert_ne!(server[MODEL], before[MODEL], "{}: a round that moves nothing", rule.name);
    });
}

// === Purity ===

fn means(algorithm: &dyn Algorithm, salt: usize) -> Vectors {
    let folds = accumulators(algorithm, D).into_iter().enumerate();
    let some = |(i, fold): (usize, Accumulator)| {
        let vector = some_vector(salt + i).iter().copied().take(fold.length()).collect();
        (fold.fold().into.to_owned(), Arc::new(vector))
    };
    folds.map(some).collect()
}

#[test]
fn equal_input_gives_equal_output() {
    each(|rule, algorithm| {
        let again = make(rule.name, &(rule.defaults)()).unwrap();
        let server = busy_server(algorithm);
        let down = sent_down(algorithm, &server);
        let state = algorithm.finish(some_run(&server[MODEL]), &down, &Vectors::new()).next;
        // Another round in between: nothing may be remembered inside the algorithm.
        let first = algorithm.finish(some_run(&server[MODEL]), &down, &state);
        algorithm.finish(some_run(&some_vector(9)), &down, &Vectors::new());
        for other in [algorithm, again.as_ref()] {
            assert_eq!(other.plan(&down, &state), algorithm.plan(&down, &state), "{}", rule.name);
            assert_eq!(other.finish(some_run(&server[MODEL]), &down, &state), first, "{}", rule.name);
        }

        let applied = |algorithm: &dyn Algorithm| {
            let mut moved = server.clone();
            algorithm.apply(&mut moved, &means(algorithm, 5), &FACTS);
            moved
        };
        let moved = applied(algorithm);
        assert_eq!(applied(again.as_ref()), moved, "{}", rule.name);
        assert_eq!(applied(algorithm), moved, "{}", rule.name);
        assert_eq!(server, busy_server(algorithm), "{}: a shared vector was written", rule.name);
    });
}

#[test]
fn a_fresh_server_does_not_move_by_nothing() {
    each(|rule, algorithm| {
        let w = some_vector(4).as_ref().clone();
        let mut server = fresh_server(algorithm, Arc::new(w.clone()));
        let nothing = accumulators(algorithm, D)
            .into_iter()
            .map(|fold| (fold.fold().into.to_owned(), Arc::new(vec![0.0; fold.length()])));
        algorithm.apply(&mut server, &nothing.collect(), &FACTS);
        assert_eq!(*server[MODEL], w, "{}", rule.name);
        assert!(server.values().flat_map(|v| v.iter()).all(|x| x.is_finite()), "{}", rule.name);
    });
}

// === Learning ===

/// Client i has the loss `½ Σ_k a_ik (w_k − b_ik)²`; curvatures and centres differ.
fn gradient(client: usize, w: &[f32]) -> Vec<f32> {
    let curvature = |k: usize| 0.5 + 0.25 * ((k + client) % CLIENTS) as f32;
    w.iter().enumerate().map(|(k, w)| curvature(k) * (w - centre(client, k))).collect()
}

fn centre(client: usize, k: usize) -> f32 {
    1.0 + k as f32 * 0.2 + [-0.5, 0.25, -0.25, 0.5][client]
}

fn loss(client: usize, w: &[f32]) -> f64 {
    let slopes = gradient(client, w).into_iter().zip(w).enumerate();
    slopes.map(|(k, (slope, w))| f64::from(0.5 * slope * (w - centre(client, k)))).sum()
}

fn global_gradient_norm(w: &[f32]) -> f32 {
    let mut total = vec![0.0; w.len()];
    (0..CLIENTS).for_each(|client| algorithms::axpy(&mut total, 0.25, &gradient(client, w)));
    total.iter().map(|g| g * g).sum::<f32>().sqrt()
}

fn round(algorithm: &dyn Algorithm, server: &mut Vectors, states: &mut [Vectors]) {
    let size = StepSize { lr: LR, weight_decay: 0.0, clip: None, compat: false };
    let mut folds = accumulators(algorithm, D);
    let down = sent_down(algorithm, server);
    for (client, state) in states.iter_mut().enumerate() {
        let plan = algorithm.plan(&down, state);
        let mut walk = Walk::new(&server[MODEL], &plan, size);
        let start_loss = plan.start_loss.then(|| loss(client, walk.weights()));
        for _ in 0..STEPS {
            let Ok(()) = walk.step(|w, out| {
                out.copy_from_slice(&gradient(client, w));
                Ok::<(), Infallible>(())
            });
        }
        let run = LocalRun { start_loss, ..walk.finish() };
        let finished = algorithm.finish(run, &down, state);
        *state = finished.next;
        for fold in &mut folds {
            let from = finished.upload[fold.fold().from].clone();
            fold.accumulate(&from, &UploadFacts { examples: 50, steps: STEPS, lr: LR });
        }
    }
    let mean = folds
        .into_iter()
        .map(|fold| (fold.fold().into.to_owned(), Arc::new(fold.mean().expect("every client was counted"))));
    algorithm.apply(server, &mean.collect(), &FACTS);
}

#[test]
fn everybody_on_a_quadratic_gets_near_its_minimum() {
    each(|rule, algorithm| {
        let mut server = fresh_server(algorithm, Arc::new(vec![0.0; D]));
        let mut states = vec![Vectors::new(); CLIENTS];
        let before = global_gradient_norm(&server[MODEL]);
        // Steps that shrink with the sum of squares take their time.
        for _ in 0..1_500 {
            round(algorithm, &mut server, &mut states);
        }
        let after = global_gradient_norm(&server[MODEL]);
        // Plain averaging keeps a bias of about 2 % here: unlike curvatures and several local steps. A
        // perturbation of fixed length (SAM) adds its own.
        assert!(after < 0.1 * before, "{}: gradient {before} → {after}", rule.name);
    });
}
