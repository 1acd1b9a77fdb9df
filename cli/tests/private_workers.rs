//! Workers that add the noise themselves, as processes: `kill -9` of one neither loses nor doubles what its
//! ledger has paid, its owner's budget ends its part in a run, and only its owner's word begins anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod fleet;

use fleet::{Fleet, until};
use privacy::{Entry, Journal, accountants::report};
use serde_json::Value;
use std::{collections::BTreeSet, fs, time::Duration};

const ROUNDS: u64 = 12;

fn submit(fleet: &Fleet, name: &str, (rounds, steps): (u64, u64), privacy: &str) -> Result<String, String> {
    // Noise on sums is divided by a declared number of clients.
    let sums = ["dp_ftrl", "skellam"].iter().any(|kind| privacy.contains(kind));
    let population = if sums { "population = 3, min_updates = 3, " } else { "" };
    let text = format!(
        "name = \"{name}\"\nrounds = {rounds}\nmodel = {{ kind = \"mlp\", hidden = [32] }}\n\
         data = {{ name = \"digits\", partition = {{ kind = \"iid\" }} }}\nlocal = {{ steps = {steps}, lr = 0.1 }}\n\
         cohort = {{ {population}min_workers = 3, rejoin_s = 120 }}\n[privacy]\ndelta = 1e-5\nclip_norm = 1.0\n{privacy}"
    );
    let file = fleet.path("private.toml");
    fs::write(&file, text).unwrap();
    let made = fleet.ask(&["run", "submit", file.to_str().unwrap()])?;
    Ok(made[0]["id"].as_str().unwrap().to_owned())
}

const STEPS: &str = "unit = \"record\"\nadjacency = \"zero_out\"\nmechanism = \"dp_sgd\"\n\
                     sampling = { kind = \"poisson\", rate = 0.2 }\n";

/// A worker's own ledger, as its owner sees it.
fn ledger(fleet: &Fleet, worker: &str) -> Journal {
    let file = fleet.path("own.jsonl");
    let (dir, to) = (fleet.path(worker), file.to_str().unwrap());
    let place = ["--state-dir", dir.to_str().unwrap()];
    fleet
        .ask(&[&["privacy", "ledger", "export", "digits", "--force", "--to", to], &place[..]].concat())
        .unwrap();
    Journal::parse(&fs::read_to_string(&file).unwrap()).unwrap()
}

fn rounds(journal: &Journal, run: &str) -> Vec<u64> {
    let round = |entry: &Entry| match entry {
        Entry::Released { run: of, round, .. } if of == run => Some(*round),
        _ => None,
    };
    journal.entries().iter().filter_map(round).collect()
}

fn end(fleet: &Fleet, run: &str) -> Value {
    until("the end of the run", || {
        let shown = fleet.ask(&["run", "show", run]).ok()?.remove(0);
        let over =
            ["finished", "failed", "exhausted", "cancelled"].iter().any(|state| shown["state"] == *state);
        over.then_some(shown)
    })
}

#[test]
fn a_worker_pays_once_for_each_round_whenever_it_dies() {
    let mut fleet = Fleet::new(false);
    fleet.start();
    let promise = format!("{STEPS}epsilon = 8.0\n");
    let run = submit(&fleet, "steps", (ROUNDS, 300), &promise).unwrap();
    for kill in 0..4 {
        // At moments that have nothing to do with the rounds.
        std::thread::sleep(Duration::from_millis(151 + 229 * kill));
        fleet.kill_worker(0);
        fleet.start_worker(0);
    }
    let shown = end(&fleet, &run);
    assert_eq!(shown["state"], "finished", "{shown}");
    let metrics = fleet.metrics(&run);
    let want: Vec<u64> = (1..=ROUNDS).collect();
    for worker in ["worker-1", "worker-2", "worker-3"] {
        let own = ledger(&fleet, worker);
        assert_eq!(rounds(&own, &run), want, "{worker}: each round once");
        let epsilon = report::epsilon(own.ledger(), 1e-5, 1).epsilon;
        // The run's own ε, which the coordinator shows, is that of a worker that was always there.
        let told = metrics.last().unwrap()["epsilon"].as_f64().unwrap();
        assert!((epsilon - told).abs() < 1e-9 && told <= 8.0 && told > 7.9, "{epsilon} {told}");
    }
    // Nothing of the records but the noisy updates has left.
    assert!(metrics.iter().all(|line| line["train_loss"].is_null()), "{metrics:?}");

    // What is spent is spent, on the coordinator's ledger and on the workers'.
    let refused = submit(&fleet, "again", (ROUNDS, 300), &promise).unwrap_err();
    assert!(refused.contains("not even one round fits"), "{refused}");
    let reset = ["privacy", "ledger", "reset", "digits", "--reason", "a test"];
    fleet.ask(&reset).unwrap();
    let again = submit(&fleet, "again", (ROUNDS, 1), &promise).unwrap();
    let mut watching = fleet.watch(&again);
    let declined = until("declined", || {
        let log = fleet.log("worker-2");
        log.contains("this worker's ledger of `digits` holds").then_some(log)
    });
    assert!(declined.contains("above the budget of 8"), "{declined}");
    fleet.ask(&["run", "cancel", &again]).unwrap();
    until("the end of the watch", || watching.try_wait().unwrap());
    let told = fleet.watched();
    let why: BTreeSet<String> =
        told.iter().filter_map(|event| event["detail"].as_str().map(str::to_owned)).collect();
    assert!(why.iter().any(|why| why.contains("holds ε = ")), "{told:?}");

    // Its owner's word, while it does not run.
    let dir = fleet.path("worker-2");
    let own = [&reset[..], &["--state-dir", dir.to_str().unwrap()]].concat();
    assert!(fleet.ask(&own).unwrap_err().contains("stop the worker first"));
    fleet.kill_worker(1);
    assert_eq!(fleet.ask(&own).unwrap()[0]["resets"], 1);
    assert_eq!(ledger(&fleet, "worker-2").resets(), 1);
}

/// Noise by workers on their uploads, in shares of all, and by the coordinator over all rounds: whichever
/// process dies between noise, ledger and release.
#[test]
fn every_mechanism_has_paid_for_what_left_whoever_dies() {
    const FEW: u64 = 8;
    let each: Vec<u64> = (1..=FEW).collect();
    let local = "unit = \"client\"\nadjacency = \"replace_one\"\nmechanism = \"local_gaussian\"\n\
                 sampling = { kind = \"everyone\" }\nepsilon = 8.0\n";
    let shares = "unit = \"client\"\nadjacency = \"zero_out\"\nmechanism = \"skellam\"\nleast_shares = 3\n\
                  sampling = { kind = \"everyone\" }\nepsilon = 8.0\n";
    let correlated = "unit = \"client\"\nadjacency = \"zero_out\"\nmechanism = \"dp_ftrl\"\nepsilon = 8.0\n\
                      participation = { most = 8 }\n\
                      strategy = { kind = \"toeplitz\", factor = { kind = \"square_root\" } }\n";
    // What the coordinator's ledger has in the end, and what a worker's.
    for (name, privacy, central, own) in [
        ("local", local, &each, Some(&each)),
        ("shares", shares, &each, None),
        ("ftrl", correlated, &vec![0], None),
    ] {
        let mut fleet = Fleet::new(false);
        fleet.start();
        let run = submit(&fleet, name, (FEW, 200), privacy).unwrap();
        for kill in 0..4 {
            std::thread::sleep(Duration::from_millis(139 + 197 * kill));
            if kill % 2 == 0 {
                fleet.kill_worker(0);
                fleet.start_worker(0);
                continue;
            }
            fleet.kill_coordinator();
            fleet.start_coordinator();
            let committed = fleet.ask(&["run", "show", &run]).unwrap()[0]["committed"].as_u64().unwrap();
            let known = rounds(&central_ledger(&fleet), &run);
            assert!(central.starts_with(&known), "{name}: {known:?}, each once and in order");
            let paid = if name == "ftrl" { FEW * known.len() as u64 } else { known.len() as u64 };
            assert!(paid >= committed, "{name}: {committed} rounds are released, {paid} paid");
        }
        let shown = end(&fleet, &run);
        assert_eq!(shown["state"], "finished", "{name}: {shown}");
        let journal = central_ledger(&fleet);
        assert_eq!(&rounds(&journal, &run), central, "{name}");
        let told = fleet.metrics(&run).last().unwrap()["epsilon"].as_f64().unwrap();
        let epsilon = report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
        assert!((epsilon - told).abs() < 1e-9 && told <= 8.0 && told > 7.0, "{name}: {epsilon} {told}");
        for worker in ["worker-1", "worker-2", "worker-3"] {
            if let Some(own) = own {
                assert_eq!(&rounds(&ledger(&fleet, worker), &run), own, "{name}, {worker}: each round once");
            }
        }
    }
}

/// The coordinator's ledger; none: nothing was paid yet.
fn central_ledger(fleet: &Fleet) -> Journal {
    let file = fleet.path("central.jsonl");
    let to = file.to_str().unwrap();
    match fleet.ask(&["privacy", "ledger", "export", "digits", "--force", "--to", to]) {
        Ok(_) => Journal::parse(&fs::read_to_string(&file).unwrap()).unwrap(),
        Err(_) => Journal::open("digits", privacy::Unit::Client, privacy::Adjacency::ZeroOut),
    }
}

#[test]
fn an_owner_has_a_budget_whatever_a_run_asks_for() {
    let mut fleet = Fleet::new(false);
    let file = fleet.path("worker-1.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}[budgets]\ndigits = {{ epsilon = 3.0, delta = 1e-5 }}\n")).unwrap();
    fleet.start();
    let local = "unit = \"client\"\nadjacency = \"replace_one\"\nmechanism = \"local_gaussian\"\n\
                 noise_multiplier = 12.0\nsampling = { kind = \"everyone\" }\n";
    let run = submit(&fleet, "local", (30, 2), local).unwrap();
    let shown = end(&fleet, &run);
    assert_eq!(shown["state"], "finished", "{shown}");
    let own = ledger(&fleet, "worker-1");
    let paid = rounds(&own, &run);
    let epsilon = report::epsilon(own.ledger(), 1e-5, 1).epsilon;
    assert!(paid.len() > 5 && paid.len() < 30, "{paid:?}");
    assert!(epsilon <= 3.0 && epsilon > 2.0, "{epsilon}");
    assert_eq!(rounds(&ledger(&fleet, "worker-2"), &run), (1..=30).collect::<Vec<u64>>());
    let told = fleet.events(&run);
    let declined = |event: &&Value| event["reason"] == "privacy" && event["worker"] == "worker-1";
    let event = told.iter().find(declined).unwrap_or_else(|| panic!("{told:?}"));
    assert!(event["detail"].as_str().unwrap().contains("ε = 3 at δ = 1e-5"), "{event}");
    // A run that asks for less than noise on the worker does not get the data at all.
    let plain = fleet.submit(2, 1);
    let log = until("refused", || {
        let log = fleet.log("worker-1");
        log.contains("owner has set").then_some(log)
    });
    assert!(log.contains("`dp_sgd` or `local_gaussian`"), "{log}");
    fleet.ask(&["run", "cancel", &plain]).unwrap();
}
