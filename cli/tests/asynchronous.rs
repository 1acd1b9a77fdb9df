//! Runs without rounds as processes: `kill -9` of the coordinator in the midst of a buffer, workers of
//! different speeds, and the event log from which the models can be made again, to the bit.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod fleet;

use algorithms::{
    MODEL, RoundFacts, Vector, Vectors,
    fold::{UploadFacts, accumulators, fold_into},
    staleness::mix,
};
use fleet::{Fleet, WORKERS, until};
use proto::{
    digest::Digest,
    spec::{AsyncSpec, RunSpec},
};
use serde_json::Value;
use simulation::training::{LocalWork, Shares, bare};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};
use worker::{
    data::{Source, Split},
    engine::Model,
};

const ROUNDS: u64 = 40;

/// The first worker has most of the data, and trains several times as long as the last.
fn spec(section: &str) -> String {
    format!(
        "name = \"async\"\nrounds = {ROUNDS}\nseed = 5\nmodel = {{ kind = \"mlp\", hidden = [16] }}\n\
         data = {{ name = \"digits\", partition = {{ kind = \"size\", exponent = 1.5 }} }}\n\
         local = {{ epochs = 200, batch = 10, lr = 0.05, lr_decay = 0.99 }}\n\
         cohort = {{ min_workers = {WORKERS}, rejoin_s = 120 }}\n[async]\n{section}\n"
    )
}

fn submit(fleet: &Fleet, text: &str) -> String {
    let file = fleet.path("run.toml");
    fs::write(&file, text).unwrap();
    let made = fleet.ask(&["run", "submit", file.to_str().unwrap()]).unwrap();
    made[0]["id"].as_str().unwrap().to_owned()
}

/// An update as the log has it.
#[derive(Debug, Clone)]
struct Update {
    worker: String,
    version: u64,
    staleness: u64,
    examples: u64,
    digest: String,
}

/// The updates of each committed version, by the log.
fn updates(events: &[Value]) -> BTreeMap<u64, Vec<Update>> {
    let mut all: BTreeMap<u64, Vec<Update>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "update_buffered") {
        let number = |key: &str| event[key].as_u64().unwrap();
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        let update = Update {
            worker: text("worker"),
            version: number("version"),
            staleness: number("staleness"),
            examples: number("examples"),
            digest: text("digest"),
        };
        assert_eq!(update.version + update.staleness, number("round"));
        let of = all.entry(number("round")).or_default();
        // Said again by a coordinator that died before the commit that this update completed.
        of.retain(|other| (&other.worker, other.version) != (&update.worker, update.version));
        of.push(update);
    }
    all.retain(|round, _| *round < ROUNDS);
    all
}

/// Trains everything again, in this process, in the order of the log: the digest of each version.
fn replayed(text: &str, updates: &BTreeMap<u64, Vec<Update>>) -> Vec<String> {
    let spec = Arc::new(RunSpec::from_toml(text).unwrap());
    let rules = spec.asynchronous.unwrap();
    let train = Source::Digits { train: 600, test: 100, seed: 0 }.load(Split::Train, 0).unwrap();
    let shares = Shares::divide(&train, spec.data.partition.as_ref().unwrap(), WORKERS, spec.seed).unwrap();
    let model = Model::new(&spec.model, train.info()).unwrap();
    let algorithm = spec.algorithm.make().unwrap();
    let mut server = algorithms::fresh_server(algorithm.as_ref(), Arc::new(model.initial(spec.seed)));
    let mut versions: Vec<Vector> = vec![Arc::clone(&server[MODEL])];
    let mut digests = Vec::new();
    for (round, updates) in updates {
        let mut accumulators = accumulators(algorithm.as_ref(), server[MODEL].len());
        let mut mean = Vectors::new();
        for update in updates {
            let client: usize = update.worker.strip_prefix("worker-").unwrap().parse().unwrap();
            let base = &versions[usize::try_from(update.version).unwrap()];
            let work = LocalWork { spec: &spec, model: &model, examples: &shares.of(client - 1), w: base };
            let result = bare(&work, client - 1, update.version).unwrap();
            let facts = UploadFacts {
                examples: result.examples,
                steps: result.run.steps,
                lr: spec.lr(update.version),
            };
            assert_eq!(facts.examples, update.examples);
            let mut change = result.run.into_delta();
            let digest = Digest::of_vector(&Arc::new(change.clone()));
            assert_eq!(
                digest.to_string(),
                update.digest,
                "{update:?} is another update when it is made again"
            );
            let weight = rules.weight(update.staleness);
            if let AsyncSpec::FedAsync { .. } = rules {
                mix(&mut change, base, &server[MODEL], weight as f32);
                mean.insert("delta".into(), Arc::new(change));
            } else {
                let (sum, scale) = accumulators[0].parts(&facts);
                fold_into(sum, &change, scale * weight);
            }
        }
        if mean.is_empty() {
            mean.insert("delta".into(), Arc::new(accumulators.remove(0).mean().unwrap()));
        }
        let facts = RoundFacts { included: updates.len(), population: WORKERS, population_before: WORKERS };
        algorithm.apply(&mut server, &mean, &facts);
        versions.push(Arc::clone(&server[MODEL]));
        digests.push(Digest::of_vector(&server[MODEL]).to_string());
        assert_eq!(digests.len() as u64, round + 1);
    }
    digests
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

#[test]
fn a_coordinator_that_dies_in_the_midst_of_a_buffer_loses_and_doubles_nothing() {
    let text = spec("kind = \"fedbuff\"\nbuffer_size = 2\nmax_staleness = 30");
    let mut fleet = Fleet::new(false);
    fleet.start();
    let run = submit(&fleet, &text);
    let mut watch = fleet.watch(&run);
    let mut killed = 0;
    let buffered = |events: &[Value]| {
        let one = |event: &&Value| event["event"] == "update_buffered" && event["buffered"] == 1;
        events.iter().filter(one).count()
    };
    while watch.try_wait().unwrap().is_none() {
        // At once after the first update of a buffer, three times; between them a worker dies.
        let seen = buffered(&fleet.watched());
        until("a half full buffer, or the end", || {
            let over = watch.try_wait().unwrap().is_some();
            (over || buffered(&fleet.watched()) > seen).then_some(())
        });
        if killed == 3 || watch.try_wait().unwrap().is_some() {
            continue;
        }
        fleet.kill_coordinator();
        fleet.kill_worker(killed);
        fleet.start_coordinator();
        fleet.start_worker(killed);
        killed += 1;
    }
    assert_eq!(killed, 3, "the run was over before enough was killed");
    let (events, digests) = (fleet.events(&run), fleet.digests(&run));
    assert_eq!(digests.len() as u64, ROUNDS);
    let updates = updates(&events);
    // Every version has its updates, and no update is in two.
    let mut all = BTreeSet::new();
    for (round, updates) in &updates {
        assert_eq!(updates.len(), 2, "version {round}");
        assert!(updates.iter().all(|update| all.insert((update.worker.clone(), update.version))));
    }
    assert!(updates.values().flatten().any(|update| update.staleness > 0), "the slow one is behind");
    let per_worker = |name: &str| updates.values().flatten().filter(|update| update.worker == name).count();
    assert!(per_worker("worker-1") >= 1 && per_worker("worker-3") > per_worker("worker-1"));
    assert_eq!(count(&events, "round_committed") as u64, ROUNDS);
    assert_eq!(replayed(&text, &updates), digests, "the log says what the models are made of");
    let line = &fleet.metrics(&run)[3]["asynchronous"];
    assert!(line["updates_per_s"].as_f64().unwrap() > 0.0 && line["staleness"].is_array(), "{line}");
}

#[test]
fn mixing_goes_on_after_every_kill_and_can_be_made_again() {
    let text = spec(
        "kind = \"fedasync\"\nalpha = 0.7\nconcurrency = 2\nstaleness = { kind = \"hinge\", a = 2.0, b = 1 }",
    );
    let mut fleet = Fleet::new(false);
    fleet.start();
    let run = submit(&fleet, &text);
    let mut watch = fleet.watch(&run);
    for killed in [2, 7] {
        until("some versions", || (count(&fleet.watched(), "round_committed") >= killed).then_some(()));
        fleet.kill_coordinator();
        fleet.start_coordinator();
    }
    let status = until("the end of the run", || watch.try_wait().unwrap());
    assert!(status.success(), "{status}");
    let (events, digests) = (fleet.events(&run), fleet.digests(&run));
    assert_eq!(replayed(&text, &updates(&events)), digests);
}

#[test]
fn a_buffer_of_all_workers_is_a_round_of_fedavg() {
    let text = spec(&format!("kind = \"fedbuff\"\nbuffer_size = {WORKERS}\nconcurrency = {WORKERS}"));
    let rounds = text.split_once("[async]").unwrap().0.replace("rejoin_s", "min_updates = 3, rejoin_s");
    let digests = |text: &str| {
        let mut fleet = Fleet::new(false);
        fleet.start();
        let run = submit(&fleet, text);
        fleet.events(&run);
        fleet.digests(&run)
    };
    let buffered = digests(&text);
    assert_eq!(buffered.len() as u64, ROUNDS);
    assert_eq!(buffered, digests(&rounds), "nobody is behind, and the definitions agree");
}
