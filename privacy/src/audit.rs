//! Lower bounds of ε from what an attacker gets right: the test that a mechanism which is broken does
//! not pass, whatever its accountant says.
//!
//! Both bounds hold with the confidence that is asked for. A bound above the claimed ε proves that the
//! claim is false; one below proves nothing.

use serde::{Deserialize, Serialize};

use crate::{
    Mu, ParameterError, Probability,
    numeric::{
        search::bisect,
        special::{binomial_tail, ln_binomial, normal_cdf, normal_quantile},
    },
    parameters::require,
};

/// Thresholds that are tried on the first half of the scores.
const THRESHOLDS: usize = 256;

/// What telling two data sets apart proved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distinguished {
    /// The least ε that fits at the δ asked about.
    pub epsilon: f64,
    /// The least μ of Gaussian differential privacy that fits, for mechanisms that claim one.
    pub mu: f64,
    /// Score from which on the attacker says "with".
    pub threshold: f64,
}

/// From scores of independent runs on two neighbouring data sets, for example the inner product of a
/// release with the canary's contribution: `with` it and `without`. Even runs choose a threshold, odd
/// ones are counted with the bounds of Clopper and Pearson (1934).
///
/// # Errors
/// If there are fewer than 20 scores of either, one is not finite, or δ is not in [0, 1).
pub fn distinguish(
    with: &[f64],
    without: &[f64],
    delta: f64,
    confidence: Probability,
) -> Result<Distinguished, ParameterError> {
    let fewest = with.len().min(without.len());
    require(fewest >= 20, "scores", fewest as f64, "at least 20 of either kind")?;
    require((0.0..1.0).contains(&delta), "delta", delta, "a number from 0 to below 1")?;
    let bad = with.iter().chain(without).find(|score| !score.is_finite());
    require(bad.is_none(), "score", bad.copied().unwrap_or(0.0), "a finite number")?;
    let half = |scores: &[f64], odd: usize| -> Vec<f64> {
        let mut half: Vec<f64> = scores.iter().skip(odd).step_by(2).copied().collect();
        half.sort_by(f64::total_cmp);
        half
    };
    let (choose, judge) = ([half(with, 0), half(without, 0)], [half(with, 1), half(without, 1)]);
    let mut candidates: Vec<f64> = choose.concat();
    candidates.sort_by(f64::total_cmp);
    let stride = candidates.len().div_ceil(THRESHOLDS);
    let candidates: Vec<f64> = candidates.into_iter().step_by(stride).collect();
    // Four bounds may each fail: two rates, from both sides.
    let fail = 0.25 * (1.0 - confidence.get());
    let best = |value: &dyn Fn(&Rates) -> f64| {
        let at = |threshold: f64| value(&Rates::at(&choose, threshold, fail));
        let start = (f64::NEG_INFINITY, candidates[0]);
        let pick = |best: (f64, f64), t: f64| if at(t) > best.0 { (at(t), t) } else { best };
        candidates.iter().copied().fold(start, pick).1
    };
    let threshold = best(&|rates| rates.epsilon(delta));
    let epsilon = Rates::at(&judge, threshold, fail).epsilon(delta);
    let mu = Rates::at(&judge, best(&Rates::mu), fail).mu();
    Ok(Distinguished { epsilon: epsilon.max(0.0), mu: mu.max(0.0), threshold })
}

/// Bounds of the rates of "with": lower and upper, for runs with and without.
struct Rates {
    with: (f64, f64),
    without: (f64, f64),
}

impl Rates {
    fn at([with, without]: &[Vec<f64>; 2], threshold: f64, fail: f64) -> Self {
        let rate = |sorted: &[f64]| {
            let above = sorted.len() - sorted.partition_point(|score| *score < threshold);
            clopper_pearson(above as u64, sorted.len() as u64, fail)
        };
        Self { with: rate(with), without: rate(without) }
    }

    /// `P(E) ≤ e^ε Q(E) + δ` for the event and its complement, both ways.
    fn epsilon(&self, delta: f64) -> f64 {
        let one = |least: f64, most: f64| ((least - delta).max(0.0) / most).ln();
        let (p, q) = (self.with, self.without);
        one(p.0, q.1).max(one(1.0 - q.1, 1.0 - p.0)).max(one(q.0, p.1)).max(one(1.0 - p.1, 1.0 - q.0))
    }

    /// `Φ⁻¹(TPR) − Φ⁻¹(FPR) ≤ μ` (Dong, Roth and Su 2022, definition 2.6).
    fn mu(&self) -> f64 {
        let one = |least: f64, most: f64| {
            if least <= 0.0 || most >= 1.0 { 0.0 } else { normal_quantile(least) - normal_quantile(most) }
        };
        one(self.with.0, self.without.1).max(one(self.without.0, self.with.1))
    }
}

/// Bounds of a probability of which `hits` of `tries` were seen; each fails with probability `fail`.
pub fn clopper_pearson(hits: u64, tries: u64, fail: f64) -> (f64, f64) {
    // P(X ≥ hits) rises with the probability, P(X ≤ hits) falls.
    let at_least = |p: f64| if hits == 0 { 1.0 } else { binomial_tail(tries, p, hits - 1) };
    let at_most = |p: f64| 1.0 - binomial_tail(tries, p, hits);
    let low = if hits == 0 { 0.0 } else { bisect(1e-300, 1.0, 200, |p| at_least(p) < fail).0 };
    let high = if hits == tries { 1.0 } else { bisect(1e-300, 1.0, 200, |p| at_most(p) > fail).1 };
    (low, high)
}

/// What an attacker guessed about canaries that were each put into one training run with probability
/// one half, independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guesses {
    /// Number of canaries.
    pub canaries: u64,
    /// Number about which a guess was made; the others were abstained from.
    pub made: u64,
    /// Number of right guesses.
    pub right: u64,
}

impl Guesses {
    /// Says "in" of the `sure` largest scores and "out" of the `sure` smallest. `sure` must not be
    /// chosen by looking at `included`.
    ///
    /// # Errors
    /// If the lists differ in length, a score is not a number, or twice `sure` exceeds the canaries.
    pub fn by_score(scores: &[f64], included: &[bool], sure: usize) -> Result<Self, ParameterError> {
        let n = scores.len();
        require(included.len() == n, "included", included.len() as f64, "as many as there are scores")?;
        require(sure >= 1 && 2 * sure <= n, "sure", sure as f64, "from 1 to half of the canaries")?;
        require(!scores.iter().any(|x| x.is_nan()), "score", f64::NAN, "a number")?;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let out = order[..sure].iter().filter(|canary| !included[**canary]).count();
        let inside = order[n - sure..].iter().filter(|canary| included[**canary]).count();
        Ok(Self { canaries: n as u64, made: 2 * sure as u64, right: (out + inside) as u64 })
    }

    /// How likely it is, at most, that an (ε, δ)-private run lets so many guesses be right (Steinke,
    /// Nasr and Jagielski 2023, theorem 5.2, as in their reference code).
    pub fn p_value(self, epsilon: f64, delta: f64) -> f64 {
        let q = 1.0 / (1.0 + (-epsilon).exp());
        let (r, v) = (self.made, self.right.min(self.made));
        let tail = if v == 0 { 1.0 } else { binomial_tail(r, q, v - 1) };
        let (mut sum, mut alpha) = (0.0, 0.0_f64);
        for i in 1..=v {
            let k = (v - i) as f64;
            let ln = ln_binomial(r as f64, k) + k * q.ln() + (r as f64 - k) * (-q).ln_1p();
            sum += ln.exp();
            alpha = alpha.max(sum / i as f64);
        }
        (tail + 2.0 * alpha * delta * self.canaries as f64).min(1.0)
    }

    /// The largest ε that the guesses refute with this confidence.
    ///
    /// # Errors
    /// If more were right than made, more made than there are canaries, or δ is not in [0, 1).
    pub fn epsilon(self, delta: f64, confidence: Probability) -> Result<f64, ParameterError> {
        require((0.0..1.0).contains(&delta), "delta", delta, "a number from 0 to below 1")?;
        let ordered = self.right <= self.made && self.made <= self.canaries;
        require(ordered, "right", self.right as f64, "right ≤ made ≤ canaries")?;
        let fail = 1.0 - confidence.get();
        Ok(bisect(0.0, 60.0, 100, |epsilon| self.p_value(epsilon, delta) < fail).0)
    }

    /// The largest μ of Gaussian differential privacy that the guesses refute with this confidence
    /// (Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-differential privacy in one run").
    ///
    /// # Errors
    /// If more were right than made, or more made than there are canaries.
    pub fn mu(self, confidence: Probability) -> Result<f64, ParameterError> {
        let ordered = self.right <= self.made && self.made <= self.canaries;
        require(ordered, "right", self.right as f64, "right ≤ made ≤ canaries")?;
        let fail = 1.0 - confidence.get();
        if !self.impossible(0.0, fail) {
            return Ok(0.0);
        }
        Ok(bisect(0.0, 60.0, 60, |mu| self.impossible(mu, fail)).0)
    }

    /// Whether so many right guesses cannot have had the probability `fail` under μ-GDP. With `p_k` the
    /// probability of k right guesses, `r_i = Σ_{k ≥ i} k p_k / m` is that of a canary to be guessed right among
    /// at least i right ones, and `h_i = Σ_{k ≥ i} (made − k) p_k / m` that of being guessed wrong among as many.
    /// To throw a canary's coin again makes a right guess wrong and takes one from the right ones, so that
    /// `h_i ≥ Φ(Φ⁻¹(r_{i+1}) − μ)`; and all of `r_0 + h_0` is `made / m`.
    fn impossible(self, mu: f64, fail: f64) -> bool {
        let (m, made, right) = (self.canaries as f64, self.made as f64, self.right as f64);
        let (mut r, mut h) = (fail * right / m, fail * (made - right) / m);
        for i in (0..self.right).rev() {
            if r + h > made / m {
                return true;
            }
            let wrong = if r > 0.0 { normal_cdf(normal_quantile(r) - mu) } else { 0.0 };
            let next = h.max(wrong);
            r += i as f64 / (made - i as f64) * (next - h);
            h = next;
        }
        r + h > made / m
    }
}

/// Whether a claim of μ-GDP survives what was distinguished.
pub fn refutes(found: Distinguished, claimed: Mu) -> bool {
    found.mu > claimed.get()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use rand_chacha::rand_core::Rng;

    use super::*;
    use crate::{
        ClipNorm, Grid, NoiseMultiplier,
        sampler::{Key, Kind, Sampler},
    };

    fn sure(confidence: f64) -> Probability {
        Probability::new(confidence).unwrap()
    }

    #[test]
    fn intervals_of_clopper_and_pearson() {
        // scipy.stats.beta.ppf(0.025, 8, 3), beta.ppf(0.975, 9, 2)
        let (low, high) = clopper_pearson(8, 10, 0.025);
        assert!((low - 0.443_904_538).abs() < 1e-8 && (high - 0.974_789_273).abs() < 1e-8, "{low} {high}");
        assert_eq!(clopper_pearson(0, 10, 0.025).0, 0.0);
        assert_eq!(clopper_pearson(10, 10, 0.025).1, 1.0);
        assert!((clopper_pearson(0, 10, 0.05).1 - (1.0 - 0.05_f64.powf(0.1))).abs() < 1e-12);
    }

    /// Scores of runs of the real mechanism: clip, sum on the grid, exact noise. The canary's update has
    /// three times the norm, so that clipping matters.
    fn scores(canary: bool, noise_scale: f64, clips: bool, runs: u64) -> Vec<f64> {
        let (norm, length) = (ClipNorm::new(1.0).unwrap(), 4);
        let grid = Grid::new(norm, NonZeroU64::new(length).unwrap()).unwrap();
        let variance = grid.variance(NoiseMultiplier::new(1.0).unwrap()).unwrap().get() as f64;
        let variance = NonZeroU64::new((variance * noise_scale * noise_scale) as u64).unwrap();
        let sampler = Sampler::new(Kind::Rounded, variance).unwrap();
        let key = Key::new([if canary { 1 } else { 2 }; 32]);
        let run = |run: u64| {
            let mut sum = vec![0_i64; length as usize];
            for client in 0..3 {
                let mut update = vec![0.0, 0.1 * client as f32, 0.2, 0.0];
                grid.clip(&mut [&mut update]).unwrap();
                grid.add(&mut sum, &update).unwrap();
            }
            if canary {
                let mut update = vec![3.0, 0.0, 0.0, 0.0];
                if clips {
                    grid.clip(&mut [&mut update]).unwrap();
                }
                let quanta = grid.round_sum(&update).unwrap();
                sum.iter_mut().zip(quanta).for_each(|(sum, q)| *sum += q);
            }
            key.release(run).add_noise(&sampler, (0, 0), &mut sum, 1);
            sum[0] as f64 * grid.quantum()
        };
        (0..runs).map(run).collect()
    }

    #[test]
    fn a_sound_mechanism_passes_and_two_broken_ones_are_caught() {
        let claimed = Mu::new(1.0).unwrap();
        let epsilon = claimed.epsilon(1e-5);
        let ask = |noise_scale, clips| {
            let (with, without) =
                (scores(true, noise_scale, clips, 6000), scores(false, noise_scale, clips, 6000));
            distinguish(&with, &without, 1e-5, sure(0.99)).unwrap()
        };
        let sound = ask(1.0, true);
        assert!(!refutes(sound, claimed) && sound.epsilon <= epsilon, "{sound:?}");
        // Not because it sees nothing.
        assert!(sound.mu > 0.8, "{sound:?}");
        let halved = ask(0.5, true);
        assert!(refutes(halved, claimed) && halved.mu > 1.7, "{halved:?}");
        let unclipped = ask(1.0, false);
        assert!(refutes(unclipped, claimed) && unclipped.epsilon > epsilon, "{unclipped:?} {epsilon}");
    }

    #[test]
    fn one_run_with_many_canaries() {
        // From the reference code of the paper: get_eps_audit(1000, 100, 100, 1e-5, 0.05) and others.
        let guesses = |canaries, made, right| Guesses { canaries, made, right };
        let p = guesses(100, 100, 100).p_value(0.0, 0.0);
        assert!((p / 0.5_f64.powi(100) - 1.0).abs() < 1e-10, "{p}");
        // Without δ it is the binomial tail: all of r right at ε means q^r.
        let epsilon = guesses(1000, 100, 100).epsilon(0.0, sure(0.95)).unwrap();
        let q = 0.05_f64.powf(0.01);
        assert!((epsilon - (q / (1.0 - q)).ln()).abs() < 1e-9, "{epsilon}");
        let less = guesses(1000, 100, 100).epsilon(1e-5, sure(0.95)).unwrap();
        assert!(less < epsilon && less > 0.9 * epsilon, "{less} {epsilon}");
        assert_eq!(guesses(1000, 100, 50).epsilon(1e-5, sure(0.95)).unwrap(), 0.0);
        assert!(guesses(10, 11, 5).epsilon(0.0, sure(0.95)).is_err());
        // The recursion for μ, written down again in Python with its own normal law.
        for (made, canaries, right, want) in [
            (200, 1000, 200, 1.536_398_020),
            (200, 1000, 190, 0.908_053_830),
            (1000, 1000, 700, 0.357_210_787),
        ] {
            let mu = guesses(canaries, made, right).mu(sure(0.95)).unwrap();
            assert!((mu - want).abs() < 1e-6, "{mu} {want}");
        }
        assert_eq!(guesses(400, 40, 25).mu(sure(0.95)).unwrap(), 0.0);
        assert!(guesses(10, 11, 5).mu(sure(0.95)).is_err());
    }

    #[test]
    fn canaries_in_one_noisy_sum_show_what_noise_there_was() {
        // Each canary in a coordinate of its own, with noise σ: the scores are the coordinates.
        let count = 2000;
        let mut coin = Key::new([3; 32]).release(0).stream(0, 0);
        let included: Vec<bool> = (0..count).map(|_| coin.next_u64() & 1 == 1).collect();
        let ask = |deviation: u64| {
            let sampler =
                Sampler::new(Kind::Rounded, NonZeroU64::new(deviation * deviation).unwrap()).unwrap();
            let mut sum: Vec<i64> = included.iter().map(|there| i64::from(*there) << 16).collect();
            Key::new([4; 32]).release(deviation).add_noise(&sampler, (0, 0), &mut sum, 1);
            let scores: Vec<f64> = sum.iter().map(|x| *x as f64).collect();
            let guesses = Guesses::by_score(&scores, &included, 50).unwrap();
            guesses.epsilon(1e-5, sure(0.95)).unwrap()
        };
        let claimed = Mu::new(1.0).unwrap().epsilon(1e-5);
        let (sound, broken) = (ask(1 << 16), ask(1 << 13));
        assert!(sound < claimed && sound > 0.5, "{sound} {claimed}");
        assert!(broken > sound + 1.0, "{broken} {sound}");
        assert!(Guesses::by_score(&[0.0; 4], &[true; 3], 1).is_err());
        assert!(Guesses::by_score(&[f64::NAN; 4], &[true; 4], 1).is_err());
        assert!(Guesses::by_score(&[0.0; 4], &[true; 4], 3).is_err());
        assert!(distinguish(&[0.0; 30], &[f64::NAN; 30], 0.0, sure(0.9)).is_err());
        assert!(distinguish(&[0.0; 3], &[0.0; 30], 0.0, sure(0.9)).is_err());
    }
}
