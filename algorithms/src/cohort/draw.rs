//! Ways to draw a cohort besides the uniform one: with replacement, each worker for itself (Poisson),
//! by size, and by size and loss. Each worker's luck is a hash of (seed, round, name), so that the order
//! of arrival cannot matter.

use super::diverse::{Effort, Profile, greedy, multinoulli};
use crate::seed;
use std::collections::BTreeMap;

/// How a cohort is drawn.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampler {
    /// Each set of that size is as likely as any other.
    Uniform {},
    /// Independent draws: a worker may be drawn several times, and then counts as often.
    WithReplacement {},
    /// Each worker takes part with the same probability, independently of the others; the size of the
    /// cohort is random. What the amplification of privacy by sampling is proved for.
    Poisson {
        /// The probability, above 0 and at most 1.
        probability: f64,
    },
    /// Without replacement, one after the other with probabilities in proportion to weights
    /// (Efraimidis and Spirakis 2006).
    SizeWeighted {},
    /// Of `candidates` drawn by weight, those with the highest loss (Cho, Wang and Joshi 2020,
    /// Power-of-Choice, arXiv:2010.01243). Faster at first, biased in the end.
    PowerOfChoice {
        /// Workers that are looked at, at least as many as are chosen.
        candidates: usize,
    },
    /// Of `candidates` drawn uniformly, those that stand best for all of them by their labels
    /// ([`super::diverse`]).
    Diverse {
        /// Workers that are looked at, at least as many as are chosen.
        candidates: usize,
        /// How they are chosen.
        #[serde(default)]
        method: Method,
    },
}

/// How a diverse cohort is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The largest gain, again and again.
    #[default]
    Greedy,
    /// By the multinoulli extension.
    Multinoulli,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::Uniform {}
    }
}

/// A worker that can be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number of examples, above 0.
    pub weight: f64,
    /// Its last known loss; an unknown one counts as the highest, so that everybody is tried.
    pub loss: Option<f64>,
    /// Share of each label that it holds; empty: unknown.
    pub histogram: &'a [f64],
}

impl Sampler {
    /// The cohort of a round in name order; of [`Sampler::WithReplacement`] with repetitions. `size` is
    /// ignored by [`Sampler::Poisson`].
    pub fn draw<'a>(&self, seed: u64, round: u64, eligible: &[Candidate<'a>], size: usize) -> Vec<&'a str> {
        let names = || eligible.iter().map(|worker| worker.name).collect::<Vec<_>>();
        let mut chosen = match *self {
            Self::Uniform {} => super::sample(seed, round, 0, &names(), size),
            Self::WithReplacement {} => with_replacement(seed, round, &names(), size),
            Self::Poisson { probability } => {
                let key = seed::derive(seed, "poisson", &[round]);
                let taken = |name: &&str| seed::unit(seed::mix(key ^ seed::word(name))) < probability;
                names().into_iter().filter(taken).collect()
            }
            Self::SizeWeighted {} => heavy(seed, round, eligible, size),
            Self::PowerOfChoice { candidates } => {
                let drawn = heavy(seed, round, eligible, candidates.max(size));
                let looked_at = eligible.iter().filter(|worker| drawn.contains(&worker.name));
                let mut ranked: Vec<(f64, &str)> =
                    looked_at.map(|worker| (worker.loss.unwrap_or(f64::INFINITY), worker.name)).collect();
                ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
                ranked.into_iter().take(size).map(|(_, name)| name).collect()
            }
            Self::Diverse { candidates, method } => {
                let drawn = super::sample(seed, round, 0, &names(), candidates.max(size));
                let of = |worker: &Candidate<'a>| Profile {
                    name: worker.name,
                    group: "",
                    histogram: worker.histogram.to_vec(),
                };
                let looked_at = eligible.iter().filter(|worker| drawn.contains(&worker.name));
                let profiles: Vec<Profile<'a>> = looked_at.map(of).collect();
                let quotas = BTreeMap::from([("", size)]);
                match method {
                    Method::Greedy => greedy(&profiles, &quotas),
                    Method::Multinoulli => {
                        let key = seed::derive(seed, "diverse", &[round]);
                        multinoulli(&profiles, &quotas, Effort::default(), key)
                    }
                }
            }
        };
        chosen.sort_unstable();
        chosen
    }
}

fn with_replacement<'a>(seed: u64, round: u64, names: &[&'a str], size: usize) -> Vec<&'a str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    let pick = |draw: u64| {
        let luck = seed::unit(seed::derive(seed, "with replacement", &[round, draw]));
        names.get((luck * names.len() as f64) as usize).copied()
    };
    (0..size as u64).filter_map(pick).collect()
}

/// The smallest of independent exponential times with rates `weight`.
fn heavy<'a>(seed: u64, round: u64, eligible: &[Candidate<'a>], size: usize) -> Vec<&'a str> {
    let key = seed::derive(seed, "by size", &[round]);
    let time = |worker: &Candidate<'a>| {
        let luck = seed::unit(seed::mix(key ^ seed::word(worker.name)));
        (-libm::log(1.0 - luck) / worker.weight.max(f64::MIN_POSITIVE), worker.name)
    };
    let mut times: Vec<(f64, &str)> = eligible.iter().map(time).collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    times.into_iter().take(size).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const ROUNDS: u64 = 6_000;

    fn workers() -> Vec<Candidate<'static>> {
        let worker = |(i, name): (usize, &&'static str)| Candidate {
            name,
            weight: (i + 1) as f64,
            loss: (i > 0).then_some(i as f64),
            histogram: [&[0.0, 1.0], &[1.0, 0.0]][usize::from(i > 0)],
        };
        NAMES.iter().enumerate().map(worker).collect()
    }

    /// How often each worker is drawn, per round.
    fn shares(sampler: Sampler, size: usize) -> BTreeMap<&'static str, f64> {
        let mut shares: BTreeMap<&str, f64> = NAMES.iter().map(|name| (*name, 0.0)).collect();
        for round in 0..ROUNDS {
            for name in sampler.draw(5, round, &workers(), size) {
                *shares.get_mut(name).unwrap() += 1.0 / ROUNDS as f64;
            }
        }
        shares
    }

    fn all() -> [Sampler; 6] {
        [
            Sampler::Uniform {},
            Sampler::WithReplacement {},
            Sampler::Poisson { probability: 0.3 },
            Sampler::SizeWeighted {},
            Sampler::PowerOfChoice { candidates: 4 },
            Sampler::Diverse { candidates: 4, method: Method::Greedy },
        ]
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let mut reversed = workers();
        reversed.reverse();
        for sampler in all() {
            for round in 0..50 {
                let drawn = sampler.draw(7, round, &workers(), 3);
                assert_eq!(drawn, sampler.draw(7, round, &reversed, 3), "{sampler:?}");
                assert!(drawn.is_sorted(), "{sampler:?}");
            }
        }
    }

    #[test]
    fn shares_are_those_of_the_distribution() {
        // Five standard deviations of a share at most: 0.033.
        let near = |got: f64, want: f64| (got - want).abs() < 0.033;
        assert!(shares(Sampler::Uniform {}, 2).values().all(|share| near(*share, 1.0 / 3.0)));
        assert!(shares(Sampler::WithReplacement {}, 2).values().all(|share| near(*share, 1.0 / 3.0)));
        assert!(shares(Sampler::Poisson { probability: 0.3 }, 9).values().all(|share| near(*share, 0.3)));
        let one = shares(Sampler::SizeWeighted {}, 1);
        assert!(NAMES.iter().enumerate().all(|(i, name)| near(one[name], (i + 1) as f64 / 21.0)), "{one:?}");
    }

    #[test]
    fn with_replacement_repeats_and_poisson_varies() {
        let drawn = |sampler: Sampler| (0..200).map(move |round| sampler.draw(1, round, &workers(), 3));
        assert!(drawn(Sampler::WithReplacement {}).any(|names| names[0] == names[1]));
        assert!(drawn(Sampler::WithReplacement {}).all(|names| names.len() == 3));
        let sizes: std::collections::BTreeSet<usize> =
            drawn(Sampler::Poisson { probability: 0.3 }).map(|names| names.len()).collect();
        assert!(sizes.len() >= 4, "{sizes:?}");
    }

    #[test]
    fn power_of_choice_takes_the_highest_losses() {
        let everybody = Sampler::PowerOfChoice { candidates: 6 };
        // `a` has no loss yet and is tried first.
        assert_eq!(everybody.draw(1, 0, &workers(), 3), ["a", "e", "f"]);
        let some = shares(Sampler::PowerOfChoice { candidates: 3 }, 2);
        let heavy = shares(Sampler::SizeWeighted {}, 2);
        assert!(some["f"] > heavy["f"] && some["b"] < heavy["b"], "{some:?} {heavy:?}");
    }

    #[test]
    fn a_diverse_cohort_has_the_one_that_is_different() {
        for method in [Method::Greedy, Method::Multinoulli] {
            let sampler = Sampler::Diverse { candidates: 6, method };
            for round in 0..20 {
                // `a` alone holds the second label.
                assert!(sampler.draw(1, round, &workers(), 2).contains(&"a"), "{method:?}");
            }
        }
    }

    #[test]
    fn nobody_eligible_is_nobody_drawn() {
        for sampler in all() {
            assert!(sampler.draw(1, 0, &[], 3).is_empty());
        }
    }
}
