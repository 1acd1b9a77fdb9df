//! What a guard lets through, adds and refuses.

use super::*;

const LENGTH: usize = 4;

fn spec(privacy: &str) -> RunSpec {
    let text = format!(
        "name='p'\nrounds=10\n[model]\nkind='flat'\nparameters={LENGTH}\n[data]\nname='d'\n\
         [cohort]\npopulation=100\n[privacy]\nunit='client'\nadjacency='zero_out'\nclip_norm=1.0\ndelta=1e-5\n{privacy}"
    );
    RunSpec::from_toml(&text).unwrap()
}

fn guard(privacy: &str) -> Guard {
    let spec = spec(privacy);
    let algorithm = spec.algorithm.make().unwrap();
    Guard::of(&spec, algorithm.as_ref(), LENGTH).unwrap().unwrap()
}

const DRAWN: &str =
    "mechanism='central_gaussian'\nnoise_multiplier=1.0\nsampling={kind='poisson',rate=0.1}\n";

#[test]
fn an_update_off_the_grid_or_too_long_is_not_added() {
    let guard = guard(DRAWN);
    let mut sum = guard.sum(&guard.start().unwrap()).unwrap();
    let before = sum.clone();
    assert_eq!(sum.add(&[0.3, 0.0, 0.0, 0.0]).unwrap_err().0, RejectReason::Range);
    assert_eq!(sum.add(&[f32::NAN, 0.0, 0.0, 0.0]).unwrap_err().0, RejectReason::NotFinite);
    assert_eq!(sum.add(&[0.75, 0.75, 0.75, 0.0]).unwrap_err().0, RejectReason::Norm);
    assert_eq!(sum, before);
    sum.add(&[0.5, 0.0, -0.25, 0.0]).unwrap();
    assert_ne!(sum, before);
}

#[test]
fn a_retry_has_the_same_noise_and_another_sum_has_its_own() {
    let guard = guard(DRAWN);
    let standing = guard.start().unwrap();
    let secret = Secret::new([3; 32]);
    let mut sum = guard.sum(&standing).unwrap();
    sum.add(&[0.5, 0.0, -0.25, 0.0]).unwrap();
    let release = |sum: &Sum, secret: &Secret| {
        let means = guard.release(&mut standing.clone(), sum.clone(), (2, 0.1), secret).unwrap();
        means["delta"].as_ref().clone()
    };
    let first = release(&sum, &secret);
    assert_eq!(release(&sum, &secret), first);
    assert_ne!(release(&sum, &Secret::new([4; 32])), first);
    let mut other = sum.clone();
    other.add(&[0.0, 0.0, 0.25, 0.0]).unwrap();
    let second = release(&other, &secret);
    // Had both the same noise, the first two elements would be equal.
    assert!(second.iter().zip(&first).take(2).all(|(a, b)| a != b), "{first:?} {second:?}");
}

#[test]
fn the_noise_has_the_deviation_that_is_paid_for() {
    let guard = guard(&DRAWN.replace("1.0", "2.0"));
    let standing = guard.start().unwrap();
    let draw = |round: u64| {
        let sum = guard.sum(&standing).unwrap();
        let secret = Secret::new([9; 32]);
        guard.release(&mut standing.clone(), sum, (round, 0.1), &secret).unwrap()["delta"][0]
    };
    let draws: Vec<f64> = (0..2_000).map(|round| f64::from(draw(round))).collect();
    // σ = z · C / (q N) = 2 · 1 / 10; the deviation of 2,000 draws is within 8 % of it at five sigma.
    let deviation = (draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64).sqrt();
    assert!((deviation / 0.2 - 1.0).abs() < 0.08, "{deviation}");
}

#[test]
fn dp_ftrl_goes_on_after_a_restart_as_it_would_have() {
    for strategy in [
        "most=1}\nstrategy={kind='tree'}",
        "most=3,separation=2}\nstrategy={kind='toeplitz',factor={kind='square_root'}}",
        "most=3,separation=2}\nstrategy={kind='toeplitz',factor={kind='banded',coefficients=[1.0,0.5]}}",
        "most=3,separation=2}\nstrategy={kind='toeplitz',factor={kind='buffered',weights=[0.4],decays=[0.8]}}",
    ] {
        let text = format!("mechanism='dp_ftrl'\nepsilon=8.0\nparticipation={{{strategy}\n");
        let first = guard(&text);
        let standing = first.start().unwrap();
        assert!(standing.stream.is_some());
        let release = |guard: &Guard, round: u64| {
            let sum = guard.sum(&standing).unwrap();
            guard.release(&mut standing.clone(), sum, (round, 0.1), &Secret::new([1; 32])).unwrap()["delta"]
                .clone()
        };
        let straight: Vec<_> = (0..6).map(|round| release(&first, round)).collect();
        // A retry, and a restart in the middle: nothing in memory.
        assert_eq!(release(&first, 5), straight[5], "{strategy}");
        let restarted = guard(&text);
        assert_eq!(release(&restarted, 4), straight[4], "{strategy}");
        assert_eq!(release(&restarted, 5), straight[5], "{strategy}");
        assert_ne!(straight[4], straight[5]);
    }
}

#[test]
fn the_norm_follows_the_updates() {
    let guard =
        guard(&format!("{DRAWN}adaptive_clipping={{quantile=0.5,learning_rate=0.5,count_noise=1.0}}\n"));
    let mut standing = guard.start().unwrap();
    let secret = Secret::new([5; 32]);
    for (round, up) in [(0, false), (1, true)] {
        let mut sum = guard.sum(&standing).unwrap();
        let norm = standing.norm.get();
        for _ in 0..10 {
            let mut update = if up { [norm as f32, 0.0, 0.0, 0.0] } else { [0.0; LENGTH] };
            sum.grid.clip(&mut [&mut update]).unwrap();
            sum.add(&update).unwrap();
        }
        guard.release(&mut standing, sum, (round, 0.1), &secret).unwrap();
        assert_eq!(standing.norm.get() > norm, up, "round {round}: {norm} {standing:?}");
    }
    let text = serde_json::to_string(&standing).unwrap();
    assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing);
}

#[test]
fn rules_that_make_no_sense_under_noise_are_refused_by_name() {
    let base = spec(DRAWN);
    for (kind, want) in [
        ("scaffold", "the exact mean"),
        ("fednova", "scalar `steps`"),
        ("qfedavg", "scalar `normaliser`"),
        ("fedlada", "second moments"),
        ("fedcm", "local.steps"),
    ] {
        let mut spec = base.clone();
        spec.algorithm.kind = kind.into();
        let error = spec.check().unwrap_err().to_string();
        assert!(error.contains(want), "{kind}: {error}");
    }
    let refuse = |change: fn(&mut RunSpec)| {
        let mut spec = base.clone();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    assert!(refuse(|spec| spec.evaluation.federated = true).contains("evaluation.federated"));
    assert!(refuse(|spec| spec.cohort.population = None).contains("cohort.population"));
    assert!(refuse(|spec| spec.cohort.size = Some(3)).contains("`privacy.sampling` draws the cohort"));
    assert!(refuse(|spec| spec.cohort.min_updates = 2).contains("min_updates"));
    let weighting =
        |spec: &mut RunSpec| drop(spec.algorithm.params.insert("weighting".into(), "examples".into()));
    assert!(refuse(weighting).contains("expected `uniform`"));
}

const SHARED: &str = "mechanism='distributed_discrete_gaussian'\nleast_shares=3\nnoise_multiplier=1.0\n\
                      sampling={kind='everyone'}\n";

fn shared() -> (RunSpec, Guard) {
    let text = format!(
        "name='p'\nrounds=10\n[model]\nkind='flat'\nparameters={LENGTH}\n[data]\nname='d'\n\
         [cohort]\npopulation=5\nmin_updates=4\n[privacy]\nunit='client'\nadjacency='zero_out'\n\
         clip_norm=1.0\ndelta=1e-5\n{SHARED}"
    );
    let spec = RunSpec::from_toml(&text).unwrap();
    let algorithm = spec.algorithm.make().unwrap();
    let guard = Guard::of(&spec, algorithm.as_ref(), LENGTH).unwrap().unwrap();
    (spec, guard)
}

#[test]
fn a_sum_of_too_few_shares_is_not_released_and_one_of_enough_is_the_same_in_any_order() {
    let (spec, guard) = shared();
    assert!(guard.has_shares() && !guard.hides_cohort());
    let shares = guard.plan().shares.unwrap();
    let (noise, rotation) = (shares.noise().unwrap(), spec.rotation(2));
    let send = |client: u64| {
        let key = Key::new([8; 32]).release(client);
        shares.encode(&[0.25 * client as f32, 0.0, -0.1, 0.0], rotation, (&noise, &key)).unwrap()
    };
    let sum = |clients: &[u64]| {
        let mut sum = guard.sum(&guard.start().unwrap()).unwrap();
        for client in clients {
            sum.add(&send(*client)).unwrap();
        }
        sum
    };
    let few = guard.release_shares(&sum(&[0, 1]), 0.1, rotation).unwrap_err();
    assert!(few.contains("2 noise shares arrived, at least 3"), "{few}");
    let many = guard.release_shares(&sum(&[0, 1, 2, 3, 0, 1]), 0.1, rotation).unwrap_err();
    assert!(many.contains("6 updates, the ring was planned for 5"), "{many}");
    let enough = guard.release_shares(&sum(&[0, 1, 2, 3]), 0.1, rotation).unwrap();
    assert_eq!(enough, guard.release_shares(&sum(&[3, 1, 0, 2]), 0.1, rotation).unwrap());
    assert_ne!(enough, guard.release_shares(&sum(&[0, 1, 2, 3]), 0.1, spec.rotation(3)).unwrap());
    let mut sum = sum(&[0]);
    let before = sum.clone();
    assert_eq!(sum.add(&[f32::NAN; LENGTH]).unwrap_err().0, RejectReason::NotFinite);
    assert_eq!(sum.add(&[0.5; LENGTH]).unwrap_err().0, RejectReason::Range);
    assert_eq!(sum.add(&[-524_288.0; LENGTH]).unwrap_err().0, RejectReason::Norm);
    assert_eq!(sum, before);
    // Updates without shares have no such release.
    let central = self::guard(DRAWN);
    assert!(central.release_shares(&central.sum(&central.start().unwrap()).unwrap(), 0.1, rotation).is_err());
}

#[test]
fn a_run_file_that_would_release_too_little_noise_is_refused() {
    let (spec, _) = shared();
    let text = |change: &dyn Fn(&mut RunSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    assert!(text(&|spec| spec.cohort.min_updates = 2).contains("2 is below `privacy.least_shares`, 3"));
    assert!(
        text(&|spec| spec.cohort.population = Some(3)).contains("a cohort of 3 has never so many updates")
    );
    assert!(text(&|spec| spec.vetting.max_norm = Some(10.0)).contains("vetting.max_norm"));
}
