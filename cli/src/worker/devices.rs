//! `starling worker devices`: what this machine would compute with, and what is missing for more.

use crate::{exit::Failure, output, table};
use serde_json::json;
use worker::engine::cuda::Survey;

/// Looks and prints.
pub(super) fn main(json: bool) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let instructions = worker::engine::instructions();
    let survey = Survey::take();
    let why = match &survey.gpus {
        Ok(_) => "training has no kernels for GPUs yet",
        Err(reason) => reason,
    };
    let kernels = survey.vector_kernels().map_err(str::to_owned);
    if json {
        let gpus = survey.gpus.as_deref().unwrap_or_default().iter().map(|gpu| {
            let (major, minor) = gpu.capability;
            json!({
                "name": gpu.name,
                "compute_capability": format!("{major}.{minor}"),
                "memory_bytes": gpu.memory,
            })
        });
        return output::line(json!({
            "used": "cpu", "why": why, "threads": threads, "instructions": instructions,
            "gpus": gpus.collect::<Vec<_>>(),
            "vector_kernels": state(&kernels.map(|()| "cuda".to_owned())),
            "nvrtc": state(&survey.nvrtc),
            "cublas": state(&survey.cublas),
        }));
    }
    output::line(format!("training uses the cpu: {threads} threads, {instructions}; {why}"))?;
    for (ordinal, gpu) in survey.gpus.iter().flatten().enumerate() {
        let (major, minor) = gpu.capability;
        let memory = table::bytes(gpu.memory);
        output::line(format!("cuda:{ordinal}: {}, compute capability {major}.{minor}, {memory}", gpu.name))?;
    }
    output::line(match kernels {
        Ok(()) => "vector kernels: can run on these (`starling bench kernels --device cuda`)".to_owned(),
        Err(reason) => format!("vector kernels: on the cpu only; {reason}"),
    })?;
    for (library, found) in [("NVRTC", &survey.nvrtc), ("cuBLAS", &survey.cublas)] {
        output::line(match found {
            Ok(what) => format!("{library}: {what}"),
            Err(reason) => format!("{library}: missing; {reason}"),
        })?;
    }
    Ok(())
}

fn state(found: &Result<String, String>) -> serde_json::Value {
    match found {
        Ok(what) => json!({ "found": true, "text": what }),
        Err(reason) => json!({ "found": false, "text": reason }),
    }
}
