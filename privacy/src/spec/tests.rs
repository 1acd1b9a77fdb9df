//! Sections of run files: plans that keep to their ε, and complaints about those that make no sense.

use std::num::NonZeroU64;

use super::*;
use crate::{Ledger, Mechanism, accountants::report};

const BASE: &str = r#"
unit = "client"
adjacency = "zero_out"
mechanism = "central_gaussian"
clip_norm = 1.0
epsilon = 2.0
delta = 1e-5
sampling = { kind = "poisson", rate = 0.05 }
"#;

fn facts() -> RunFacts {
    let n = |n| NonZeroU64::new(n).unwrap();
    RunFacts { rounds: n(100), parameters: n(1000), clients: n(50), local_steps: n(20) }
}

fn parse(text: &str) -> Result<PrivacySpec, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn changed(pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(BASE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

/// A base for each mechanism.
fn all() -> Vec<String> {
    let poisson = "sampling = { kind = \"poisson\", rate = 0.05 }";
    let cap = "participation = { most = 4, separation = 20 }";
    let everyone = "sampling = { kind = \"everyone\" }";
    let shares = "mechanism = \"distributed_discrete_gaussian\"\nleast_shares = 40";
    let skellam = "mechanism = \"skellam\"\nleast_shares = 40\nmodulus_bits = 24";
    vec![
        BASE.to_owned(),
        changed(&[(poisson, cap)]),
        changed(&[(poisson, "sampling = { kind = \"everyone\" }")]),
        changed(&[("central_gaussian", "central_discrete_gaussian")]),
        changed(&[("central_gaussian", "local_gaussian"), ("zero_out", "replace_one"), (poisson, cap)])
            + "hidden_state = true\n",
        changed(&[("central_gaussian", "dp_sgd"), ("\"client\"", "\"record\"")]),
        changed(&[("central_gaussian", "dp_sgd"), ("\"client\"", "\"record\""), (poisson, cap)]),
        changed(&[
            ("central_gaussian", "dp_ftrl"),
            (poisson, "participation = { most = 1 }\nstrategy = { kind = \"tree\" }"),
        ]),
        changed(&[("central_gaussian", "dp_ftrl"), (poisson, cap)])
            + "strategy = { kind = \"toeplitz\", factor = { kind = \"buffered\", weights = [0.3], decays = [0.9] } }\n",
        changed(&[("mechanism = \"central_gaussian\"", shares), (poisson, everyone)]),
        changed(&[("mechanism = \"central_gaussian\"", skellam), (poisson, everyone)]),
        changed(&[("epsilon = 2.0", "noise_multiplier = 1.1")]),
        changed(&[("delta = 1e-5", "delta = 1e-5\nstop = \"filter\"")]),
        changed(&[("delta = 1e-5", "delta = 1e-5\naccountant = \"rdp\"")]),
        BASE.to_owned() + "adaptive_clipping = { quantile = 0.5, learning_rate = 0.2, count_noise = 5.0 }\n",
        BASE.to_owned() + "metrics = { budget_share = 0.05, loss_bound = 4.0 }\n",
        BASE.to_owned()
            + "adaptive_clipping = { quantile = 0.5, learning_rate = 0.2, count_noise = 5.0 }\n\
               metrics = { budget_share = 0.05, loss_bound = 4.0 }\n",
    ]
}

#[test]
fn every_mechanism_survives_a_round_trip_and_keeps_to_its_epsilon() {
    for text in all() {
        let spec = parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parse(&toml::to_string(&spec).unwrap()).as_ref(), Ok(&spec), "{text}");
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<PrivacySpec>(&json).unwrap(), spec);
        let plan = spec.plan(facts()).unwrap_or_else(|error| panic!("{text}: {error}"));
        // What the events cost, summed up again.
        let mut ledger = Ledger::new(spec.unit(), spec.adjacency());
        plan.before.iter().for_each(|event| ledger.record(event.clone()).unwrap());
        for _ in 0..facts().rounds.get() {
            plan.each_round.iter().for_each(|event| ledger.record(event.clone()).unwrap());
        }
        let spent = report::epsilon(&ledger, 1e-5, 1);
        assert!(spent.epsilon <= plan.whole.epsilon * (1.0 + 1e-9), "{spent:?} {plan:?}");
        if let Noise::Epsilon(epsilon) = spec.noise() {
            assert!(plan.whole.epsilon <= epsilon && plan.whole.epsilon > 0.995 * epsilon, "{text} {plan:?}");
            let gate = plan.gate.unwrap();
            assert!(gate.epsilon(&ledger).epsilon <= epsilon * (1.0 + 1e-9), "{text} {plan:?}");
            if let Some(event) = &plan.each_round {
                let more = gate.rounds(&ledger, event).unwrap();
                assert!(more <= 1, "{text}: {more} more rounds fit");
            }
        }
        assert!(plan.update_noise >= plan.noise_multiplier);
        let parted = spec.adaptive().is_some() || spec.metrics().is_some();
        assert_eq!(plan.update_noise > plan.noise_multiplier, parted);
        assert_eq!(spec.adaptive_clip(facts()).unwrap().is_some(), spec.adaptive().is_some());
    }
}

#[test]
fn a_section_that_makes_no_sense_says_what_would() {
    let poisson = "sampling = { kind = \"poisson\", rate = 0.05 }";
    for (from, to, complaint) in [
        ("unit = \"client\"\n", "", "unit"),
        ("adjacency = \"zero_out\"\n", "", "adjacency"),
        ("clip_norm = 1.0", "clip_norm = 0.0", "`clip_norm` is 0, expected a number from 1e-20"),
        ("clip_norm", "clip_nrom", "clip_nrom"),
        ("epsilon = 2.0", "epsilon = -2.0", "`epsilon` is -2"),
        ("epsilon = 2.0", "epsilon = nan", "`epsilon` is NaN"),
        ("epsilon = 2.0", "epsilon = 2.0\nnoise_multiplier = 1.0", "not both"),
        ("epsilon = 2.0\n", "", "either `noise_multiplier` or `epsilon`"),
        ("delta = 1e-5", "delta = 0.0", "above 0"),
        ("delta = 1e-5", "delta = 1.5", "`delta` is 1.5"),
        (poisson, "", "say who takes part"),
        ("rate = 0.05", "rate = 1.5", "probability"),
        (
            poisson,
            "sampling = { kind = \"poisson\", rate = 0.1 }\nparticipation = { most = 2 }",
            "leave `sampling` out",
        ),
        ("\"zero_out\"", "\"zero\"", "zero"),
        ("central_gaussian", "dp_sgd", "protects one record"),
        ("\"client\"", "\"record\"", "protects all of a client's records"),
        ("central_gaussian", "local_gaussian", "can only be replaced"),
        ("central_gaussian", "dp_ftrl", "`strategy`"),
        ("central_gaussian", "skellam", "`least_shares`"),
        ("delta = 1e-5", "delta = 1e-5\nstrategy = { kind = \"tree\" }", "only `dp_ftrl`"),
        ("delta = 1e-5", "delta = 1e-5\nhidden_state = true", "`hidden_state`"),
        (
            "delta = 1e-5",
            "delta = 1e-5\nmetrics = { budget_share = 1.0, loss_bound = 1.0 }",
            "above 0 and below 1",
        ),
        ("delta = 1e-5", "delta = 1e-5\nstop = \"filter\"\naccountant = \"pld\"", "`rdp`"),
    ] {
        let error = parse(&changed(&[(from, to)])).unwrap_err();
        assert!(error.contains(complaint), "{from} → {to}: {error}");
    }
    let fixed = changed(&[(poisson, "sampling = { kind = \"fixed_size\", population = 100, sample = 5 }")]);
    let error = parse(&fixed).unwrap().plan(facts()).unwrap_err().to_string();
    assert!(error.contains("fixed_size"), "{error}");
    let shares = "mechanism = \"skellam\"\nleast_shares = 40\nmodulus_bits = 8";
    let everyone = "sampling = { kind = \"everyone\" }";
    let shares = |pairs: &[(&str, &str)]| {
        let base = changed(&[("mechanism = \"central_gaussian\"", shares), (poisson, everyone)]);
        parse(&pairs.iter().fold(base, |text, (from, to)| text.replace(from, to)))
    };
    let error = shares(&[]).unwrap().plan(facts()).unwrap_err().to_string();
    assert!(error.contains("`modulus_bits` is 8, expected more bits"), "{error}");
    for (from, to, complaint) in [
        ("modulus_bits = 8", "modulus_bits = 25", "from 8 to 24"),
        ("zero_out", "add_remove", "adds no noise either"),
        (everyone, poisson, "would tell of a secret draw"),
        (everyone, "participation = { most = 2 }", "a cap is covered for Gaussian noise only"),
        ("mechanism = \"skellam\"\nleast_shares = 40", "mechanism = \"central_gaussian\"", "leave it out"),
    ] {
        let error = shares(&[(from, to)]).unwrap_err();
        assert!(error.contains(complaint), "{from} → {to}: {error}");
    }
    let silent = BASE.to_owned() + "accountant = \"pure\"\n";
    assert!(parse(&silent).unwrap().plan(facts()).is_err());
}

/// Whatever number stands in a run file or comes over the wire.
#[test]
fn no_number_that_makes_no_sense_gets_in() {
    let adaptive =
        "delta = 1e-5\nadaptive_clipping = { quantile = 0.5, learning_rate = 0.2, count_noise = 1.0 }";
    let cap = "participation = { most = 2, separation = 3 }";
    let poisson = "sampling = { kind = \"poisson\", rate = 0.05 }";
    let multiplier = "noise_multiplier = 1.0";
    for (changes, number) in [
        (vec![], "clip_norm = 1.0"),
        (vec![], "epsilon = 2.0"),
        (vec![], "delta = 1e-5"),
        (vec![], "rate = 0.05"),
        (vec![("epsilon = 2.0", multiplier)], multiplier),
        (vec![("delta = 1e-5", adaptive)], "quantile = 0.5"),
        (vec![("delta = 1e-5", adaptive)], "learning_rate = 0.2"),
        (vec![("delta = 1e-5", adaptive)], "count_noise = 1.0"),
        (vec![(poisson, cap)], "most = 2"),
        (vec![(poisson, cap)], "separation = 3"),
    ] {
        let text = changed(&changes);
        parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let (key, _) = number.split_once(" = ").unwrap();
        for value in [
            "nan", "-nan", "inf", "-inf", "0.0", "-0.0", "0", "-1", "-1.0", "1e400", "1e-400", "1e300",
            "true",
        ] {
            let wrong = text.replacen(number, &format!("{key} = {value}"), 1);
            // Any finite ε above 0 is one.
            let fine = (key, value) == ("epsilon", "1e300");
            assert_eq!(parse(&wrong).is_ok(), fine, "{wrong}");
        }
    }
    for (number, value) in [("delta = 1e-5", "delta = 1"), ("rate = 0.05", "rate = 1.0000001")] {
        assert!(parse(&changed(&[(number, value)])).is_err(), "{value}");
    }
    // Whole numbers are numbers.
    let whole =
        [("clip_norm = 1.0", "clip_norm = 1"), ("epsilon = 2.0", "epsilon = 2"), ("rate = 0.05", "rate = 1")];
    assert_eq!(parse(&changed(&whole)).unwrap().clip_norm().get(), 1.0);
    // JSON has no NaN, and its numbers go through the same constructors.
    let json = serde_json::to_string(&parse(BASE).unwrap()).unwrap();
    for value in ["-1.0", "1e400", "null", "\"1.0\""] {
        let wrong = json.replacen("\"clip_norm\":1.0", &format!("\"clip_norm\":{value}"), 1);
        assert_ne!(wrong, json);
        assert!(serde_json::from_str::<PrivacySpec>(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_cap_costs_by_rounds_of_one_unit_and_not_by_rounds_of_the_run() {
    let cap = |most: u64| {
        let cap = format!("participation = {{ most = {most} }}");
        let text = changed(&[
            ("sampling = { kind = \"poisson\", rate = 0.05 }", cap.as_str()),
            ("epsilon = 2.0", "noise_multiplier = 4.0"),
        ]);
        parse(&text).unwrap().plan(facts()).unwrap()
    };
    let (one, four, many) = (cap(1), cap(4), cap(1000));
    assert!(one.whole.epsilon < four.whole.epsilon && four.whole.epsilon < many.whole.epsilon);
    let exact = crate::Mu::new(0.5).unwrap().epsilon(1e-5);
    assert!((four.whole.epsilon / exact - 1.0).abs() < 1e-9, "{four:?}");
    assert!(matches!(four.before.unwrap().mechanism, Mechanism::Correlated { .. }));
    // More participations than rounds are as many as there are rounds.
    let exact = crate::Mu::new(10.0 / 4.0).unwrap().epsilon(1e-5);
    assert!((many.whole.epsilon / exact - 1.0).abs() < 1e-9);
}
