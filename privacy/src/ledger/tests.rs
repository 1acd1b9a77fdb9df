//! What a ledger takes and what it refuses.

use super::*;

fn gaussian(sampling: Sampling) -> Event {
    let noise_multiplier = NoiseMultiplier::new(1.0).unwrap();
    Event { mechanism: Mechanism::Gaussian { noise_multiplier }, sampling, count: NonZeroU64::MIN }
}

#[test]
fn events_without_a_theorem_are_refused_when_they_are_recorded() {
    let n = |n| NonZeroU64::new(n).unwrap();
    let fixed = gaussian(Sampling::FixedSize { population: n(10), sample: n(2) });
    let mut ledger = Ledger::new(Unit::Client, Adjacency::AddRemove);
    let message = ledger.record(fixed.clone()).unwrap_err().to_string();
    assert!(message.contains("gaussian cannot be accounted for with `fixed_size`"), "{message}");
    Ledger::new(Unit::Client, Adjacency::ReplaceOne).record(fixed).unwrap();
    let noise = Probability::new(0.5).unwrap();
    let mechanism = Mechanism::RandomizedResponse { noise, categories: 2.try_into().unwrap() };
    let answer = Event { mechanism, sampling: Sampling::Everyone, count: n(1) };
    let message = ledger.record(answer).unwrap_err().to_string();
    assert!(message.contains("adjacency `add_remove`"), "{message}");
    let too_many = gaussian(Sampling::FixedSize { population: n(2), sample: n(3) });
    assert_eq!(ledger.record(too_many), Err(LedgerError::TooLarge { part: 3, population: 2 }));
    assert_eq!(ledger.events(), []);
}

#[test]
fn a_ledger_survives_a_round_trip_and_is_checked_on_the_way() {
    let mut ledger = Ledger::new(Unit::Record, Adjacency::ZeroOut);
    ledger.record(gaussian(Sampling::Poisson { rate: Probability::new(0.25).unwrap() })).unwrap();
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    assert_eq!(
        (ledger.unit(), ledger.adjacency(), ledger.events().len()),
        (Unit::Record, Adjacency::ZeroOut, 1)
    );
    for (from, to, complaint) in [
        ("\"rate\":0.25", "\"rate\":1.25", "probability"),
        ("\"noise_multiplier\":1.0", "\"noise_multiplier\":-1.0", "noise_multiplier"),
        ("\"count\":1", "\"count\":0", "nonzero"),
        ("\"rate\":0.25", "\"rate\":0.25,\"tare\":1", "tare"),
        (
            "\"kind\":\"poisson\",\"rate\":0.25",
            "\"kind\":\"fixed_size\",\"population\":4,\"sample\":5",
            "a sample of 5",
        ),
        (
            "\"kind\":\"poisson\",\"rate\":0.25",
            "\"kind\":\"fixed_size\",\"population\":4,\"sample\":2",
            "fixed_size",
        ),
        ("\"adjacency\":\"zero_out\",", "", "adjacency"),
        ("\"unit\":\"record\",", "", "unit"),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        let error = serde_json::from_str::<Ledger>(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn one_answer_hides_nothing() {
    assert_eq!(
        Categories::try_from(1).unwrap_err().to_string(),
        "`categories` is 1, expected a number from 2"
    );
}
