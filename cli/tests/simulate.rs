//! `starling simulate`, `compare` and `evaluate` as people call them: a sweep, the same again, a death
//! in the middle, and what is said about the results.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const RUN: &str = "
    name = 'digits'
    rounds = 4
    [model]
    kind = 'linear'
    [data]
    name = 'digits'
    partition = { kind = 'dirichlet', alpha = 0.5 }
    [local]
    batch = 20
    [cohort]
    fraction = 0.5
    [average]
    ema = { decay = 0.5 }
    [simulation]
    clients = 8
    seeds = [0, 1]
    [sweep]
    algorithm = [{ kind = 'fedavg' }, { kind = 'scaffold' }]
";

fn starling(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.current_dir(folder).args(line.split(' ')).output().expect("the binary was built")
}

fn json(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn prepare(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("run.toml"), text).expect("it can be written");
    folder
}

#[test]
fn a_sweep_is_run_once_and_can_be_compared_and_evaluated() {
    let folder = prepare(RUN);
    let sweep = "simulate run.toml --examples 400 --out out --json";
    let points = json(&starling(folder.path(), sweep));
    assert_eq!(points.len(), 4);
    assert_eq!(points[3]["point"], "algorithm=scaffold,seed=1");
    let digests = |points: &[Value]| points.iter().map(|p| p["model_digest"].clone()).collect::<Vec<_>>();
    let again = json(&starling(folder.path(), sweep));
    assert!(again.iter().all(|point| point["resumed"] == "finished"), "{again:?}");
    assert_eq!(digests(&again), digests(&points));
    assert!(folder.path().join("out/comparison.svg").exists());
    for file in [
        "model.safetensors",
        "model-ema.safetensors",
        "metrics.jsonl",
        "plot.svg",
        "run.toml",
        "summary.json",
    ] {
        assert!(folder.path().join("out/algorithm=fedavg,seed=0").join(file).exists(), "{file}");
    }

    let compared = json(&starling(folder.path(), "compare out --target 0.2 --plot c.svg --json"));
    let rows = compared[0].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, label) in rows.iter().zip(["fedavg", "scaffold"]) {
        assert_eq!((row["label"].as_str().unwrap(), row["seeds"].as_array().unwrap().len()), (label, 2));
        let pair: Vec<&Value> = points.iter().filter(|point| point["algorithm"] == label).collect();
        let accuracy = |i: usize| pair[i]["accuracy"].as_f64().unwrap();
        let mean = row["final_accuracy"]["mean"].as_f64().unwrap();
        assert!((mean - accuracy(0).midpoint(accuracy(1))).abs() < 1e-12);
    }
    assert!(std::fs::read_to_string(folder.path().join("c.svg")).unwrap().contains("scaffold"));

    let averages = &points[0]["averages"];
    assert!(averages["ema"]["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.1), "{averages}");

    let point = "out/algorithm=fedavg,seed=0";
    let line = format!(
        "evaluate --model {point}/model.safetensors --run {point}/run.toml --examples 400 --top 2 --json"
    );
    let found = &json(&starling(folder.path(), &line))[0];
    assert_eq!(found["accuracy"], points[0]["accuracy"]);
    assert_eq!((&found["calibration"]["top"], &found["confusion"]["classes"]), (&2.into(), &10.into()));
}

#[test]
fn a_killed_or_interrupted_simulation_goes_on_with_the_same_bytes() {
    let text = RUN.replace("rounds = 4", "rounds = 60").replace("seeds = [0, 1]", "");
    let folder = prepare(&text);
    let line = |out: &str| {
        format!(
            "simulate run.toml --set algorithm={{kind='scaffold'}} --examples 2000 --checkpoint 0 --out {out} --json"
        )
    };
    let undisturbed = json(&starling(folder.path(), &line("a")));
    let read = |out: &str| std::fs::read(folder.path().join(out).join("metrics.jsonl")).unwrap();
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let out = format!("{signal:?}");
        // Whoever is asked to stop writes where it is, however seldom it would have.
        let killed = signal == Signal::KILL;
        let seldom = if killed { "--checkpoint 0" } else { "--checkpoint 1000" };
        let ended = cut_off(folder.path(), &line(&out).replace("--checkpoint 0", seldom), signal);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if !killed {
            assert_eq!(ended.status.code(), Some(130), "{said}");
            assert!(said.contains("0 of 1 points are finished; give the same command"), "{said}");
        }
        assert!(!folder.path().join(&out).join("summary.json").exists(), "it was killed too late");
        let resumed = json(&starling(folder.path(), &line(&out)));
        assert!(resumed[0]["resumed"].as_u64().unwrap() >= 2, "{signal:?}: {}", resumed[0]["resumed"]);
        assert_eq!(resumed[0]["model_digest"], undisturbed[0]["model_digest"], "{signal:?}");
        assert!(read("a") == read(&out), "the lines are the same, too: {signal:?}");
    }
}

/// A simulation that gets a signal after a few rounds.
fn cut_off(folder: &Path, line: &str, signal: Signal) -> Output {
    let out = line.split(' ').skip_while(|word| *word != "--out").nth(1).expect("a folder");
    let metrics = folder.join(out).join("metrics.jsonl");
    let child = Command::new(env!("CARGO_BIN_EXE_starling"))
        .current_dir(folder)
        .args(line.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let began = Instant::now();
    let rounds = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    while rounds() < 3 {
        assert!(began.elapsed() < Duration::from_mins(1), "it does not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), signal).expect("it runs");
    child.wait_with_output().expect("it ends")
}

#[test]
fn points_run_side_by_side_and_stop_in_time() {
    let folder = prepare(RUN);
    let path = folder.path();
    let one = json(&starling(path, "simulate run.toml --examples 400 --out one --json"));
    // Before anything was trained, and again: nothing is lost, and what is left is said.
    for _ in 0..2 {
        let stopped = starling(path, "simulate run.toml --examples 400 --out side --time-limit 0 --json");
        let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
        assert_eq!(stopped.status.code(), Some(75), "{said}");
        assert!(said.contains("0 of 4 points"), "{said}");
    }
    let side =
        json(&starling(path, "simulate run.toml --examples 400 --out side --parallel 3 --threads 3 --json"));
    let digests = |lines: &[Value]| {
        let mut found: Vec<String> =
            lines.iter().map(|line| format!("{} {}", line["point"], line["model_digest"])).collect();
        found.sort();
        found
    };
    assert_eq!(digests(&one), digests(&side), "neither order nor company changes a point");
    assert_eq!(side.len(), 4);
}

#[test]
fn a_simulation_stops_between_two_rounds_and_goes_on() {
    let single = RUN.split("seeds").next().expect("a part before it").replace("rounds = 4", "rounds = 400");
    let folder = prepare(&single);
    let path = folder.path();
    let command = "simulate run.toml --examples 20000 --json --checkpoint 1000 --out";
    let stopped = starling(path, &format!("{command} a --time-limit 1"));
    if stopped.status.code() == Some(75) {
        let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
        assert!(said.contains("0 of 1 points"), "{said}");
        let went_on = json(&starling(path, &format!("{command} a")));
        assert!(went_on[0]["resumed"].as_u64().expect("a number") > 0, "{}", went_on[0]["resumed"]);
        assert_eq!(
            went_on[0]["model_digest"],
            json(&starling(path, &format!("{command} b")))[0]["model_digest"]
        );
    } else {
        // A machine that does it all in a second has nothing to stop.
        json(&stopped);
    }
}

#[test]
fn mistakes_are_said_at_once() {
    let folder = prepare(RUN);
    for (line, code, want) in [
        ("simulate run.toml --set local.lrr=1 --out x", 64, "did you mean `lr`"),
        ("simulate run.toml --set data.name=mnist --out x", 64, "--data"),
        ("simulate no.toml", 66, "no.toml"),
        ("compare no-such-folder", 66, "no-such-folder"),
        ("evaluate --model m --run run.toml", 64, "simulation"),
    ] {
        let output = starling(folder.path(), line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        assert!(text.contains(want), "{line}: {text}");
    }
}
