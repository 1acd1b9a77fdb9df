//! The secret of a round: 256 bits from the operating system, from which its noise and its secret draw
//! derive. Kept with the opening of the round, so that whoever tries again draws the same, and forgotten
//! when the round is committed: who reads the disk later cannot take the noise away.

use privacy::sampler::{Key, ReleaseKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// 256 secret bits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

// Must not end in a log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// These bits; for drivers that have their own source, such as simulations.
    pub fn new(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    /// Bits of the operating system.
    ///
    /// # Errors
    /// If it gives none.
    pub fn draw() -> Result<Self, String> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)
            .map_err(|error| format!("the operating system gives no randomness: {error}"))?;
        Ok(Self(bits))
    }

    /// Those of whom the coin says so: each independently with probability `rate`, rounded down by less
    /// than 2⁻⁶³. Who is not asked about does not change the coins of the others.
    pub fn cohort<'a>(&self, workers: &[&'a str], rate: f64) -> Vec<&'a str> {
        let below = (rate * 2.0_f64.powi(64)) as u128;
        let joins = |worker: &&&str| u128::from(self.coin(worker)) < below;
        workers.iter().filter(joins).copied().collect()
    }

    fn coin(&self, worker: &str) -> u64 {
        let digest = *self.derive("cohort", worker.as_bytes()).as_bytes();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(bytes)
    }

    /// The key of the noise on a sum. The same sum gets the same noise in a retry; a sum that differs (an
    /// update more or less after a restart) never meets noise that was used before.
    pub fn noise(&self, round: u64, sum: &[i64]) -> ReleaseKey {
        let digest = blake3::Hasher::new().update_rayon(bytemuck::cast_slice(sum)).finalize();
        Key::new(*self.derive("noise", digest.as_bytes()).as_bytes()).release(round)
    }

    /// A key for noise that is correlated over rounds.
    pub fn stream(&self) -> Key {
        Key::new(*self.derive("stream", &[]).as_bytes())
    }

    fn derive(&self, purpose: &str, of: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(purpose.as_bytes()).update(&[0]).update(of);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn coins_are_fair_independent_and_stay() {
        let names: Vec<String> = (0..20_000).map(|n| format!("w{n}")).collect();
        let workers: Vec<&str> = names.iter().map(String::as_str).collect();
        let (one, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let drawn = one.cohort(&workers, 0.1);
        // Five standard deviations of a binomial are 212.
        assert!(drawn.len().abs_diff(2_000) < 212, "{}", drawn.len());
        assert_eq!(one.cohort(&workers, 0.1), drawn);
        let again: BTreeSet<&str> = other.cohort(&workers, 0.1).into_iter().collect();
        let both = drawn.iter().filter(|worker| again.contains(**worker)).count();
        assert!(both.abs_diff(200) < 75, "{both}");
        // Absence changes nothing for the others.
        assert_eq!(
            one.cohort(&workers[..100], 0.1),
            drawn.iter().filter(|w| workers[..100].contains(w)).copied().collect::<Vec<_>>()
        );
        assert_eq!(one.cohort(&workers, 1.0).len(), workers.len());
        assert!(one.cohort(&workers, 1e-300).is_empty());
    }

    #[test]
    fn noise_follows_the_sum_and_the_secret() {
        let secret = Secret::new([7; 32]);
        assert_eq!(secret.noise(3, &[1, 2]), secret.noise(3, &[1, 2]));
        assert_ne!(secret.noise(3, &[1, 2]), secret.noise(3, &[1, 3]));
        assert_ne!(secret.noise(3, &[1, 2]), secret.noise(4, &[1, 2]));
        assert_ne!(secret.noise(3, &[1, 2]), Secret::new([8; 32]).noise(3, &[1, 2]));
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_ne!(Secret::draw().unwrap(), Secret::draw().unwrap());
    }
}
