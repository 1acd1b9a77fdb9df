//! Scratch.
use privacy::accountants::*;
use privacy::*;
use std::time::Instant;
fn main() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../tests/fixtures/privacy.json")).unwrap();
    for case in all["cases"].as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        if let Ok(only) = std::env::var("ONLY") {
            if case["id"] != only.as_str() {
                continue;
            }
        }
        if kind != "poisson_gaussian" && kind != "gaussian_composed" {
            continue;
        }
        let q = case["q"].as_f64().unwrap();
        let mut l = Ledger::new(Unit::Client, Adjacency::AddRemove);
        l.record(Event {
            mechanism: Mechanism::Gaussian {
                noise_multiplier: NoiseMultiplier::new(case["sigma"].as_f64().unwrap()).unwrap(),
            },
            sampling: if q == 1.0 {
                Sampling::Everyone
            } else {
                Sampling::Poisson { rate: Probability::new(q).unwrap() }
            },
            count: case["steps"].as_u64().unwrap().try_into().unwrap(),
        })
        .unwrap();
        let d = case["delta"].as_f64().unwrap();
        let t0 = Instant::now();
        let r = rdp::epsilon(&l, d, 1);
        let t1 = Instant::now();
        let c = contour::epsilon(&l, d, 1);
        let t2 = Instant::now();
        let p =
            if std::env::args().count() > 1 { pld::epsilon(&l, d, 1) } else { Err(Refusal::NotConverged) };
        let t3 = Instant::now();
        println!(
            "{} q={} z={} T={} d={} ref={} rdp={:?} {:?} | contour={:?} {:?} | pld={:?} {:?}",
            case["id"],
            q,
            case["sigma"],
            case["steps"],
            d,
            case["eps_ref"],
            r.map(|r| (r.epsilon, r.order)),
            t1 - t0,
            c,
            t2 - t1,
            p,
            t3 - t2
        );
    }
}
