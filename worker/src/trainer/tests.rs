//! Local runs on drawn digits and bare vectors: determinism, cancellation, refusals.

use super::super::*;
use super::*;
use crate::{Share, data::Source};
use algorithms::local::{LocalPlan, Probe};
use std::{ops::ControlFlow, sync::Arc};

fn spec(extra: &str) -> RunSpec {
    let text = format!("name='r'\nrounds=2\nseed=3\n[data]\nname='digits'\n{extra}");
    RunSpec::from_toml(&text).unwrap()
}

const LINEAR: &str = "augment=true\n[model]\nkind='linear'\n[local]\nbatch=16\nepochs=2\nlr=0.01\n";
const DIVIDED: &str = "partition={kind='iid'}\n[model]\nkind='linear'\n[local]\nbatch=16\nsteps=3\n";

fn trainer(share: Option<Share>) -> EngineTrainer {
    let mut config = Config::new("w1".parse().unwrap());
    config.threads = 1;
    config.share = share;
    config.datasets.insert("digits".into(), Source::Digits { train: 100, test: 40, seed: 1 });
    EngineTrainer::new(&config)
}

fn job(trainer: &mut EngineTrainer, spec: RunSpec, round: u64) -> TrainJob {
    let length = trainer.prepare(&spec).unwrap();
    let lr = spec.lr(round);
    TrainJob {
        spec: Arc::new(spec),
        round,
        lr,
        model: Arc::new(vec![0.0; length]),
        plan: LocalPlan::default(),
        private: None,
    }
}

fn go(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_local_run_learns_and_repeats_to_the_bit() {
    let mut trainer = trainer(None);
    let job = job(&mut trainer, spec(LINEAR), 0);
    let mut reports = Vec::new();
    let first = trainer
        .train(&job, &mut |progress| {
            reports.push(progress);
            go(progress)
        })
        .unwrap();
    // Two epochs of 100 examples in batches of 16, the last of which holds 4.
    assert_eq!((first.run.steps, first.examples, reports.len()), (14, 100, 14));
    assert_eq!(reports[13], Progress { done: 14, due: 14 });
    assert!(first.loss > 0.0 && first.loss < 10.0_f64.ln(), "{}", first.loss);
    assert_eq!(trainer.train(&job, &mut go).unwrap(), first);
    let later = TrainJob { round: 1, ..job.clone() };
    assert_ne!(trainer.train(&later, &mut go).unwrap().run.end, first.run.end);
    let scored = EvaluateJob { spec: Arc::clone(&job.spec), model: Arc::new(first.run.end) };
    let scores = trainer.evaluate(&scored, &mut go).unwrap();
    assert_eq!(scores.predictions, 40);
    let before = EvaluateJob { model: Arc::clone(&job.model), ..scored };
    assert!(scores.loss_sum < trainer.evaluate(&before, &mut go).unwrap().loss_sum);
}

#[test]
fn a_cancelled_run_stops_at_the_next_step() {
    let mut trainer = trainer(None);
    let job = job(&mut trainer, spec(LINEAR), 0);
    let mut steps = 0;
    let result = trainer.train(&job, &mut |_| {
        steps += 1;
        if steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((result, steps), (Err(TrainError::Cancelled), 3));
}

#[test]
fn shares_divide_the_data_and_need_a_share() {
    let mut sum = 0;
    for index in 0..3 {
        let mut trainer = trainer(Some(Share { index, of: 3 }));
        let job = job(&mut trainer, spec(DIVIDED), 0);
        let result = trainer.train(&job, &mut go).unwrap();
        assert_eq!(result.run.steps, 3);
        sum += result.examples;
    }
    assert_eq!(sum, 100);
    let error = trainer(None).prepare(&spec(DIVIDED)).unwrap_err();
    assert_eq!(error.decline(), Some(DeclineReason::Data));
    assert!(error.to_string().contains("no `share`"), "{error}");
}

#[test]
fn what_is_not_here_is_named() {
    let mut unknown = spec(LINEAR);
    unknown.data.name = "digit".into();
    let error = trainer(None).prepare(&unknown).unwrap_err().to_string();
    assert!(error.contains("`digit`") && error.contains("did you mean `digits`"), "{error}");
    let text = spec("[model]\nkind='char-lstm'\n");
    assert_eq!(trainer(None).prepare(&text).unwrap_err().decline(), Some(DeclineReason::Model));
}

#[test]
fn a_diverging_run_is_declined() {
    let mut trainer = trainer(None);
    let mut job = job(&mut trainer, spec(LINEAR), 0);
    job.lr = f32::MAX;
    let error = trainer.train(&job, &mut go).unwrap_err();
    assert_eq!(error.decline(), Some(DeclineReason::Training));
    assert!(error.to_string().contains("learning rate"), "{error}");
}

#[test]
fn a_flat_model_needs_no_data_and_moves_every_round() {
    let mut flat = spec("[model]\nkind='flat'\nparameters=10000\n");
    flat.data.name = "nowhere".into();
    let mut trainer = trainer(None);
    let job = job(&mut trainer, flat, 0);
    let first = trainer.train(&job, &mut go).unwrap();
    assert_eq!((first.run.end.len(), first.examples), (10_000, 1));
    assert!(first.run.end.iter().all(|value| (0.0..=1e-3).contains(value)));
    assert_eq!(trainer.train(&job, &mut go).unwrap(), first);
    assert_ne!(trainer.train(&TrainJob { round: 1, ..job }, &mut go).unwrap().run.end, first.run.end);
}

/// The end of a run by that plan.
fn end_of(plan: LocalPlan) -> Vec<f32> {
    let mut trainer = trainer(None);
    let mut job = job(&mut trainer, spec(LINEAR), 0);
    job.plan = plan;
    trainer.train(&job, &mut go).unwrap().run.end
}

#[test]
fn a_plan_says_where_gradients_are_taken() {
    let plain = end_of(LocalPlan::default());
    let ascent = |rho| LocalPlan { probe: Probe::Ascent { rho }, ..LocalPlan::default() };
    // Too small to move a weight: the second pass is on the same mini-batch, or this would differ.
    assert_eq!(end_of(ascent(1e-30)), plain);
    let perturbed = end_of(ascent(0.5));
    assert_ne!(perturbed, plain);
    assert_eq!(end_of(ascent(0.5)), perturbed);
}

#[test]
fn a_plan_says_where_a_run_starts_and_what_is_measured() {
    let mut trainer = trainer(None);
    let mut job = job(&mut trainer, spec(LINEAR), 0);
    job.plan.start_loss = true;
    let run = trainer.train(&job, &mut go).unwrap().run;
    // Zero weights give every one of ten digits the same chance.
    assert!((run.start_loss.unwrap() - 10.0_f64.ln()).abs() < 1e-5, "{:?}", run.start_loss);
    assert_eq!(run.start, job.model);
    job.plan = LocalPlan { offset: Some(Arc::new(vec![0.01; job.model.len()])), ..LocalPlan::default() };
    let moved = trainer.train(&job, &mut go).unwrap().run;
    assert!(moved.start.iter().all(|w| *w == 0.01) && moved.start_loss.is_none());
    assert_ne!(moved.end, run.end);
}

fn trained(keys: &str, round: u64) -> LocalResult {
    let mut trainer = trainer(None);
    let job = job(&mut trainer, spec(&[LINEAR, keys].concat()), round);
    trainer.train(&job, &mut go).unwrap()
}

#[test]
fn parts_of_a_mini_batch_add_up_to_it() {
    let whole = trained("", 0);
    assert_eq!(trained("accumulate=1\n", 0), whole);
    // Augmentation is on: the draws do not depend on the parts. The last batch of an epoch has 4 examples.
    for parts in [2, 3, 16] {
        let got = trained(&format!("accumulate={parts}\n"), 0);
        assert_eq!(got.run.steps, whole.run.steps);
        assert!((got.loss - whole.loss).abs() < 1e-6, "{} {}", got.loss, whole.loss);
        let off = got.run.end.iter().zip(&whole.run.end).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{parts} parts: {off}");
        assert_ne!(got.run.end, whole.run.end, "{parts} parts were not computed apart");
    }
}

#[test]
fn batches_grow_with_the_rounds() {
    let grown = "growth={kind='step',every=1,factor=2.0,max=32}\n";
    assert_eq!(trained(grown, 0), trained("", 0));
    let (second, wide) = (trained(grown, 1), trained("", 1));
    // Two epochs of 100 examples: in batches of 16 in round 0, of 32 in round 1.
    assert_eq!((wide.run.steps, second.run.steps), (14, 8));
    assert_eq!(trained("growth={kind='linear',add=0,max=16}\n", 1), wide);
}
