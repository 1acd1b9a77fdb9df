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
        /// How many may be alike.
        #[serde(default)]
        quotas: Quotas,
    },
}

/// Groups that share the places of a diverse cohort: a partition matroid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quotas {
    /// One group of all.
    #[default]
    None,
    /// By the label that a worker holds most of. Groups have as many places as each other, as far as they
    /// have members.
    Label,
}

impl Quotas {
    fn group(self, histogram: &[f64]) -> usize {
        let most = |best: usize, at: usize| if histogram[at] > histogram[best] { at } else { best };
        if self == Self::Label { (0..histogram.len()).fold(0, most) } else { 0 }
    }
}

/// Places for each of the groups in `names`, one after the other from group `first` on, until all are given
/// or all members have one.
fn shared_out<'a>(names: &[&'a str], places: usize, first: u64) -> BTreeMap<&'a str, usize> {
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *members.entry(*name).or_default() += 1;
    }
    let mut quotas: BTreeMap<&str, usize> = members.keys().map(|name| (*name, 0)).collect();
    let from = (first % members.len().max(1) as u64) as usize;
    let mut left = places.min(names.len());
    for (name, members) in members.iter().cycle().skip(from) {
        if left == 0 {
            break;
        }
        if let Some(quota) = quotas.get_mut(name).filter(|quota| **quota < *members) {
            *quota += 1;
            left -= 1;
        }
    }
    quotas
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
            Self::Diverse { candidates, method, quotas } => {
                let drawn = super::sample(seed, round, 0, &names(), candidates.max(size));
                let looked_at: Vec<&Candidate<'a>> =
                    eligible.iter().filter(|worker| drawn.contains(&worker.name)).collect();
                diverse((seed, round), &looked_at, (size, method, quotas))
            }
        };
        chosen.sort_unstable();
        chosen
    }
}

/// Those that stand best for all that are looked at.
fn diverse<'a>(
    (seed, round): (u64, u64),
    looked_at: &[&Candidate<'a>],
    (size, method, quotas): (usize, Method, Quotas),
) -> Vec<&'a str> {
    // Names of groups that order as their numbers do.
    let groups: Vec<String> =
        looked_at.iter().map(|worker| format!("{:08}", quotas.group(worker.histogram))).collect();
    let of = |(worker, group)| {
        let worker: &&Candidate<'a> = worker;
        let group: &String = group;
        Profile { name: worker.name, group: group.as_str(), histogram: worker.histogram.to_vec() }
    };
    let profiles: Vec<Profile<'_>> = looked_at.iter().zip(&groups).map(of).collect();
    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
    let places = shared_out(&names, size, seed::derive(seed, "quotas", &[round]));
    let chosen = match method {
        Method::Greedy => greedy(&profiles, &places),
        Method::Multinoulli => {
            multinoulli(&profiles, &places, Effort::default(), seed::derive(seed, "diverse", &[round]))
        }
    };
    let is_chosen = |worker: &&&Candidate<'a>| chosen.contains(&worker.name);
    looked_at.iter().filter(is_chosen).map(|worker| worker.name).collect()
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
            Sampler::Diverse { candidates: 4, method: Method::Greedy, quotas: Quotas::Label },
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
            let sampler = Sampler::Diverse { candidates: 6, method, quotas: Quotas::None };
            for round in 0..20 {
                // `a` alone holds the second label.
                assert!(sampler.draw(1, round, &workers(), 2).contains(&"a"), "{method:?}");
            }
        }
    }

    #[test]
    fn quotas_share_the_places_out() {
        let groups = ["0", "0", "0", "0", "1", "2", "2"];
        let places = |places, first| shared_out(&groups, places, first).into_values().collect::<Vec<_>>();
        assert_eq!(places(3, 0), [1, 1, 1]);
        assert_eq!(places(4, 0), [2, 1, 1]);
        assert_eq!(places(4, 2), [1, 1, 2], "who gets the odd one changes");
        assert_eq!(places(6, 1), [3, 1, 2], "a small group's places go to the others");
        assert_eq!(places(99, 0), [4, 1, 2]);
        assert!(shared_out(&[], 3, 0).is_empty());
    }

    #[test]
    fn a_cohort_under_quotas_has_every_label() {
        let labels = [
            [0.9, 0.1, 0.0],
            [0.8, 0.0, 0.2],
            [0.7, 0.2, 0.1],
            [0.1, 0.9, 0.0],
            [0.2, 0.8, 0.0],
            [0.0, 0.1, 0.9],
        ];
        let workers: Vec<Candidate<'_>> = NAMES
            .iter()
            .zip(&labels)
            .map(|(name, histogram)| Candidate { name, weight: 1.0, loss: None, histogram })
            .collect();
        for method in [Method::Greedy, Method::Multinoulli] {
            for round in 0..10 {
                let sampler = Sampler::Diverse { candidates: 6, method, quotas: Quotas::Label };
                let drawn = sampler.draw(1, round, &workers, 4);
                let of = |label: usize| {
                    let most = |name: &&&str| {
                        let at = NAMES.iter().position(|known| *known == **name).unwrap();
                        Quotas::Label.group(&labels[at]) == label
                    };
                    drawn.iter().filter(most).count()
                };
                assert_eq!(drawn.len(), 4, "{method:?}");
                assert!((1..=2).contains(&of(0)) && (1..=2).contains(&of(1)) && of(2) == 1, "{drawn:?}");
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
