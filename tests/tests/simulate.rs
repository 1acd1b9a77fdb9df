//! The simulator against the real thing: a federation over sockets and a simulation with the same seed,
//! cohort and shares have the same model in every round.

use proto::{digest::Digest, event::Metrics, spec::RunSpec};
use simulation::training::{self, Outcome, Setup, Stop};
use starling_tests::{
    federation::{Federation, Trainer},
    host::digits,
};
use std::time::Duration;
use worker::data::{Dataset, Split};

const CLIENTS: usize = 4;

fn spec(algorithm: &str) -> String {
    format!(
        "name='{algorithm}'\nrounds=4\nseed=5\n[model]\nkind='mlp'\nhidden=[16]\n[data]\nname='digits'\n\
         partition={{kind='dirichlet',alpha=1.0}}\n[algorithm]\nkind='{algorithm}'\n[local]\nbatch=20\nlr=0.05\n\
         epochs=2\n[cohort]\nsize=3\nmin_workers={CLIENTS}\n"
    )
}

fn simulated(spec: &str, threads: usize) -> Vec<Digest> {
    lines(spec, threads).iter().map(|line| line.model_digest).collect()
}

fn lines(spec: &str, threads: usize) -> Vec<Metrics> {
    judged(spec, threads, None).lines.into_iter().map(|line| line.metrics).collect()
}

fn simulate(spec: &str, threads: usize) -> Outcome {
    judged(spec, threads, None)
}

fn judged(spec: &str, threads: usize, test: Option<Dataset>) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup {
        spec: RunSpec::from_toml(spec).expect("a run file"),
        clients: CLIENTS,
        train: digits().load(Split::Train, 80).expect("digits are drawn"),
        test,
        threads,
        folder: folder.path().to_owned(),
        placement: worker::engine::cuda::Placement::default(),
        checkpoint: Duration::from_secs(5),
        memory: 1 << 30,
        reproducible_noise: false,
        stop: Stop::default(),
    };
    training::run(&setup, &mut |_| ()).expect("it comes to its end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulation_is_the_federation_without_sockets() {
    let mut federation = Federation::start().await;
    // No state, client state, state that is sent again.
    let kinds = ["fedavg", "scaffold", "afedpd"];
    let mut runs = Vec::new();
    for kind in kinds {
        runs.push(federation.operator.submit(&spec(kind)).await);
    }
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    for (kind, run) in kinds.into_iter().zip(runs) {
        federation.operator.finished(&run).await;
        let real = federation.operator.digests(&run).await;
        assert_eq!(real.len(), 4);
        for threads in [1, 2] {
            assert_eq!(simulated(&spec(kind), threads), real, "{kind} on {threads} threads");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn averages_and_grown_batches_are_the_same_bits_in_both() {
    let mut federation = Federation::start().await;
    let keys = "epochs=2\ngrowth={kind='step',every=2,factor=2.0,max=30}\naccumulate=2";
    let text = spec("fedavg").replace("epochs=2", keys)
        + "[average]\nema={decay=0.8,start=1}\nswa={start=0,every=2}\n";
    let run = federation.operator.submit(&text).await;
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    federation.operator.finished(&run).await;
    let alone = simulate(&text, 2);
    let digests: Vec<Digest> = alone.lines.iter().map(|line| line.metrics.model_digest).collect();
    assert_eq!(federation.operator.digests(&run).await, digests);
    for name in ["ema", "swa"] {
        let (header, w) = federation.operator.export_average(&run, name).await.unwrap();
        assert_eq!(header.average, name);
        let bytes: Vec<u8> = w.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(alone.averages[name].ends_with(&bytes), "{name}");
    }
    let missing = federation.operator.export_average(&run, "mean").await.unwrap_err();
    assert!(missing.message().contains("it keeps ema, swa"), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_updates_are_the_same_bytes_in_both() {
    let mut federation = Federation::start().await;
    let runs = [
        ("fedavg", "kind='low-rank'\nrank=1", 0.2),
        ("scaffold", "kind='top-k'\nratio=0.05", 0.1),
        ("afedpd", "kind='int4'", 0.15),
        ("fednova", "kind='sign'", 0.06),
    ];
    let compressed =
        |(kind, section, _): (&str, &str, f64)| format!("{}[compression]\n{section}\n", spec(kind));
    let mut ids = Vec::new();
    for run in runs {
        ids.push(federation.operator.submit(&compressed(run)).await);
    }
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    for (run, id) in runs.into_iter().zip(ids) {
        federation.operator.finished(&id).await;
        let real = federation.operator.metrics(&id).await;
        let (alone, plain) = (lines(&compressed(run), 2), lines(&spec(run.0), 2));
        for ((real, alone), plain) in real.iter().zip(&alone).zip(&plain) {
            assert_eq!(real.model_digest, alone.model_digest, "{run:?}");
            assert_eq!(real.bytes_up, alone.bytes_up, "{run:?}");
            let share = real.bytes_up as f64 / plain.bytes_up as f64;
            assert!(share < run.2, "{run:?}: {share}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn personal_models_are_the_same_in_both() {
    let mut federation = Federation::start().await;
    let evaluation = "[evaluation]\ncentral=false\nfederated=true\nmatched=true\ndetails=true\n";
    let runs = [
        ("ditto", spec("ditto").replace("kind='ditto'", "kind='ditto'\nbase='scaffold'\npersonal_epochs=1")),
        ("joint", format!("{}[personal]\ntensors=['*.bias']\n", spec("scaffold"))),
        (
            "smaller",
            format!(
                "{}[personal]\ntensors=['fc1.*']\n[compression]\nkind='low-rank'\nrank=1\n",
                spec("feddyn")
            ),
        ),
        ("alone", format!("{}[personal]\ntensors=['*']\n", spec("fedavg"))),
        (
            "prompt",
            format!(
                "{}[personal]\ntensors=['prompt.*']\norder='alternate'\nsteps=3\nlr=0.5\nmomentum=0.5\n",
                spec("fedavg").replace("kind='mlp'\nhidden=[16]", "kind='prompted'\nbase={kind='lenet'}")
            ),
        ),
        ("fedslr", spec("fedslr").replace("kind='fedslr'", "kind='fedslr'\nrank_threshold=0.06")),
    ];
    let runs = runs.map(|(name, spec)| (name, format!("{spec}{evaluation}")));
    let mut ids = Vec::new();
    for (_, spec) in &runs {
        ids.push(federation.operator.submit(spec).await);
    }
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    let typo =
        federation.operator.refused(&format!("{}[personal]\ntensors=['fc9.*']\n", spec("fedavg"))).await;
    assert!(typo.contains("personal.tensors") && typo.contains("`fc9.*`; it has fc1.bias"), "{typo}");
    let held_out = digits().load(Split::Test, 80).expect("digits are drawn");
    for ((name, spec), id) in runs.iter().zip(ids) {
        federation.operator.finished(&id).await;
        let real = federation.operator.metrics(&id).await;
        let alone = judged(spec, 2, Some(held_out.clone())).lines;
        let alone: Vec<Metrics> = alone.into_iter().map(|line| line.metrics).collect();
        assert_eq!(real.len(), 4, "{name}");
        for (real, alone) in real.iter().zip(&alone) {
            assert_eq!(real.model_digest, alone.model_digest, "{name}");
            assert_eq!(real.clients, alone.clients, "{name}, round {}", real.round);
            assert_eq!(real.bytes_up, alone.bytes_up, "{name}, round {}", real.round);
        }
        let last = real[3].clients.as_deref().expect("workers have evaluated");
        let own = last.personal.as_ref().expect("workers have models of their own");
        assert_eq!((own.accuracy.clients, last.accuracy.clients), (CLIENTS, CLIENTS), "{name}");
        assert_ne!(own.mean_loss, real[3].federated_loss.expect("as it was told"), "{name}");
        let scalars = match *name {
            "joint" => Some(784 * 16 + 16 * 10),
            "smaller" => Some(16 + 10 + 10),
            "alone" => Some(0),
            _ => None,
        };
        if let Some(scalars) = scalars {
            let up = real.iter().map(|line| line.bytes_up).collect::<Vec<_>>();
            assert_eq!(up, [3 * 4 * scalars; 4], "{name}");
        }
        if *name == "fedslr" {
            // Bytes of the model as it is. Who has that of the first round from another run fetches nothing.
            let dense = (784 * 16 + 16 + 16 * 10 + 10) * 4;
            let down = real.iter().map(|line| line.bytes_down).collect::<Vec<_>>();
            // Three train and four evaluate; whoever trained has fetched already what it evaluated.
            assert!(down[1..].iter().all(|bytes| (1..3 * dense).contains(bytes)), "{down:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn combiners_are_the_same_bits_in_both() {
    let mut federation = Federation::start().await;
    let sections = [
        ("kind='mean'", ""),
        ("kind='norm-bounded'\nbound=0.01", ""),
        ("kind='trimmed-mean'\ntrim=0.34", ""),
        ("kind='krum'\nbyzantine=0", ""),
        ("kind='centred-clipping'\nradius=0.02", ""),
        ("kind='geometric-median'", "[compression]\nkind='int8'\n"),
    ];
    let plain = spec("fedcm").replace("size=3", "size=3\nmin_updates=3");
    let combined = |(section, rest): (&str, &str)| format!("{plain}{rest}[combiner]\n{section}\n");
    let mut ids = Vec::new();
    for section in sections {
        ids.push(federation.operator.submit(&combined(section)).await);
    }
    let refused = federation.operator.refused(&format!("{plain}[attack]\nkind='alie'\nfraction=0.2\n")).await;
    assert!(refused.contains("starling simulate"), "{refused}");
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    federation.operator.committed(&ids[5], 1).await;
    let mut federation = federation.restart_coordinator().await;
    let mut seen = std::collections::BTreeSet::new();
    for (section, id) in sections.into_iter().zip(ids) {
        federation.operator.finished(&id).await;
        let real = federation.operator.digests(&id).await;
        assert_eq!(simulated(&combined(section), 2), real, "{section:?}");
        assert!(seen.insert(real[3]), "{section:?} is like another");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samplers_draw_the_same_in_both() {
    let mut federation = Federation::start().await;
    let samplers = ["with-replacement'", "size-weighted'", "power-of-choice',candidates=3"];
    let sampled = |kind: &str| {
        spec("fedavg")
            .replace("size=3", &format!("size=2\nsampler={{kind='{kind}}}"))
            .replace("rounds=4", "rounds=6")
    };
    let mut ids = Vec::new();
    for kind in samplers {
        ids.push(federation.operator.submit(&sampled(kind)).await);
    }
    let refused = federation.operator.refused(&sampled("diverse',candidates=3")).await;
    assert!(refused.contains("labels"), "{refused}");
    for index in 0..CLIENTS {
        let trainer = Trainer::Engine { share: (index, CLIENTS), threads: 1 };
        federation.add(&training::client_name(index), trainer);
    }
    federation.operator.committed(&ids[2], 2).await;
    let mut federation = federation.restart_coordinator().await;
    for (kind, id) in samplers.into_iter().zip(ids) {
        federation.operator.finished(&id).await;
        let real = federation.operator.metrics(&id).await;
        let alone = lines(&sampled(kind), 2);
        for (real, alone) in real.iter().zip(&alone) {
            assert_eq!(
                (real.model_digest, real.participants),
                (alone.model_digest, alone.participants),
                "{kind}"
            );
        }
        let fewer = real.iter().any(|line| line.participants == 1);
        assert_eq!(fewer, kind.starts_with("with-"), "{kind}");
    }
    assert_eq!(lines(&sampled("diverse',candidates=3"), 2).len(), 6);
}
