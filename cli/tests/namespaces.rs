//! Ring 3 with a network between: eight peer processes over TLS, each in a network namespace of its own, on a
//! switch that loses a fifth of all packets, delays them, and cuts links for half a minute; two are killed and one of
//! them restarted. `tests/namespaces.sh` runs it, as root; it is not part of `cargo test`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peer_fleet;

use peer_fleet::{Fleet, apart, live};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const PEERS: usize = 8;
const HALF_A_MINUTE: Duration = Duration::from_secs(30);
const RUN: &str = r#"
name = "namespaces"
mode = "decentralised"
rounds = 1500
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
every = 100
[topology]
kind = "one-peer-exponential"
nodes = 8
retry_ms = 500
evict_after_s = 10.0
"#;

/// Namespaces and the switch between them; gone when dropped.
struct Network {
    names: Vec<String>,
    switch: Child,
    answers: BufReader<ChildStdout>,
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// With a port for each peer, and one for whoever asks them.
    fn start() -> Self {
        let names: Vec<String> =
            (0..=PEERS).map(|port| format!("star-{}-{port}", std::process::id())).collect();
        for name in &names {
            ip(&["netns", "add", name]);
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/namespaces/switch.py");
        let mut command = Command::new("python3");
        command.arg(script).args(&names).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = command.spawn().unwrap();
        let answers = BufReader::new(switch.stdout.take().unwrap());
        let mut network = Self { names, switch, answers };
        assert_eq!(network.answer(), "ready");
        network
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.switch.stdin.as_mut().unwrap(), "{order}").unwrap();
        self.answer()
    }

    /// The peer's only interface, as if its cable were pulled.
    fn cable(&self, peer: usize, state: &str) {
        ip(&["-n", &self.names[peer], "link", "set", "star0", state]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.switch.stdin.take());
        let _ = self.switch.wait();
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn number(status: &Value, key: &str) -> f64 {
    status[key].as_f64().unwrap()
}

/// Rounds of the peers that answer.
fn rounds(fleet: &Fleet, of: &[usize]) -> Vec<(usize, u64)> {
    of.iter().filter_map(|peer| Some((*peer, fleet.status(*peer)?["round"].as_u64()?))).collect()
}

/// Looks on for a while; tells how far the peers came and how often the mass was seen balanced.
fn watch(fleet: &Fleet, what: &str, of: &[usize], lasts: Duration) {
    let (began, before) = (Instant::now(), rounds(fleet, of));
    let (mut seen, mut standing, mut longest) = (0, Instant::now(), Duration::ZERO);
    let mut last = before.iter().map(|(_, round)| *round).min();
    while began.elapsed() < lasts {
        sleep(Duration::from_millis(250));
        let statuses: Vec<Value> = of.iter().filter_map(|peer| fleet.status(*peer)).collect();
        for status in &statuses {
            assert_eq!(status["balanced"], true, "{status}");
            seen += 1;
        }
        let lowest = statuses.iter().filter_map(|status| status["round"].as_u64()).min();
        if lowest > last {
            (last, standing) = (lowest, Instant::now());
        }
        longest = longest.max(standing.elapsed());
    }
    let (seconds, after) = (began.elapsed().as_secs_f64(), rounds(fleet, of));
    let rate = |peer: usize| {
        let of = |rounds: &[(usize, u64)]| rounds.iter().find(|(other, _)| *other == peer).map(|(_, r)| *r);
        Some((of(&after)?.saturating_sub(of(&before)?)) as f64 / seconds)
    };
    let rates: Vec<f64> = of.iter().filter_map(|peer| rate(*peer)).collect();
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    println!(
        "{what}: {seconds:.0} s, {mean:.2} rounds/s, the slowest stood still for at most {:.1} s, {seen} statuses balanced, rounds {after:?}",
        longest.as_secs_f64()
    );
}

/// Kills two in the middle of a bad network, and starts one of them again.
fn kill_two(fleet: &mut Fleet, left: &[usize]) {
    fleet.kill(3);
    fleet.kill(5);
    sleep(Duration::from_secs(2));
    fleet.launch(5);
    watch(fleet, "20 % loss, 100 ms, peers 3 and 5 killed, 5 restarted", left, HALF_A_MINUTE);
}

#[test]
#[ignore = "needs root, ip, python3 and /dev/net/tun: tests/namespaces.sh runs it"]
fn peers_survive_a_bad_network() {
    let mut network = Network::start();
    let called =
        (0..PEERS).map(|peer| (format!("peer-{peer}"), format!("10.77.0.{}:7079", peer + 1))).unzip();
    let inside = (network.names[..PEERS].to_vec(), network.names[PEERS].clone());
    assert_eq!(network.order("delay 5"), "ok");
    let mut fleet = Fleet::start_at(RUN, called, Some(inside));
    let all: Vec<usize> = (0..PEERS).collect();
    fleet.wait(0, "the run begins", |status| status["round"].as_u64() >= Some(4));
    watch(&fleet, "5 ms", &all, Duration::from_secs(10));

    assert_eq!((network.order("loss 0.2"), network.order("delay 100")), ("ok".into(), "ok".into()));
    watch(&fleet, "20 % loss, 100 ms", &all, HALF_A_MINUTE);
    let left: Vec<usize> = (0..PEERS).filter(|peer| *peer != 3).collect();
    kill_two(&mut fleet, &left);
    assert_eq!((network.order("loss 0"), network.order("delay 5")), ("ok".into(), "ok".into()));
    fleet.wait(0, "peer 3 is given up, 5 is back", |status| live(status) == PEERS - 1);
    watch(&fleet, "5 ms again", &left, Duration::from_secs(10));

    network.cable(2, "down");
    let others: Vec<usize> = left.iter().copied().filter(|peer| *peer != 2).collect();
    watch(&fleet, "peer 2 without its cable", &others, HALF_A_MINUTE);
    network.cable(2, "up");
    let began = Instant::now();
    for peer in [0, 2] {
        fleet.wait(peer, "peer 2 is back", |status| live(status) == PEERS - 1);
    }
    println!("peer 2 is back after {:.1} s", began.elapsed().as_secs_f64());

    for order in ["cut 0 1", "cut 1 0", "cut 4 6"] {
        assert_eq!(network.order(order), "ok");
    }
    watch(&fleet, "nothing passes between 0 and 1, nor from 4 to 6", &left, HALF_A_MINUTE);
    let under_way = |peer: &usize| fleet.status(*peer).unwrap()["phase"] != "finished";
    assert!(
        left.iter().all(under_way),
        "all rounds were done before the links were mended: give the run more"
    );
    for order in ["mend 0 1", "mend 1 0", "mend 4 6"] {
        assert_eq!(network.order(order), "ok");
    }
    end_together(&fleet, &left);
    println!("frames: {}", network.order("count"));
}

/// All rounds are done by all who are left, the mass is the published one, and the models are close.
fn end_together(fleet: &Fleet, left: &[usize]) {
    let began = Instant::now();
    for peer in left {
        fleet.wait(*peer, "all rounds are done", |status| {
            status["phase"] == "finished" && live(status) == PEERS - 1
        });
    }
    let statuses: Vec<Value> = left.iter().map(|peer| fleet.status(*peer).unwrap()).collect();
    let sum = |key: &str| statuses.iter().map(|status| number(status, key)).sum::<f64>();
    // Accounts may be larger than what f64 tells to the last unit.
    let (mass, account) = (sum("holding"), sum("account"));
    assert!((mass - account).abs() < 1e-12, "mass {mass}, published {account}");
    assert!(statuses.iter().all(|status| status["balanced"] == true));
    let models: Vec<Vec<f32>> = left.iter().map(|peer| fleet.model(*peer)).collect();
    let (off, norm) = apart(&models);
    let epoch = &statuses[0]["epoch"];
    println!(
        "the end after {:.0} s: mass {} = {}, epoch {epoch}, at most {:.2} % of the mean model's length from it",
        began.elapsed().as_secs_f64(),
        sum("holding"),
        sum("account"),
        100.0 * off / norm
    );
    assert!(off < 0.25 * norm, "{off} from the mean, whose length is {norm}");
}
