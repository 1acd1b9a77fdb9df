//! Real training on a virtual clock: the same bytes whatever the threads, the memory and the
//! interruptions; every algorithm of the registry.

use algorithms::rules::RULES;
use proto::{digest::Digest, event::RunEvent, spec::RunSpec};
use simulation::training::{Line, Notice, Outcome, Setup, SimulationError, Stop, run};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};
use worker::data::{Dataset, Source, Split};

const CLIENTS: usize = 12;

fn data() -> (Dataset, Dataset) {
    let source = Source::Digits { train: 240, test: 60, seed: 0 };
    (
        source.load(Split::Train, 0).expect("digits are drawn"),
        source.load(Split::Test, 0).expect("digits are drawn"),
    )
}

fn spec(algorithm: &str, rest: &str) -> RunSpec {
    let text = format!(
        "name='s'\nrounds=4\nseed=3\n[model]\nkind='mlp'\nhidden=[8]\n[data]\nname='digits'\n\
         partition={{kind='iid'}}\n[algorithm]\nkind='{algorithm}'\n[local]\nbatch=10\nlr=0.05\n{rest}"
    );
    RunSpec::from_toml(&text).expect("a run file")
}

fn setup(spec: RunSpec, folder: &Path) -> Setup {
    let (train, test) = data();
    Setup {
        spec,
        clients: CLIENTS,
        train,
        test: Some(test),
        threads: 1,
        folder: folder.to_owned(),
        placement: worker::engine::cuda::Placement::default(),
        checkpoint: Duration::from_hours(1),
        memory: 1 << 30,
        reproducible_noise: true,
        stop: Stop::default(),
    }
}

fn quiet(_: Notice<'_>) {}

fn go(change: impl FnOnce(&mut Setup), spec: RunSpec) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut setup = setup(spec, folder.path());
    change(&mut setup);
    let outcome = run(&setup, &mut quiet).expect("it comes to its end");
    let entries = std::fs::read_dir(folder.path()).expect("the folder is there").flatten();
    let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["metrics.jsonl"], "nothing in the making is left");
    outcome
}

const HALF: &str = "[cohort]\nsize=6\n";
const PACKED: &str = "[compression]\nkind='top-k'\nratio=0.05\n";
const CLIPPED: &str = "[combiner]\nkind='centred-clipping'\nradius=0.05\n";
const ATTACKED: &str = "[combiner]\nkind='median'\n[attack]\nkind='alie'\nfraction=0.25\n";
const CHOSEN: &str = "sampler={kind='power-of-choice',candidates=9}\n";
const AVERAGED: &str = "[average]\nema={decay=0.5}\nswa={start=1}\n";
/// No state, what compression lost, client state, both, state that is sent again, the last aggregate, liars, what was
/// seen of clients, averages of the model.
const CASES: [(&str, &str); 9] = [
    ("fedavg", ""),
    ("fedavg", PACKED),
    ("scaffold", ""),
    ("scaffold", PACKED),
    ("afedpd", ""),
    ("fedcm", CLIPPED),
    ("fedavg", ATTACKED),
    ("fedavg", CHOSEN),
    ("fedavg", AVERAGED),
];

#[test]
fn threads_memory_and_checkpoints_change_nothing() {
    for (algorithm, rest) in CASES {
        let spec = || spec(algorithm, &[HALF, rest].concat());
        let one = go(|_| (), spec());
        assert_eq!(one.lines.len(), 4);
        assert!(one.lines.iter().all(|line| line.metrics.participants == 6), "{algorithm}");
        let learnt =
            one.lines.windows(2).all(|pair| pair[0].metrics.model_digest != pair[1].metrics.model_digest);
        assert!(learnt, "{algorithm}");
        assert_eq!(one, go(|setup| setup.threads = 3, spec()), "{algorithm}: threads");
        assert_eq!(one, go(|setup| setup.memory = 0, spec()), "{algorithm}: states in files");
        assert_eq!(one, go(|setup| setup.memory = 70_000, spec()), "{algorithm}: some in files");
        assert_eq!(one, go(|setup| setup.checkpoint = Duration::ZERO, spec()), "{algorithm}: checkpoints");
        let mut other = spec();
        other.seed = 4;
        assert_ne!(one.digest, go(|_| (), other).digest, "{algorithm}: another seed");
    }
}

#[test]
fn averages_of_the_model_are_evaluated_and_exported_beside_it() {
    let plain = go(|_| (), spec("fedavg", ""));
    let averaged = go(|_| (), spec("fedavg", AVERAGED));
    assert_eq!(averaged.model, plain.model, "training does not see them");
    let line = |outcome: &Outcome, round: usize| outcome.lines[round].metrics.clone();
    assert_eq!(line(&averaged, 0).averages.keys().collect::<Vec<_>>(), ["ema"], "SWA begins with round 1");
    let last = line(&averaged, 3);
    for name in ["ema", "swa"] {
        let loss = last.averages[name].eval_loss.expect("it was evaluated");
        assert!(loss != last.eval_loss.expect("as the model") && loss.is_finite(), "{name}: {loss}");
        let data = |file: &[u8]| file[file.len() - 4 * plain.parameters..].to_vec();
        assert_ne!(data(&averaged.averages[name]), data(&averaged.model));
    }
    // An average without a memory is the model, and so is the mean of the last one.
    let bare = go(|_| (), spec("fedavg", "[average]\nema={decay=0.0}\nswa={start=3}\n"));
    for name in ["ema", "swa"] {
        let data = |file: &[u8]| file[file.len() - 4 * plain.parameters..].to_vec();
        assert_eq!(data(&bare.averages[name]), data(&plain.model));
        let last = line(&bare, 3);
        assert_eq!(last.averages[name].eval_loss, last.eval_loss);
    }
}

#[test]
fn grown_and_divided_batches_are_the_same_on_any_threads() {
    let keys = "growth={kind='linear',add=10,max=20}\naccumulate=3\n";
    let one = go(|_| (), spec("scaffold", keys));
    assert_eq!(one, go(|setup| setup.threads = 3, spec("scaffold", keys)));
    // 20 examples a client, 10 ms a step: two steps in the first round, one in the others.
    let seconds: Vec<f64> = one.lines.iter().map(|line| line.metrics.seconds).collect();
    assert_eq!(seconds, [0.02, 0.01, 0.01, 0.01]);
}

#[test]
fn a_robust_combiner_withstands_what_a_mean_does_not() {
    let loss = |combiner: &str, attack: &str| {
        let rest = format!("[combiner]\n{combiner}\n[attack]\n{attack}\n[cohort]\nmin_updates=9\n");
        let outcome = go(|setup| setup.threads = 2, spec("fedavg", &rest));
        outcome.lines[3].metrics.eval_loss.expect("the last round is evaluated")
    };
    let forged = "kind='sign-flip'\nscale=10.0\nfraction=0.25";
    let honest = loss("kind='mean'", "kind='label-flip'\nfraction=0.0");
    for combiner in ["kind='median'", "kind='multi-krum'\nbyzantine=3", "kind='geometric-median'"] {
        assert!(loss(combiner, forged) < honest + 0.2, "{combiner}");
    }
    assert!(loss("kind='mean'", forged) > honest + 0.5);
    // Its labels are turned round, its update is as long as the others'.
    assert!(loss("kind='mean'", "kind='label-flip'\nfraction=0.5") > honest + 0.01);
}

/// Dies when it has seen so many notices; true if it came to its end before.
fn dies_after(setup: &Setup, notices: usize) -> Option<Outcome> {
    let mut left = notices;
    let mut watch = |_: Notice<'_>| {
        assert!(left > 0, "killed, as planned");
        left -= 1;
    };
    catch_unwind(AssertUnwindSafe(|| run(setup, &mut watch).expect("it comes to its end"))).ok()
}

#[test]
fn an_interrupted_simulation_goes_on_with_the_same_bytes() {
    for (algorithm, rest) in CASES {
        let rest = &[HALF, rest].concat();
        let undisturbed = go(|_| (), spec(algorithm, rest));
        for (checkpoint, memory) in
            [(Duration::ZERO, 1 << 30), (Duration::ZERO, 0), (Duration::from_hours(1), 0)]
        {
            let folder = tempfile::tempdir().unwrap();
            let mut setup = setup(spec(algorithm, rest), folder.path());
            (setup.checkpoint, setup.memory, setup.threads) = (checkpoint, memory, 2);
            let mut deaths = 0;
            let outcome = loop {
                // A round is some ten notices.
                match dies_after(&setup, 17 + deaths) {
                    Some(outcome) => break outcome,
                    None if deaths == 5 => break run(&setup, &mut quiet).unwrap(),
                    None => deaths += 1,
                }
            };
            assert!(deaths > 1, "{algorithm}");
            assert_eq!(outcome, undisturbed, "{algorithm}, {checkpoint:?}");
            let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
            let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines, undisturbed.lines);
        }
    }
}

#[test]
fn what_was_done_is_not_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = setup(spec("scaffold", HALF), folder.path());
    setup.checkpoint = Duration::ZERO;
    assert!(dies_after(&setup, 30).is_none());
    let mut started = None;
    let mut opened = Vec::new();
    run(&setup, &mut |notice| match notice {
        Notice::Started { rounds } => started = Some(rounds),
        Notice::Event(RunEvent::RoundOpened { round, .. }) => opened.push(*round),
        _ => {}
    })
    .unwrap();
    let started = started.unwrap();
    assert!((1..4).contains(&started), "{started}");
    assert_eq!(opened, (started..4).collect::<Vec<_>>());
}

#[test]
fn every_algorithm_can_be_simulated() {
    for rule in RULES {
        let everyone = (rule.make)(&(rule.defaults)()).unwrap().needs_everyone();
        let mut spec = spec(rule.name, if everyone { "" } else { "[cohort]\nsize=4\n" });
        spec.rounds = 3;
        let mut refused = Vec::new();
        let folder = tempfile::tempdir().unwrap();
        let mut setup = setup(spec, folder.path());
        setup.threads = 2;
        let outcome = run(&setup, &mut |notice| {
            if let Notice::Event(
                event @ (RunEvent::UpdateRejected { .. } | RunEvent::WorkerDeclined { .. }),
            ) = notice
            {
                refused.push(event.clone());
            }
        });
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error}", rule.name));
        assert!(refused.is_empty(), "{}: {refused:?}", rule.name);
        let digests: Vec<Digest> = outcome.lines.iter().map(|line| line.metrics.model_digest).collect();
        assert!(digests.windows(2).all(|pair| pair[0] != pair[1]), "{}: the model stands still", rule.name);
        let last = outcome.lines.last().unwrap();
        assert_eq!(last.metrics.participants, if everyone { CLIENTS } else { 4 }, "{}", rule.name);
        assert!(last.metrics.eval_accuracy.is_some() && last.ece.is_some(), "{}", rule.name);
    }
}

#[test]
fn a_round_is_evaluated_in_every_way() {
    let skewed = spec("fedavg", "epochs=5\n[evaluation]\nfederated=true\n").data;
    let mut spec = spec("fedavg", "epochs=5\n[evaluation]\nfederated=true\nevery=3\ndetails=true\n");
    spec.data = skewed;
    spec.data.partition = Some(proto::spec::PartitionSpec::Pathological { classes: 2 });
    let outcome = go(|setup| setup.threads = 2, spec);
    let due: Vec<bool> = outcome.lines.iter().map(|line| line.metrics.eval_accuracy.is_some()).collect();
    assert_eq!(due, [false, false, true, true], "every third round and the last");
    let line = outcome.lines.last().unwrap();
    // The clients' shares of the held-out digits are the held-out digits.
    assert_eq!(line.metrics.federated_accuracy, line.metrics.eval_accuracy);
    let told = line.metrics.clients.as_deref().unwrap();
    assert_eq!(told.accuracy.clients, CLIENTS);
    let worst = line.client_accuracy_worst_decile.unwrap();
    assert!(
        worst <= line.client_accuracy.unwrap() && line.client_accuracy_variance.unwrap() > 0.0,
        "{line:?}"
    );
    let found = outcome.evaluation.unwrap();
    assert_eq!(found.accuracy, line.metrics.eval_accuracy);
    let confusion = found.confusion.unwrap();
    assert_eq!(confusion.counts.iter().sum::<u64>(), 60);
    assert_eq!(found.clients.unwrap().clients, CLIENTS);
    let calibration = found.calibration.unwrap();
    assert!(calibration.low <= calibration.ece && calibration.ece <= calibration.high, "{calibration:?}");
    assert_eq!(Some(calibration.ece), line.ece);
    // What the clients told adds up to what one look at everything sees.
    assert_eq!(told.confusion.as_ref().unwrap().counts.iter().sum::<u64>(), 60);
    let (all, own) = (told.calibration.unwrap(), calibration);
    assert_eq!((all.predictions, all.top), (own.predictions, 1));
}

#[test]
fn personal_parts_are_nothing_or_everything() {
    let evaluation = "epochs=2\n[evaluation]\nfederated=true\nmatched=true\n";
    let with = |rest: &str| go(|setup| setup.threads = 2, spec("scaffold", &format!("{evaluation}{rest}")));
    let plain = with("");
    let none = with("[personal]\ntensors=[]\norder='alternate'\n");
    assert_eq!(digests(&none), digests(&plain), "no tensor: the run without the section, to the bit");
    assert_eq!(none.lines, plain.lines);
    let all = with("[personal]\ntensors=['*']\n");
    assert!(digests(&all).windows(2).all(|pair| pair[0] == pair[1]), "what is shared stands still");
    let last = all.lines.last().unwrap().metrics.clone();
    let own = last.clients.unwrap().personal.unwrap();
    assert_eq!(own.accuracy.clients, CLIENTS);
    assert!(own.mean_loss < last.federated_loss.unwrap(), "local training learns: {own:?}");
    let alternate = with("[personal]\ntensors=['fc2.*']\norder='alternate'\nsteps=2\n");
    assert_ne!(digests(&alternate), digests(&plain));
}

#[test]
fn the_deadline_is_one_of_virtual_time() {
    // Sizes fall off: the first client has more than 100 examples, one a step, and 10 ms a step.
    let mut spec = spec("fedavg", "[cohort]\ndeadline_s=1\n");
    spec.local.batch = 1;
    spec.data.partition = Some(proto::spec::PartitionSpec::Size { exponent: 2.0 });
    let folder = tempfile::tempdir().unwrap();
    let mut late = Vec::new();
    let outcome = run(&setup(spec, folder.path()), &mut |notice| {
        if let Notice::Event(RunEvent::Late { workers, .. }) = notice {
            late.push(workers.clone());
        }
    })
    .unwrap();
    assert_eq!(late, vec![vec!["worker-1".to_owned()]; 4]);
    for line in outcome.lines {
        assert_eq!((line.metrics.seconds, line.metrics.participants), (1.0, CLIENTS - 1));
    }
}

#[test]
fn what_cannot_work_is_said() {
    let failed = |change: &dyn Fn(&mut Setup)| {
        let folder = tempfile::tempdir().unwrap();
        let mut setup = setup(spec("fedavg", ""), folder.path());
        change(&mut setup);
        run(&setup, &mut quiet).unwrap_err()
    };
    let text = |error: SimulationError| error.to_string();
    assert!(text(failed(&|setup| setup.clients = 0)).contains("0 clients"));
    assert!(text(failed(&|setup| setup.clients = 1_000)).contains("at least one example"));
    assert!(text(failed(&|setup| setup.spec.data.partition = None)).contains("data.partition"));
    let diverged = failed(&|setup| setup.spec.local.lr = 1e30);
    assert!(matches!(&diverged, SimulationError::Failed(why) if why.contains("declined")), "{diverged}");
}

#[test]
fn a_private_simulation_pays_for_every_round_and_is_the_same_again() {
    let drawn = "mechanism='central_gaussian'\nepsilon=6.0\nsampling={kind='poisson',rate=0.5}\n";
    let capped = "mechanism='dp_ftrl'\nepsilon=6.0\nparticipation={most=4}\nstrategy={kind='toeplitz',factor={kind='square_root'}}\n";
    let shared = "mechanism='distributed_discrete_gaussian'\nepsilon=6.0\nleast_shares=5\nsampling={kind='everyone'}\n";
    for (promise, releases) in [(drawn, 4), (capped, 1), (shared, 4)] {
        let spec = |population: usize| {
            let least = if promise == shared { "min_updates=5\n" } else { "" };
            let rest = format!(
                "[cohort]\npopulation={population}\n{least}[privacy]\nunit='client'\nadjacency='zero_out'\nclip_norm=0.5\n\
                 delta=1e-5\n{promise}"
            );
            spec("fedavg", &rest)
        };
        let once = |threads: usize, dies: Option<usize>| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut setup = setup(spec(CLIENTS), folder.path());
            (setup.threads, setup.checkpoint) = (threads, Duration::ZERO);
            if let Some(notices) = dies {
                assert!(dies_after(&setup, notices).is_none());
            }
            let outcome = run(&setup, &mut quiet).expect("it comes to its end");
            let ledger = std::fs::read_to_string(folder.path().join("ledger.jsonl")).expect("a ledger");
            (outcome, privacy::Journal::parse(&ledger).expect("a journal"))
        };
        let (outcome, journal) = once(1, None);
        assert_eq!(journal.ledger().events().len(), releases);
        let shown = outcome.lines.last().and_then(|line| line.metrics.epsilon);
        let again = privacy::accountants::report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
        assert!(shown == Some(again) && again <= 6.0 && again > 5.5, "{shown:?} {again}");
        assert_eq!(once(3, None), (outcome.clone(), journal.clone()));
        assert_eq!(once(2, Some(20)), (outcome, journal));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refused = run(&setup(spec(7), folder.path()), &mut quiet).expect_err("another number of clients");
        assert!(refused.to_string().contains("cohort.population is 7"), "{refused}");
    }
}

#[test]
fn clients_that_add_noise_are_the_same_on_any_threads_and_after_an_interruption() {
    let steps = "unit='record'\nadjacency='zero_out'\nmechanism='dp_sgd'\nepsilon=6.0\n\
                 sampling={kind='poisson',rate=0.5}\n";
    let layers = format!("{steps}clipping='per_layer'\n");
    let local = "unit='client'\nadjacency='replace_one'\nmechanism='local_gaussian'\nepsilon=6.0\n\
                 participation={most=4}\n";
    let mut digests = std::collections::BTreeSet::new();
    for (promise, releases, rule) in
        [(steps, 4, "fedavg"), (&layers, 4, "fedavg"), (steps, 4, "scaffold"), (local, 1, "fedavg")]
    {
        let once = |threads: usize, dies: Option<usize>, secret: bool| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let text = format!("steps=2\n[privacy]\nclip_norm=0.5\ndelta=1e-5\n{promise}");
            let mut setup = setup(spec(rule, &text), folder.path());
            (setup.threads, setup.checkpoint, setup.reproducible_noise) = (threads, Duration::ZERO, !secret);
            if let Some(notices) = dies {
                assert!(dies_after(&setup, notices).is_none());
            }
            let outcome = run(&setup, &mut quiet).expect("it comes to its end");
            let ledger = std::fs::read_to_string(folder.path().join("ledger.jsonl")).expect("a ledger");
            (outcome, privacy::Journal::parse(&ledger).expect("a journal"))
        };
        let (outcome, journal) = once(1, None, false);
        assert_eq!(journal.ledger().events().len(), releases);
        let shown = outcome.lines.last().and_then(|line| line.metrics.epsilon);
        let again = privacy::accountants::report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
        assert!(shown == Some(again) && again <= 6.0 && again > 5.5, "{shown:?} {again}");
        assert_eq!(once(3, None, false), (outcome.clone(), journal.clone()));
        assert_eq!(once(2, Some(20), false), (outcome.clone(), journal.clone()));
        // A real secret is another one each time.
        digests.extend([once(2, None, true).0.digest, once(2, Some(20), true).0.digest]);
        digests.insert(outcome.digest);
    }
    assert_eq!(digests.len(), 12);
}

const SLOW: &str = "[stragglers]\nfraction=0.25\nslowdown=9.0\nsigma=0.3\n";
const FEDBUFF: &str = "[async]\nkind='fedbuff'\nbuffer_size=3\nconcurrency=6\nmax_staleness=3\n";
const FEDASYNC: &str = "[async]\nkind='fedasync'\nalpha=0.5\nstaleness={kind='hinge',a=1.0,b=1}\n";

fn many_versions(algorithm: &str, rest: &str) -> RunSpec {
    RunSpec { rounds: 20, ..spec(algorithm, rest) }
}

fn digests(outcome: &Outcome) -> Vec<Digest> {
    outcome.lines.iter().map(|line| line.metrics.model_digest).collect()
}

#[test]
fn without_rounds_threads_change_nothing_and_the_slow_are_behind() {
    for (algorithm, section) in [("fedavg", FEDBUFF), ("fedadam", FEDBUFF), ("fedprox", FEDASYNC)] {
        let spec = || many_versions(algorithm, &[section, SLOW].concat());
        let one = go(|_| (), spec());
        assert_eq!(one, go(|setup| setup.threads = 3, spec()), "{algorithm}: threads");
        let told: Vec<_> = one.lines.iter().filter_map(|line| line.metrics.asynchronous.as_ref()).collect();
        assert_eq!(told.len(), 20);
        assert!(told.iter().any(|told| told.max_staleness > 1), "{algorithm}: somebody is slow");
        let fast = go(|_| (), many_versions(algorithm, section));
        let time = |outcome: &Outcome| outcome.lines.iter().map(|line| line.metrics.seconds).sum::<f64>();
        assert!(time(&fast) < time(&one) && one.evaluation.is_some(), "{algorithm}");
    }
}

#[test]
fn where_nobody_is_behind_the_definitions_agree() {
    // A buffer of everybody is a round of FedAvg; a mix with a share of 1 is the model of the one who sent it.
    let everybody = format!("[async]\nkind='fedbuff'\nbuffer_size={CLIENTS}\nconcurrency={CLIENTS}\n");
    for algorithm in ["fedavg", "fedyogi", "fedsam"] {
        let rounds = go(|_| (), spec(algorithm, ""));
        assert_eq!(digests(&go(|_| (), spec(algorithm, &everybody))), digests(&rounds), "{algorithm}");
        assert_ne!(digests(&go(|_| (), spec(algorithm, FEDBUFF))), digests(&rounds), "{algorithm}");
    }
    let alone = |rest: &str| digests(&go(|setup| setup.clients = 1, spec("fedavg", rest)));
    let mixed = alone("[async]\nkind='fedasync'\nalpha=1.0\n");
    let buffered = alone("[async]\nkind='fedbuff'\nbuffer_size=1\n");
    assert_eq!(buffered, alone(""));
    // The fold of a round rounds to 2^-23 over the number of examples, a mix does not.
    assert_eq!(mixed.len(), buffered.len());
    let near = |a: &Outcome, b: &Outcome| {
        let loss = |outcome: &Outcome| outcome.lines.last().and_then(|line| line.metrics.eval_loss);
        (loss(a).expect("a loss") - loss(b).expect("a loss")).abs() < 1e-4
    };
    let one = |rest: &str| go(|setup| setup.clients = 1, spec("fedavg", rest));
    assert!(near(&one("[async]\nkind='fedasync'\nalpha=1.0\n"), &one("")));
}

#[test]
fn without_rounds_an_interruption_changes_nothing() {
    for (algorithm, section) in [("fedavg", FEDBUFF), ("fedadam", FEDBUFF), ("fedprox", FEDASYNC)] {
        let spec = || many_versions(algorithm, &[section, SLOW, AVERAGED].concat());
        let undisturbed = go(|_| (), spec());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut setup = setup(spec(), folder.path());
        (setup.checkpoint, setup.threads) = (Duration::ZERO, 2);
        let (mut deaths, mut starts) = (0, Vec::new());
        let outcome = loop {
            let (mut left, stop) = (25 + deaths, Stop::default());
            setup.stop = stop.clone();
            let mut watch = |notice: Notice<'_>| {
                if let Notice::Started { rounds } = notice {
                    starts.push(rounds);
                }
                left -= 1;
                // Told to stop, and killed.
                if left == 0 && deaths % 2 == 0 {
                    stop.say();
                }
                assert!(left > 0 || deaths % 2 == 0, "killed, as planned");
            };
            match catch_unwind(AssertUnwindSafe(|| run(&setup, &mut watch))) {
                Ok(Ok(outcome)) => break outcome,
                Ok(Err(error)) => assert!(matches!(error, SimulationError::Stopped { .. }), "{error}"),
                Err(_) => {}
            }
            deaths += 1;
            assert!(deaths < 30, "{algorithm}: it goes on: {starts:?}");
        };
        assert!(deaths > 2 && starts.iter().any(|rounds| *rounds > 5), "{algorithm}: {starts:?}");
        assert_eq!(outcome, undisturbed, "{algorithm}");
    }
}

#[test]
fn an_update_that_is_too_old_is_given_up_and_said() {
    let section = FEDASYNC.replace("alpha=0.5", "alpha=0.5\nmax_staleness=2");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut said = Vec::new();
    let mut watch = |notice: Notice<'_>| {
        if let Notice::Event(RunEvent::UpdateRejected { reason, detail, .. }) = notice {
            said.push((reason.clone(), detail.clone()));
        }
    };
    let setup = setup(many_versions("fedavg", &[&section, SLOW].concat()), folder.path());
    let outcome = run(&setup, &mut watch).expect("it comes to its end");
    assert!(
        said.iter().any(|(reason, detail)| reason == "too stale" && detail.contains("at most 2")),
        "{said:?}"
    );
    let counted: usize = outcome.lines.iter().map(|line| line.metrics.rejected).sum();
    assert!(counted > 0 && counted <= said.len());
    let old = |line: &Line| line.metrics.asynchronous.as_ref().is_some_and(|told| told.max_staleness > 2);
    assert!(!outcome.lines.iter().any(old));
}
