//! Many connections to one coordinator, and many rounds while workers come and go: the measurements of
//! `starling bench`, small enough for every run of the tests.
//!
//! `STARLING_CONNECTIONS=1000` and `STARLING_SOAK_ROUNDS=500` make them what `BENCHMARKS.md` reports.
#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use serde_json::Value;
use std::process::Command;

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

fn bench(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_starling")).arg("bench").args(args).arg("--json").output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn all_are_connected_and_rounds_close() {
    let workers = variable("STARLING_CONNECTIONS", "50");
    let seen = bench(&["connections", "--workers", &workers, "--rounds", "2", "--idle-s", "3", "--tls"]);
    assert_eq!(seen["workers"].to_string(), workers);
    assert_eq!(seen["rounds"], 2);
    // Two connections with TLS, their buffers and tasks.
    let memory = seen["after_bytes_per_worker"].as_f64().unwrap();
    assert!(memory < 1e6, "{memory} bytes for each worker");
}

#[test]
fn nothing_grows_while_workers_come_and_go() {
    let rounds = variable("STARLING_SOAK_ROUNDS", "40");
    let seen = bench(&["soak", "--rounds", &rounds, "--workers", "8", "--tls"]);
    assert_eq!(seen["verdict"], "flat");
    assert!(seen["joined"].as_u64().unwrap() >= rounds.parse().unwrap());
}
