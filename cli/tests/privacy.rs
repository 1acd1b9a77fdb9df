//! `starling privacy` as a script sees it: numbers against references, exit codes, JSON.

use serde_json::Value;
use std::process::{Command, Output};

fn starling(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.arg("privacy").args(line.split(' ')).output().expect("the binary was built")
}

fn json(line: &str) -> Value {
    let output = starling(&format!("{line} --json"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one object")
}

fn assert_fails(line: &str, code: i32, wants: &[&str]) -> Output {
    let output = starling(line);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {text}");
    for want in wants {
        assert!(text.contains(want), "{line}: {want}: {text}");
    }
    output
}

fn close(got: &Value, want: f64, tolerance: f64) {
    let number = got.as_f64().unwrap_or(f64::NAN);
    assert!((number / want - 1.0).abs() < tolerance, "{got} {want}");
}

#[test]
fn epsilon_noise_and_rounds_are_each_others_inverse() {
    let run = "--sampling-rate 0.01 --delta 1e-5";
    let found = json(&format!("epsilon --noise-multiplier 1 --rounds 1000 {run} --accountant all"));
    // By another implementation of the integral in the complex plane.
    close(&found["epsilon"], 1.828_236_666_516_554_5, 1e-5);
    assert_eq!((&found["unit"], &found["adjacency"]), (&"client".into(), &"add_remove".into()));
    let all = &found["accountants"];
    close(&all["pld"]["epsilon"], 1.828_236_666_516_554_5, 1e-3);
    assert!(all["rdp"]["epsilon"].as_f64() > all["contour"]["epsilon"].as_f64(), "{all}");
    assert!(all["gaussian"]["refused"].is_string() && all["pure"]["refused"].is_string(), "{all}");
    let noise = json(&format!("noise --epsilon 1.8283 --rounds 1000 {run}"));
    close(&noise["noise_multiplier"], 1.0, 1e-4);
    assert!(noise["epsilon"].as_f64() <= Some(1.8283));
    let rounds = json(&format!("rounds --epsilon 1.8283 --noise-multiplier 1 {run}"));
    close(&rounds["rounds"], 1000.0, 2e-3);
    let rdp = json(&format!("rounds --epsilon 1.8283 --noise-multiplier 1 {run} --accountant rdp"));
    assert!(rdp["rounds"].as_u64() < rounds["rounds"].as_u64(), "{rdp} {rounds}");
    let delta = json("delta --epsilon 1.8282366665 --noise-multiplier 1 --rounds 1000 --sampling-rate 0.01");
    close(&delta["delta"], 1e-5, 1e-4);
    let exact = json("delta --epsilon 1 --noise-multiplier 1 --rounds 1 --accountant gaussian");
    close(&exact["delta"], privacy::Mu::new(1.0).unwrap().delta(1.0), 1e-12);
    assert_fails("delta --epsilon 1 --noise-multiplier 1 --rounds 1 --accountant pure", 1, &["no pure"]);
    // Replacing moves the sum twice as far.
    let far = json("epsilon --noise-multiplier 2 --rounds 4 --delta 1e-5 --adjacency replace_one");
    close(
        &far["epsilon"],
        json("epsilon --noise-multiplier 1 --rounds 4 --delta 1e-5")["epsilon"].as_f64().unwrap(),
        1e-9,
    );
    // No finite ε at δ = 0 is null, not a number.
    assert!(json("epsilon --noise-multiplier 1 --rounds 1 --delta 0")["epsilon"].is_null());
}

#[test]
fn what_cannot_be_answered_says_why() {
    let run = "--noise-multiplier 0.3 --delta 1e-5";
    assert_fails(&format!("rounds --epsilon 0.1 {run}"), 1, &["one round alone costs", "more noise"]);
    assert_fails(
        &format!("epsilon --rounds 1 {run} --sampling-rate 0.1 --accountant gaussian"),
        1,
        &["`gaussian`"],
    );
    let fixed = format!("epsilon --rounds 1 {run} --sample-size 5 --population 50");
    assert_fails(&fixed, 64, &["fixed_size", "replace_one"]);
    assert_fails(
        &format!("epsilon --rounds 1 {run} --sample-size 5 --population 4"),
        64,
        &["at most the population"],
    );
    assert_fails("noise --epsilon -1 --delta 1e-5 --rounds 1", 64, &["epsilon"]);
}

#[test]
fn long_runs_are_bounded_under_their_assumptions_only() {
    let run = "long-run --clip 1 --clients 100 --steps 10 --learning-rate 0.1 --smoothness 1 --noise 1 --rounds 2 --delta 1e-5";
    let found = json(&format!("{run} --published"));
    close(&found["bounds"][0]["mu"], 0.282_842_712_474_619, 1e-9);
    close(&found["published"]["mu"], 0.258_557_679_301, 1e-9);
    assert!(found["published"]["verdict"].as_str().unwrap().contains("false as stated"), "{found}");
    assert_eq!(found["bounds"].as_array().unwrap().len(), 1);
    let refused = assert_fails(&format!("{run} --diameter 0.01"), 64, &["nobody sees", "last-model-only"]);
    assert!(refused.stdout.is_empty());
    let hidden = json(
        &format!("{run} --diameter 0.01 --threat last-model-only").replace("--rounds 2", "--rounds 500"),
    );
    let mu = |index: usize| hidden["bounds"][index]["mu"].as_f64().unwrap();
    assert!(mu(1) < mu(0), "{hidden}");
    assert!(hidden["bounds"][1]["assumes"].as_str().unwrap().contains("diameter 0.01"));
    assert_fails(&format!("{run} --proximal 0.5"), 64, &["alpha", "above the smoothness"]);
    assert_fails(
        &format!("{run} --convexity 0.1 --schedule stage --threat last-model-only"),
        64,
        &["constant"],
    );
}

#[test]
fn an_exported_ledger_is_recomputed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.jsonl");
    let path = file.to_str().unwrap();
    let event = r#"{"mechanism":{"kind":"gaussian","noise_multiplier":1.0},"sampling":{"kind":"poisson","rate":0.01},"count":500}"#;
    let opened = r#"{"entry":"opened","version":1,"dataset":"mnist","unit":"client","adjacency":"zero_out"}"#;
    let released =
        |round: u64| format!(r#"{{"entry":"released","run":"a","round":{round},"event":{event}}}"#);
    let text = format!("{opened}\n{}\n{}\n", released(1), released(2));
    std::fs::write(&file, &text).unwrap();
    let found = json(&format!("verify {path} --claimed 1.83"));
    close(&found["epsilon"], 1.828_236_666_516_554_5, 1e-5);
    assert_eq!((found["releases"].as_u64(), found["resets"].as_u64()), (Some(1000), Some(0)));
    assert_fails(&format!("verify {path} --claimed 1.8"), 1, &["above the claimed 1.8"]);
    assert_fails(&format!("verify {path} --claimed nan"), 64, &["`--claimed` is NaN"]);
    // A reset hides nothing, and a torn line is told.
    std::fs::write(&file, format!("{text}{}\n{{\"entry\":\"rel", r#"{"entry":"reset","reason":"new data"}"#))
        .unwrap();
    let found = json(&format!("verify {path}"));
    assert_eq!((found["epsilon"].as_f64(), found["torn"].as_bool()), (Some(0.0), Some(true)), "{found}");
    close(&found["epsilon_without_resets"], 1.828_236_666_516_554_5, 1e-5);
    std::fs::write(&file, text.replace("\"count\":500", "\"count\":-5")).unwrap();
    assert_fails(&format!("verify {path}"), 65, &["ledger.jsonl: line 2"]);
    assert_fails("verify no/such.jsonl", 66, &["no/such.jsonl"]);
}

#[test]
fn an_audit_passes_the_mechanism_and_fails_broken_ones() {
    let run = "audit --noise-multiplier 1 --trials 4000";
    let sound = json(run);
    assert_eq!(sound["violated"], false, "{sound}");
    assert!(
        sound["mu_at_least"].as_f64() > Some(0.7) && sound["claimed_mu"].as_f64() == Some(1.0),
        "{sound}"
    );
    let sampled = json("audit --noise-multiplier 1 --trials 1000 --sampling-rate 0.5 --rounds 4");
    assert!(sampled["violated"] == false && sampled["claimed_mu"].is_null(), "{sampled}");
    for mutation in ["half-noise", "no-clip"] {
        let output = assert_fails(&format!("{run} --mutation {mutation} --json"), 1, &["the claim is false"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["violated"], true, "{found}");
    }
    assert_fails(&format!("{run} --claimed 0.1"), 1, &["leaks more"]);
}

#[test]
fn an_audit_catches_half_the_noise_and_a_missing_clip_of_every_mechanism() {
    // Shares claim the bound of Rényi divergences and no μ, and what so few trials can prove at δ = 1e-5 is less.
    for (mechanism, more, trials) in [
        ("dp-ftrl", "--rounds 6", 1200),
        ("dp-sgd", "--sampling-rate 1", 1600),
        ("local", "--rounds 2", 1200),
        ("discrete-gaussian-shares", "--delta 0.01", 8000),
        ("skellam-shares", "--delta 0.01", 8000),
    ] {
        let z = if mechanism == "local" { 2.0 } else { 1.0 };
        let run = format!("audit --mechanism {mechanism} --noise-multiplier {z} --trials {trials} {more}");
        let sound = json(&run);
        assert!(sound["violated"] == false && sound["mechanism"] == mechanism, "{sound}");
        // Not because it sees nothing.
        assert!(sound["epsilon_at_least"].as_f64() > Some(0.5), "{sound}");
        for mutation in ["half-noise", "no-clip"] {
            let output =
                assert_fails(&format!("{run} --mutation {mutation} --json"), 1, &["the claim is false"]);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["violated"], true, "{found}");
        }
    }
    let sampled =
        json("audit --mechanism dp-sgd --noise-multiplier 1 --trials 300 --sampling-rate 0.5 --rounds 3");
    assert!(sampled["violated"] == false && sampled["claimed_mu"].is_null(), "{sampled}");
    assert_fails(
        "audit --mechanism local --noise-multiplier 1 --sampling-rate 0.5",
        64,
        &["--sampling-rate"],
    );
}

/// Ten pictures of 4 × 4 pixels, as MNIST comes.
fn pictures(folder: &std::path::Path) {
    for split in ["train", "t10k"] {
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 4, 0, 0, 0, 4];
        images.extend((0..160).map(|i| i as u8));
        std::fs::write(folder.join(format!("{split}-images-idx3-ubyte")), images)
            .expect("a folder of its own");
        let labels = [0, 0, 8, 1, 0, 0, 0, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        std::fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels)
            .expect("a folder of its own");
    }
}

#[test]
fn a_count_is_drawn_once_kept_paid_for_and_then_told() {
    let folder = tempfile::tempdir().unwrap();
    let (data, state) = (folder.path().join("data"), folder.path().join("state"));
    std::fs::create_dir(&data).unwrap();
    pictures(&data);
    let ask = |more: &str| {
        let (data, state) = (data.to_str().unwrap(), state.to_str().unwrap());
        format!("release --data {data} --dataset d --state-dir {state} --deviation 40 {more}")
    };
    let classes = ask("--name labels --what classes");
    let first = json(&classes);
    assert!(first["paid"] == true && first["values"].as_array().unwrap().len() == 10, "{first}");
    // σ = 40 on a norm of 1: its Rényi bound, and no less than that of the continuous Gaussian.
    let least = privacy::Mu::new(1.0 / 40.0).unwrap().epsilon(1e-5);
    let epsilon = first["epsilon"].as_f64().unwrap();
    assert!(epsilon >= least * 0.999 && epsilon < 2.0 * least, "{epsilon} {least}");
    let again = json(&classes);
    assert!(again["paid"] == false && again["values"] == first["values"], "{again}");
    // A crash after the draw and before the line that pays: the same numbers, and they are paid for.
    let ledger = state.join("ledger/d.jsonl");
    let lines = std::fs::read_to_string(&ledger).unwrap();
    let opened = lines.find('\n').unwrap() + 1;
    std::fs::write(&ledger, &lines[..opened + 9]).unwrap();
    let after = json(&classes);
    assert!(after["paid"] == true && after["values"] == first["values"], "{after}");
    assert_eq!(std::fs::read_to_string(&ledger).unwrap(), lines);
    // Another draw is another release.
    let more = json(&ask("--name all --what records"));
    assert!(more["epsilon"].as_f64() > Some(epsilon), "{more}");
    assert_fails(&ask("--name labels --what records"), 64, &["drawn as {what:classes} with deviation 40"]);
    assert_fails(&ask("--name third --what records --budget 0.001"), 1, &["this worker's ledger of `d`"]);
    assert!(!state.join("releases/d.third.json").exists());
    let shown = json(&format!("verify {}", ledger.to_str().unwrap()));
    assert_eq!(shown["releases"], 2);
}

#[test]
fn quantiles_and_metrics_are_paid_for_and_told_again_like_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (data, state) = (folder.path().join("data"), folder.path().join("state"));
    std::fs::create_dir(&data).unwrap();
    pictures(&data);
    let run = folder.path().join("run.toml");
    std::fs::write(&run, "name='r'\nrounds=1\nmodel={kind='linear'}\ndata={name='d'}\n").unwrap();
    let ask = |more: &str| {
        let [data, state, run] = [&data, &state, &run].map(|path| path.to_str().unwrap());
        format!("release --data {data} --dataset d --state-dir {state} --run {run} --deviation 0.01 {more}")
    };
    // Ten records, and next to no noise.
    let metrics = json(&ask("--name m --what metrics --up-to 10"));
    let told = &metrics["told"];
    assert!(metrics["paid"] == true && told["examples"] == 10, "{metrics}");
    let (accuracy, loss) = (told["accuracy"].as_f64().unwrap(), told["loss"].as_f64().unwrap());
    assert!((0.0..=1.0).contains(&accuracy) && (1.5..4.0).contains(&loss), "{metrics}");
    let again = json(&ask("--name m --what metrics --up-to 10"));
    assert!(again["paid"] == false && again["values"] == metrics["values"], "{again}");
    assert_fails(&ask("--name m --what metrics --up-to 9"), 64, &["`m` was drawn as", "up_to:10"]);
    let first = metrics["epsilon"].as_f64().unwrap();
    let losses =
        json(&ask("--name l --what quantiles --of loss --quantiles 0.1,0.5,0.9 --up-to 8 --bins 400"));
    let at = |index: usize| losses["told"][index]["value"].as_f64().unwrap();
    assert!(at(0) <= at(1) && at(1) <= at(2) && (at(1) - loss).abs() < 1.0, "{losses} {loss}");
    assert!(losses["epsilon"].as_f64() > Some(first), "{losses}");
    let norms = json(&ask("--name g --what quantiles --up-to 50"));
    let median = norms["told"][0]["value"].as_f64().unwrap();
    assert!(norms["of"] == "gradient_norm" && (1.0..50.0).contains(&median), "{norms}");
    // A crash after the draw and before the line that pays.
    let ledger = state.join("ledger/d.jsonl");
    let lines = std::fs::read_to_string(&ledger).unwrap();
    let last = lines.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&ledger, &lines[..last]).unwrap();
    let after = json(&ask("--name g --what quantiles --up-to 50"));
    assert!(after["paid"] == true && after["values"] == norms["values"], "{after}");
    assert_eq!(std::fs::read_to_string(&ledger).unwrap(), lines);
    assert_fails(&ask("--name q --what quantiles"), 64, &["--up-to"]);
    assert_fails(&ask("--name q --what quantiles --up-to 1 --quantiles 0.9,0.1"), 64, &["rising"]);
}

#[test]
fn one_training_run_is_attacked_with_many_canaries() {
    let run = "audit --one-run --rounds 4 --delta 1e-5 --confidence 0.95 --seed 3";
    // Clients whose updates are summed, records of DP-SGD (μ = √4 / 2 for both), and DP-FTRL.
    for mechanism in
        ["central --noise-multiplier 2", "dp-sgd --noise-multiplier 2", "dp-ftrl --noise-multiplier 4"]
    {
        let line = format!("{run} --mechanism {mechanism}");
        let sound = json(&line);
        let claimed = sound["claimed_mu"].as_f64().unwrap();
        assert!(mechanism.starts_with("dp-ftrl") || (claimed - 1.0).abs() < 1e-9, "{sound}");
        let (least, epsilon) = (&sound["mu_at_least"], &sound["epsilon_at_least"]);
        assert!(epsilon.as_f64() < sound["claimed_epsilon"].as_f64(), "{sound}");
        // Not because it sees nothing.
        assert!(least.as_f64() < Some(claimed) && least.as_f64() > Some(0.3 * claimed), "{sound}");
        assert!(epsilon.as_f64() > Some(1.0) && sound["guesses"] == 400, "{sound}");
        for broken in ["half-noise", "no-clip"] {
            let output =
                assert_fails(&format!("{line} --mutation {broken} --json"), 1, &["the claim is false"]);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(found["violated"] == true && found["mu_at_least"].as_f64() > Some(claimed), "{found}");
        }
    }
    // With a draw there is no μ, and the claim is what the ledger says.
    let drawn =
        json(&format!("{run} --mechanism central --noise-multiplier 2 --sampling-rate 0.5 --canaries 200"));
    assert!(drawn["claimed_mu"].is_null() && drawn["violated"] == false, "{drawn}");
    assert_fails(&format!("{run} --mechanism local --noise-multiplier 2"), 64, &["without `--one-run`"]);
}

#[test]
fn the_curves_are_drawn_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("curve.svg");
    let run = format!(
        "curve --noise-multiplier 2 --rounds 50 --delta 1e-5 --sampling-rate 0.1 --to {}",
        file.to_str().unwrap()
    );
    let found = json(&run);
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.contains("epsilon at delta") && svg.contains("errors of the second kind"));
    let trade_off = found["trade_off"].as_array().unwrap();
    assert!(trade_off.windows(2).all(|pair| pair[0][1].as_f64() >= pair[1][1].as_f64()), "{found}");
    assert!(trade_off[100][1].as_f64() < Some(0.5) && trade_off[100][1].as_f64() > Some(0.0), "{found}");
    let epsilon = found["epsilon"].as_array().unwrap();
    assert!(epsilon.windows(2).all(|pair| pair[0][1].as_f64() < pair[1][1].as_f64()), "{found}");
    assert_fails(&run, 73, &["--force"]);
}

#[test]
fn peers_far_away_learn_less_and_runs_without_a_promise_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let write = |rounds: u64, rest: &str| {
        let text = format!(
            "name='p'\nmode='decentralised'\nrounds={rounds}\nmodel={{kind='linear'}}\ndata={{name='d'}}\n\
             algorithm={{kind='dpsgd'}}\ntopology={{kind='ring',nodes=8{rest}}}\n[privacy]\nunit='client'\n\
             adjacency='replace_one'\nmechanism='local_gaussian'\nclip_norm=1.0\nnoise_multiplier=10.0\n\
             delta=1e-5\nsampling={{kind='everyone'}}\n"
        );
        std::fs::write(&file, text).unwrap();
        format!("pairwise {}", file.to_str().unwrap())
    };
    let found = json(&write(6, ""));
    let at = |matrix: &Value, v: usize, u: usize| matrix[v][u].as_f64().unwrap();
    let (proved, linear) = (&found["epsilon"], &found["linear"]["epsilon"]);
    // μ = 2/10·√rounds; a neighbour sees all of them, the farthest the first three.
    let epsilon = |mu: f64| privacy::Mu::new(mu).unwrap().epsilon(1e-5);
    assert!((at(proved, 0, 1) - epsilon(0.2 * 6.0_f64.sqrt())).abs() < 1e-9, "{found}");
    assert!((at(proved, 0, 4) - epsilon(0.2 * 3.0_f64.sqrt())).abs() < 1e-9, "{found}");
    assert!((found["everybody"].as_f64().unwrap() - at(proved, 0, 1)).abs() < 1e-9);
    assert!(found["epsilon"][3][3].is_null() && found["linear"]["proved"] == false);
    for u in 1..8 {
        assert!(at(linear, 0, u) <= at(proved, 0, u) && at(linear, 0, u) > 0.0, "{found}");
    }
    assert!(at(linear, 0, 4) < 0.5 * at(linear, 0, 1), "{found}");
    assert_eq!(json(&write(1, ""))["linear"]["proved"], true);
    let unknown = json(&write(6, ",barrier='asynchronous'"));
    assert!(unknown["linear"].is_null() && at(&unknown["epsilon"], 0, 4) == at(proved, 0, 1), "{unknown}");
    let drawing = folder.path().join("pairs.svg");
    let drawn = format!("{} --svg {}", write(6, ""), drawing.to_str().unwrap());
    assert_eq!(json(&drawn)["drawing"], drawing.to_str().unwrap());
    let svg = std::fs::read_to_string(&drawing).unwrap();
    // Eight peers, twice: proved, and with the noise between.
    assert!(svg.matches("<rect x=").count() == 128 && svg.contains("if changes did not react"), "{svg}");
    assert_fails(&drawn, 73, &["--force"]);
    let text = starling(&write(6, ""));
    assert!(String::from_utf8_lossy(&text.stdout).contains("against everybody who sees all messages"));
    std::fs::write(&file, "name='p'\nrounds=3\nmodel={kind='linear'}\ndata={name='d'}\n").unwrap();
    assert_fails(&format!("pairwise {}", file.to_str().unwrap()), 65, &["this run has a coordinator"]);
}
