//! Milliseconds per training step; run by hand: `cargo test -p worker timing -- --ignored --nocapture`.

use super::{batch, gradient};
use crate::data::DataInfo;
use crate::engine::Model;
use proto::spec::{ModelSpec, Stem};
use std::time::Instant;

#[test]
#[ignore = "measures, checks nothing but finiteness"]
fn step_at_batch_fifty() {
    let digits = DataInfo::Images { channels: 1, height: 28, width: 28, classes: 10 };
    let colours = DataInfo::Images { channels: 3, height: 32, width: 32, classes: 10 };
    let text = DataInfo::Text { vocabulary: 90, sequence: 80 };
    let only = std::env::var("MODEL").unwrap_or_default();
    for (name, spec, info, steps) in [
        ("mlp", ModelSpec::Mlp { hidden: vec![200, 200] }, &digits, 200),
        ("lenet", ModelSpec::Lenet {}, &digits, 60),
        ("cnn 28", ModelSpec::Cnn {}, &digits, 15),
        ("cnn 32", ModelSpec::Cnn {}, &colours, 11),
        ("char-lstm", ModelSpec::CharLstm { embedding: 8, hidden: 256, layers: 2 }, &text, 11),
        ("char-gpt", ModelSpec::CharGpt { width: 128, heads: 4, layers: 4 }, &text, 9),
        ("resnet18-gn", ModelSpec::Resnet18Gn { stem: Stem::Cifar }, &colours, 3),
    ] {
        if !name.contains(&only) {
            continue;
        }
        for threads in [1, 2] {
            let model = Model::new(&spec, info).unwrap().with_threads(threads);
            let (w, batch) = (model.initial(1), batch(info, 50));
            gradient(&model, &w, &batch);
            let before = on_processor();
            let mut times: Vec<f64> = (0..steps)
                .map(|_| {
                    let start = Instant::now();
                    let (outcome, _) = gradient(&model, &w, &batch);
                    assert!(outcome.loss.is_finite());
                    start.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let wall = format!("median {:.2} ms, best {:.2}", times[steps / 2], times[0]);
            // On a busy machine only the time on the processor says anything; one thread's is at hand.
            let used = (on_processor() - before) / steps as f64;
            let processor =
                if threads == 1 { format!(", {used:.2} on the processor") } else { String::new() };
            println!("{name:12} {threads} threads: {wall}{processor}");
        }
    }
}

/// Milliseconds that this thread has run, where Linux tells; else 0.
fn on_processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).map_or(0.0, |ns: f64| ns / 1e6)
}
