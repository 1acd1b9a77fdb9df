//! Peers in earnest: eight processes over TLS, of which two are killed in the middle and one comes back. The
//! others go on, nobody's mass is lost or counted twice, and all who live end close together.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peer_fleet;

use peer_fleet::{Fleet, LIMIT, apart, live, starling, text};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const PEERS: usize = 8;
const ROUNDS: u64 = 200;

const RUN: &str = r#"
name = "ring-three"
mode = "decentralised"
rounds = 200
seed = 5
[model]
kind = "linear"
[data]
name = "digits"
partition = { kind = "dirichlet", alpha = 0.3 }
[algorithm]
kind = "sgp"
momentum = 0.5
[local]
steps = 4
batch = 16
lr = 0.02
[evaluation]
every = 20
[topology]
kind = "one-peer-exponential"
nodes = 8
retry_ms = 300
evict_after_s = 4.0
"#;

/// `starling peer observe`, as somebody who takes no part; killed when dropped.
struct Observer {
    child: Child,
    out: PathBuf,
    notes: PathBuf,
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Observer {
    fn start(fleet: &Fleet) -> Self {
        let (ca, identity) = (fleet.path("ca"), fleet.path("olga.pem"));
        let args = ["ca", "observer", "--dir", text(&ca), "--name", "olga", "--to", text(&identity)];
        assert!(starling(&args).output().unwrap().status.success());
        let (out, notes) = (fleet.path("observed.jsonl"), fleet.path("observer.log"));
        let first = fleet.addresses[..2].join(",");
        let args = ["peer", "observe", "--json", "--every", "0.3", "--page", "127.0.0.1:0", "--peer", &first];
        let mut command = starling(&args);
        command.args(["--identity", text(&identity)]).stdin(Stdio::null());
        let file = |path: &Path| std::fs::File::create(path).unwrap();
        let child = command.stdout(file(&out)).stderr(file(&notes)).spawn().unwrap();
        Self { child, out, notes }
    }

    /// The newest look that is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&self.out).unwrap();
            let newest = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).next_back();
            if let Some(seen) = newest.as_ref().filter(|seen| wanted(seen)) {
                return seen.clone();
            }
            let notes = || std::fs::read_to_string(&self.notes).unwrap();
            assert_eq!(self.child.try_wait().unwrap(), None, "{}", notes());
            assert!(began.elapsed() < LIMIT, "{what}: {newest:?}\n{}", notes());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn page(&self, path: &str) -> String {
        let notes = std::fs::read_to_string(&self.notes).unwrap();
        let address = notes.lines().find_map(|line| line.strip_prefix("the page is at http://")).unwrap();
        let address = address.trim_end_matches('/');
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        reply
    }
}

/// How many peers are in each state.
fn states(seen: &Value) -> BTreeMap<&'static str, usize> {
    let count =
        |state: &str| seen["peers"].as_array().unwrap().iter().filter(|peer| peer["state"] == state).count();
    ["alive", "suspect", "left"].map(|state| (state, count(state))).into()
}

/// A peer as it was seen.
fn peer(seen: &Value, index: usize) -> &Value {
    let name = format!("peer-{index}");
    seen["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == *name).unwrap()
}

#[test]
fn peers_survive_kills_keep_their_mass_and_end_together() {
    let mut fleet = Fleet::start(RUN, PEERS);
    fleet.wait(0, "the run begins", |status| status["round"].as_u64() >= Some(4));
    let mut observer = Observer::start(&fleet);
    observer.until("all peers are seen", |seen| states(seen)["alive"] == PEERS);
    fleet.kill(3);
    fleet.kill(5);
    observer.until("two are missed", |seen| states(seen)["alive"] <= PEERS - 2);
    fleet.launch(5);
    let left: Vec<usize> = (0..PEERS).filter(|index| *index != 3).collect();
    for index in &left {
        fleet.wait(*index, "all rounds are done", |status| status["phase"] == "finished");
    }
    // Whoever was killed for good is evicted, by everybody.
    let began = Instant::now();
    let statuses: Vec<Value> = loop {
        let statuses: Vec<Value> = left.iter().filter_map(|index| fleet.status(*index)).collect();
        let epoch = statuses.first().map(|status| status["epoch"].clone());
        let agreed = |status: &Value| live(status) == PEERS - 1 && Some(&status["epoch"]) == epoch.as_ref();
        if statuses.len() == left.len() && statuses.iter().all(agreed) {
            break statuses;
        }
        assert!(began.elapsed() < LIMIT, "{statuses:#?}");
        std::thread::sleep(Duration::from_millis(300));
    };
    // So the observer, which never was one of them, has seen it; it ends with the run.
    let seen = observer.until("the end is seen", |seen| {
        (states(seen)["alive"], states(seen)["left"]) == (PEERS - 1, 1)
            && peer(seen, 5)["phase"] == "finished"
    });
    assert_eq!(seen["peers"].as_array().unwrap().len(), PEERS, "{seen}");
    assert_eq!((&peer(&seen, 3)["state"], &seen["run"]), (&"left".into(), &"ring-three".into()));
    for key in ["w", "mass", "consensus_distance", "bytes_sent", "epoch", "last_heard_s"] {
        assert!(peer(&seen, 0)[key].as_f64().is_some(), "{key}: {seen}");
    }
    let page = observer.page("/");
    assert!(page.contains("peer-7") && page.contains("7 alive, 0 suspect, 1 left"), "{page}");
    assert!(observer.page("/metrics").contains("starling_consensus_distance{peer=\"peer-0\"} "));
    drop(observer);
    let sum = |key: &str| statuses.iter().map(|status| status[key].as_f64().unwrap()).sum::<f64>();
    // Multiples of 2^-48 below 32: these sums are exact.
    assert_eq!(sum("holding"), sum("account"), "the mass is what the epoch published");
    assert!(statuses.iter().all(|status| status["balanced"] == true));
    assert!(statuses.iter().all(|status| status["round"] == ROUNDS));

    let models: Vec<Vec<f32>> = left.iter().map(|index| fleet.model(*index)).collect();
    let (off, norm) = apart(&models);
    assert!(off < 0.25 * norm, "{off} from the mean, whose length is {norm}");
    let to = fleet.path("consensus.safetensors");
    let consensus = fleet.ask(&["consensus", "--to", text(&to)], 0).unwrap();
    assert_eq!(consensus["peers"].as_array().unwrap().len(), PEERS - 1);
    assert_eq!(consensus["mass"].as_f64().unwrap(), sum("w"));
    // A line is written when everybody has reported, or has been waited for.
    let last: Value = loop {
        let lines = std::fs::read_to_string(fleet.path("peer-0/metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        if last["round"] == ROUNDS - 1 {
            break last;
        }
        assert!(began.elapsed() < LIMIT, "{last}");
        std::thread::sleep(Duration::from_millis(200));
    };
    for key in ["consensus_distance", "mass", "w_min", "w_max", "eval_accuracy"] {
        assert!(last[key].as_f64().unwrap() > 0.0, "{key}: {last}");
    }
}

const PRIVATE: &str = r#"
name = "ring-private"
mode = "decentralised"
rounds = 40
[model]
kind = "linear"
[data]
name = "digits"
partition = { kind = "iid" }
[algorithm]
kind = "dfedavgm"
[local]
steps = 4
batch = 16
lr = 0.02
[evaluation]
every = 5
[topology]
kind = "ring"
nodes = 3
retry_ms = 300
evict_after_s = 20.0
[privacy]
unit = "client"
adjacency = "replace_one"
mechanism = "local_gaussian"
clip_norm = 0.5
epsilon = 20.0
delta = 1e-5
sampling = { kind = "everyone" }
"#;

/// What each peer has learned about each other, from what they wrote down.
fn learned(fleet: &Fleet) {
    let (run, drawing) = (fleet.path("run.toml"), fleet.path("pairs.svg"));
    let folders: Vec<_> = (0..3).map(|index| fleet.path(&format!("peer-{index}"))).collect();
    let mut ask =
        starling(&["privacy", "pairwise", text(&run), "--json", "--svg", text(&drawing), "--peers"]);
    let output = ask.args(&folders).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["peers"].as_array().unwrap().len(), 3, "{found}");
    let each: Vec<f64> = found["each"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    for (v, row) in found["epsilon"].as_array().unwrap().iter().enumerate() {
        for (u, epsilon) in row.as_array().unwrap().iter().enumerate() {
            // In a ring of three all are neighbours: each has what there was, and no more than everybody.
            let epsilon = epsilon.as_f64();
            assert_eq!(epsilon.is_none(), v == u, "{found}");
            assert!(epsilon.is_none_or(|epsilon| epsilon > 15.0 && epsilon <= each[u] + 1e-9), "{found}");
        }
    }
    assert!(found["planned"]["most"].as_f64().unwrap() > 15.0 && each.iter().all(|x| *x <= 20.0), "{found}");
    let svg = std::fs::read_to_string(&drawing).unwrap();
    assert!(svg.contains("about peer") && svg.contains("ring-private"), "{svg}");
    // One that is left out may have told the others anything.
    let mut less = starling(&["privacy", "pairwise", text(&run), "--peers", text(&folders[0])]);
    let output = less.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is not among --peers"), "{said}");
    let line: Value = serde_json::from_str(
        std::fs::read_to_string(folders[0].join("metrics.jsonl")).unwrap().lines().last().unwrap(),
    )
    .unwrap();
    // No sketch of a private model is told to those who are no neighbours.
    assert!(line["consensus_distance"].is_null() && line["mass"].as_f64() > Some(0.0), "{line}");
}

#[test]
fn each_peer_pays_for_its_own_changes_and_tells_nothing_else() {
    let mut fleet = Fleet::start(PRIVATE, 3);
    fleet.wait(0, "the run begins", |status| status["round"].as_u64() >= Some(3));
    fleet.kill(1);
    fleet.launch(1);
    for index in 0..3 {
        let status = fleet.wait(index, "all rounds are done", |status| status["phase"] == "finished");
        // What nobody paid for stays at home.
        let line = &status["metrics"];
        let line: Value =
            line.as_str().map_or_else(|| line.clone(), |text| serde_json::from_str(text).unwrap());
        for key in ["train_loss", "eval_loss", "eval_accuracy"] {
            assert!(line[key].is_null(), "{line}");
        }
    }
    for index in 0..3 {
        let home = fleet.path(&format!("peer-{index}"));
        let mut show =
            starling(&["privacy", "ledger", "show", "digits", "--json", "--state-dir", text(&home)]);
        let output = show.output().unwrap();
        let ledger: Value = serde_json::from_slice(&output.stdout).unwrap();
        let releases = ledger["releases"].as_u64().unwrap();
        // One that was killed between paying and storing pays again, and trains one round less.
        assert!(releases == 40, "{ledger}");
        let spent = ledger["epsilon"].as_f64().unwrap();
        assert!(spent <= 20.0 && spent > 19.9, "{ledger}");
        let lines = std::fs::read_to_string(home.join("metrics.jsonl")).unwrap();
        let shown: Vec<f64> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["epsilon"].as_f64().unwrap())
            .collect();
        assert!(shown.is_sorted() && shown.iter().all(|epsilon| *epsilon <= spent), "{shown:?}");
        let kept: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert!(kept["train_loss"].as_f64().is_some(), "{kept}");
    }
    learned(&fleet);
    let refused = PRIVATE.replace("local_gaussian", "central_gaussian").replace("replace_one", "zero_out");
    std::fs::write(fleet.path("run.toml"), refused).unwrap();
    fleet.kill(2);
    let mut again = starling(&["peer", "--config", text(&fleet.path("peer-2.toml"))]);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("each must noise its own change"), "{said}");
}

const METHOD: &str = r#"
name = "method"
mode = "decentralised"
rounds = 60
seed = 3
[model]
kind = "linear"
[data]
name = "digits"
partition = { kind = "dirichlet", alpha = 0.3 }
[algorithm]
ALGORITHM
[local]
steps = STEPS
batch = 16
lr = 0.05
[evaluation]
every = 10
[topology]
kind = "GRAPH"
nodes = 4
retry_ms = 300
evict_after_s = 60.0
"#;

/// Scalars of the linear model of 28 × 28 pixels and 10 classes.
const LINEAR: f64 = 7_850.0;

/// Four peers, of which one is killed in the middle and restarted with what it had stored; the bytes that a
/// peer sends in a round (the median over those after the kill), for each scalar of the model and message.
fn with_a_kill((algorithm, steps, graph): (&str, u64, &str), messages: f64) -> f64 {
    let run =
        METHOD.replace("ALGORITHM", algorithm).replace("STEPS", &steps.to_string()).replace("GRAPH", graph);
    let mut fleet = Fleet::start(&run, 4);
    fleet.wait(1, "the run begins", |status| status["round"].as_u64() >= Some(3));
    fleet.kill(2);
    fleet.launch(2);
    let done = |status: &Value| status["phase"] == "finished";
    let statuses: Vec<Value> = (0..4).map(|index| fleet.wait(index, "all rounds are done", done)).collect();
    assert!(statuses.iter().all(|status| status["balanced"] == true && live(status) == 4), "{statuses:#?}");
    let models: Vec<Vec<f32>> = (0..4).map(|index| fleet.model(index)).collect();
    let mean = |k: usize| models.iter().map(|model| f64::from(model[k])).sum::<f64>() / 4.0;
    let mean: Vec<f64> = (0..models[0].len()).map(mean).collect();
    let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    for model in &models {
        let off = model.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>().sqrt();
        assert!(off < 0.5 * norm, "{algorithm}: {off} from the mean, whose length is {norm}");
    }
    let began = Instant::now();
    loop {
        // Lines follow the rounds that they tell of, and the first may still have to come.
        let text = std::fs::read_to_string(fleet.path("peer-0/metrics.jsonl")).unwrap_or_default();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.iter().any(|line| line["round"] == 59) {
            let accuracy =
                lines.iter().filter_map(|line| line["eval_accuracy"].as_f64()).next_back().unwrap();
            assert!(accuracy > 0.5, "{algorithm}: {accuracy}");
            // Σ y = Σ g over all peers, measured on what they told each other, also over the kill.
            let errors: Vec<f64> = lines.iter().filter_map(|line| line["tracking_error"].as_f64()).collect();
            let tracks = algorithm.contains("tracking") || algorithm.contains("diging");
            assert_eq!(errors.len() > 40, tracks, "{algorithm}: {} of {} lines", errors.len(), lines.len());
            assert!(errors.iter().all(|error| *error < 1e-4), "{algorithm}: {errors:?}");
            // A message that leaves as a round ends may be counted in the next one.
            let calm = lines.iter().filter(|line| line["round"].as_u64() >= Some(20));
            let mut bytes: Vec<f64> = calm.map(|line| line["bytes_sent"].as_f64().unwrap()).collect();
            bytes.sort_by(f64::total_cmp);
            return bytes[bytes.len() / 2] / LINEAR / messages;
        }
        assert!(began.elapsed() < LIMIT, "{algorithm}: {:?}", lines.last());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn gradient_tracking_survives_a_kill() {
    let bytes = with_a_kill(("kind = \"gradient-tracking\"", 3, "ring"), 2.0);
    assert_eq!(bytes, 8.0);
}

#[test]
fn push_diging_survives_a_kill() {
    let bytes = with_a_kill(("kind = \"push-diging\"", 1, "one-peer-exponential"), 1.0);
    assert_eq!(bytes, 8.0 + 8.0 / LINEAR);
}

#[test]
fn choco_survives_a_kill_and_sends_little() {
    let algorithm = "kind = \"choco-sgd\"\ngamma = 0.3\ncompressor = { kind = \"top-k\", ratio = 0.1 }";
    let bytes = with_a_kill((algorithm, 4, "ring"), 2.0);
    // A tenth of the values and a map of one bit for each, instead of 4 bytes.
    assert!(bytes < 0.54 && bytes > 0.4, "{bytes}");
}

#[test]
fn relayed_sums_survive_a_kill() {
    let bytes = with_a_kill(("kind = \"relaysgd\"", 4, "star"), 3.0);
    // The hub sends as many as there are others, a leaf one.
    let (message, hub) = (4.0 + 4.0 / LINEAR, bytes);
    assert!(hub == message || hub * 3.0 == message, "{bytes}");
}

/// What real peers over TLS and simulated ones make of the same run file, peer for peer, bit for bit.
#[test]
fn simulated_peers_have_the_models_of_real_ones() {
    let folder = tempfile::tempdir().unwrap();
    for (algorithm, topology) in [("sgp", "one-peer-exponential"), ("dfedavgm", "ring")] {
        let (real, alone) = (folder.path().join(algorithm), folder.path().join(format!("{algorithm}-alone")));
        let demo = "demo --mode decentralised --workers 4 --rounds 4 --model linear --examples 600 --json";
        let mut command = starling(&demo.split(' ').collect::<Vec<_>>());
        command.args(["--algorithm", algorithm, "--topology", topology, "--out", text(&real)]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut command =
            starling(&["simulate", text(&real.join("run.toml")), "--examples", "600", "--json"]);
        command.args(["--device", "cpu", "--out", text(&alone)]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let peers = summary["peers"].as_array().unwrap();
        assert_eq!((peers.len(), summary["mass"].as_f64()), (4, Some(4.0)));
        for peer in peers {
            let name = peer["name"].as_str().unwrap();
            let lines = std::fs::read_to_string(real.join(name).join("metrics.jsonl")).unwrap();
            let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let last = lines.iter().find(|line| line["round"] == 3).unwrap();
            assert_eq!(last["model_digest"], peer["digest"], "{algorithm}: {name}");
        }
    }
}

/// With one of them killed and restarted, as well: nobody is given up, so that no round is another one.
#[test]
fn real_peers_weigh_changes_by_examples_as_simulated_ones_do() {
    let plain = METHOD
        .replace("ALGORITHM", "kind = \"sgp\"")
        .replace("STEPS", "3")
        .replace("GRAPH", "one-peer-exponential")
        // With the seed of the fleet's digits.
        .replace("seed = 3", "seed = 1");
    let weighted = format!("{plain}weighting = \"examples\"\n");
    // As simulated peers are called.
    let mut fleet = Fleet::start_named(&weighted, (1..=4).map(|peer| format!("worker-{peer}")).collect());
    fleet.wait(1, "the run begins", |status| status["round"].as_u64() >= Some(3));
    fleet.kill(2);
    fleet.launch(2);
    for index in 0..4 {
        fleet.wait(index, "all rounds are done", |status| status["phase"] == "finished");
    }
    let digests = |run: &str, name: &str| -> BTreeMap<String, Value> {
        let (file, out) = (fleet.path(&format!("{name}.toml")), fleet.path(name));
        std::fs::write(&file, run).unwrap();
        let mut command = starling(&["simulate", text(&file), "--json", "--device", "cpu"]);
        let output = command.args(["--examples", "800", "--out", text(&out)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let peers = summary["peers"].as_array().unwrap();
        peers.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), p["digest"].clone())).collect()
    };
    let (alone, alike) = (digests(&weighted, "weighted"), digests(&plain, "plain"));
    assert!(alone.iter().all(|(name, digest)| alike[name] != *digest), "weights change nothing");
    let began = Instant::now();
    for name in &fleet.names {
        loop {
            let text = std::fs::read_to_string(fleet.path(name).join("metrics.jsonl")).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(last) = lines.find(|line| line["round"] == 59) {
                assert_eq!(last["model_digest"], alone[name], "{name}");
                break;
            }
            assert!(began.elapsed() < LIMIT, "{name} tells of no last round");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
