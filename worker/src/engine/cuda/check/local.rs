//! Whole local runs by every kind of plan against `Walk` on the CPU, and what must be the same bytes: a run
//! again, a run without captured graphs, runs side by side.

use super::super::device::Device;
use super::super::lanes::{Batches, DeviceJob, DeviceRun};
use super::super::placement::{Placement, Precision};
use super::{Finding, error, finding, numbers};
use crate::data::{DataInfo, Dataset, stream};
use crate::engine::{EngineError, Model};
use algorithms::local::{LocalPlan, Probe, StepSize, Update, Walk};
use algorithms::{Vector, personal::Ranges};
use proto::spec::ModelSpec;
use std::ops::ControlFlow;
use std::sync::Arc;

const SIZE: StepSize = StepSize { lr: 0.05, weight_decay: 0.01, clip: None, compat: false };
/// Examples of each batch: the last of an epoch is smaller.
const BATCHES: [&[usize]; 4] =
    [&[3, 1, 4, 15, 9, 2, 6], &[5, 35, 8, 9, 7, 9, 3], &[2, 3, 8], &[4, 6, 2, 6, 4, 3, 3]];

fn plans(d: usize) -> Vec<(&'static str, LocalPlan, StepSize)> {
    let vector = |stream| Arc::new(numbers(d, stream).into_iter().map(|v| 0.01 * v).collect::<Vec<_>>());
    let positive = || Arc::new(numbers(d, 35).into_iter().map(|v| 0.1 + v.abs()).collect::<Vec<_>>());
    let plain = LocalPlan::default;
    let clipped = StepSize { clip: Some(0.5), ..SIZE };
    let with = |probe| LocalPlan { probe, ..plain() };
    let corrected = LocalPlan {
        grad_scale: 0.7,
        shift: Some(vector(31)),
        prox: 0.1,
        offset: Some(vector(32)),
        ..plain()
    };
    let update =
        Update::Amsgrad { beta1: 0.9, beta2: 0.99, mix: 0.1, second: positive(), global: vector(36) };
    let frozen: Ranges = [3..d / 3, d / 2..d - 5].into();
    let dynamic = Probe::Dynamic { rho: 0.05, dual: vector(33), anchor: vector(34) };
    vec![
        ("sgd", plain(), SIZE),
        ("shift, prox, scale, offset, start loss", LocalPlan { start_loss: true, ..corrected.clone() }, SIZE),
        ("clip", corrected.clone(), clipped),
        ("clip, compat", corrected.clone(), StepSize { compat: true, ..clipped }),
        ("fixed probe", with(Probe::Fixed(vector(37))), SIZE),
        ("sam", with(Probe::Ascent { rho: 0.1 }), clipped),
        ("merged", with(Probe::Merged { rho: 0.1, merge: 0.6 }), SIZE),
        ("dynamic", LocalPlan { shift: Some(vector(38)), ..with(dynamic) }, SIZE),
        ("heavy ball", LocalPlan { update: Update::HeavyBall { momentum: 0.9 }, ..plain() }, SIZE),
        ("sparse", LocalPlan { update: Update::Sparse { threshold: 0.1 }, ..plain() }, SIZE),
        ("frozen", LocalPlan { frozen: Some(frozen), ..corrected.clone() }, clipped),
        ("amsgrad", LocalPlan { update, ..corrected }, clipped),
    ]
}

struct Setting {
    cpu: Model,
    gpu: Model,
    examples: Dataset,
    start: Vector,
}

impl Setting {
    fn new(device: &Arc<Device>, spec: &ModelSpec, examples: Dataset) -> Result<Self, EngineError> {
        let cpu = Model::new(spec, examples.info())?;
        let placement = Placement::on(device, Precision::F32);
        let gpu = Model::new(spec, examples.info())?.placed(&placement);
        let start = Arc::new(cpu.initial(5));
        Ok(Self { cpu, gpu, examples, start })
    }

    /// On the CPU: the end, the last loss and what is carried.
    fn walk(&self, plan: &LocalPlan, size: StepSize) -> Result<(Vec<f32>, f64, Vec<Vector>), EngineError> {
        let mut walk = Walk::new(&self.start, plan, size);
        let (mut rng, mut loss) = (stream("check", &[]), 0.0);
        for indices in BATCHES {
            let batch = self.examples.batch(indices, Some(&mut rng));
            loss = walk.step(|w, grad| self.cpu.gradient(w, &batch, grad))?.loss;
        }
        let run = walk.finish();
        Ok((run.end, loss, run.carried.into_values().collect()))
    }

    fn run(&self, plan: &LocalPlan, size: StepSize, eager: bool) -> Result<DeviceRun, EngineError> {
        let (mut batches, mut rng) = (Batches::default(), stream("check", &[]));
        for indices in BATCHES {
            batches.push(&self.examples, indices, Some(&mut rng));
        }
        let job = DeviceJob { examples: &self.examples, model: &self.start, plan, size, batches, eager };
        let run = self.gpu.run_on_device(&job, &mut |_| ControlFlow::Continue(()));
        let missing = || EngineError::Device("the model is not on a GPU".into());
        run.ok_or_else(missing)??.ok_or_else(|| EngineError::Device("cancelled".into()))
    }

    /// The error of the change of the weights, of the last loss and of what is carried.
    fn compare(&self, plan: &LocalPlan, size: StepSize) -> Result<f64, EngineError> {
        let (end, loss, carried) = self.walk(plan, size)?;
        let (run, losses) = self.run(plan, size, false)?;
        let moved =
            |end: &[f32]| -> Vec<f32> { end.iter().zip(run.start.iter()).map(|(e, s)| e - s).collect() };
        let mut worst = error(&moved(&run.end), &moved(&end));
        worst = worst.max((losses.last().copied().unwrap_or(f64::NAN) - loss).abs() / loss);
        for (got, want) in run.carried.values().zip(&carried) {
            worst = worst.max(error(got, want));
        }
        if run.carried.len() != carried.len() || run.start_loss.is_some() != plan.start_loss {
            return Err(EngineError::Device("what is carried differs".into()));
        }
        if let Some(start_loss) = run.start_loss {
            let all: Vec<usize> = (0..self.examples.len()).collect();
            let want = self.cpu.evaluate(&run.start, &self.examples.batch(&all, None))?.loss;
            worst = worst.max((start_loss - want).abs() / want);
        }
        Ok(worst)
    }

    /// 0 if a run, the run again, the run without graphs and three runs side by side are the same bytes.
    fn repeat(&self, plan: &LocalPlan, size: StepSize) -> Result<f64, EngineError> {
        let first = self.run(plan, size, false)?;
        let mut same = first == self.run(plan, size, false)? && first == self.run(plan, size, true)?;
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| self.run(plan, size, false))).collect();
            for run in runs {
                same &= run.join().is_ok_and(|run| run.is_ok_and(|run| run == first));
            }
        });
        Ok(if same { 0.0 } else { 1.0 })
    }
}

/// All plans and, with one of them, all kinds of data.
pub(super) fn check(device: &Arc<Device>, tell: &mut dyn FnMut(Finding)) {
    let colours = DataInfo::Images { channels: 3, height: 9, width: 8, classes: 4 };
    let settings = [
        ("cnn", ModelSpec::Cnn {}, colours),
        ("mlp", ModelSpec::Mlp { hidden: vec![7] }, DataInfo::Features { dimension: 6, classes: 3 }),
        (
            "char-gpt",
            ModelSpec::CharGpt { width: 6, heads: 2, layers: 1 },
            DataInfo::Text { vocabulary: 11, sequence: 7 },
        ),
    ];
    for (name, spec, info) in settings {
        let setting = match Setting::new(device, &spec, Dataset::of_noise(&info, 40)) {
            Ok(setting) => setting,
            Err(failure) => {
                tell(finding(format!("local runs of {name}"), 0.0, Err(failure)));
                continue;
            }
        };
        let every = plans(setting.start.len());
        let some = if name == "cnn" { every.len() } else { 2 };
        for (plan_name, plan, size) in every.into_iter().take(some) {
            let what = format!("local run of {name}, {plan_name}");
            tell(finding(what.clone(), 1e-4, setting.compare(&plan, size)));
            tell(finding(format!("{what}: same bytes"), 0.0, setting.repeat(&plan, size)));
        }
    }
}
