//! Rows of a comparison: runs that differ in their seed only, what tells them from the others, and the
//! numbers over their seeds.

use super::{
    read::{self, Line, Run},
    theory::{Budget, Theory, told},
};
use crate::{exit::Failure, table};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Runs of the same settings.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) label: String,
    pub(super) runs: Vec<Run>,
}

/// Several runs beside each other.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(super) rows: Vec<Row>,
}

/// A value over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Over {
    /// Seeds that have a value.
    pub(super) n: usize,
    pub(super) mean: f64,
    /// Of the sample; absent for one seed.
    pub(super) sd: Option<f64>,
}

impl Over {
    /// `None` without a value.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt());
        (n > 0).then_some(Self { n, mean, sd })
    }

    fn text(self, show: impl Fn(f64) -> String) -> String {
        self.sd.map_or_else(|| show(self.mean), |sd| format!("{} ± {}", show(self.mean), show(sd)))
    }

    fn json(self) -> Value {
        json!({"mean": self.mean, "sd": self.sd, "n": self.n})
    }
}

/// Mean accuracy of the last evaluated rounds.
fn last_accuracy(lines: &[Line], last: usize) -> Option<f64> {
    let known: Vec<f64> = lines.iter().filter_map(|line| line.eval_accuracy).collect();
    Over::of(&known[known.len().saturating_sub(last)..]).map(|over| over.mean)
}

/// Rounds, bytes and seconds (virtual ones, of a simulation) until an accuracy was first reached.
fn reached(lines: &[Line], target: f64) -> Option<[f64; 3]> {
    let at = lines.iter().position(|line| line.eval_accuracy.is_some_and(|accuracy| accuracy >= target))?;
    let bytes: u64 = lines[..=at].iter().map(|line| line.bytes).sum();
    let seconds = lines[..=at].iter().map(|line| line.seconds).sum();
    Some([at as f64 + 1.0, bytes as f64, seconds])
}

impl Row {
    pub(super) fn theory(&self) -> Option<&Theory> {
        self.runs.first()?.theory.as_ref()
    }

    pub(super) fn over(&self, value: impl Fn(&[Line]) -> Option<f64>) -> Option<Over> {
        Over::of(&self.runs.iter().filter_map(|run| value(&run.lines)).collect::<Vec<_>>())
    }

    fn seeds(&self) -> Vec<u64> {
        self.runs.iter().map(|run| run.seed).collect()
    }
}

impl Comparison {
    /// Reads every run in the folders.
    pub(crate) fn read(folders: &[PathBuf]) -> Result<Self, Failure> {
        Ok(Self::of(read::runs(folders)?))
    }

    fn of(runs: Vec<Run>) -> Self {
        let mut groups: Vec<(Value, Vec<Run>)> = Vec::new();
        for run in runs {
            match groups.iter_mut().find(|(settings, _)| *settings == run.settings) {
                Some((_, group)) => group.push(run),
                None => groups.push((run.settings.clone(), vec![run])),
            }
        }
        let settings: Vec<BTreeMap<String, String>> =
            groups.iter().map(|(settings, _)| flatten(settings)).collect();
        let names: Option<Vec<String>> = groups.iter().map(|(_, runs)| name_of(runs)).collect();
        let told = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == groups.len();
        let labels = names.filter(told).unwrap_or_else(|| labels(&settings));
        let rows = groups.into_iter().zip(labels).map(|((_, runs), label)| Row { label, runs });
        Self { rows: rows.collect() }
    }

    /// For people.
    pub(crate) fn table(&self, target: Option<f64>, last: usize) -> String {
        let mut heading = vec!["settings", "seeds", "final accuracy, %", "best, %"];
        let personal = self.rows.iter().any(|row| row.over(personal).is_some());
        if personal {
            heading.extend(["shared at clients, %", "personal, %"]);
        }
        if target.is_some() {
            heading.extend(["rounds to target", "MB to target", "s to target"]);
        }
        let row = |row: &Row| {
            let percent = |share: f64| format!("{:.2}", share * 100.0);
            let accuracy = |over: Option<Over>| table::or_dash(over, |over| over.text(percent));
            let mut cells = vec![
                row.label.clone(),
                row.runs.len().to_string(),
                accuracy(row.over(|lines| last_accuracy(lines, last))),
                accuracy(row.over(best)),
            ];
            if personal {
                cells.extend([row.over(shared), row.over(self::personal)].map(accuracy));
            }
            if let Some(target) = target {
                let part = |over: Option<Over>, show: &dyn Fn(f64) -> String| {
                    let text = table::or_dash(over, |over| over.text(show));
                    let some = over.map_or(0, |over| over.n);
                    if some < row.runs.len() {
                        format!("{text} ({some} of {})", row.runs.len())
                    } else {
                        text
                    }
                };
                for (at, unit) in [1.0, 1e-6, 1.0].into_iter().enumerate() {
                    let over = row.over(|lines| Some(reached(lines, target)?[at]));
                    cells.push(part(over, &|value| format!("{:.1}", value * unit)));
                }
            }
            cells
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        table::table(&heading, &rows)
    }

    /// For people: all rows after as many rounds, and as many bytes, as the shortest run has, and what theory
    /// said beforehand.
    pub(crate) fn equal(&self) -> String {
        let budget = Budget::of(&self.rows);
        let rounds = format!("at {} rounds, %", budget.rounds);
        let bytes = format!("at {:.1} MB, %", budget.bytes as f64 * 1e-6);
        let row = |row: &Row| {
            let percent = |share: f64| format!("{:.2}", share * 100.0);
            let cell = |over: Option<Over>| table::or_dash(over, |over| over.text(percent));
            vec![
                row.label.clone(),
                cell(row.over(|lines| budget.by_rounds(lines))),
                cell(row.over(|lines| budget.by_bytes(lines))),
            ]
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        let table = table::table(&["settings", &rounds, &bytes], &rows);
        format!("{table}\n\n{}", told(&self.rows, budget)).trim_end().to_owned()
    }

    /// For programs.
    pub(crate) fn json(&self, target: Option<f64>, last: usize) -> Value {
        let json = |over: Option<Over>| over.map(Over::json);
        let budget = Budget::of(&self.rows);
        let row = |row: &Row| {
            let to = |at: usize| {
                json(target.and_then(|target| row.over(|lines| Some(reached(lines, target)?[at]))))
            };
            json!({
                "label": row.label, "seeds": row.seeds(),
                "final_accuracy": json(row.over(|lines| last_accuracy(lines, last))),
                "best_accuracy": json(row.over(best)),
                "federated_accuracy": json(row.over(shared)), "personal_accuracy": json(row.over(personal)),
                "rounds_to_target": to(0), "bytes_to_target": to(1), "seconds_to_target": to(2),
                "at_equal_rounds": json(row.over(|lines| budget.by_rounds(lines))),
                "at_equal_bytes": json(row.over(|lines| budget.by_bytes(lines))),
                "theory": row.theory().map(Theory::json),
                "folders": row.runs.iter().map(|run| &run.folder).collect::<Vec<_>>(),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

fn best(lines: &[Line]) -> Option<f64> {
    lines.iter().filter_map(|line| line.eval_accuracy).reduce(f64::max)
}

/// Of the shared model on what clients hold out.
fn shared(lines: &[Line]) -> Option<f64> {
    lines.iter().rev().find_map(|line| line.federated_accuracy)
}

/// Of the clients' own models there.
fn personal(lines: &[Line]) -> Option<f64> {
    lines.iter().rev().find_map(|line| line.personal_accuracy)
}

/// What all of them are called.
fn name_of(runs: &[Run]) -> Option<String> {
    let name = runs.first()?.name.as_ref()?;
    runs.iter().all(|run| run.name.as_ref() == Some(name)).then(|| name.clone())
}

/// Key paths and values.
fn flatten(value: &Value) -> BTreeMap<String, String> {
    fn walk(value: &Value, path: &str, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(inner, &path, out);
                }
            }
            Value::Null => {}
            Value::String(text) => drop(out.insert(path.to_owned(), text.clone())),
            other => drop(out.insert(path.to_owned(), other.to_string())),
        }
    }
    let mut out = BTreeMap::new();
    walk(value, "", &mut out);
    out
}

/// What tells each from the others: the algorithm, then what else differs. An algorithm's own keys are named
/// only where its name does not do.
fn labels(settings: &[BTreeMap<String, String>]) -> Vec<String> {
    const KIND: &str = "algorithm.kind";
    // What runs with and without a coordinator cannot have in common says nothing about them.
    const APART: [&str; 2] = ["cohort.", "vetting."];
    let mixed = settings.iter().any(|s| s.get("mode") != settings[0].get("mode"));
    let apart = |path: &str| {
        mixed && (path == "mode" || APART.iter().any(|part| path.starts_with(part)) || tuning(path))
    };
    let paths: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
    let differs =
        |path: &&String| !apart(path) && settings.iter().any(|s| s.get(*path) != settings[0].get(*path));
    let differing: Vec<&String> = paths.into_iter().filter(differs).collect();
    let named = differing.iter().any(|path| *path == KIND);
    let own = |path: &str| named && path != KIND && path.starts_with("algorithm.");
    let label = |settings: &BTreeMap<String, String>, brief: bool| {
        let kind = settings.get(KIND).filter(|_| named || differing.is_empty()).cloned();
        let shown = differing.iter().filter(|path| **path != KIND && !(brief && own(path)));
        let others = shown.filter_map(|path| {
            let parts: Vec<&str> = path.split('.').collect();
            let key = match parts.as_slice() {
                [.., above, "kind"] => above,
                [.., last] => last,
                [] => "",
            };
            Some(format!("{key}={}", settings.get(*path)?))
        });
        kind.into_iter().chain(others).collect::<Vec<_>>().join(" ")
    };
    let brief: Vec<String> = settings.iter().map(|settings| label(settings, true)).collect();
    if brief.iter().collect::<BTreeSet<_>>().len() == brief.len() {
        return brief;
    }
    settings.iter().map(|settings| label(settings, false)).collect()
}

/// Keys of a topology beside which graph it is.
fn tuning(path: &str) -> bool {
    path.starts_with("topology.") && path != "topology.kind"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{digest::Digest, event::Metrics};
    use std::collections::BTreeMap;

    fn metrics(round: u64, accuracy: f64) -> Metrics {
        Metrics {
            round,
            seconds: 12.34,
            participants: 4,
            rejected: 1,
            train_loss: Some(0.5),
            eval_loss: Some(1.0 - accuracy),
            eval_accuracy: Some(accuracy),
            federated_loss: None,
            federated_accuracy: None,
            clients: None,
            bytes_down: 1_740_000,
            bytes_up: 999,
            averages: BTreeMap::new(),
            epsilon: None,
            asynchronous: None,
            model_digest: Digest::of(b"m"),
        }
    }

    fn run(kind: &str, prox: f64, alpha: f64, seed: u64, accuracies: &[f64]) -> Run {
        let lines =
            accuracies.iter().enumerate().map(|(round, a)| metrics(round as u64, *a).into()).collect();
        let settings =
            json!({"algorithm": {"kind": kind, "prox": prox}, "data": {"partition": {"alpha": alpha}}});
        Run { folder: format!("{kind}{seed}").into(), settings, seed, name: None, lines, theory: None }
    }

    #[test]
    fn seeds_are_one_row_and_numbers_are_over_them() {
        let runs = vec![
            run("a", 0.1, 1.0, 0, &[0.2, 0.6, 0.5]),
            run("a", 0.1, 1.0, 1, &[0.4, 0.5, 0.7]),
            run("b", 0.2, 1.0, 0, &[0.1, 0.2, 0.3]),
        ];
        let compared = Comparison::of(runs);
        let json = compared.json(Some(0.6), 1);
        assert_eq!((&json[0]["label"], &json[1]["label"]), (&json!("a"), &json!("b")));
        assert_eq!(json[0]["seeds"], json!([0, 1]));
        let near =
            |value: &Value, want: f64| assert!((value.as_f64().unwrap() - want).abs() < 1e-12, "{value}");
        near(&json[0]["final_accuracy"]["mean"], 0.6);
        near(&json[0]["final_accuracy"]["sd"], 0.02_f64.sqrt());
        near(&json[0]["best_accuracy"]["mean"], 0.65);
        near(&json[0]["rounds_to_target"]["mean"], 2.5);
        near(&json[0]["seconds_to_target"]["mean"], 2.5 * metrics(0, 0.0).seconds);
        assert_eq!(json[1]["rounds_to_target"], Value::Null);
        assert_eq!(json[1]["final_accuracy"]["sd"], Value::Null);
        near(&compared.json(None, 2)[0]["final_accuracy"]["mean"], 0.575);
        let text = compared.table(Some(0.6), 1);
        assert!(text.contains("60.00 ± 14.14") && text.contains("– (0 of 1)"), "{text}");
    }

    #[test]
    fn runs_with_and_without_a_coordinator_differ_in_their_graph() {
        let settings = |value: Value| flatten(&value);
        let found = labels(&[
            settings(json!({"mode": "federated", "algorithm": {"kind": "fedavg"}, "model": {"kind": "mlp"},
                "cohort": {"min_workers": 8}})),
            settings(json!({"mode": "decentralised", "algorithm": {"kind": "sgp"}, "model": {"kind": "mlp"},
                "topology": {"kind": "ring", "nodes": 8, "retry_ms": 2000}})),
            settings(
                json!({"mode": "decentralised", "algorithm": {"kind": "sgp"}, "model": {"kind": "linear"},
                "topology": {"kind": "ring", "nodes": 8, "retry_ms": 2000}}),
            ),
        ]);
        assert_eq!(
            found,
            ["fedavg model=mlp", "sgp model=mlp topology=ring", "sgp model=linear topology=ring"]
        );
    }

    #[test]
    fn settings_that_a_sweep_names_go_by_it() {
        let called =
            |kind: &str, name: &str| Run { name: Some(name.into()), ..run(kind, 0.1, 1.0, 0, &[0.1]) };
        let label =
            |runs: Vec<Run>| Comparison::of(runs).rows.into_iter().map(|row| row.label).collect::<Vec<_>>();
        assert_eq!(label(vec![called("a", "small"), called("b", "large")]), ["small", "large"]);
        // Not where two have the same name, or one has none.
        assert_eq!(label(vec![called("a", "small"), called("b", "small")]), ["a", "b"]);
        assert_eq!(label(vec![called("a", "small"), run("b", 0.1, 1.0, 0, &[0.1])]), ["a", "b"]);
    }

    #[test]
    fn labels_say_what_differs() {
        let label =
            |runs: Vec<Run>| Comparison::of(runs).rows.into_iter().map(|row| row.label).collect::<Vec<_>>();
        assert_eq!(label(vec![run("a", 0.1, 1.0, 0, &[0.1])]), ["a"]);
        let two = vec![run("a", 0.1, 1.0, 0, &[0.1]), run("a", 0.1, 0.5, 0, &[0.1])];
        assert_eq!(label(two), ["alpha=1.0", "alpha=0.5"]);
        let own =
            vec![run("a", 0.1, 1.0, 0, &[0.1]), run("b", 0.1, 1.0, 0, &[0.1]), run("b", 0.3, 1.0, 0, &[0.1])];
        assert_eq!(label(own), ["a prox=0.1", "b prox=0.1", "b prox=0.3"]);
    }
}
