//! `kill -9` of a coordinator during a private run: whatever model the store has is in its ledger, no
//! round is paid for twice, and the ε that is shown is the one that the exported ledger gives.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod fleet;

use fleet::{Fleet, until};
use privacy::{Entry, Journal, accountants::report};
use serde_json::Value;
use std::{fs, time::Duration};

const ROUNDS: u64 = 30;
const KILLS: usize = 6;

fn submit(fleet: &Fleet) -> Result<String, String> {
    let text = format!(
        "name = \"private\"\nrounds = {ROUNDS}\nmodel = {{ kind = \"mlp\", hidden = [32] }}\n\
         data = {{ name = \"digits\", partition = {{ kind = \"iid\" }} }}\nlocal = {{ steps = 100, batch = 20 }}\n\
         cohort = {{ population = 3, min_workers = 3, rejoin_s = 120 }}\n\
         [privacy]\nunit = \"client\"\nadjacency = \"zero_out\"\nmechanism = \"central_gaussian\"\n\
         clip_norm = 1.0\nepsilon = 8.0\ndelta = 1e-5\nsampling = {{ kind = \"poisson\", rate = 0.6 }}\n"
    );
    let file = fleet.path("private.toml");
    fs::write(&file, text).unwrap();
    let made = fleet.ask(&["run", "submit", file.to_str().unwrap()])?;
    Ok(made[0]["id"].as_str().unwrap().to_owned())
}

fn export(fleet: &Fleet) -> Journal {
    let file = fleet.path("ledger.jsonl");
    fleet.ask(&["privacy", "ledger", "export", "digits", "--force", "--to", file.to_str().unwrap()]).unwrap();
    Journal::parse(&fs::read_to_string(&file).unwrap()).unwrap()
}

/// Rounds that the ledger has, in its order.
fn paid(journal: &Journal) -> Vec<u64> {
    let round = |entry: &Entry| match entry {
        Entry::Released { round, .. } => Some(*round),
        _ => None,
    };
    journal.entries().iter().filter_map(round).collect()
}

#[test]
fn a_release_is_in_the_ledger_whenever_the_coordinator_dies() {
    let mut fleet = Fleet::new(false);
    fleet.start();
    let run = submit(&fleet).unwrap();
    for kill in 0..KILLS {
        // At moments that have nothing to do with the rounds.
        std::thread::sleep(Duration::from_millis(137 + 211 * kill as u64));
        fleet.kill_coordinator();
        fleet.start_coordinator();
        let committed = fleet.ask(&["run", "show", &run]).unwrap()[0]["committed"].as_u64().unwrap();
        let known = paid(&export(&fleet));
        let want: Vec<u64> = (1..=known.len() as u64).collect();
        assert_eq!(known, want, "each round once, in order");
        assert!(known.len() as u64 >= committed, "{committed} rounds are released, {} paid", known.len());
    }
    until("the end of the run", || {
        let state = fleet.ask(&["run", "show", &run]).ok()?[0]["state"].clone();
        (state == "finished").then_some(())
    });
    let (metrics, journal) = (fleet.metrics(&run), export(&fleet));
    assert_eq!(paid(&journal), (1..=ROUNDS).collect::<Vec<_>>());
    let shown = metrics.last().unwrap()["epsilon"].as_f64().unwrap();
    assert!((shown - report::epsilon(journal.ledger(), 1e-5, 1).epsilon).abs() < 1e-9 && shown <= 8.0);
    let told = fleet.ask(&["privacy", "ledger", "show", "digits"]).unwrap();
    assert!((told[0]["epsilon"].as_f64().unwrap() - shown).abs() < 1e-9, "{told:?}");

    // The page says the same as the ledger, to the last digit, and so does what Prometheus reads.
    let page: Value = serde_json::from_str(&fleet.page(&format!("/runs/{run}.json"))).unwrap();
    assert_eq!(page["privacy"]["epsilon"], told[0]["epsilon"], "{page}");
    assert_eq!(page["privacy"]["accountant"], told[0]["accountant"]);
    assert_eq!((&page["privacy"]["budget"], &page["privacy"]["unit"]), (&Value::from(8.0), &told[0]["unit"]));
    let metrics = fleet.page("/metrics");
    let line = format!("starling_epsilon{{run=\"{run}\"}} ");
    let scraped = metrics.lines().find_map(|text| text.strip_prefix(&line)).unwrap();
    assert_eq!(scraped.parse::<f64>().ok(), told[0]["epsilon"].as_f64());

    // What is spent is spent, until an operator says otherwise, with a reason.
    let refused = submit(&fleet).unwrap_err();
    assert!(refused.contains("not even one round fits"), "{refused}");
    let reset = fleet.ask(&["privacy", "ledger", "reset", "digits", "--reason", "new clients"]).unwrap();
    assert_eq!((&reset[0]["resets"], &reset[0]["releases"]), (&Value::from(1), &Value::from(0)));
    let audit = fleet.ask(&["audit"]).unwrap();
    assert!(
        audit.iter().any(|line| line["action"] == "ledger_reset" && line["subject"] == "digits: new clients")
    );
    let again = submit(&fleet).unwrap();
    fleet.ask(&["run", "cancel", &again]).unwrap();
    assert_eq!(export(&fleet).resets(), 1);
}
