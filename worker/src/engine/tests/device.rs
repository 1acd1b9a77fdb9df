//! Every operation, every model and every plan on a GPU, where there is one.

use crate::engine::cuda::{Choice, Finding, check};

#[test]
fn a_gpu_computes_what_the_cpu_does() {
    let device = match Choice::Cuda(0).open() {
        Ok(device) => device.unwrap(),
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let mut findings = Vec::new();
    check(&device, &mut |finding| findings.push(finding));
    let bad: Vec<&Finding> = findings.iter().filter(|finding| !finding.is_good()).collect();
    assert!(bad.is_empty(), "{} of {}: {bad:#?}", bad.len(), findings.len());
    assert!(findings.len() > 200, "{}", findings.len());
}
