//! Whole federations over real sockets: the same seed gives the same models whatever happens on the
//! way, and every promise to an operator is kept.

use algorithms::rules::RULES;
use proto::{
    digest::Digest,
    event::RunEvent,
    v1::{RunCommand, RunState},
};
use starling_tests::{
    federation::{Federation, Trainer, Worker},
    toy::Toy,
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::sleep;

/// A run of a small network on shares of the digits.
fn digits(name: &str, algorithm: &str, seed: u64, rest: &str) -> String {
    format!(
        "name='{name}'\nrounds=3\nseed={seed}\n[model]\nkind='mlp'\nhidden=[16]\n\
         [data]\nname='digits'\npartition={{kind='dirichlet',alpha=1.0}}\n[algorithm]\nkind='{algorithm}'\n\
         [local]\nbatch=20\nlr=0.05\n{rest}"
    )
}

/// A run of a bare vector.
fn flat(name: &str, algorithm: &str, rounds: u64, seed: u64, workers: usize) -> String {
    format!(
        "name='{name}'\nrounds={rounds}\nseed={seed}\n[model]\nkind='flat'\nparameters=1000\n\
         [data]\nname='digits'\n[algorithm]\nkind='{algorithm}'\n[cohort]\nmin_workers={workers}\n"
    )
}

fn toy(pause_ms: u64) -> Trainer {
    Trainer::Toy(Toy { pause: Duration::from_millis(pause_ms), ..Toy::default() })
}

async fn toys(count: usize, pause_ms: u64) -> Federation {
    let mut federation = Federation::start().await;
    for index in 0..count {
        federation.add(&format!("w{index}"), toy(pause_ms));
    }
    federation
}

/// The digests of a run of toys that nobody disturbs.
async fn undisturbed(spec: &str, workers: usize) -> Vec<Digest> {
    let mut federation = toys(workers, 0).await;
    let run = federation.operator.submit(spec).await;
    federation.operator.finished(&run).await;
    federation.operator.digests(&run).await
}

/// Digests of a FedAvg and a SCAFFOLD run at once.
async fn train(order: &[usize], threads: usize, apart_ms: u64, seed: u64) -> [Vec<Digest>; 2] {
    let mut federation = Federation::start().await;
    let cohort = "[cohort]\nmin_workers=3\n";
    let fedavg = digits("fedavg", "fedavg", seed, cohort).replace("'mlp'\nhidden=[16]", "'lenet'");
    let fedavg = federation.operator.submit(&fedavg).await;
    let scaffold = federation.operator.submit(&digits("scaffold", "scaffold", seed, cohort)).await;
    federation.add_shares(order, threads, apart_ms).await;
    federation.operator.finished(&fedavg).await;
    federation.operator.finished(&scaffold).await;
    [federation.operator.digests(&fedavg).await, federation.operator.digests(&scaffold).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_seed_gives_one_model_whatever_the_order_and_the_threads() {
    let first = train(&[0, 1, 2], 1, 0, 7).await;
    let second = train(&[2, 0, 1], 2, 40, 7).await;
    assert_eq!(first, second);
    for digests in &first {
        assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), 3, "every round moves the model");
    }
    let other = train(&[0, 1, 2], 1, 0, 8).await;
    for (ours, theirs) in first.iter().zip(&other) {
        assert!(ours.iter().zip(theirs).all(|(a, b)| a != b), "another seed, another model");
    }
}

async fn cohorts(order: [usize; 4]) -> Vec<Vec<String>> {
    let mut federation = Federation::start().await;
    let spec = flat("draw", "fedavg", 8, 5, 4) + "size=2\n";
    let run = federation.operator.submit(&spec).await;
    for index in order {
        federation.add(&format!("w{index}"), toy(0));
        sleep(Duration::from_millis(20)).await;
    }
    let events = federation.operator.finished(&run).await;
    let opened = events.into_iter().filter_map(|event| match event {
        RunEvent::RoundOpened { cohort, .. } => Some(cohort),
        _ => None,
    });
    opened.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_fleet_is_drawn_by_the_seed_alone() {
    let first = cohorts([0, 1, 2, 3]).await;
    assert_eq!(first, cohorts([3, 1, 0, 2]).await);
    assert!(first.len() == 8 && first.iter().all(|cohort| cohort.len() == 2), "{first:?}");
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "draws differ between rounds: {first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_comes_back_and_the_run_gives_the_same_models() {
    let spec = flat("killed", "scaffold", 6, 3, 3);
    let mut federation = toys(3, 60).await;
    let run = federation.operator.submit(&spec).await;
    federation.operator.committed(&run, 1).await;
    sleep(Duration::from_millis(20)).await;
    federation.workers.remove(1).kill().await;
    while federation.operator.worker("w1").await.unwrap().connected {
        sleep(Duration::from_millis(10)).await;
    }
    // The others are done by now: it is missed in this round or in the next.
    sleep(Duration::from_millis(150)).await;
    federation.add("w1", toy(60));
    let events = federation.operator.finished(&run).await;
    let back = |event: &RunEvent| matches!(event, RunEvent::WorkerReturned { worker, .. } if worker == "w1");
    assert!(events.iter().any(back), "{events:#?}");
    assert_eq!(federation.operator.digests(&run).await, undisturbed(&spec, 3).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_coordinator_goes_on_and_the_run_gives_the_same_models() {
    let spec = flat("restarted", "feddyn", 8, 4, 2);
    let mut federation = toys(2, 60).await;
    let run = federation.operator.submit(&spec).await;
    federation.operator.committed(&run, 1).await;
    sleep(Duration::from_millis(20)).await;
    let mut federation = federation.restart_coordinator().await;
    assert!((2..8).contains(&federation.operator.digests(&run).await.len()), "in the middle of the run");
    federation.operator.finished(&run).await;
    assert_eq!(federation.operator.digests(&run).await, undisturbed(&spec, 2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_share_workers_and_obey_their_operator() {
    let mut federation = toys(2, 20).await;
    let operator = &mut federation.operator;
    let long = operator.submit(&flat("long", "fedavg", 1_000, 1, 2)).await;
    let paused = operator.submit(&flat("paused", "scaffold", 5, 2, 2)).await;
    operator.committed(&paused, 0).await;
    operator.control(&paused, RunCommand::Pause).await;
    // A commit that was under way is finished.
    sleep(Duration::from_millis(150)).await;
    let before = operator.digests(&paused).await;
    let beside = operator.submit(&flat("beside", "feddyn", 3, 3, 2)).await;
    operator.finished(&beside).await;
    assert_eq!(operator.state(&paused).await, RunState::Paused);
    assert_eq!(operator.digests(&paused).await, before, "no round is committed while a run is paused");
    operator.control(&paused, RunCommand::Resume).await;
    operator.finished(&paused).await;
    assert_eq!(operator.state(&long).await, RunState::Running);
    operator.control(&long, RunCommand::Cancel).await;
    let events = operator.watch(&long, RunEvent::is_last).await;
    assert_eq!(events.last(), Some(&RunEvent::Cancelled {}));
    assert_eq!(operator.state(&long).await, RunState::Cancelled);
    let after = operator.submit(&flat("after", "fedavg", 2, 4, 2)).await;
    operator.finished(&after).await;
    assert_eq!(operator.digests(&paused).await, undisturbed(&flat("paused", "scaffold", 5, 2, 2), 2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_evaluated_here_and_there_and_can_be_taken_away() {
    let mut federation = Federation::start().await;
    let rest = "[cohort]\nmin_workers=2\n[evaluation]\nfederated=true\ndetails=true\n";
    let run = federation.operator.submit(&digits("evaluated", "fedavg", 1, rest)).await;
    federation.add_shares(&[0, 1], 1, 0).await;
    let events = federation.operator.finished(&run).await;
    let published = events.iter().filter(|event| matches!(event, RunEvent::RoundMetrics { .. })).count();
    let metrics = federation.operator.metrics(&run).await;
    assert_eq!((published, metrics.len()), (3, 3));
    for line in &metrics {
        for accuracy in [line.eval_accuracy, line.federated_accuracy] {
            assert!(accuracy.is_some_and(|share| (0.0..=1.0).contains(&share)), "{line:?}");
        }
        assert!(line.eval_loss.is_some() && line.federated_loss.is_some(), "{line:?}");
        // The workers' shares of the held-out digits are the coordinator's set.
        assert_eq!(line.eval_accuracy, line.federated_accuracy, "{line:?}");
        let clients = line.clients.as_deref().unwrap();
        assert_eq!((clients.accuracy.clients, clients.loss.clients), (2, 2));
        assert!(clients.accuracy.worst_decile <= clients.accuracy.mean, "{clients:?}");
        assert!(clients.loss.worst_decile >= clients.loss.mean && clients.personal.is_none(), "{clients:?}");
        let confusion = clients.confusion.as_ref().unwrap();
        let (all, hits) =
            (confusion.counts.iter().sum::<u64>(), (0..confusion.classes).map(|c| confusion.row(c)[c]));
        assert_eq!(Some(hits.sum::<u64>() as f64 / all as f64), line.federated_accuracy, "{line:?}");
        let calibration = clients.calibration.unwrap();
        assert_eq!(calibration.predictions as u64, all);
        assert!(calibration.low <= calibration.ece && calibration.ece <= calibration.high, "{calibration:?}");
    }
    let (header, model) = federation.operator.export(&run).await.unwrap();
    assert_eq!(Digest::of_vector(&model), metrics[2].model_digest);
    assert_eq!(header.round, Some(2));
    let elements: u64 = header.tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    assert_eq!((elements, model.len()), (784 * 16 + 16 + 16 * 10 + 10, elements as usize));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_holds_is_not_sent_again() {
    let mut federation = Federation::start().await;
    for name in ["w0", "w1"] {
        federation.add(name, Trainer::Toy(Toy { shrink: 0.0, pause: Duration::from_millis(5) }));
    }
    let operator = &mut federation.operator;
    let down =
        |lines: Vec<proto::event::Metrics>| lines.iter().map(|line| line.bytes_down).collect::<Vec<_>>();
    let first = operator.submit(&flat("first", "fedavg", 10_000, 1, 2)).await;
    operator.committed(&first, 2).await;
    assert_eq!(down(operator.metrics(&first).await)[..3], [8_000, 0, 0], "the model does not change");
    let second = operator.submit(&flat("second", "fedavg", 2, 1, 2)).await;
    operator.finished(&second).await;
    assert_eq!(down(operator.metrics(&second).await), [0, 0], "it is the first run's model");
    let other = operator.submit(&flat("other", "fedavg", 2, 2, 2)).await;
    operator.finished(&other).await;
    assert_eq!(down(operator.metrics(&other).await), [8_000, 0], "another model");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_goes_over_the_wire() {
    let mut federation = Federation::start().await;
    let mut runs = Vec::new();
    for rule in RULES {
        let spec =
            digits(rule.name, rule.name, 1, "[cohort]\nmin_workers=2\n").replace("rounds=3", "rounds=2");
        runs.push(federation.operator.submit(&spec).await);
    }
    federation.add_shares(&[0, 1], 1, 0).await;
    for run in runs {
        let events = federation.operator.finished(&run).await;
        let refused = |event: &RunEvent| {
            matches!(event, RunEvent::UpdateRejected { .. } | RunEvent::WorkerDeclined { .. })
        };
        assert!(!events.iter().any(refused), "{run}: {events:#?}");
        let metrics = federation.operator.metrics(&run).await;
        assert!(
            metrics.len() == 2 && metrics.iter().all(|line| line.participants == 2),
            "{run}: {metrics:?}"
        );
        assert_ne!(metrics[0].model_digest, metrics[1].model_digest, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_commit_together_keep_their_vectors() {
    const RUNS: u64 = 8;
    let mut federation = toys(2, 0).await;
    let mut runs = Vec::new();
    for seed in 0..RUNS {
        runs.push(federation.operator.submit(&flat(&format!("r{seed}"), "scaffold", 8, seed, 2)).await);
    }
    for run in &runs {
        federation.operator.finished(run).await;
    }
    // What was only in memory is gone: everything comes from the disk.
    let mut federation = federation.restart_coordinator().await;
    for run in &runs {
        let last = federation.operator.digests(run).await.pop();
        let exported = federation.operator.export(run).await;
        let (_, model) = exported.unwrap_or_else(|status| panic!("{run}: {status}"));
        assert_eq!(Some(Digest::of_vector(&model)), last, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_come_before_its_coordinator() {
    let gone = Federation::start().await;
    let address = gone.coordinator.address;
    gone.coordinator.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let _worker = Worker::start(address, dir.path(), "early", toy(0));
    sleep(Duration::from_millis(300)).await;
    let coordinator =
        starling_tests::federation::Coordinator::start(&dir.path().join("coordinator"), address).await;
    let mut operator = coordinator.operator();
    let run = operator.submit(&flat("late", "fedavg", 2, 1, 1)).await;
    operator.finished(&run).await;
}
