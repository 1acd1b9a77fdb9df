//! Every reference case of an accountant within its tolerance.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    cases, close, count, gaussian, laplace, ledger, noise, number, orders, poisson, positive, probability,
    sampled_gaussian, whole,
};
use privacy::{
    Accountant, Adjacency, Budget, Ledger, Mechanism, Sampling,
    accountants::{contour, gaussian as closed_form, gaussian::Mu, pld, pure, rdp, report, zcdp},
};
use serde_json::Value;

/// Not below the reference by more than its error, nor above by more than `max(2e-3, 2e-3·ε)`.
fn in_range(case: &Value, name: &str, epsilon: f64, reference: f64) {
    let error = case["eps_ref_tol_rel"].as_f64().unwrap_or(0.0).max(1e-6);
    assert!(epsilon >= reference * (1.0 - error), "{name} gives {epsilon}, below {reference}: {case}");
    assert!(epsilon <= reference + f64::max(2e-3, 2e-3 * reference), "{name} gives {epsilon}: {case}");
}

#[test]
fn poisson_gaussian_by_renyi_divergences() {
    for case in cases(&["poisson_gaussian"]) {
        let ledger = sampled_gaussian(&case);
        let delta = number(&case, "delta");
        let ours = rdp::epsilon_of_orders(&ledger, delta, &orders()).unwrap();
        let (theirs, at) = (number(&case, "dpa_rdp_eps"), number(&case, "dpa_rdp_order"));
        assert!(ours.epsilon <= theirs + 1e-6, "{ours:?}: {case}");
        if ours.order == at && at.fract() == 0.0 {
            assert!((ours.epsilon - theirs).abs() <= 1e-6, "{ours:?}: {case}");
        }
        let searched = rdp::epsilon(&ledger, delta, 1).unwrap();
        assert!(searched.epsilon <= ours.epsilon + 1e-9, "{searched:?} {ours:?}: {case}");
        if let Some(reference) = case["eps_ref"].as_f64() {
            assert!(searched.epsilon >= reference * (1.0 - 3e-4), "{searched:?}: {case}");
        }
    }
}

#[test]
fn poisson_gaussian_by_the_grid() {
    for case in cases(&["poisson_gaussian"]) {
        let ledger = sampled_gaussian(&case);
        let epsilon = pld::epsilon(&ledger, number(&case, "delta"), 1).unwrap();
        if let Some(reference) = case["eps_ref"].as_f64() {
            in_range(&case, "grid", epsilon, reference);
        }
    }
}

#[test]
fn poisson_gaussian_by_the_contour() {
    let (mut answered, mut asked) = (0, 0);
    for case in cases(&["poisson_gaussian"]) {
        let ledger = sampled_gaussian(&case);
        asked += 1;
        let Ok(epsilon) = contour::epsilon(&ledger, number(&case, "delta"), 1) else { continue };
        answered += 1;
        let reference = case["eps_ref"].as_f64().unwrap_or(epsilon);
        in_range(&case, "contour", epsilon, reference);
        let method = case["eps_ref_method"].as_str().unwrap_or("");
        if method.contains("both adjacenc") {
            close(&case, epsilon, reference, 2e-6);
        }
    }
    println!("the contour answered {answered} of {asked}");
    assert!(answered * 3 >= asked * 2, "{answered} of {asked}");
}

#[test]
fn the_report_is_the_least_and_within_tolerance() {
    for case in cases(&["poisson_gaussian"]) {
        let ledger = sampled_gaussian(&case);
        let report = report::epsilon(&ledger, number(&case, "delta"), 1);
        if let Some(reference) = case["eps_ref"].as_f64() {
            in_range(&case, "report", report.epsilon, reference);
        }
        assert_eq!(report.accountant.epsilon(&ledger, number(&case, "delta"), 1).unwrap(), report.epsilon);
    }
}

#[test]
fn renyi_divergences_of_the_sampled_gaussian() {
    for case in cases(&["rdp_value_poisson_gaussian"]) {
        let (q, sigma) = (number(&case, "q"), number(&case, "sigma"));
        let ledger = ledger(Adjacency::AddRemove, &[(gaussian(sigma), poisson(q), 1)]);
        let divergence = rdp::divergence(&ledger, number(&case, "alpha"), 1).unwrap();
        close(&case, divergence, number(&case, "rdp_ref_mpmath"), 1e-9);
    }
}

fn fixed_size(population: u64, sample: u64, sigma: f64, steps: u64) -> Ledger {
    // Theirs is the noise over the norm of a replacement, ours over that of a contribution.
    let sampling = Sampling::FixedSize { population: count(population), sample: count(sample) };
    ledger(Adjacency::ReplaceOne, &[(gaussian(2.0 * sigma), sampling, steps)])
}

#[test]
fn sampling_without_replacement() {
    for case in cases(&["rdp_value_wor_gaussian_replace_one"]) {
        let sample = (number(&case, "q") * 1000.0).round() as u64;
        let ledger = fixed_size(1000, sample, number(&case, "sigma"), 1);
        let divergence = rdp::divergence(&ledger, number(&case, "alpha"), 1).unwrap();
        close(&case, divergence, number(&case, "dpa_bound"), 1e-9);
    }
    let integers: Vec<f64> = orders().into_iter().filter(|a| a.fract() == 0.0 && *a <= 256.0).collect();
    for case in cases(&["wor_gaussian_replace_one"]) {
        let (population, batch) = (whole(&case, "dataset"), whole(&case, "batch"));
        let ledger = fixed_size(population, batch, number(&case, "sigma"), whole(&case, "steps"));
        let delta = number(&case, "delta");
        let ours = rdp::epsilon_of_orders(&ledger, delta, &integers).unwrap();
        close(&case, ours.epsilon, number(&case, "dpa_rdp_eps"), 1e-9);
        assert_eq!(ours.order, number(&case, "dpa_rdp_order"));
        assert!(report::epsilon(&ledger, delta, 1).epsilon <= ours.epsilon + 1e-12);
    }
}

#[test]
fn gaussian_closed_forms() {
    for case in cases(&["gdp_mu_delta_to_eps"]) {
        let mu = Mu::new(number(&case, "mu")).unwrap();
        close(&case, mu.epsilon(number(&case, "delta")), number(&case, "eps"), 1e-10);
    }
    for case in cases(&["gdp_mu_eps_to_delta"]) {
        let mu = Mu::new(number(&case, "mu")).unwrap();
        close(&case, mu.delta(number(&case, "eps")), number(&case, "delta"), 1e-10);
    }
    for case in cases(&["gaussian_composed"]) {
        let (sigma, steps, delta) = (number(&case, "sigma"), whole(&case, "steps"), number(&case, "delta"));
        for (adjacency, field) in
            [(Adjacency::AddRemove, "eps_exact"), (Adjacency::ReplaceOne, "eps_exact_replace_one")]
        {
            let ledger = ledger(adjacency, &[(gaussian(sigma), Sampling::Everyone, steps)]);
            let Some(exact) = case[field].as_f64() else { continue };
            let report = report::epsilon(&ledger, delta, 1);
            close(&case, report.epsilon, exact, 1e-10);
            assert_eq!(report.accountant, Accountant::Gaussian);
            for epsilon in [pld::epsilon(&ledger, delta, 1), contour::epsilon(&ledger, delta, 1)] {
                let epsilon = epsilon.unwrap();
                assert!(epsilon >= exact * (1.0 - 1e-9) && epsilon <= exact * 1.0015, "{epsilon}: {case}");
            }
        }
        let ours = rdp::epsilon_of_orders(&sampled_gaussian(&case), delta, &orders()).unwrap();
        close(&case, ours.epsilon, number(&case, "dpa_rdp_eps"), 1e-9);
        close(&case, closed_form::mu(&sampled_gaussian(&case), 1).unwrap().get(), number(&case, "mu"), 1e-12);
    }
    for case in cases(&["calibrate_gaussian_single"]) {
        let budget = Budget::new(number(&case, "eps"), number(&case, "delta")).unwrap();
        close(&case, closed_form::noise(budget).unwrap().get(), number(&case, "sigma_exact"), 1e-9);
    }
}

/// The grid and the report against dp-accounting's grid, and both consistent.
fn mixed(case: &Value, ledger: &Ledger, group: u32) {
    let (delta, theirs) = (number(case, "delta"), number(case, "dpa_pld_eps"));
    let tolerance = f64::max(2e-3, 1e-3 * theirs);
    let ours = pld::epsilon(ledger, delta, group).unwrap();
    assert!((ours - theirs).abs() <= tolerance, "grid {ours}: {case}");
    let least = report::epsilon(ledger, delta, group);
    assert!((least.epsilon - theirs).abs() <= tolerance, "{least:?}: {case}");
    if let Ok(exact) = contour::epsilon(ledger, delta, group) {
        assert!(
            ours >= exact * (1.0 - 1e-6) && ours <= exact * 1.005,
            "grid {ours}, contour {exact}: {case}"
        );
    }
    if let Ok(bound) = rdp::epsilon(ledger, delta, group) {
        assert!(bound.epsilon >= theirs - tolerance, "{bound:?}: {case}");
    }
}

#[test]
fn laplace_mechanisms() {
    for case in cases(&["laplace", "poisson_laplace"]) {
        let rate = case["q"].as_f64().unwrap_or(1.0);
        let events = [(laplace(number(&case, "scale_over_sens")), poisson(rate), whole(&case, "steps"))];
        let ledger = ledger(Adjacency::AddRemove, &events);
        let delta = number(&case, "delta");
        if let Some(total) = case["pure_eps_total"].as_f64() {
            close(&case, pure::epsilon(&ledger, 1).unwrap(), total, 1e-12);
        }
        if delta == 0.0 {
            close(&case, report::epsilon(&ledger, delta, 1).epsilon, number(&case, "pure_eps_total"), 1e-12);
            continue;
        }
        mixed(&case, &ledger, 1);
        if let Some(theirs) = case["dpa_rdp_eps"].as_f64() {
            close(&case, rdp::epsilon_of_orders(&ledger, delta, &orders()).unwrap().epsilon, theirs, 1e-9);
        }
    }
}

#[test]
fn discrete_mechanisms() {
    for case in cases(&["discrete_laplace"]) {
        let (rate, sensitivity) = (positive(number(&case, "a")), count(whole(&case, "sensitivity")));
        let mechanism = Mechanism::DiscreteLaplace { rate, sensitivity };
        let events = [(mechanism, Sampling::Everyone, whole(&case, "steps"))];
        mixed(&case, &ledger(Adjacency::AddRemove, &events), 1);
    }
    for case in cases(&["discrete_gaussian"]) {
        let deviation = positive(number(&case, "sigma"));
        let sensitivity = count(whole(&case, "sensitivity"));
        let mechanism = |d| Mechanism::DiscreteGaussian { deviation, sensitivity, dimensions: count(d) };
        let steps = whole(&case, "steps");
        let one = ledger(Adjacency::AddRemove, &[(mechanism(1), Sampling::Everyone, steps)]);
        mixed(&case, &one, 1);
        if let Some(exact) = case["exact_delta_at_dpa_eps"].as_f64() {
            let delta = pld::delta(&one, number(&case, "dpa_pld_eps"), 1).unwrap();
            assert!(delta >= exact * (1.0 - 1e-9) && delta <= exact * 1.1, "{delta}: {case}");
        }
        // For vectors only the bound by the continuous Gaussian is known.
        let many = ledger(Adjacency::AddRemove, &[(mechanism(1000), Sampling::Everyone, steps)]);
        let bound = report::epsilon(&many, number(&case, "delta"), 1);
        assert_eq!(bound.accountant, Accountant::Rdp);
        assert!(bound.epsilon >= number(&case, "dpa_pld_eps"), "{bound:?}: {case}");
    }
    for case in cases(&["randomized_response_replace_one"]) {
        let categories = u32::try_from(whole(&case, "buckets")).unwrap().try_into().unwrap();
        let mechanism = Mechanism::RandomizedResponse {
            noise: probability(number(&case, "noise_parameter")),
            categories,
        };
        let steps = whole(&case, "steps");
        let ledger = ledger(Adjacency::ReplaceOne, &[(mechanism, Sampling::Everyone, steps)]);
        mixed(&case, &ledger, 1);
        let one = pure::epsilon(&ledger, 1).unwrap() / steps as f64;
        close(&case, one, number(&case, "pure_eps_one"), 1e-12);
        let ours = rdp::epsilon_of_orders(&ledger, number(&case, "delta"), &orders()).unwrap();
        close(&case, ours.epsilon, number(&case, "dpa_rdp_eps"), 1e-9);
    }
}

#[test]
fn heterogeneous_ledgers() {
    for case in cases(&["heterogeneous"]) {
        let list = |field: &str| -> Vec<Vec<f64>> { serde_json::from_value(case[field].clone()).unwrap() };
        let mut events = Vec::new();
        events.extend(list("poisson_gaussian").iter().map(|e| (gaussian(e[1]), poisson(e[0]), e[2] as u64)));
        events.extend(list("gaussian").iter().map(|e| (gaussian(e[0]), Sampling::Everyone, e[1] as u64)));
        events.extend(list("laplace").iter().map(|e| (laplace(e[0]), Sampling::Everyone, e[1] as u64)));
        let ledger = ledger(Adjacency::AddRemove, &events);
        mixed(&case, &ledger, 1);
        let ours = rdp::epsilon_of_orders(&ledger, number(&case, "delta"), &orders()).unwrap();
        assert!(ours.epsilon <= number(&case, "dpa_rdp_eps") + 1e-6, "{ours:?}: {case}");
    }
}

#[test]
fn groups() {
    for case in cases(&["group_privacy_poisson_gaussian", "group_privacy_gaussian"]) {
        mixed(&case, &sampled_gaussian(&case), u32::try_from(whole(&case, "group")).unwrap());
    }
    for case in cases(&["group_privacy_generic"]) {
        let size = u32::try_from(whole(&case, "group")).unwrap();
        let (epsilon, delta) = pure::group(number(&case, "eps"), number(&case, "delta"), size);
        close(&case, epsilon, number(&case, "group_eps"), 1e-12);
        close(&case, delta, number(&case, "group_delta"), 1e-12);
    }
}

#[test]
fn other_sampling() {
    for case in cases(&["poisson_gaussian_replace_one"]) {
        let events = [(gaussian(number(&case, "sigma")), poisson(number(&case, "q")), whole(&case, "steps"))];
        mixed(&case, &ledger(Adjacency::ReplaceOne, &events), 1);
    }
    for case in cases(&["truncated_poisson_gaussian"]) {
        let sampling = Sampling::TruncatedPoisson {
            rate: probability(number(&case, "q")),
            population: count(whole(&case, "dataset")),
            most: count(whole(&case, "max_batch")),
        };
        let events = [(gaussian(number(&case, "sigma")), sampling, whole(&case, "steps"))];
        mixed(&case, &ledger(Adjacency::AddRemove, &events), 1);
    }
}

#[test]
fn concentrated_privacy() {
    for case in cases(&["zcdp_to_eps"]) {
        let (rho, delta) = (number(&case, "rho"), number(&case, "delta"));
        close(&case, zcdp::simple_epsilon(rho, delta), number(&case, "bun_steinke_simple_eps"), 1e-12);
        let theirs = number(&case, "dpa_rdp_eps_default_orders");
        let ours = zcdp::epsilon(rho, delta);
        assert!(ours <= theirs + 1e-9 && ours >= theirs * 0.95, "{ours}: {case}");
    }
    let events = [(gaussian(2.0), Sampling::Everyone, 8), (laplace(5.0), Sampling::Everyone, 50)];
    let ledger = ledger(Adjacency::ReplaceOne, &events);
    let rho = zcdp::rho(&ledger, 2).unwrap();
    assert!((rho - 4.0 * 4.0 * (1.0 + 1.0)).abs() < 1e-12, "{rho}");
    assert!(zcdp::epsilon(rho, 1e-5) >= rdp::epsilon(&ledger, 1e-5, 2).unwrap().epsilon);
    assert_eq!(noise(3.0).get(), 3.0);
}

#[test]
fn calibration() {
    use privacy::{Unit, accountants::calibrate::Plan};
    for case in cases(&["calibrate_poisson_gaussian"]) {
        let budget = Budget::new(number(&case, "eps"), number(&case, "delta")).unwrap();
        let plan = Plan {
            unit: Unit::Client,
            adjacency: Adjacency::AddRemove,
            sampling: poisson(number(&case, "q")),
            rounds: count(whole(&case, "steps")),
        };
        let ours = plan.noise(budget).unwrap();
        let spent = report::epsilon(&plan.ledger(ours).unwrap(), budget.delta(), 1).epsilon;
        assert!(spent <= budget.epsilon() && spent >= 0.999 * budget.epsilon(), "{spent}: {case}");
        assert!(ours.get() <= number(&case, "sigma_dpa_rdp") * 1.0001, "{ours:?}: {case}");
        if let Some(theirs) = case["sigma_dpa_pld"].as_f64() {
            close(&case, ours.get(), theirs, 3e-3);
        }
    }
}

#[test]
fn trees() {
    use privacy::strategy::Strategy;
    for case in cases(&["tree_single_epoch"]) {
        let steps = &case["steps"];
        let longest = steps
            .as_u64()
            .unwrap_or_else(|| steps.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).max().unwrap());
        let strategy = Strategy::Tree { longest: count(longest) };
        assert_eq!(u64::from(strategy.depth()), whole(&case, "depth"));
        let noise_multiplier = noise(number(&case, "sigma"));
        let mechanism = Mechanism::Correlated { noise_multiplier, strategy };
        let ledger = ledger(Adjacency::ZeroOut, &[(mechanism, Sampling::Everyone, 1)]);
        let delta = number(&case, "delta");
        let theirs = number(&case, "dpa_rdp_eps");
        close(&case, rdp::epsilon_of_orders(&ledger, delta, &orders()).unwrap().epsilon, theirs, 1e-9);
        let exact = report::epsilon(&ledger, delta, 1);
        assert!(exact.accountant == Accountant::Gaussian && exact.epsilon < theirs, "{exact:?}: {case}");
    }
}

#[test]
fn square_root_factorisations() {
    use privacy::strategy::{Factor, Participation, Strategy};
    for case in cases(&["toeplitz_sqrt_mf"]) {
        let (rounds, most) = (whole(&case, "n"), whole(&case, "max_part"));
        let participation = Participation {
            rounds: count(rounds),
            most: count(most),
            separation: count(whole(&case, "min_sep")),
        };
        let strategy = Strategy::Toeplitz { factor: Factor::SquareRoot, participation };
        close(&case, strategy.sensitivity(), number(&case, "sens"), 1e-9);
        close(&case, strategy.error(), number(&case, "row_rms"), 1e-9);
        close(&case, strategy.sensitivity() * strategy.error(), number(&case, "rmse_factor"), 1e-9);
        let independent = Factor::banded(vec![1.0]).unwrap();
        let independent = Strategy::Toeplitz { factor: independent, participation };
        let factor = independent.sensitivity() * independent.error();
        close(&case, factor, number(&case, "independent_noise_rmse"), 1e-9);
        let last = *Factor::SquareRoot.coefficients(rounds as usize).last().unwrap();
        assert!(last > 0.0 && last < 1.0);
        let tree = Strategy::Tree { longest: count(rounds) };
        assert_eq!(u64::from(tree.depth()), whole(&case, "tree_depth"));
        let squares = Factor::SquareRoot.coefficients(rounds as usize).iter().map(|c| c * c).sum::<f64>();
        close(&case, squares.sqrt(), number(&case, "row_max"), 1e-9);
    }
}

#[test]
fn adaptive_clipping() {
    use privacy::adaptive::QuantileClip;
    for case in cases(&["adaptive_clipping_split"]) {
        let (z, count_noise) = (noise(number(&case, "z")), number(&case, "sigma_b"));
        let split = QuantileClip::split(z, positive(count_noise)).unwrap();
        close(&case, split.get(), number(&case, "z_delta"), 1e-9);
        let whole = |events: &[(Mechanism, Sampling, u64)]| {
            rdp::epsilon_of_orders(&ledger(Adjacency::AddRemove, events), 1e-6, &orders()).unwrap().epsilon
        };
        let everyone = Sampling::Everyone;
        let counts = noise(2.0 * count_noise);
        let pair = [(gaussian(split.get()), everyone, 100), (gaussian(counts.get()), everyone, 100)];
        let single = [(gaussian(z.get()), everyone, 100)];
        close(&case, whole(&pair), number(&case, "eps_rdp_pair_100"), 1e-9);
        close(&case, whole(&single), number(&case, "eps_rdp_single_100"), 1e-9);
        let together = privacy::NoiseMultiplier::combined(&[split, counts]).unwrap();
        close(&case, together.get(), z.get(), 1e-12);
        let sampled = [(gaussian(together.get()), poisson(number(&case, "q")), 1000)];
        let theirs = number(&case, "eps_rdp_sampled_pair_1000");
        let ours = whole(&sampled);
        assert!(ours <= theirs + 1e-6 && ours >= theirs * 0.99, "{ours}: {case}");
    }
}

#[test]
fn selection() {
    use privacy::accountants::selection::{Repetitions, epsilon};
    for case in cases(&["repeat_and_select"]) {
        let ledger = sampled_gaussian(&case);
        let repetitions = case["shape"]
            .as_f64()
            .map_or(Repetitions::Poisson, |shape| Repetitions::NegativeBinomial { shape });
        let ours =
            epsilon(&ledger, number(&case, "delta"), positive(number(&case, "mean")), repetitions).unwrap();
        // They minimise over fewer orders.
        let theirs = number(&case, "dpa_rdp_eps");
        assert!(ours.epsilon <= theirs + 1e-9 && ours.epsilon >= theirs * 0.998, "{ours:?}: {case}");
    }
}

#[test]
fn distributed_noise() {
    use privacy::distributed;
    for case in cases(&["skellam_rdp"]) {
        let mechanism = Mechanism::Skellam {
            variance: positive(number(&case, "variance")),
            l1: positive(number(&case, "delta1")),
            l2: positive(number(&case, "delta2")),
        };
        let ledger = ledger(Adjacency::AddRemove, &[(mechanism, Sampling::Everyone, 1)]);
        let bound = rdp::divergence(&ledger, number(&case, "alpha"), 1).unwrap();
        close(&case, bound, number(&case, "rdp_bound"), 1e-9);
        assert!(bound >= number(&case, "rdp_exact_1d"), "{bound}: {case}");
    }
    for case in cases(&["ddgauss_rdp"]) {
        let (shares, dimensions) = (whole(&case, "clients"), whole(&case, "dim"));
        let deviation = number(&case, "local_sigma");
        close(&case, distributed::tau(shares, deviation), number(&case, "tau"), 1e-9);
        let l2 = number(&case, "delta2_int");
        close(&case, distributed::integer_l1(l2, dimensions), number(&case, "delta1_int"), 1e-9);
        let mechanism = Mechanism::DistributedDiscreteGaussian {
            shares: count(shares),
            deviation: positive(deviation),
            dimensions: count(dimensions),
            l1: positive(number(&case, "delta1_int")),
            l2: positive(l2),
        };
        let ledger = ledger(Adjacency::AddRemove, &[(mechanism, Sampling::Everyone, 1)]);
        for (order, want) in case["rdp"].as_object().unwrap() {
            let bound = rdp::divergence(&ledger, order.parse().unwrap(), 1).unwrap();
            close(&case, bound, want.as_f64().unwrap(), 1e-9);
        }
    }
    for case in cases(&["rounded_l2_norm_bound"]) {
        let bound =
            distributed::rounded_norm(number(&case, "l2"), whole(&case, "dim"), number(&case, "beta"));
        close(&case, bound, number(&case, "bound"), 1e-9);
    }
}

#[test]
fn probabilities_of_the_noise() {
    use privacy::sampler::{discrete_probability, rounded_probability};
    for case in cases(&["pmf"]) {
        let (variance, x) = (count(whole(&case, "sigma2")), case["x"].as_i64().unwrap());
        let tolerance = number(&case, "tol_rel");
        close(&case, discrete_probability(variance, x), number(&case, "discrete_gaussian"), tolerance);
        close(&case, rounded_probability(variance, -x), number(&case, "rounded_gaussian"), tolerance);
    }
}
