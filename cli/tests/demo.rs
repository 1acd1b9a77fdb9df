//! The promise of the first page: one command trains a model with real processes and leaves everything
//! behind that a person wants to see, and no process.

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

fn demo(out: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(["demo", "--json", "--rounds", "1", "--workers", "2", "--examples", "200", "--out"]);
    command.arg(out).args(more).output().expect("the binary was built")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Processes whose command line names the folder.
fn processes_of(out: &Path) -> usize {
    let name = out.to_str().expect("a path in ASCII");
    let all = std::fs::read_dir("/proc").expect("a Linux machine").flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(name)).count()
}

#[test]
fn one_command_trains_a_model_and_leaves_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = demo(&out, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!((report["workers"].as_u64(), report["rounds"].as_u64()), (Some(2), Some(1)));
    let accuracy = report["accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy), "{report}");

    let model = read(&out.join("model.safetensors"));
    let tensors = safetensors::SafeTensors::deserialize(&model).unwrap();
    assert!(tensors.names().contains(&"conv1.weight"), "{:?}", tensors.names());
    let (_, head) = safetensors::SafeTensors::read_metadata(&model).unwrap();
    let metadata = head.metadata().clone().unwrap();
    assert_eq!(Some(metadata["digest"].as_str()), report["model_digest"].as_str());

    let metrics = String::from_utf8(read(&out.join("metrics.jsonl"))).unwrap();
    let line: Value = serde_json::from_str(metrics.trim()).expect("one line for one round");
    assert_eq!(line["participants"], 2);
    assert!(line["bytes_up"].as_u64().unwrap() > 0);
    assert!(read(&out.join("plot.svg")).starts_with(b"<svg"));
    for name in ["coordinator", "worker-1", "worker-2"] {
        let log = String::from_utf8(read(&out.join(format!("logs/{name}.log")))).unwrap();
        assert!(log.contains("stopped cleanly"), "{name}: {log}");
    }
    assert_eq!(processes_of(&out), 0, "a process was left behind");
}

#[test]
fn equal_seeds_give_equal_models() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, seed: &str| {
        let out = folder.path().join(name);
        let output = demo(&out, &["--seed", seed, "--model", "linear"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        read(&out.join("model.safetensors"))
    };
    let first = model("a", "5");
    assert_eq!(first, model("b", "5"));
    assert_ne!(first, model("c", "6"));
}

#[test]
fn a_refused_run_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // A model that cannot take images: the coordinator refuses the run, and everything is cleared away.
    let output = demo(&out, &["--model", "char-lstm"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("char"), "{text}");
    assert_eq!(processes_of(&out), 0, "a process was left behind");
}

#[test]
fn peers_need_no_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(["demo", "--json", "--mode", "decentralised", "--model", "linear", "--rounds", "4"]);
    command.args(["--workers", "3", "--examples", "300", "--out"]).arg(&out);
    let output = command.output().expect("the binary was built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!((report["peers"].as_u64(), report["rounds"].as_u64()), (Some(3), Some(4)));
    assert_eq!((report["algorithm"].as_str(), report["mass"].as_f64()), (Some("sgp"), Some(3.0)));
    assert!(report["consensus_distance"].as_f64().unwrap() > 0.0, "{report}");
    let model = read(&out.join("model.safetensors"));
    assert!(safetensors::SafeTensors::deserialize(&model).is_ok());
    let metrics = String::from_utf8(read(&out.join("metrics.jsonl"))).unwrap();
    assert_eq!(metrics.lines().count(), 4);
    for name in ["worker-1", "worker-2", "worker-3"] {
        let log = String::from_utf8(read(&out.join(format!("logs/{name}.log")))).unwrap();
        assert!(log.contains("topology of the run") && log.contains("stopped cleanly"), "{name}: {log}");
    }
    assert_eq!(processes_of(&out), 0, "a process was left behind");
}
