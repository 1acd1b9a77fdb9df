//! What every division of a data set must satisfy, whatever its parameters.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use proto::spec::PartitionSpec;
use tempfile::TempDir;
use worker::data::{Dataset, Source, Split, TextKey, partition};

/// `counts[c]` examples of class `c`, the classes interleaved, keyed by `index % keys`.
fn labelled(counts: &[usize], keys: usize) -> Dataset {
    let mut rows = String::from("x,y,who\n");
    let mut left = counts.to_vec();
    let mut index = 0;
    while left.iter().any(|&n| n > 0) {
        for class in (0..left.len()).filter(|&c| left[c] > 0).collect::<Vec<_>>() {
            left[class] -= 1;
            // A triangular number makes keys of unequal size.
            writeln!(rows, "{index},{class},k{}", index * (index + 1) / 2 % keys).unwrap();
            index += 1;
        }
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, rows).unwrap();
    Source::Csv {
        test: Some(path.clone()),
        path,
        label: "y".into(),
        key: Some("who".into()),
        header: true,
        classes: Some(counts.len()),
        mean: None,
        std: None,
    }
    .load(Split::Train, 0)
    .unwrap()
}

fn even(examples: usize) -> Dataset {
    labelled(&[examples / 10; 10], 13)
}

fn refusal(data: &Dataset, spec: &PartitionSpec, clients: usize) -> String {
    partition(data, spec, clients, 1).unwrap_err().to_string()
}

/// Share of a client's most frequent class, averaged over clients.
fn skew(data: &Dataset, parts: &[Vec<usize>]) -> f64 {
    let share = |part: &Vec<usize>| {
        let largest = data.subset(part).class_histogram().into_iter().max().unwrap();
        largest as f64 / part.len() as f64
    };
    parts.iter().map(share).sum::<f64>() / parts.len() as f64
}

fn covers_once(parts: &[Vec<usize>], len: usize) -> bool {
    let mut all: Vec<usize> = parts.iter().flatten().copied().collect();
    all.sort_unstable();
    all.into_iter().eq(0..len)
}

#[test]
fn iid_is_even_and_mixed() {
    let data = even(1030);
    let parts = partition(&data, &PartitionSpec::Iid {}, 4, 7).unwrap();
    assert!(covers_once(&parts, 1030));
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [258, 258, 257, 257]);
    assert!(skew(&data, &parts) < 0.16);
}

#[test]
fn sizes_follow_the_power_law() {
    let data = even(1000);
    let parts = partition(&data, &PartitionSpec::Size { exponent: 1.0 }, 4, 7).unwrap();
    assert!(covers_once(&parts, 1000));
    for (i, part) in parts.iter().enumerate() {
        // 1 + 1/2 + 1/3 + 1/4 = 25/12.
        let expected = 1000.0 * 12.0 / 25.0 / (i + 1) as f64;
        assert!((part.len() as f64 - expected).abs() <= 3.0, "client {i}: {}", part.len());
    }
    let steep = partition(&data, &PartitionSpec::Size { exponent: 30.0 }, 50, 7).unwrap();
    assert!(steep[1..].iter().all(|part| !part.is_empty()));
}

#[test]
fn dirichlet_without_replacement_divides_everything() {
    let data = even(5000);
    let mut skews = Vec::new();
    for alpha in [0.1, 1.0, 100.0] {
        let spec = PartitionSpec::Dirichlet { alpha, replacement: false };
        let parts = partition(&data, &spec, 20, 7).unwrap();
        assert!(covers_once(&parts, 5000));
        assert!(parts.iter().all(|part| part.len() >= 8));
        skews.push(skew(&data, &parts));
    }
    assert!(skews[0] > 0.45 && skews[0] > skews[1] && skews[1] > skews[2] && skews[2] < 0.2, "{skews:?}");
}

#[test]
fn the_reported_setting_is_drawn_at_once() {
    let data = even(50_000);
    let parts =
        partition(&data, &PartitionSpec::Dirichlet { alpha: 0.1, replacement: false }, 100, 20).unwrap();
    assert!(covers_once(&parts, 50_000));
}

#[test]
fn dirichlet_with_replacement_keeps_sizes_equal() {
    let data = even(5000);
    let mut skews = Vec::new();
    for alpha in [0.1, 1.0, 100.0] {
        let spec = PartitionSpec::Dirichlet { alpha, replacement: true };
        let parts = partition(&data, &spec, 30, 7).unwrap();
        assert!(parts.iter().all(|part| part.len() == 166));
        skews.push(skew(&data, &parts));
    }
    assert!(skews[0] > 0.45 && skews[0] > skews[1] && skews[1] > skews[2], "{skews:?}");
}

#[test]
fn an_exhausted_class_starts_over_evenly() {
    // One class holds almost nothing, yet its share of every client is an expected half.
    let data = labelled(&[990, 10], 3);
    let spec = PartitionSpec::Dirichlet { alpha: 1000.0, replacement: true };
    let parts = partition(&data, &spec, 10, 7).unwrap();
    let labels = data.labels().unwrap();
    let mut uses = vec![0usize; 1000];
    parts.iter().flatten().for_each(|&i| uses[i] += 1);
    let of = |class: u32| uses.iter().zip(&labels).filter(move |(_, l)| **l == class).map(|(u, _)| *u);
    assert!(of(1).min().unwrap() >= 40 && of(1).max().unwrap() - of(1).min().unwrap() <= 1);
    assert!(of(0).max().unwrap() == 1);
}

#[test]
fn pathological_clients_hold_few_classes() {
    let data = even(1000);
    let parts = partition(&data, &PartitionSpec::Pathological { classes: 2 }, 25, 7).unwrap();
    assert!(covers_once(&parts, 1000));
    for part in &parts {
        let held = data.subset(part).class_histogram().iter().filter(|&&n| n > 0).count();
        assert_eq!((held, part.len()), (2, 40));
    }
    let other = partition(&data, &PartitionSpec::Pathological { classes: 2 }, 25, 8).unwrap();
    assert_ne!(parts, other);
}

#[test]
fn natural_clients_hold_whole_keys() {
    let data = labelled(&[400, 300, 55], 40);
    let of = data.keys().unwrap().of;
    let keys = of.iter().collect::<BTreeSet<_>>().len();
    let parts = partition(&data, &PartitionSpec::Natural {}, 7, 1).unwrap();
    assert!(covers_once(&parts, 755));
    let held: Vec<BTreeSet<u32>> = parts.iter().map(|p| p.iter().map(|&i| of[i]).collect()).collect();
    assert_eq!(held.iter().map(BTreeSet::len).sum::<usize>(), keys);
    let sizes = parts.iter().map(Vec::len);
    assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() < 50);
    let each = partition(&data, &PartitionSpec::Natural {}, keys, 1).unwrap();
    assert!(each.iter().all(|p| p.iter().map(|&i| of[i]).collect::<BTreeSet<_>>().len() == 1));
    let message = refusal(&data, &PartitionSpec::Natural {}, keys + 1);
    assert!(message.contains(&format!("only {keys} keys")), "{message}");
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let data = even(100);
    let cases = [
        (PartitionSpec::Iid {}, 101, "100 examples among 101 clients (iid)"),
        (PartitionSpec::Iid {}, 0, "at least 1"),
        (PartitionSpec::Size { exponent: f64::NAN }, 3, "`exponent` must be finite"),
        (PartitionSpec::Size { exponent: -1.0 }, 3, "`exponent` must be finite"),
        (PartitionSpec::Dirichlet { alpha: 0.0, replacement: false }, 3, "`alpha` must be"),
        (PartitionSpec::Dirichlet { alpha: f64::INFINITY, replacement: true }, 3, "`alpha` must be"),
        (PartitionSpec::Dirichlet { alpha: 1.0, replacement: false }, 13, "at least 8 examples"),
        (PartitionSpec::Dirichlet { alpha: 0.01, replacement: false }, 12, "larger `alpha`"),
        (PartitionSpec::Pathological { classes: 11 }, 3, "has 10 classes"),
        (PartitionSpec::Pathological { classes: 0 }, 3, "has 10 classes"),
    ];
    for (spec, clients, words) in cases {
        let message = refusal(&data, &spec, clients);
        assert!(message.contains(words), "{spec:?}: {message}");
    }
    let tiny = labelled(&[97, 1, 1, 1], 3);
    let message = refusal(&tiny, &PartitionSpec::Pathological { classes: 1 }, 20);
    assert!(message.contains("would be empty"), "{message}");
    let digits = Source::Digits { train: 50, test: 1, seed: 0 }.load(Split::Train, 0).unwrap();
    assert!(refusal(&digits, &PartitionSpec::Natural {}, 2).contains("no natural key"));
}

#[test]
fn text_divides_by_speaker_but_not_by_label() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("play.txt");
    let speech = |name: &str, words: usize| format!("{name}:\n{}\n\n", "so it is ".repeat(words));
    let text = speech("ANN", 40) + &speech("BOB", 20) + &speech("CAT", 1) + &speech("ANN", 10);
    std::fs::write(&path, text).unwrap();
    let data = Source::Text { path, key: TextKey::Speaker }.load(Split::Train, 10).unwrap();
    let keys = data.keys().unwrap();
    assert_eq!(keys.names, ["ANN", "BOB"]);
    let parts = partition(&data, &PartitionSpec::Natural {}, 2, 0).unwrap();
    assert!(parts[0].iter().all(|&i| keys.of[i] == 0) && parts[1].iter().all(|&i| keys.of[i] == 1));
    let spec = PartitionSpec::Dirichlet { alpha: 1.0, replacement: true };
    assert!(refusal(&data, &spec, 2).contains("text has no labels"));
    assert!(covers_once(&partition(&data, &PartitionSpec::Iid {}, 3, 0).unwrap(), data.len()));
}

fn any_spec() -> impl Strategy<Value = PartitionSpec> {
    prop_oneof![
        Just(PartitionSpec::Iid {}),
        Just(PartitionSpec::Natural {}),
        (-0.5..4.0f64).prop_map(|exponent| PartitionSpec::Size { exponent }),
        (0usize..5).prop_map(|classes| PartitionSpec::Pathological { classes }),
        (-8.0..3.0f64, any::<bool>())
            .prop_map(|(log, replacement)| PartitionSpec::Dirichlet { alpha: 10f64.powf(log), replacement }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn every_division_is_sound_or_refused(
        counts in proptest::collection::vec(0usize..60, 1..6),
        spec in any_spec(),
        clients in 0usize..15,
        seed: u64,
    ) {
        prop_assume!(counts.iter().sum::<usize>() > 0);
        let data = labelled(&counts, 9);
        let Ok(parts) = partition(&data, &spec, clients, seed) else { return Ok(()) };
        prop_assert_eq!(&parts, &partition(&data, &spec, clients, seed).unwrap());
        prop_assert_eq!(parts.len(), clients);
        prop_assert!(parts.iter().all(|p| !p.is_empty() && p.is_sorted() && p.iter().all(|&i| i < data.len())));
        match spec {
            PartitionSpec::Dirichlet { replacement: true, .. } => {}
            PartitionSpec::Pathological { .. } => {
                let all: Vec<usize> = parts.concat();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            }
            _ => prop_assert!(covers_once(&parts, data.len())),
        }
    }
}
