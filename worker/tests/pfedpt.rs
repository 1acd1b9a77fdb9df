//! pFedPT against an independent float64 reference (`fixtures/pfedpt.py`): a worker's two rounds of prompt and
//! network, and nothing of the prompt in what it sends.

use algorithms::{
    Algorithm, MODEL, Vector, Vectors,
    local::{StepSize, Walk},
    personal::{OWN, Own},
};
use proto::spec::RunSpec;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};
use worker::{
    data::{Batch, DataInfo, Inputs},
    engine::{EngineError, Model},
    trainer::{LocalResult, Outgoing, Seal, TrainError, TrainJob, Turn, Way, outgoing},
};

const RUN: &str = "name='p'\nrounds=2\n[model]\nkind='prompted'\npadding=2\nbase={kind='lenet'}\n[data]\nname='d'\n\
                   [local]\nsteps=2\nbatch=6\nlr=0.05\n[personal]\ntensors=['prompt.*']\norder='alternate'\nsteps=3\n\
                   lr=1.0\nmomentum=0.5\n";
const INFO: DataInfo = DataInfo::Images { channels: 1, height: 12, width: 12, classes: 4 };

#[derive(Debug, Deserialize)]
struct Reference {
    parameters: usize,
    rounds: Vec<Round>,
}

#[derive(Debug, Deserialize)]
struct Round {
    losses: Vec<f64>,
    prompt: Vec<f64>,
    every_97th: Vec<f64>,
}

fn batch() -> Batch {
    let pixel = |n: usize, at: usize| (0.31 * at as f64 + 1.7 * n as f64).sin() as f32;
    let inputs = (0..6).flat_map(|n| (0..144).map(move |at| pixel(n, at))).collect();
    Batch { size: 6, inputs: Inputs::Dense(inputs), labels: (0..6).map(|n| n % 4).collect() }
}

/// A local run on always the same batch, and the losses of its steps.
fn run(model: &Model, job: &TrainJob, losses: &mut Vec<f64>) -> Result<LocalResult, TrainError> {
    let size = StepSize { lr: job.lr, weight_decay: 0.0, clip: None, compat: false };
    let mut walk = Walk::new(&job.model, &job.plan, size);
    for _ in 0..job.spec.local.steps.expect("steps are given") {
        let loss = walk.step(|w, grad| Ok::<_, EngineError>(model.gradient(w, &batch(), grad)?.loss));
        losses.push(loss.map_err(|error| TrainError::Training(error.to_string()))?);
    }
    Ok(LocalResult { run: walk.finish(), examples: 6, loss: 0.0 })
}

fn near(found: &[f32], want: &[f64], before: &[f32], what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    let pairs = || found.iter().zip(want).zip(before);
    let moved = pairs().map(|((_, want), before)| (want - f64::from(*before)).abs()).fold(0.0, f64::max);
    let off = pairs().map(|((found, want), _)| (want - f64::from(*found)).abs()).fold(0.0, f64::max);
    // Single precision: of numbers around 1, and of changes of a hundredth.
    assert!(moved > 1e-4 && off < 2e-3 * moved + 2e-6, "{what}: off by {off}, moved by {moved}");
}

fn every(w: &[f32], until: usize) -> Vec<f32> {
    w[..until].iter().step_by(97).copied().collect()
}

#[test]
fn prompts_follow_the_reference_and_stay_at_home() {
    let reference: Reference =
        serde_json::from_str(include_str!("fixtures/pfedpt.json")).expect("the fixture");
    let spec = Arc::new(RunSpec::from_toml(RUN).expect("a run file"));
    let model = Model::new(&spec.model, &INFO).expect("a prompted LeNet");
    let (d, all) = (reference.parameters, model.parameters());
    assert_eq!(all - d, 80, "2p(2S − 2p)");
    let own =
        Own::new(&["prompt.*".to_owned()], &model.named_lengths()).expect("there are such").expect("some");
    assert_eq!(own.own().as_ref(), std::slice::from_ref(&(d..all)));
    let rule = spec.algorithm.make().expect("FedAvg");
    let algorithm: &dyn Algorithm = rule.as_ref();
    let mut w: Vec<f32> = (0..d).map(|i| (0.15 * (0.73 * i as f64 + 0.4).sin()) as f32).collect();
    w.extend((0..80).map(|i| (1.3 * f64::from(i)).cos() as f32));
    let mut server: Vector = Arc::new(w);
    let mut state = Vectors::new();
    for (round, want) in (0..).zip(&reference.rounds) {
        let before = (state.get(OWN).map_or(server[d..].to_vec(), |own| own.to_vec()), every(&server, d));
        let turn = Turn { spec: &spec, algorithm, own: Some(&own), round, lr: 0.05, private: None };
        let mut losses = Vec::new();
        let down: Vectors = BTreeMap::from([(MODEL.to_owned(), Arc::clone(&server))]);
        let trained = turn.train(down, &state, &mut |job| run(&model, job, &mut losses));
        let way = Way { round, seal: Seal::Open, packing: None, own: Some((&own, &trained.kept)) };
        let result = trained.result.map(|result| result.run);
        let Outgoing { payload, next, .. } =
            outgoing(algorithm, result, (&trained.down, &state), &way, &mut |_| ()).expect("an update");
        assert_eq!(payload.len(), 1, "one vector travels");
        let delta = payload.values().next().expect("the change of the model");
        assert!(delta[d..].iter().all(|x| x.to_bits() == 0), "nothing of the prompt");
        assert!(delta[..d].iter().any(|x| *x != 0.0));
        server = Arc::new(server.iter().zip(delta.iter()).map(|(w, delta)| w + delta).collect());
        near(&next[OWN], &want.prompt, &before.0, "prompt");
        near(&every(&server, d), &want.every_97th, &before.1, "network");
        for (found, want) in losses.iter().zip(&want.losses) {
            assert!((found - want).abs() < 1e-5, "{losses:?}");
        }
        assert_eq!(losses.len(), 5);
        state = next;
    }
    assert_eq!(reference.rounds.len(), 2);
}
