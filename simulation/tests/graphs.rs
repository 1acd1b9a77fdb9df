//! Peers on a virtual clock: the same bytes whatever the threads and the interruptions; every decentralised rule;
//! exact graphs give exact means.

use proto::spec::RunSpec;
use simulation::{
    peers::{Line, Notice, Outcome, run},
    training::{Setup, SimulationError, Stop},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};
use worker::data::{Dataset, Source, Split};

fn data() -> (Dataset, Dataset) {
    let source = Source::Digits { train: 160, test: 40, seed: 0 };
    let load = |split| source.load(split, 0).expect("digits are drawn");
    (load(Split::Train), load(Split::Test))
}

fn spec(algorithm: &str, topology: &str) -> RunSpec {
    let text = format!(
        "name='p'\nmode='decentralised'\nrounds=5\nseed=3\n[model]\nkind='mlp'\nhidden=[8]\n[data]\nname='digits'\n\
         partition={{kind='dirichlet',alpha=0.5}}\n[evaluation]\nevery=2\n[local]\nsteps=2\nbatch=10\nlr=0.05\n\
         [topology]\nnodes=8\n{topology}\n[algorithm]\nkind={algorithm}\n"
    );
    RunSpec::from_toml(&text).expect("a run file")
}

fn setup(spec: RunSpec, folder: &Path) -> Setup {
    let (train, test) = data();
    Setup {
        clients: spec.topology.as_ref().expect("peers").nodes,
        spec,
        train,
        test: Some(test),
        threads: 1,
        folder: folder.to_owned(),
        placement: worker::engine::cuda::Placement::default(),
        checkpoint: Duration::from_hours(1),
        memory: 0,
        reproducible_noise: false,
        stop: Stop::default(),
    }
}

fn go(change: impl FnOnce(&mut Setup), spec: RunSpec) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut setup = setup(spec, folder.path());
    change(&mut setup);
    let outcome = run(&setup, &mut |_| ()).expect("it comes to its end");
    let entries = std::fs::read_dir(folder.path()).expect("the folder is there").flatten();
    let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["metrics.jsonl"], "nothing in the making is left");
    outcome
}

/// Push and pairs in step; several mixing steps; state beside the model; overlapping and free-running rounds.
const CASES: [(&str, &str); 9] = [
    ("'sgp'", "kind='one-peer-exponential'"),
    ("'dpsgd'", "kind='ring'"),
    ("'dfedsam-mgs'", "kind='ring'"),
    ("'gradient-tracking'", "kind='ring'"),
    ("'choco-sgd'\ncompressor={kind='top-k',ratio=0.2}", "kind='ring'"),
    ("'relaysgd'", "kind='path'"),
    ("'dfedinit'", "kind='hypercube'"),
    ("'osgp'", "kind='static-exponential'"),
    ("'sgp'", "kind='random-k-out'\nbarrier='asynchronous'"),
];

/// Dies when it has seen so many notices.
fn dies_after(setup: &Setup, notices: usize) -> Option<Outcome> {
    let mut left = notices;
    let mut watch = |_: Notice<'_>| {
        assert!(left > 0, "killed, as planned");
        left -= 1;
    };
    catch_unwind(AssertUnwindSafe(|| run(setup, &mut watch).expect("it comes to its end"))).ok()
}

#[test]
fn threads_and_interruptions_change_nothing() {
    for (algorithm, topology) in CASES {
        let spec = || spec(algorithm, topology);
        let one = go(|_| (), spec());
        assert_eq!((one.lines.len(), one.peers.len()), (5, 8), "{algorithm}");
        assert_eq!(one, go(|setup| setup.threads = 3, spec()), "{algorithm}: threads");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut setup = setup(spec(), folder.path());
        (setup.checkpoint, setup.threads) = (Duration::ZERO, 2);
        let mut deaths = 0;
        let outcome = loop {
            match dies_after(&setup, 3) {
                Some(outcome) => break outcome,
                None => deaths += 1,
            }
            assert!(deaths < 9, "{algorithm}: it goes on");
        };
        assert!(deaths > 1, "{algorithm}");
        assert_eq!(outcome, one, "{algorithm}: interruptions");
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).expect("its lines");
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
        assert_eq!(lines, one.lines, "{algorithm}");
    }
}

#[test]
fn a_simulation_that_is_stopped_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut setup = setup(spec("'sgp'", "kind='one-peer-exponential'"), folder.path());
    let stop = Stop::default();
    setup.stop = stop.clone();
    let mut seen = 0;
    let stopped = run(&setup, &mut |notice| {
        seen += usize::from(matches!(notice, Notice::Round(_)));
        if seen == 2 {
            stop.say();
        }
    });
    assert!(matches!(stopped, Err(SimulationError::Stopped { rounds: 2 })), "{stopped:?}");
    setup.stop = Stop::default();
    let mut rounds = None;
    let outcome = run(&setup, &mut |notice| {
        if let Notice::Started { rounds: before } = notice {
            rounds = Some(before);
        }
    });
    assert_eq!(rounds, Some(2));
    assert_eq!(outcome.expect("it ends"), go(|_| (), setup.spec.clone()));
}

#[test]
fn every_rule_keeps_its_mass_and_learns() {
    for row in gossip::rules::RULES {
        let topology = match row.name {
            "relaysgd" => "kind='path'",
            _ if row.mode == gossip::report::Mode::Push => "kind='directed-ring'",
            _ => "kind='ring'",
        };
        let outcome = go(|setup| setup.threads = 2, spec(&format!("'{}'", row.name), topology));
        let last = &outcome.lines[4];
        assert!((last.mass - 8.0).abs() < 1e-6, "{}: {}", row.name, last.mass);
        let learnt = last.consensus_loss < outcome.lines[1].consensus_loss;
        assert!(learnt, "{}: {:?}", row.name, outcome.lines);
        assert!(last.metrics.bytes_up > 0 && last.metrics.eval_accuracy.is_some(), "{}", row.name);
        let evaluated: Vec<bool> =
            outcome.lines.iter().map(|line| line.consensus_accuracy.is_some()).collect();
        assert_eq!(evaluated, [false, true, false, true, true], "{}", row.name);
    }
}

#[test]
fn exact_graphs_bring_peers_together_and_a_ring_does_not() {
    let distance = |algorithm: &str, topology: &str| {
        let outcome = go(|_| (), RunSpec { rounds: 6, ..spec(algorithm, topology) });
        let line = outcome.lines.last().expect("six rounds").clone();
        (line.consensus_distance.expect("a small model"), line.consensus_predicted)
    };
    let full = distance("'dpsgd'", "kind='full'").0;
    let ring = distance("'dpsgd'", "kind='ring'").0;
    // Three mixing steps a round along the dimensions of a cube of 8 are the exact mean.
    let cube = distance("'dfedsam-mgs'\nrho=0.0\nrepeats=3", "kind='one-peer-hypercube'").0;
    assert!(full < 1e-9 && cube < 1e-9, "{full} {cube}");
    assert!(ring > 1e-4 && ring > 1e4 * full, "{ring}");
    let (measured, predicted) = distance("'sgp'", "kind='one-peer-exponential'");
    let predicted = predicted.expect("even matrices that repeat");
    assert!(predicted > measured / 20.0 && predicted < measured * 20.0, "{measured} {predicted}");
}

#[test]
fn bytes_are_those_of_the_design() {
    let sent = |algorithm: &str, topology: &str| {
        let outcome = go(|_| (), spec(algorithm, topology));
        (outcome.lines[1].metrics.bytes_up, outcome.parameters as u64)
    };
    let (bytes, d) = sent("'sgp'", "kind='one-peer-exponential'");
    assert_eq!(bytes, 8 * (4 * d + 8));
    let (bytes, d) = sent("'dpsgd'", "kind='ring'");
    assert_eq!(bytes, 8 * 2 * 4 * d);
}

#[test]
fn what_cannot_be_simulated_is_said() {
    let refused = |change: &dyn Fn(&mut Setup)| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut setup = setup(spec("'sgp'", "kind='ring'"), folder.path());
        change(&mut setup);
        run(&setup, &mut |_| ()).expect_err("it is refused").to_string()
    };
    assert!(refused(&|setup| setup.clients = 5).contains("the 8 of `topology.nodes`"));
    assert!(refused(&|setup| setup.spec.data.partition = None).contains("data.partition"));
}
