//! Private runs over real sockets: every release is in the ledger and costs what is shown, the budget
//! stops what does not fit it, and an update that does not keep to the bound is not counted.
#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use coordinator::{
    private::Guard,
    store::{Payment, Release, RunRecord, Store, Stored},
};
use privacy::{Journal, accountants::report};
use proto::{
    event::RunEvent,
    v1::{RejectReason, RunCommand, RunState},
};
use starling_tests::{
    federation::{Federation, Trainer},
    peer::{Judged, Peer},
    toy::Toy,
};
use std::{collections::BTreeSet, path::Path, time::Duration};

const DRAWN: &str = "sampling={kind='poisson',rate=0.5}\n";

/// A run of a bare vector on the data set `digits`.
fn private(name: &str, rounds: u64, promise: &str) -> String {
    format!(
        "name='{name}'\nrounds={rounds}\n[model]\nkind='flat'\nparameters=1000\n[data]\nname='digits'\n\
         [cohort]\npopulation=4\nmin_workers=3\ndeadline_s=20\n\
         [privacy]\nunit='client'\nadjacency='zero_out'\nmechanism='central_gaussian'\nclip_norm=0.5\ndelta=1e-5\n\
         {promise}"
    )
}

async fn toys(pause_ms: u64) -> Federation {
    let mut federation = Federation::start().await;
    add_toys(&mut federation, pause_ms);
    federation
}

fn add_toys(federation: &mut Federation, pause_ms: u64) {
    for index in 0..4 {
        let toy = Toy { pause: Duration::from_millis(pause_ms), ..Toy::default() };
        federation.add(&format!("w{index}"), Trainer::Toy(toy));
    }
}

async fn journal(federation: &mut Federation) -> Journal {
    Journal::parse(&federation.operator.ledger("digits").await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_what_the_ledger_says_and_nothing_tells_who_took_part() {
    let mut federation = toys(0).await;
    let spec = private("shown", 8, &format!("epsilon=4.0\n{DRAWN}"));
    let run = federation.operator.submit(&spec).await;
    let events = federation.operator.finished(&run).await;
    for event in &events {
        let silent = match event {
            RunEvent::RoundOpened { cohort, .. } => cohort.is_empty(),
            RunEvent::RoundCommitted { participants, .. } => *participants == 0,
            RunEvent::UpdateApplied { .. } | RunEvent::UpdateRejected { .. } => false,
            _ => true,
        };
        assert!(silent, "{event:?}");
    }
    let lines = federation.operator.metrics(&run).await;
    assert!(lines.iter().all(|line| line.train_loss.is_none() && line.bytes_up == 0), "{lines:?}");
    let shown: Vec<f64> = lines.iter().map(|line| line.epsilon.unwrap()).collect();
    assert!(shown.len() == 8 && shown.windows(2).all(|pair| pair[0] < pair[1]), "{shown:?}");
    assert!(shown[7] <= 4.0 && shown[7] > 3.9, "{shown:?}");
    let journal = journal(&mut federation).await;
    assert_eq!(journal.ledger().events().len(), 8);
    assert!((1..=8).all(|round| journal.paid(&run, round)));
    assert_eq!(report::epsilon(journal.ledger(), 1e-5, 1).epsilon, shown[7]);

    // The data set has one ledger: nothing of that size is left in it.
    let refused = federation.operator.refused(&spec).await;
    assert!(refused.contains("not even one round fits") && refused.contains("`digits`"), "{refused}");
    let other = spec.replace("zero_out", "add_remove");
    assert!(federation.operator.refused(&other).await.contains("state the same"));

    // Only an operator's word ends it, and the lines before stay.
    assert!(federation.operator.reset("digits", " ").await.unwrap_err().message().contains("reason"));
    assert!(
        federation
            .operator
            .reset("mnist", "x")
            .await
            .unwrap_err()
            .message()
            .contains("known ledgers: digits")
    );
    let lines = federation.operator.reset("digits", "new clients only").await.unwrap();
    assert!(lines.lines().count() == 10 && lines.contains("new clients only"), "{lines}");
    let again = federation.operator.submit(&spec).await;
    let active = federation.operator.reset("digits", "x").await;
    assert!(active.is_err() || federation.operator.state(&again).await == RunState::Finished);
    federation.operator.finished(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_under_way_will_spend_is_not_promised_twice() {
    // Nobody trains: nothing is spent, all is planned.
    let mut federation = Federation::start().await;
    let operator = &mut federation.operator;
    let spec = |name: &str, rounds| private(name, rounds, &format!("noise_multiplier=1.0\n{DRAWN}"));
    let strict = |name: &str, rounds| private(name, rounds, &format!("epsilon=4.0\n{DRAWN}"));
    let first = operator.submit(&strict("first", 10)).await;
    let refused = operator.refused(&strict("second", 10)).await;
    for want in ["above the budget of 4", "not even one round fits", &format!("`{first}` (10 rounds)")] {
        assert!(refused.contains(want), "{want}: {refused}");
    }
    // A run that watches no budget may not spend what another was promised either.
    let refused = operator.refused(&spec("loose", 1)).await;
    assert!(refused.contains(&format!("the budget of run `{first}`")), "{refused}");
    operator.control(&first, RunCommand::Cancel).await;
    operator.watch(&first, RunEvent::is_last).await;
    let loose = operator.submit(&spec("loose", 1)).await;
    let refused = operator.refused(&strict("second", 10)).await;
    assert!(refused.contains(&format!("`{loose}` (1 rounds)")), "{refused}");
    operator.control(&loose, RunCommand::Cancel).await;
    operator.watch(&loose, RunEvent::is_last).await;
    operator.submit(&strict("second", 10)).await;
}

/// What the gate at submission cannot foresee: releases that were paid for while the coordinator was down,
/// as when an operator puts back an older store of runs.
fn three_rounds_of_another_run(folder: &Path) {
    let store = Store::open(folder).unwrap();
    let record = store.runs().unwrap().remove(0);
    let algorithm = record.spec.algorithm.make().unwrap();
    let guard = Guard::of(&record.spec, algorithm.as_ref(), 1000).unwrap().unwrap();
    let other = RunRecord { id: "other-9".into(), number: 9, state: Stored::Cancelled {}, ..record };
    for round in 1..=3 {
        let payment = Payment {
            dataset: "digits".into(),
            unit: guard.spec().unit(),
            adjacency: guard.spec().adjacency(),
            round,
            event: guard.cost(round).cloned(),
            gate: None,
            delta: 1e-5,
        };
        let paid = store.release(&other, &[], None, &payment).unwrap();
        assert!(matches!(paid, Release::Done { .. }), "{paid:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_reaches_its_bound_stops_with_its_model() {
    let mut federation = Federation::start().await;
    let run = federation.operator.submit(&private("one", 10, &format!("epsilon=4.0\n{DRAWN}"))).await;
    let mut federation = federation.restart_coordinator_after(three_rounds_of_another_run).await;
    add_toys(&mut federation, 5);
    let events = federation.operator.watch(&run, RunEvent::is_last).await;
    let Some(RunEvent::Exhausted { rounds: 7, reason, .. }) = events.last() else {
        panic!("{:?}", events.last());
    };
    assert!(reason.contains("above the budget of 4"), "{reason}");
    assert_eq!(federation.operator.state(&run).await, RunState::Exhausted);
    assert_eq!(federation.operator.metrics(&run).await.len(), 7);
    federation.operator.export(&run).await.unwrap();
    let journal = journal(&mut federation).await;
    assert_eq!(journal.ledger().events().len(), 10);
    assert!(report::epsilon(journal.ledger(), 1e-5, 1).epsilon <= 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_with_the_same_ledger() {
    let mut federation = toys(20).await;
    let run = federation.operator.submit(&private("restart", 6, &format!("epsilon=4.0\n{DRAWN}"))).await;
    federation.operator.committed(&run, 1).await;
    federation.operator.control(&run, RunCommand::Pause).await;
    federation.operator.control(&run, RunCommand::Resume).await;
    let mut federation = federation.restart_coordinator().await;
    federation.operator.finished(&run).await;
    let journal = journal(&mut federation).await;
    assert_eq!(journal.ledger().events().len(), 6);
    let shown = federation.operator.metrics(&run).await;
    assert_eq!(shown.last().unwrap().epsilon, Some(report::epsilon(journal.ledger(), 1e-5, 1).epsilon));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_does_not_trust_a_workers_clipping() {
    let mut federation = Federation::start().await;
    let spec = private("bad", 1, "noise_multiplier=1.0\nsampling={kind='everyone'}\n")
        .replace("min_workers=3", "min_workers=2\nmin_updates=2")
        .replace("[privacy]", "[vetting]\nquarantine_after=0\n[privacy]");
    let run = federation.operator.submit(&spec).await;
    let mut long = Peer::join(federation.coordinator.address, "long").await;
    let mut off = Peer::join(federation.coordinator.address, "off").await;
    let assignment = long.assignment().await;
    assert_eq!(assignment.clip_norm, Some(0.5));
    let upload = long.update(&assignment, &[0.25; 1000]);
    assert_eq!(long.send(upload).await.0, Judged::Rejected(RejectReason::Norm));
    let assignment = off.assignment().await;
    let upload = off.update(&assignment, &[1e-4 / 3.0; 1000]);
    assert_eq!(off.send(upload).await.0, Judged::Rejected(RejectReason::Range));
    assert!(federation.operator.metrics(&run).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp_ftrl_pays_for_the_whole_run_before_the_first_round() {
    let mut federation = toys(0).await;
    let spec = private(
        "ftrl",
        4,
        "epsilon=4.0\nparticipation={most=4}\nstrategy={kind='toeplitz',factor={kind='square_root'}}\n",
    )
    .replace("central_gaussian", "dp_ftrl");
    let run = federation.operator.submit(&spec).await;
    federation.operator.finished(&run).await;
    let journal = journal(&mut federation).await;
    assert_eq!(journal.ledger().events().len(), 1);
    assert!(journal.paid(&run, 0));
    let shown = federation.operator.metrics(&run).await;
    let whole = report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
    assert!(whole <= 4.0 && shown.iter().all(|line| line.epsilon == Some(whole)), "{whole} {shown:?}");
    let refused = federation.operator.refused(&spec).await;
    assert!(refused.contains("pays for all its rounds before the first"), "{refused}");
}

fn shared(name: &str, rounds: u64, law: &str) -> String {
    let promise = "noise_multiplier=1.0\nsampling={kind='everyone'}\nleast_shares=3\n";
    private(name, rounds, promise)
        .replace("central_gaussian", law)
        .replace("deadline_s=20", "min_updates=4\ndeadline_s=2")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_add_the_noise_and_every_round_is_paid_for() {
    let mut federation = toys(0).await;
    for (law, kind) in
        [("distributed_discrete_gaussian", "distributed_discrete_gaussian"), ("skellam", "skellam")]
    {
        let spec = shared(&format!("shares-{kind}").replace('_', "-"), 5, law);
        let run = federation.operator.submit(&spec).await;
        federation.operator.finished(&run).await;
        let shown = federation.operator.metrics(&run).await;
        assert!(shown.iter().all(|line| line.participants == 4), "{shown:?}");
        let digests: BTreeSet<String> = shown.iter().map(|line| line.model_digest.to_string()).collect();
        assert_eq!(digests.len(), 5, "each round moved the model");
        let journal = journal(&mut federation).await;
        assert_eq!(journal.ledger().events().len(), 5);
        assert!((1..=5).all(|round| journal.paid(&run, round)));
        let text = journal.export();
        assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "{text}");
        assert_eq!(shown[4].epsilon, Some(report::epsilon(journal.ledger(), 1e-5, 1).epsilon));
        federation.operator.reset("digits", "the next law").await.unwrap();
    }
    let few = shared("few", 1, "skellam").replace("least_shares=3", "least_shares=5");
    let refused = federation.operator.refused(&few).await;
    assert!(refused.contains("4 is below `privacy.least_shares`, 5"), "{refused}");
    let small = shared("small", 1, "skellam").replace("least_shares=3", "least_shares=3\nmodulus_bits=8");
    let refused = federation.operator.refused(&small).await;
    assert!(refused.contains("`modulus_bits` is 8, expected more bits"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_with_too_few_shares_is_not_released() {
    let mut federation = Federation::start().await;
    for index in 0..3 {
        federation.add(&format!("w{index}"), Trainer::Toy(Toy::default()));
    }
    let mut late = Peer::join(federation.coordinator.address, "late").await;
    let run = federation.operator.submit(&shared("late", 1, "distributed_discrete_gaussian")).await;
    let assignment = late.assignment().await;
    let short = |event: &RunEvent| matches!(event, RunEvent::RoundShort { .. });
    let events = federation.operator.watch(&run, short).await;
    let Some(RunEvent::RoundShort { updates, needed, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!((*updates, *needed), (3, 4));
    assert!(federation.operator.metrics(&run).await.is_empty());
    // A contribution without rotation and noise is no share, but what the ring can hold is not told apart.
    let mut upload = late.update(&assignment, &[0.0; 1024]);
    upload.header.vectors[0].name = "shares".into();
    assert_eq!(
        late.send(upload.clone().with_values(&[0.5; 1024])).await.0,
        Judged::Rejected(RejectReason::Range)
    );
    let mut late = Peer::join(federation.coordinator.address, "later").await;
    federation.operator.watch(&run, short).await;
    let assignment = late.assignment().await;
    let mut upload = late.update(&assignment, &[0.0; 1024]);
    upload.header.vectors[0].name = "shares".into();
    assert_eq!(late.send(upload).await.0, Judged::Applied);
    federation.operator.finished(&run).await;
    assert_eq!(journal(&mut federation).await.ledger().events().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_a_round_is_paid_for_with_it() {
    let mut federation = toys(0).await;
    let told = format!("noise_multiplier=0.5\n{DRAWN}metrics={{budget_share=0.2,loss_bound=1.0}}\n");
    let run = federation.operator.submit(&private("told", 12, &told)).await;
    federation.operator.finished(&run).await;
    let lines = federation.operator.metrics(&run).await;
    // A toy's loss is 0.5, two of four take part on average, and σ of their number is 1.6.
    assert!(
        lines.iter().any(|line| line.participants > 0) && lines.iter().all(|line| line.participants < 16)
    );
    let losses: Vec<f64> = lines.iter().filter_map(|line| line.train_loss).collect();
    assert!(
        losses.iter().all(|loss| (0.0..=1.0).contains(loss)) && losses.iter().any(|loss| *loss > 0.0),
        "{losses:?}"
    );
    // The same promise without: nothing is told, and it costs the same.
    let silent = private("silent", 12, &format!("noise_multiplier=0.5\n{DRAWN}"));
    federation.operator.reset("digits", "the other run").await.unwrap();
    let other = federation.operator.submit(&silent).await;
    federation.operator.finished(&other).await;
    let quiet = federation.operator.metrics(&other).await;
    assert!(quiet.iter().all(|line| line.train_loss.is_none() && line.participants == 0), "{quiet:?}");
    assert_eq!(quiet[11].epsilon, lines[11].epsilon);
}
