//! What a demo trains: defaults that suit the data, overridden by flags, as a run file.

use super::{Args, ModeArg};
use crate::exit::{Code, Failure};
use proto::spec::{
    AlgorithmSpec, CohortSpec, DataSpec, EvaluationSpec, LocalSpec, Mode, ModelSpec, PartitionSpec, RunSpec,
    TopologySpec, VettingSpec,
};
use std::str::FromStr;
use worker::data::{self, DataInfo, Source, TextKey};

/// A demo, decided.
#[derive(Debug)]
pub(super) struct Planned {
    /// The run.
    pub(super) spec: RunSpec,
    /// The data set and its name.
    pub(super) data: (String, Source),
}

/// `--partition`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionArg(PartitionSpec);

impl FromStr for PartitionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}`: expected iid, natural, dirichlet:0.3, pathological:2 or size:1 (or other numbers)"
            )
        };
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        let number = || value.parse::<f64>().map_err(|_| wrong());
        Ok(Self(match (kind, value) {
            ("iid", "") => PartitionSpec::Iid {},
            ("natural", "") => PartitionSpec::Natural {},
            ("dirichlet", _) => PartitionSpec::Dirichlet { alpha: number()?, replacement: false },
            ("pathological", _) => {
                PartitionSpec::Pathological { classes: value.parse().map_err(|_| wrong())? }
            }
            ("size", _) => PartitionSpec::Size { exponent: number()? },
            _ => return Err(wrong()),
        }))
    }
}

/// Hyper-parameters that train well on a kind of data.
struct Defaults {
    model: ModelSpec,
    rounds: u64,
    partition: PartitionSpec,
    augment: bool,
    local: LocalSpec,
}

/// Measured on the data sets that `--data` recognises; small enough for a demo on two cores.
fn defaults(info: &DataInfo, source: &Source) -> Defaults {
    let skewed = PartitionSpec::Dirichlet { alpha: 0.5, replacement: false };
    let local = LocalSpec { batch: 32, lr: 0.05, ..LocalSpec::default() };
    match info {
        DataInfo::Images { channels: 1, .. } => Defaults {
            model: ModelSpec::Lenet {},
            rounds: 10,
            partition: skewed,
            augment: false,
            // Files hold more examples, and steps, than the drawn digits.
            local: if matches!(source, Source::Digits { .. }) {
                local
            } else {
                LocalSpec { lr: 0.1, ..local }
            },
        },
        DataInfo::Images { .. } => Defaults {
            model: ModelSpec::Cnn {},
            rounds: 20,
            partition: skewed,
            augment: true,
            // An epoch of 50,000 colour images would take minutes.
            local: LocalSpec { steps: Some(50), batch: 50, clip: Some(10.0), weight_decay: 5e-4, ..local },
        },
        DataInfo::Features { .. } => Defaults {
            model: ModelSpec::Mlp { hidden: vec![64] },
            rounds: 10,
            partition: skewed,
            augment: false,
            local,
        },
        DataInfo::Text { .. } => Defaults {
            model: ModelSpec::CharLstm { embedding: 8, hidden: 128, layers: 1 },
            rounds: 10,
            partition: match source {
                Source::Text { key: TextKey::None, .. } => PartitionSpec::Iid {},
                _ => PartitionSpec::Natural {},
            },
            augment: false,
            // Speakers' shares differ by orders of magnitude: equal steps keep the rounds short.
            local: LocalSpec { steps: Some(40), lr: 4.0, clip: Some(5.0), ..local },
        },
    }
}

/// Recognises the data and decides everything else.
pub(super) fn plan(args: &Args) -> Result<Planned, Failure> {
    let (name, source) = if let Some(path) = &args.data {
        let path = path
            .canonicalize()
            .map_err(|error| Failure::new(Code::NotFound, format!("--data {}: {error}", path.display())))?;
        data::detect(&path).map_err(|error| Failure::usage(format!("--data: {error}")))?
    } else {
        let train = args.examples as usize;
        let test = (train / 5).clamp(10, 2_000);
        ("digits".to_owned(), Source::Digits { train, test, seed: args.seed })
    };
    let data = (run_name(&name), source);
    let info = data.1.info(SEQUENCE).map_err(|error| Failure::usage(format!("data: {error}")))?;
    let spec = spec(args, &data, &info)?;
    Ok(Planned { spec, data })
}

/// Characters in a training sequence (McMahan et al. 2017).
const SEQUENCE: usize = 80;

fn spec(args: &Args, data: &(String, Source), info: &DataInfo) -> Result<RunSpec, Failure> {
    let Defaults { model, rounds, partition, augment, local } = defaults(info, &data.1);
    let partition = match (args.alpha, &args.partition) {
        (Some(alpha), _) => PartitionSpec::Dirichlet { alpha, replacement: false },
        (None, Some(PartitionArg(given))) => given.clone(),
        (None, None) => partition,
    };
    let workers = usize::from(args.workers);
    let peers = args.mode == ModeArg::Decentralised;
    let kind = args.algorithm.clone().unwrap_or_else(|| if peers { "sgp" } else { "fedavg" }.to_owned());
    let spec = RunSpec {
        name: format!("demo-{}", data.0),
        mode: if peers { Mode::Decentralised } else { Mode::Federated },
        rounds: args.rounds.unwrap_or(rounds),
        seed: args.seed,
        model: args.model.as_deref().map_or(Ok(model), model_of)?,
        data: DataSpec { name: data.0.clone(), partition: Some(partition), augment, sequence: SEQUENCE },
        asynchronous: None,
        stragglers: None,
        topology: peers.then(|| topology(args, &kind)),
        algorithm: AlgorithmSpec { kind, ..AlgorithmSpec::default() },
        local: LocalSpec {
            epochs: args.epochs.unwrap_or(local.epochs),
            steps: local.steps.filter(|_| args.epochs.is_none()),
            batch: args.batch.unwrap_or(local.batch),
            lr: args.lr.unwrap_or(local.lr),
            ..local
        },
        // All take part; a worker whose share is empty must not hold up the others.
        cohort: CohortSpec {
            min_workers: workers,
            min_updates: workers.div_ceil(2),
            ..CohortSpec::default()
        },
        evaluation: EvaluationSpec::default(),
        average: None,
        vetting: VettingSpec::default(),
        personal: None,
        compression: None,
        combiner: None,
        attack: None,
        privacy: None,
    };
    spec.check().map_err(|error| Failure::usage(format!("this demo cannot work: {error}")))?;
    Ok(spec)
}

/// Over which graph a demo's peers mix.
fn topology(args: &Args, algorithm: &str) -> TopologySpec {
    let symmetric = gossip::rules::RULES
        .iter()
        .any(|row| row.name == algorithm && row.mode == gossip::report::Mode::Symmetric);
    let kind = match &args.topology {
        Some(given) => given.as_str(),
        None if algorithm == "adpsgd" => "random-pair",
        // The same neighbours in every round.
        None if ["choco-sgd", "qdfedavgm"].contains(&algorithm) => "ring",
        None if algorithm == "relaysgd" => "path",
        None if symmetric => "base-graph",
        None if args.workers.is_power_of_two() => "one-peer-exponential",
        None => "static-exponential",
    };
    TopologySpec::new(kind, usize::from(args.workers))
}

/// A model by its kind, with the defaults of its own keys.
fn model_of(kind: &str) -> Result<ModelSpec, Failure> {
    serde_json::from_value(serde_json::json!({ "kind": kind }))
        .map_err(|error| Failure::usage(format!("--model: {}", proto::nearest::explain(&error.to_string()))))
}

/// A data set's name as run files allow it.
fn run_name(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .take(32)
        .collect();
    if clean.is_empty() { "data".to_owned() } else { clean }
}

impl Planned {
    /// The run file.
    pub(super) fn to_toml(&self) -> Result<String, Failure> {
        toml::to_string(&self.spec)
            .map_err(|error| Failure::internal(format!("cannot write the run file: {error}")))
    }

    /// The model's kind, as run files name it.
    pub(super) fn model_kind(&self) -> String {
        tag(&self.spec.model)
    }

    /// One sentence about what is about to happen.
    pub(super) fn describe(&self, workers: u16) -> String {
        let RunSpec { rounds, seed, algorithm, data, .. } = &self.spec;
        let partition = match &data.partition {
            Some(PartitionSpec::Dirichlet { alpha, .. }) => format!("dirichlet {alpha}"),
            Some(other) => tag(other),
            None => "whole".into(),
        };
        let (data, model, algorithm) = (&data.name, self.model_kind(), &algorithm.kind);
        format!(
            "{workers} workers share {data} ({partition}); {model}, {algorithm}, {rounds} rounds, seed {seed}"
        )
    }
}

fn tag(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::parse_from(std::iter::once("demo").chain(line.split_whitespace())).args
    }

    fn text_source(key: TextKey) -> Source {
        Source::Text { path: "plays.txt".into(), key }
    }

    #[test]
    fn defaults_are_runs_that_a_coordinator_accepts() {
        let digits = Source::default();
        let files = || Source::Idx { path: "files".into(), classes: None, mean: None, std: None };
        let text = || DataInfo::Text { vocabulary: 65, sequence: 80 };
        let images = |channels, side| DataInfo::Images { channels, height: side, width: side, classes: 10 };
        let cases = [
            (images(1, 28), digits, "lenet", "dirichlet", 0.05),
            (images(1, 28), files(), "lenet", "dirichlet", 0.1),
            (images(3, 32), files(), "cnn", "dirichlet", 0.05),
            (DataInfo::Features { dimension: 4, classes: 3 }, files(), "mlp", "dirichlet", 0.05),
            (text(), text_source(TextKey::Speaker), "char-lstm", "natural", 4.0),
            (text(), text_source(TextKey::None), "char-lstm", "iid", 4.0),
        ];
        for (info, source, model, partition, lr) in cases {
            let data = ("some-data".to_owned(), source);
            let planned = Planned { spec: spec(&args(""), &data, &info).unwrap(), data };
            assert_eq!(planned.spec.local.lr, lr);
            assert_eq!(planned.model_kind(), model);
            assert_eq!(planned.spec.data.partition.as_ref().map(tag).as_deref(), Some(partition));
            let read = RunSpec::from_toml(&planned.to_toml().unwrap()).unwrap();
            assert_eq!(read, planned.spec);
        }
    }

    #[test]
    fn flags_win_over_defaults() {
        let line = "--workers 3 --rounds 2 --alpha 0.1 --model mlp --algorithm scaffold --lr 0.2 --epochs 4 --seed 9";
        let planned = plan(&args(&format!("{line} --examples 100"))).unwrap();
        let spec = &planned.spec;
        assert_eq!((spec.rounds, spec.seed, spec.local.epochs, spec.local.lr), (2, 9, 4, 0.2));
        assert_eq!(spec.cohort.min_workers, 3);
        assert_eq!(planned.data.1, Source::Digits { train: 100, test: 20, seed: 9 });
        assert_eq!(
            planned.describe(3),
            "3 workers share digits (dirichlet 0.1); mlp, scaffold, 2 rounds, seed 9"
        );
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (line, want) in [
            ("--model lenett", "did you mean `lenet`"),
            ("--algorithm scafold", "did you mean `scaffold`"),
            ("--alpha 0", "data.partition.alpha"),
            ("--mode decentralised --algorithm scaffold", "unknown decentralised algorithm"),
            ("--mode decentralised --topology rng", "did you mean `ring`"),
            ("--mode decentralised --algorithm dfedavg --topology directed-ring", "not symmetric"),
            ("--data no/such/folder", "no/such/folder"),
        ] {
            let error = plan(&args(line)).unwrap_err().message;
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn partitions_by_name() {
        for (text, kind) in [("iid", "iid"), ("size:1.5", "size"), ("pathological:2", "pathological")] {
            assert_eq!(tag(&text.parse::<PartitionArg>().unwrap().0), kind);
        }
        for wrong in ["dirichlet", "dirichlet:x", "iid:3", "pathological:-1", ""] {
            assert!(wrong.parse::<PartitionArg>().is_err(), "{wrong}");
        }
        assert_eq!(run_name("tiny Shakespeare.v2"), "tiny-Shakespeare-v2");
    }
}
