//! The measured process: does as many steps as it is asked for and says how long they took.
//!
//! The same protocol as `deploy/pytorch/step.py`: a line that introduces itself, then for each line
//! with a number one line of JSON, until the input ends.

use super::cases::Case;
use crate::{exit::Failure, output, process};
use algorithms::{
    Vector,
    local::{LocalPlan, StepSize, Walk},
};
use serde_json::json;
use std::{io::BufRead, ops::ControlFlow, sync::Arc, thread, time::Instant};
use worker::{
    data::Dataset,
    engine::Model,
    engine::cuda::{Batches, DeviceJob, Placement},
};

/// Serves steps of the case in `text`.
pub(super) fn serve(text: &str) -> Result<(), Failure> {
    let case: Case =
        serde_json::from_str(text).map_err(|error| Failure::usage(format!("--serve: {error}")))?;
    let wrong = |error: String| Failure::usage(format!("--serve: {error}"));
    let (choice, precision) = (case.device.parse().map_err(wrong)?, case.precision.parse().map_err(wrong)?);
    let placement = Placement::open(choice, precision).map_err(Failure::internal)?;
    let model = Model::new(&case.spec, &case.info)
        .map_err(|error| Failure::usage(error.to_string()))?
        .with_threads(case.threads.into())
        .placed(&placement);
    if model.device().is_some() {
        return serve_gpu(&case, &model);
    }
    let batch = case.batch();
    let start = Arc::new(model.initial(1));
    let size = StepSize { lr: 0.01, weight_decay: 0.0, clip: None, compat: false };
    let mut walk = Walk::new(&start, &LocalPlan::default(), size);
    let me = std::process::id();
    let before = process::resident_memory(me).unwrap_or(0);
    process::forget_peak();
    output::line(json!({ "version": env!("CARGO_PKG_VERSION"), "parameters": model.parameters() }))?;
    for line in std::io::stdin().lock().lines() {
        let steps = number(line)?;
        let (mut walls, mut loss) = (Vec::with_capacity(steps), 0.0);
        let used = processor_ms();
        for _ in 0..steps {
            let began = Instant::now();
            loss = walk
                .step(|w, gradient| model.gradient(w, &batch, gradient).map(|outcome| outcome.loss))
                .map_err(|error| Failure::internal(error.to_string()))?;
            walls.push(began.elapsed().as_secs_f64() * 1e3);
        }
        output::line(json!({
            "wall_ms": walls,
            "processor_ms": processor_ms() - used,
            "loss": loss,
            "memory_bytes": process::peak_memory(me).unwrap_or(0).saturating_sub(before),
        }))?;
    }
    Ok(())
}

/// Blocks of steps on a GPU, by `threads` clients side by side, each with weights up and down once a block;
/// each step is said to take its share.
fn serve_gpu(case: &Case, model: &Model) -> Result<(), Failure> {
    let (batch, clients) = (usize::from(case.batch), usize::from(case.threads));
    let examples = Dataset::of_noise(&case.info, batch);
    let indices: Vec<usize> = (0..batch).collect();
    let plan = LocalPlan::default();
    let start = Arc::new(model.initial(1));
    let mut weights = vec![start; clients];
    let size = StepSize { lr: 0.01, weight_decay: 0.0, clip: None, compat: false };
    output::line(json!({ "version": env!("CARGO_PKG_VERSION"), "parameters": model.parameters() }))?;
    for line in std::io::stdin().lock().lines() {
        let steps = number(line)?;
        let used = processor_ms();
        let batches = || {
            let mut batches = Batches::default();
            (0..steps).for_each(|_| batches.push(&examples, &indices, None));
            batches
        };
        let all: Vec<Batches> = weights.iter().map(|_| batches()).collect();
        let began = Instant::now();
        let run = |w: &Vector, batches| {
            let job = DeviceJob { examples: &examples, model: w, plan: &plan, size, batches, eager: false };
            let run = model.run_on_device(&job, &mut |_| ControlFlow::Continue(()));
            let run = run.ok_or_else(|| Failure::internal("the model is not on a GPU"))?;
            run.map_err(Failure::internal)?.ok_or_else(|| Failure::internal("nobody cancels here"))
        };
        let runs = thread::scope(|scope| {
            let started = weights.iter().zip(all).map(|(w, batches)| scope.spawn(|| run(w, batches)));
            let started: Vec<_> = started.collect();
            let ended = started.into_iter().map(|one| one.join().expect("a client does not panic"));
            ended.collect::<Result<Vec<_>, Failure>>()
        })?;
        let share = began.elapsed().as_secs_f64() * 1e3 / (steps * clients) as f64;
        output::line(json!({
            "wall_ms": vec![share; steps],
            "processor_ms": processor_ms() - used,
            "loss": runs.first().and_then(|(_, losses)| losses.last()),
            "memory_bytes": 0,
        }))?;
        weights = runs.into_iter().map(|(run, _)| Arc::new(run.end)).collect();
    }
    Ok(())
}

fn number(line: std::io::Result<String>) -> Result<usize, Failure> {
    let line = line.map_err(|error| Failure::internal(format!("cannot read stdin: {error}")))?;
    line.trim().parse().map_err(|_| Failure::usage(format!("`{line}`: expected a number of steps")))
}

/// Processor time of all threads so far.
fn processor_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
