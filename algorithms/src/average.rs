//! Averages of the global model over rounds: what is evaluated and exported beside it, and trained by nobody.
//!
//! An average is one of the run's vectors, a pure function of the one before and of the committed model, so that
//! it costs one vector whatever the number of rounds, and a restart goes on with the same bits.

use crate::{MODEL, Vector, Vectors};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the averages' names begin with, among the run's vectors.
const PREFIX: &str = "average.";

/// Which averages of the model a run keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Averages {
    /// Exponential: `a ← decay · a + (1 − decay) · w` (Polyak and Juditsky 1992 in the form of Tarvainen and
    /// Valpola 2017).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<Ema>,
    /// Of equal weights (SWA; Izmailov et al. 2018, arXiv:1803.05407).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa: Option<Swa>,
}

/// An exponential average. It is the model itself after its first round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// At least 0 and below 1; 0 is the model itself.
    pub decay: f64,
    /// The first round whose model counts.
    #[serde(default)]
    pub start: u64,
}

/// The mean of the models after rounds `start`, `start + every`, ….
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swa {
    /// The first round whose model counts.
    pub start: u64,
    /// Rounds from one model that counts to the next, at least 1.
    #[serde(default = "one")]
    pub every: u64,
}

fn one() -> u64 {
    1
}

/// One of the averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// [`Averages::ema`].
    Ema,
    /// [`Averages::swa`].
    Swa,
}

impl Average {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Ema, Self::Swa];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ema => "ema",
            Self::Swa => "swa",
        }
    }

    /// What it is called among the run's vectors.
    pub fn vector(self) -> String {
        [PREFIX, self.name()].concat()
    }
}

impl Averages {
    /// Those that are kept, and the first round after which there is something of each.
    pub fn kept(&self) -> impl Iterator<Item = (Average, u64)> {
        let ema = self.ema.map(|ema| (Average::Ema, ema.start));
        ema.into_iter().chain(self.swa.map(|swa| (Average::Swa, swa.start)))
    }

    /// Checks every key, for a run of so many rounds.
    ///
    /// # Errors
    /// Names the key, what it is and what was expected.
    pub fn check(&self, rounds: u64) -> Result<(), String> {
        if self.kept().next().is_none() {
            return Err("nothing is averaged; expected `ema`, `swa` or both".into());
        }
        if let Some((which, start)) = self.kept().find(|(_, start)| *start >= rounds) {
            let name = which.name();
            return Err(format!("`{name}.start` is {start}, expected a round before the run's {rounds}"));
        }
        if let Some(Ema { decay, .. }) = self.ema
            && !(0.0..1.0).contains(&decay)
        {
            return Err(format!("`ema.decay` is {decay}, expected at least 0 and below 1"));
        }
        match self.swa {
            Some(Swa { every: 0, .. }) => Err("`swa.every` is 0, expected at least 1".into()),
            _ => Ok(()),
        }
    }

    /// Takes the model after `round` into the averages among the server's vectors. Every round is told once, in
    /// order; sums are made in `f64`, an average is kept in `f32`.
    pub fn take(&self, server: &mut Vectors, round: u64) {
        for (which, start) in self.kept() {
            let Some(passed) = round.checked_sub(start) else { continue };
            let share = match (which, self.ema, self.swa) {
                (Average::Ema, Some(ema), _) => 1.0 - ema.decay,
                (Average::Swa, _, Some(swa)) if passed.is_multiple_of(swa.every) => {
                    1.0 / (passed / swa.every + 1) as f64
                }
                _ => continue,
            };
            let Some(model) = server.get(MODEL).cloned() else { return };
            let name = which.vector();
            let mixed = match server.remove(&name) {
                Some(average) if passed > 0 && share < 1.0 => mix(average, &model, share),
                _ => model,
            };
            server.insert(name, mixed);
        }
    }
}

/// `a + share · (w − a)`: the same vector stays the same, to the bit.
fn mix(mut average: Vector, model: &[f32], share: f64) -> Vector {
    for (a, w) in Arc::make_mut(&mut average).iter_mut().zip(model) {
        let (from, to) = (f64::from(*a), f64::from(*w));
        *a = (from + share * (to - from)) as f32;
    }
    average
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(rounds: usize) -> Vec<Vec<f32>> {
        let word = |round: usize, i: usize| crate::seed::mix((round * 7 + i) as u64);
        let value = |round, i| (crate::seed::unit(word(round, i)) - 0.5) as f32;
        (0..rounds).map(|round| (0..5).map(|i| value(round, i)).collect()).collect()
    }

    /// The averages after each round.
    fn averaged(averages: Averages, which: Average, models: &[Vec<f32>]) -> Vec<Option<Vector>> {
        let mut server = Vectors::new();
        let each = |(round, model): (usize, &Vec<f32>)| {
            server.insert(MODEL.to_owned(), Arc::new(model.clone()));
            averages.take(&mut server, round as u64);
            server.get(&which.vector()).cloned()
        };
        models.iter().enumerate().map(each).collect()
    }

    fn near(got: &[f32], want: impl Fn(usize) -> f64) {
        for (i, got) in got.iter().enumerate() {
            assert!((f64::from(*got) - want(i)).abs() < 1e-6, "{got} at {i}, expected {}", want(i));
        }
    }

    #[test]
    fn an_exponential_average_by_its_closed_form() {
        let models = models(9);
        let averages = Averages { ema: Some(Ema { decay: 0.8, start: 2 }), swa: None };
        let got = averaged(averages, Average::Ema, &models);
        assert!(got[..2].iter().all(Option::is_none));
        assert_eq!(**got[2].as_ref().unwrap(), models[2]);
        let last = got[8].as_ref().unwrap();
        near(last, |i| {
            let first = 0.8_f64.powi(6) * f64::from(models[2][i]);
            first + (3..9).map(|t| 0.2 * 0.8_f64.powi(8 - t) * f64::from(models[t as usize][i])).sum::<f64>()
        });
    }

    #[test]
    fn a_stochastic_weight_average_is_a_mean() {
        let models = models(9);
        let averages = Averages { ema: None, swa: Some(Swa { start: 1, every: 3 }) };
        let got = averaged(averages, Average::Swa, &models);
        assert!(got[0].is_none());
        assert_eq!(got[2], got[1], "between models that count nothing moves");
        near(got[8].as_ref().unwrap(), |i| {
            [1, 4, 7].iter().map(|t| f64::from(models[*t][i])).sum::<f64>() / 3.0
        });
    }

    #[test]
    fn degenerate_averages_are_exact() {
        let models = models(6);
        let ema = Averages { ema: Some(Ema { decay: 0.0, start: 0 }), swa: None };
        for (got, want) in averaged(ema, Average::Ema, &models).iter().zip(&models) {
            assert_eq!(**got.as_ref().unwrap(), *want);
        }
        // One model that counts; models that do not move.
        let swa = Averages { ema: None, swa: Some(Swa { start: 5, every: 1 }) };
        assert_eq!(**averaged(swa, Average::Swa, &models)[5].as_ref().unwrap(), models[5]);
        let still = vec![models[0].clone(); 6];
        let both =
            Averages { ema: Some(Ema { decay: 0.9, start: 0 }), swa: Some(Swa { start: 0, every: 1 }) };
        for which in Average::ALL {
            assert_eq!(**averaged(both, which, &still)[5].as_ref().unwrap(), still[0]);
        }
    }

    #[test]
    fn a_mean_of_many_rounds_stays_one() {
        let averages = Averages { ema: None, swa: Some(Swa { start: 0, every: 1 }) };
        let models = models(20_000);
        let got = averaged(averages, Average::Swa, &models);
        near(got.last().unwrap().as_ref().unwrap(), |i| {
            models.iter().map(|w| f64::from(w[i])).sum::<f64>() / 20_000.0
        });
    }

    #[test]
    fn mistakes_are_named() {
        let ema = |decay, start| Averages { ema: Some(Ema { decay, start }), swa: None };
        let swa = |start, every| Averages { ema: None, swa: Some(Swa { start, every }) };
        for (averages, want) in [
            (Averages::default(), "`ema`, `swa` or both"),
            (ema(1.0, 0), "`ema.decay` is 1,"),
            (ema(f64::NAN, 0), "`ema.decay`"),
            (ema(0.5, 9), "`ema.start` is 9"),
            (swa(9, 1), "`swa.start` is 9"),
            (swa(1, 0), "`swa.every` is 0"),
        ] {
            let error = averages.check(9).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(ema(0.99, 8).check(9), Ok(()));
    }
}
