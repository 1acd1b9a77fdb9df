//! The measured process: does as many steps as it is asked for and says how long they took.
//!
//! The same protocol as `deploy/pytorch/step.py`: a line that introduces itself, then for each line
//! with a number one line of JSON, until the input ends.

use super::cases::Case;
use crate::{exit::Failure, output, process};
use algorithms::local::{LocalPlan, StepSize, Walk};
use serde_json::json;
use std::{io::BufRead, sync::Arc, time::Instant};
use worker::engine::Model;

/// Serves steps of the case in `text`.
pub(super) fn serve(text: &str) -> Result<(), Failure> {
    let case: Case =
        serde_json::from_str(text).map_err(|error| Failure::usage(format!("--serve: {error}")))?;
    let model = Model::new(&case.spec, &case.info)
        .map_err(|error| Failure::usage(error.to_string()))?
        .with_threads(case.threads.into());
    let batch = case.batch();
    let start = Arc::new(model.initial(1));
    let size = StepSize { lr: 0.01, weight_decay: 0.0, clip: None, compat: false };
    let mut walk = Walk::new(&start, &LocalPlan::default(), size);
    let me = std::process::id();
    let before = process::resident_memory(me).unwrap_or(0);
    process::forget_peak();
    output::line(json!({ "version": env!("CARGO_PKG_VERSION"), "parameters": model.parameters() }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::internal(format!("cannot read stdin: {error}")))?;
        let steps: usize = line
            .trim()
            .parse()
            .map_err(|_| Failure::usage(format!("`{line}`: expected a number of steps")))?;
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

/// Processor time of all threads so far.
fn processor_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
