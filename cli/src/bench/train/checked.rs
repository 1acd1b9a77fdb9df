//! Whether a GPU computes what the CPU does.

use crate::{
    exit::{Code, Failure},
    output,
};
use serde_json::json;
use worker::engine::cuda::{self, Choice, Finding};

/// Compares; with `json` a line for each comparison, else for each that fails.
pub(super) fn check(choice: Choice, json: bool) -> Result<(), Failure> {
    let choice = if let Choice::Cuda(_) = choice { choice } else { Choice::Cuda(0) };
    let device = choice.open().map_err(|reason| Failure::new(Code::NotFound, reason))?;
    let device = device.ok_or_else(|| Failure::internal("the GPU was asked for by number"))?;
    let mut findings: Vec<Finding> = Vec::new();
    cuda::check(&device, &mut |finding| {
        let good = finding.is_good();
        if json {
            let Finding { what, error, limit, failure } = &finding;
            let line =
                json!({ "what": what, "error": error, "limit": limit, "failure": failure, "good": good });
            let _ = output::line(line);
        } else if !good {
            output::note(describe(&finding));
        }
        findings.push(finding);
    });
    let bad = findings.iter().filter(|finding| !finding.is_good()).count();
    let worst = |precision: &str| {
        let of = findings.iter().filter(|f| f.is_good() && f.what.ends_with(precision));
        of.map(|f| f.error).fold(0.0, f64::max)
    };
    let text = format!(
        "{} comparisons on {}: {bad} differ; largest error that passes: f32 {:.1e}, tf32 {:.1e}, bf16 {:.1e}",
        findings.len(),
        device.name(),
        worst(", f32"),
        worst(", tf32"),
        worst(", bf16")
    );
    if bad > 0 {
        return Err(Failure::new(Code::Failed, text));
    }
    if json { Ok(()) } else { output::line(text) }
}

fn describe(finding: &Finding) -> String {
    let Finding { what, error, limit, failure } = finding;
    match failure {
        Some(failure) => format!("{what}: {failure}"),
        None => format!("{what}: error {error:.2e}, at most {limit:.0e}"),
    }
}
