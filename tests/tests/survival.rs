//! The state of every algorithm survives: server and client vectors come back from the disk as they were, so
//! that a run whose coordinator and workers are killed at any moment gives the models of an undisturbed one.
//! Goes over the registry: a new file is tested without being named. Toy training; `cli/tests/crash.rs` has
//! processes and real training.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use algorithms::rules::RULES;
use proto::{digest::Digest, event::RunEvent};
use starling_tests::{
    federation::{Federation, Trainer},
    toy::Bowl,
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::sleep;

const WORKERS: usize = 3;
const ROUNDS: usize = 4;
/// Enough for the rounds to be spread over the kills.
const PAUSE_MS: u64 = 30;
/// Who is killed, one after the other: workers, and between them the coordinator.
const VICTIMS: [usize; WORKERS + 1] = [0, COORDINATOR, 1, 2];
const COORDINATOR: usize = WORKERS;
/// Then the runs may end in peace: one that cannot is found stuck.
const KILLS: usize = 40;

/// Runs beside those of every rule: parts of the model that stay with their workers.
const PERSONAL: [(&str, &str); 2] = [
    ("personal-joint", "[algorithm]\nkind='scaffold'\n[personal]\ntensors=['head']\n"),
    (
        "personal-alternate",
        "[algorithm]\nkind='feddyn'\n[personal]\ntensors=['head']\norder='alternate'\nmomentum=0.5\n",
    ),
];

/// Name and sections of every run.
fn every_run() -> Vec<(String, String)> {
    let rules =
        RULES.iter().map(|rule| (rule.name.to_owned(), format!("[algorithm]\nkind='{}'\n", rule.name)));
    rules.chain(PERSONAL.map(|(name, sections)| (name.to_owned(), sections.to_owned()))).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

fn add(federation: &mut Federation, index: usize, pause_ms: u64) {
    let bowl = Bowl { centre: 0.2 + 0.2 * index as f32, pause: Duration::from_millis(pause_ms) };
    federation.add(&format!("w{index}"), Trainer::Bowl(bowl));
}

/// A federation with a run of every rule, all at once.
async fn begin(pause_ms: u64) -> (Federation, Vec<String>) {
    let mut federation = Federation::start().await;
    let mut runs = Vec::new();
    for (name, sections) in every_run() {
        let spec = format!(
            "name='{name}'\nrounds={ROUNDS}\nseed=3\n[model]\nkind='flat'\nparameters=200\n[data]\nname='digits'\n\
             {sections}[evaluation]\nevery=0\n[cohort]\nmin_workers={WORKERS}\n"
        );
        runs.push(federation.operator.submit(&spec).await);
    }
    for index in 0..WORKERS {
        add(&mut federation, index, pause_ms);
    }
    (federation, runs)
}

/// Waits until all are done; the digests of each.
async fn end(mut federation: Federation, runs: &[String]) -> Vec<Vec<Digest>> {
    let mut digests = Vec::new();
    for run in runs {
        let events = federation.operator.finished(run).await;
        let refused = events
            .iter()
            .find(|event| matches!(event, RunEvent::UpdateRejected { .. } | RunEvent::WorkerDeclined { .. }));
        assert_eq!(refused, None, "{run}");
        digests.push(federation.operator.digests(run).await);
    }
    digests
}

/// Kills one after the other until all runs are done; digests, and the runs that were hit in the middle by
/// the coordinator's and by a worker's end.
async fn disturbed(seed: u64) -> (Vec<Vec<Digest>>, [BTreeSet<String>; 2]) {
    let mut random = Random(seed);
    let (mut federation, runs) = begin(PAUSE_MS).await;
    let mut hit = [BTreeSet::new(), BTreeSet::new()];
    for kill in 0..KILLS {
        sleep(Duration::from_millis(150 + random.below(250))).await;
        let mut middle = BTreeSet::new();
        let mut done = 0;
        for run in &runs {
            match federation.operator.digests(run).await.len() {
                ROUNDS => done += 1,
                0 => {}
                _ => drop(middle.insert(run.clone())),
            }
        }
        if done == runs.len() {
            break;
        }
        let victim = VICTIMS[kill % VICTIMS.len()];
        if victim == COORDINATOR {
            federation = federation.crash_coordinator().await;
        } else {
            federation.workers.remove(0).kill().await;
            sleep(Duration::from_millis(random.below(150))).await;
            add(&mut federation, victim, PAUSE_MS);
        }
        hit[usize::from(victim != COORDINATOR)].extend(middle);
    }
    (end(federation, &runs).await, hit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_gives_the_same_models_when_everybody_is_killed() {
    let (federation, runs) = begin(0).await;
    let want = end(federation, &runs).await;
    let (digests, hit) = disturbed(7).await;
    for ((name, _), (got, want)) in every_run().iter().zip(digests.iter().zip(&want)) {
        assert_eq!(want.len(), ROUNDS, "{name}");
        assert_eq!(want.iter().collect::<BTreeSet<_>>().len(), ROUNDS, "{name} learns nothing");
        assert_eq!(got, want, "{name}: another model than undisturbed");
    }
    for (by, hit) in ["the coordinator", "a worker"].into_iter().zip(hit) {
        let all = runs.iter().cloned().collect::<BTreeSet<_>>();
        // Which one is over too soon is the machine's affair.
        let missed: Vec<_> = all.difference(&hit).collect();
        assert!(missed.len() * 10 <= all.len(), "not hit in the middle by the end of {by}: {missed:?}");
    }
}
