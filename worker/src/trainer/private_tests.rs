//! Noise on workers: that it is what was promised, that an audit finds it when it is not, and that nothing
//! else of the data shows.

use super::super::*;
use super::*;
use crate::{
    data::{Dataset, Source, Split},
    engine::Model,
};
use algorithms::{LocalRun, MODEL, local::LocalPlan};
use privacy::{
    Mu, Probability,
    audit::{Distinguished, distinguish, refutes},
};
use std::ops::ControlFlow;

const TRIALS: u64 = 3_000;

fn spec(kind: &str, (clip, z): (f64, f64), more: &str) -> RunSpec {
    let (unit, adjacency, sampling) = match kind {
        "dp_sgd" => ("record", "zero_out", "kind='everyone'"),
        _ => ("client", "replace_one", "kind='everyone'"),
    };
    let sampling =
        if more.contains("sampling") { String::new() } else { format!("sampling={{{sampling}}}\n") };
    let text = format!(
        "name='p'\nrounds=1\n[model]\nkind='linear'\n[data]\nname='d'\n[local]\nsteps=2\nlr=0.1\n[privacy]\n\
         unit='{unit}'\nadjacency='{adjacency}'\nmechanism='{kind}'\nclip_norm={clip}\nnoise_multiplier={z}\n\
         delta=1e-5\n{sampling}{more}"
    );
    RunSpec::from_toml(&text).unwrap()
}

fn promise(spec: &RunSpec, length: usize) -> Arc<Promise> {
    let algorithm = spec.algorithm.make().unwrap();
    Arc::new(Promise::of(spec, algorithm.as_ref(), length).unwrap().unwrap())
}

/// A key that no other number gives.
fn key(number: u64) -> Key {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Key::new(bytes)
}

/// Records of two features: bystanders, and a canary whose first feature is `canary`.
fn records(canary: f32) -> Dataset {
    let mut values = vec![canary, 0.0];
    for i in 0..5_u8 {
        values.extend([0.0, 0.1 * f32::from(i)]);
    }
    let labels = vec![0, 1, 0, 1, 0, 1];
    let owners = vec![0; labels.len()];
    Dataset::of_features((2, 2), values, labels, owners)
}

fn model(data: &Dataset) -> Model {
    Model::new(&proto::spec::ModelSpec::Linear {}, data.info()).unwrap()
}

/// What an attacker gets right about a mechanism that claims multiplier 1 at norm 1 and has `actual`.
fn audit((kind, score): (&str, Score), actual: (f64, f64)) -> Distinguished {
    let data = records(1.0);
    let spec = spec(kind, actual, "");
    let promise = promise(&spec, model(&data).parameters());
    let all = |with: bool| -> Vec<f64> {
        let one = |trial| score(with, &Private::new(Arc::clone(&promise), key(trial << 1 | u64::from(with))));
        (0..TRIALS).map(one).collect()
    };
    distinguish(&all(true), &all(false), 1e-5, Probability::new(0.99).unwrap()).unwrap()
}

/// What the attacker sees of a release, in the direction in which the two data sets differ.
type Score = fn(bool, &Private) -> f64;

/// One gradient of DP-SGD; without the canary its record counts as zero.
fn score_of_step(with: bool, private: &Private) -> f64 {
    let data = records(if with { 1e4 } else { f32::NAN });
    let model = model(&data);
    let zero = vec![0.0; model.parameters()];
    let (mut grad, mut direction) = (zero.clone(), zero.clone());
    NoisySteps::new(private, &model, &data).unwrap().gradient(&zero, &mut grad).unwrap();
    let canary = records(1e4).batch(&[0], None);
    model.clipped_gradient(&zero, &canary, 1.0, &mut direction).unwrap();
    grad.iter().zip(&direction).map(|(g, u)| f64::from(g * u)).sum()
}

/// An upload under local privacy: one of two opposite ones, both too long.
fn score_of_upload(with: bool, private: &Private) -> f64 {
    let value = if with { 4.0 } else { -4.0 };
    let mut upload = Vectors::from([("delta".to_owned(), Arc::new(vec![value, 0.0, 0.0, 0.0, 0.0, 0.0]))]);
    private.seal(&[]).close(&mut upload).unwrap();
    f64::from(upload["delta"][0])
}

#[test]
fn an_audit_passes_the_mechanisms_and_catches_broken_ones() {
    // One record moves the sum by the norm, a client that is replaced by twice the norm.
    for (mechanism, mu) in
        [(("dp_sgd", score_of_step as Score), 1.0), (("local_gaussian", score_of_upload as Score), 2.0)]
    {
        let claimed = Mu::new(mu).unwrap();
        let sound = audit(mechanism, (1.0, 1.0));
        assert!(!refutes(sound, claimed) && sound.mu > 0.7 * mu, "{sound:?}");
        let half_noise = audit(mechanism, (1.0, 0.5));
        assert!(refutes(half_noise, claimed), "{half_noise:?}");
        // The noise that is right for norm 1, on contributions that are clipped at 3.
        let no_clip = audit(mechanism, (3.0, 1.0 / 3.0));
        assert!(refutes(no_clip, claimed), "{no_clip:?}");
    }
}

#[test]
fn the_noise_on_a_step_has_the_deviation_that_is_paid_for() {
    // By 32 bits a draw, and too wide for them.
    for multiplier in [3.0, 300.0] {
        let data = records(f32::NAN);
        let spec = spec("dp_sgd", (0.5, multiplier), "");
        let model = model(&data);
        let promise = promise(&spec, model.parameters());
        let (mut sum, mut squares, mut count) = (vec![0.0; model.parameters()], 0.0, 0.0);
        let mut draws = Vec::new();
        for trial in 0..1_000 {
            let private = Private::new(Arc::clone(&promise), key(trial));
            let mut steps = NoisySteps::new(&private, &model, &data).unwrap();
            let mut grad = vec![0.0; sum.len()];
            steps.gradient(&vec![0.0; grad.len()], &mut grad).unwrap();
            sum.iter_mut().zip(&grad).for_each(|(s, g)| *s += f64::from(*g));
            draws.push(grad);
        }
        for grad in &draws {
            for (g, s) in grad.iter().zip(&sum) {
                squares += (f64::from(*g) - s / 1_000.0).powi(2);
                count += 1.0;
            }
        }
        // σ = z · C / n; 6,000 draws are within 5 % of it at five sigma.
        let deviation = (squares / count).sqrt();
        assert!((deviation / (multiplier * 0.5 / 6.0) - 1.0).abs() < 0.05, "{deviation}");
    }
}

/// On two threads of the engine shards are noised side by side.
#[test]
fn steps_of_several_shards_are_the_same_on_any_threads() {
    let data = Source::Digits { train: 90, test: 10, seed: 1 }.load(Split::Train, 80).unwrap();
    let kind = proto::spec::ModelSpec::Mlp { hidden: vec![100] };
    let gradient = |threads| {
        let model = Model::new(&kind, data.info()).unwrap().with_threads(threads);
        assert!(model.parameters() > SHARD);
        let promise = promise(&spec("dp_sgd", (1.0, 1.0), ""), model.parameters());
        let private = Private::new(promise, key(3));
        let mut steps = NoisySteps::new(&private, &model, &data).unwrap();
        let (w, mut grad) = (model.initial(1), vec![0.0; model.parameters()]);
        steps.gradient(&w, &mut grad).unwrap();
        grad
    };
    assert_eq!(gradient(1), gradient(2));
}

#[test]
fn records_are_drawn_at_their_rate_and_the_denominator_stays() {
    // With little noise a step is the sum of those who were drawn over q·n.
    let sampling = "sampling={kind='poisson',rate=0.25}\n";
    let spec = spec("dp_sgd", (1.0, 0.05), sampling);
    let data = Source::Digits { train: 40, test: 10, seed: 1 }.load(Split::Train, 80).unwrap();
    let model = model(&data);
    let promise = promise(&spec, model.parameters());
    let w = model.initial(3);
    let mut whole = vec![0.0; w.len()];
    let all: Vec<usize> = (0..data.len()).collect();
    model.clipped_gradient(&w, &data.batch(&all, None), 1.0, &mut whole).unwrap();
    let mut mean = vec![0.0_f64; w.len()];
    let mut grad = vec![0.0; w.len()];
    let steps_each = 400;
    let private = Private::new(promise, key(1));
    let mut steps = NoisySteps::new(&private, &model, &data).unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for _ in 0..steps_each {
        steps.gradient(&w, &mut grad).unwrap();
        mean.iter_mut().zip(&grad).for_each(|(m, g)| *m += f64::from(*g) / f64::from(steps_each));
        lengths.insert(algorithms::local::norm(&grad).to_bits());
    }
    assert!(lengths.len() > 390, "each step draws anew");
    let dot: f64 = mean.iter().zip(&whole).map(|(m, g)| m * f64::from(*g) / 40.0).sum();
    let square: f64 = whole.iter().map(|g| (f64::from(*g) / 40.0).powi(2)).sum();
    assert!((dot / square - 1.0).abs() < 0.1, "{}", dot / square);
}

fn job(spec: &RunSpec, private: Option<Private>, w: Vec<f32>) -> TrainJob {
    TrainJob {
        spec: Arc::new(spec.clone()),
        round: 0,
        lr: 0.1,
        model: Arc::new(w),
        plan: LocalPlan::default(),
        private,
    }
}

#[test]
fn a_local_run_is_a_function_of_its_secret_and_tells_no_loss() {
    let data = Source::Digits { train: 40, test: 10, seed: 1 }.load(Split::Train, 80).unwrap();
    let spec = spec("dp_sgd", (1.0, 1.0), "sampling={kind='poisson',rate=0.25}\n");
    let model = model(&data);
    let promise = promise(&spec, model.parameters());
    let run = |number: u64| {
        let private = Private::new(Arc::clone(&promise), key(number));
        let job = job(&spec, Some(private), model.initial(3));
        local_run(&model, &data, &job, "w", &mut |_| ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).run.end, run(2).run.end);
    assert_eq!((run(1).loss, run(1).run.steps), (0.0, 2));
    let mut job = job(&spec, Some(Private::new(Arc::clone(&promise), key(1))), model.initial(3));
    job.plan.start_loss = true;
    let refused = local_run(&model, &data, &job, "w", &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(refused.to_string().contains("does not pay for"), "{refused}");
}

#[test]
fn a_failed_run_under_local_privacy_looks_like_any_other() {
    let spec = spec("local_gaussian", (1.0, 2.0), "");
    let algorithm = spec.algorithm.make().unwrap();
    let down = Vectors::from([(MODEL.to_owned(), Arc::new(vec![0.5; 4]))]);
    let private = Private::new(promise(&spec, 4), key(1));
    let finish = |trained, seal: Seal<'_>| {
        finish(algorithm.as_ref(), trained, (&down, &Vectors::new()), ((0, seal), None), &mut |_| ())
    };
    let run = |end: f32| LocalRun::new(Arc::clone(&down[MODEL]), vec![end; 4], 2, 0.1);
    let failed = || Err(TrainError::Training("the loss became infinite".into()));
    let zero = finish(failed(), private.seal(&[])).unwrap().upload;
    assert_eq!(finish(Ok(run(f32::NAN)), private.seal(&[])).unwrap().upload, zero);
    assert_eq!(finish(Ok(run(0.5)), private.seal(&[])).unwrap().upload, zero, "a run that did not move");
    assert!(zero["delta"].iter().all(|x| *x != 0.0 && x.is_finite()));
    assert_ne!(finish(Ok(run(0.6)), private.seal(&[])).unwrap().upload, zero);
    // Who trusts the coordinator may be told.
    assert!(finish(failed(), Seal::Open).is_err());
    let cancelled = finish(Err(TrainError::Cancelled), private.seal(&[]));
    assert_eq!(cancelled.unwrap_err(), TrainError::Cancelled);
}
