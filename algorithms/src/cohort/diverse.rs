//! A cohort that stands for everybody: facility location over label histograms, with a quota for each
//! group (region, operator, kind of device).
//!
//! `f(S) = Σ_i max_{j ∈ S} s_ij` with `s_ij = 1 − ½ ‖h_i − h_j‖₁` says how well the closest chosen worker
//! stands for each worker. It is monotone and submodular; quotas of disjoint groups are a partition
//! matroid. [`greedy`] reaches half of the optimum. [`multinoulli`] ascends the multinoulli extension,
//! the expectation of f when each group draws its quota from a distribution over its members (as in
//! "Multinoulli Extension", 2026): with exact gradients its continuous form reaches `1 − 1/e`. Here
//! gradients are means over drawn sets, and the best of some drawn sets is taken.

use crate::seed;
use std::collections::BTreeMap;

/// A worker with what is known of its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its group.
    pub group: &'a str,
    /// Share of each label; the same labels for all, sum 1.
    pub histogram: Vec<f64>,
}

/// Steps and draws of [`multinoulli`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Steps of the ascent.
    pub steps: usize,
    /// Sets drawn for a gradient, and in the end.
    pub draws: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { steps: 20, draws: 16 }
    }
}

/// `s_ij` of all pairs.
#[derive(Debug)]
struct Similarity(Vec<Vec<f64>>);

impl Similarity {
    fn new(profiles: &[Profile<'_>]) -> Self {
        let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>();
        let row = |a: &Profile<'_>| {
            profiles.iter().map(|b| 1.0 - 0.5 * apart(&a.histogram, &b.histogram)).collect()
        };
        Self(profiles.iter().map(row).collect())
    }

    /// How well `set` stands for each worker.
    fn cover(&self, set: &[usize]) -> Vec<f64> {
        self.0.iter().map(|row| set.iter().map(|j| row[*j]).fold(0.0, f64::max)).collect()
    }

    /// `f(S ∪ {j}) − f(S)`.
    fn gain(&self, cover: &[f64], j: usize) -> f64 {
        self.0.iter().zip(cover).map(|(row, covered)| (row[j] - covered).max(0.0)).sum()
    }

    fn value(&self, set: &[usize]) -> f64 {
        self.cover(set).iter().sum()
    }
}

/// `f` of the named workers.
pub fn coverage(profiles: &[Profile<'_>], names: &[&str]) -> f64 {
    let set: Vec<usize> = (0..profiles.len()).filter(|i| names.contains(&profiles[*i].name)).collect();
    Similarity::new(profiles).value(&set)
}

/// In name order, so that not even the rounding of a sum depends on the order of arrival.
fn sorted<'a>(profiles: &[Profile<'a>]) -> Vec<Profile<'a>> {
    let mut profiles = profiles.to_vec();
    profiles.sort_by_key(|profile| profile.name);
    profiles
}

/// Members of each group with a quota.
fn groups(profiles: &[Profile<'_>], quotas: &BTreeMap<&str, usize>) -> Vec<(Vec<usize>, usize)> {
    let members = |group: &str| (0..profiles.len()).filter(|i| profiles[*i].group == group).collect();
    let sized = quotas.iter().map(|(group, quota)| (members(group), *quota));
    sized.map(|(members, quota): (Vec<usize>, usize)| (members.clone(), quota.min(members.len()))).collect()
}

fn names<'a>(profiles: &[Profile<'a>], set: &[usize]) -> Vec<&'a str> {
    let mut names: Vec<&str> = set.iter().map(|i| profiles[*i].name).collect();
    names.sort_unstable();
    names
}

/// The worker with the largest gain, again and again, as long as its group's quota lasts. Workers whose
/// group has no quota are not chosen. In name order.
pub fn greedy<'a>(profiles: &[Profile<'a>], quotas: &BTreeMap<&str, usize>) -> Vec<&'a str> {
    let profiles = &sorted(profiles);
    let similarity = Similarity::new(profiles);
    let mut left = groups(profiles, quotas);
    let mut set = Vec::new();
    loop {
        let cover = similarity.cover(&set);
        let open = left.iter().filter(|(_, quota)| *quota > 0).flat_map(|(members, _)| members);
        let scored = open.map(|j| (similarity.gain(&cover, *j), *j));
        // Of equal gains the first in order.
        let best = scored.fold(None, |best: Option<(f64, usize)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        });
        let Some((_, chosen)) = best else { break };
        set.push(chosen);
        for (members, quota) in &mut left {
            if let Some(at) = members.iter().position(|member| *member == chosen) {
                members.remove(at);
                *quota -= 1;
            }
        }
    }
    names(profiles, &set)
}

/// Draws a set: each group draws its quota from its distribution, then fills up what was drawn twice.
struct Draw<'a> {
    groups: &'a [(Vec<usize>, usize)],
    shares: &'a [Vec<f64>],
}

impl Draw<'_> {
    /// The drawn workers, group by group, with repetitions; nobody where the shares leave room.
    fn draw(&self, key: u64) -> Vec<Vec<usize>> {
        let group = |(at, (members, quota)): (usize, &(Vec<usize>, usize))| {
            let pick = |place: usize| {
                let luck = seed::unit(seed::derive(key, "draw", &[at as u64, place as u64]));
                let mut below = 0.0;
                let reached = |share: &f64| {
                    below += share;
                    luck < below
                };
                self.shares[at].iter().position(reached).map(|i| members[i])
            };
            (0..*quota).filter_map(pick).collect()
        };
        self.groups.iter().enumerate().map(group).collect()
    }
}

/// Frank-Wolfe steps on the multinoulli extension, from the seed, then the best of some drawn sets,
/// each filled up greedily. In name order.
pub fn multinoulli<'a>(
    profiles: &[Profile<'a>],
    quotas: &BTreeMap<&str, usize>,
    effort: Effort,
    seed: u64,
) -> Vec<&'a str> {
    let profiles = &sorted(profiles);
    let similarity = Similarity::new(profiles);
    let groups = groups(profiles, quotas);
    let mut shares: Vec<Vec<f64>> = groups.iter().map(|(members, _)| vec![0.0; members.len()]).collect();
    for step in 0..effort.steps {
        let gains = gradient(&similarity, &Draw { groups: &groups, shares: &shares }, effort.draws, |draw| {
            seed::derive(seed, "multinoulli", &[step as u64, draw])
        });
        for (shares, gains) in shares.iter_mut().zip(gains) {
            let best = (0..gains.len()).max_by(|a, b| gains[*a].total_cmp(&gains[*b]).then(b.cmp(a)));
            if let Some(best) = best {
                shares[best] += 1.0 / effort.steps as f64;
            }
        }
    }
    let draw = Draw { groups: &groups, shares: &shares };
    let set = |number: u64| {
        let drawn = draw.draw(seed::derive(seed, "multinoulli rounding", &[number]));
        filled(&similarity, &groups, drawn)
    };
    let sets = (0..effort.draws.max(1) as u64).map(set);
    let best = sets.map(|set| (similarity.value(&set), set)).fold(None, |best, next| match best {
        Some((value, set)) if value >= next.0 => Some((value, set)),
        _ => Some(next),
    });
    names(profiles, &best.map(|(_, set)| set).unwrap_or_default())
}

/// Mean gain of each member of each group over the rest of a drawn set, which lacks one draw of the
/// group.
fn gradient(
    similarity: &Similarity,
    draw: &Draw<'_>,
    draws: usize,
    key: impl Fn(u64) -> u64,
) -> Vec<Vec<f64>> {
    let mut gains: Vec<Vec<f64>> = draw.groups.iter().map(|(members, _)| vec![0.0; members.len()]).collect();
    for number in 0..draws as u64 {
        let drawn = draw.draw(key(number));
        for (at, (members, quota)) in draw.groups.iter().enumerate() {
            // Each draw is the same in distribution: leave out the last.
            let own = &drawn[at][..drawn[at].len().min(quota.saturating_sub(1))];
            let others = drawn.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, set)| set);
            let rest: Vec<usize> = others.chain(own).copied().collect();
            let cover = similarity.cover(&rest);
            for (gain, member) in gains[at].iter_mut().zip(members) {
                *gain += similarity.gain(&cover, *member);
            }
        }
    }
    gains
}

/// What was drawn, each once, and for each missing place of a group the member with the largest gain.
fn filled(similarity: &Similarity, groups: &[(Vec<usize>, usize)], drawn: Vec<Vec<usize>>) -> Vec<usize> {
    let mut set: Vec<usize> = drawn.into_iter().flatten().collect();
    set.sort_unstable();
    set.dedup();
    for (members, quota) in groups {
        loop {
            let have = members.iter().filter(|member| set.contains(member)).count();
            let cover = similarity.cover(&set);
            let missing = members.iter().filter(|member| have < *quota && !set.contains(member));
            let better = |a: &&usize, b: &&usize| {
                similarity.gain(&cover, **a).total_cmp(&similarity.gain(&cover, **b)).then(b.cmp(a))
            };
            let Some(best) = missing.max_by(better) else { break };
            set.push(*best);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve workers in three groups; each holds mostly one of four labels.
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

    fn profiles(salt: u64) -> Vec<Profile<'static>> {
        let of = |(i, name): (usize, &&'static str)| {
            let luck = |label: u64| seed::unit(seed::derive(salt, "labels", &[i as u64, label]));
            let raw: Vec<f64> = (0..4).map(|label| luck(label) * luck(label + 9)).collect();
            let sum: f64 = raw.iter().sum();
            let histogram = raw.iter().map(|share| share / sum).collect();
            Profile { name, group: ["x", "y", "z"][i % 3], histogram }
        };
        NAMES.iter().enumerate().map(of).collect()
    }

    fn quotas() -> BTreeMap<&'static str, usize> {
        BTreeMap::from([("x", 1), ("y", 2), ("z", 1)])
    }

    /// The optimum, by trying every set.
    fn best(profiles: &[Profile<'_>]) -> f64 {
        let of = |group: &str| -> Vec<usize> { (0..12).filter(|i| profiles[*i].group == group).collect() };
        let similarity = Similarity::new(profiles);
        let (x, y, z) = (of("x"), of("y"), of("z"));
        let mut best = 0.0_f64;
        for &i in &x {
            for (at, &j) in y.iter().enumerate() {
                for &k in &y[at + 1..] {
                    for &l in &z {
                        best = best.max(similarity.value(&[i, j, k, l]));
                    }
                }
            }
        }
        best
    }

    fn counts(chosen: &[&str], profiles: &[Profile<'_>]) -> Vec<usize> {
        let group = |name: &&str| profiles.iter().find(|p| p.name == *name).map(|p| p.group);
        ["x", "y", "z"].map(|g| chosen.iter().filter(|name| group(name) == Some(g)).count()).to_vec()
    }

    #[test]
    fn quotas_are_kept_and_filled() {
        let profiles = profiles(1);
        let effort = Effort::default();
        for chosen in [greedy(&profiles, &quotas()), multinoulli(&profiles, &quotas(), effort, 3)] {
            assert_eq!(counts(&chosen, &profiles), [1, 2, 1], "{chosen:?}");
        }
        let generous = BTreeMap::from([("x", 99), ("nobody", 3)]);
        for chosen in [greedy(&profiles, &generous), multinoulli(&profiles, &generous, effort, 3)] {
            assert_eq!(counts(&chosen, &profiles), [4, 0, 0], "{chosen:?}");
        }
        assert!(greedy(&[], &quotas()).is_empty() && multinoulli(&[], &quotas(), effort, 3).is_empty());
    }

    #[test]
    fn both_come_close_to_the_optimum() {
        let (mut by_greedy, mut by_draws, mut at_random) = (0.0, 0.0, 0.0);
        for salt in 0..40 {
            let profiles = profiles(salt);
            let best = best(&profiles);
            let ratio = |names: &[&str]| coverage(&profiles, names) / best;
            let (g, m) = (
                ratio(&greedy(&profiles, &quotas())),
                ratio(&multinoulli(&profiles, &quotas(), Effort::default(), salt)),
            );
            assert!(g >= 0.5 && m >= 1.0 - (-1.0_f64).exp() && g <= 1.0 + 1e-12 && m <= 1.0 + 1e-12);
            by_greedy += g / 40.0;
            by_draws += m / 40.0;
            at_random += ratio(&["a", "b", "c", "e"]) / 40.0;
        }
        assert!(by_greedy > 0.98 && by_draws > 0.98, "{by_greedy} {by_draws}");
        assert!(at_random < 0.97, "{at_random}");
    }

    #[test]
    fn copies_are_not_chosen_twice() {
        let of = |name, label: usize| Profile {
            name,
            group: "x",
            histogram: (0..3).map(|k| f64::from(u8::from(k == label))).collect(),
        };
        let profiles = [of("a", 0), of("b", 0), of("c", 0), of("d", 1), of("e", 2)];
        let three = BTreeMap::from([("x", 3)]);
        assert_eq!(greedy(&profiles, &three), ["a", "d", "e"]);
        let drawn = multinoulli(&profiles, &three, Effort::default(), 1);
        assert!((coverage(&profiles, &drawn) - 5.0).abs() < 1e-12, "{drawn:?}");
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let straight = profiles(2);
        let mut turned = straight.clone();
        turned.rotate_left(5);
        assert_eq!(greedy(&straight, &quotas()), greedy(&turned, &quotas()));
        let of = |profiles| multinoulli(profiles, &quotas(), Effort::default(), 1);
        assert_eq!(of(&straight), of(&turned));
    }
}
