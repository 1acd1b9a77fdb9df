//! One seed, many independent streams: every random decision of a run is a function of the run's
//! seed and of what the decision is for, never of when it is taken or of what was drawn before.
//!
//! SplitMix64's finaliser (Steele, Lea and Flood 2014) mixes; FNV-1a turns names into words.

/// A seed for `purpose`, distinct for each sequence of `parts`.
pub fn derive(seed: u64, purpose: &str, parts: &[u64]) -> u64 {
    parts.iter().fold(mix(seed ^ word(purpose)), |state, part| mix(state ^ mix(*part)))
}

/// A word for a name, equal on every machine.
pub fn word(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// SplitMix64: advance by the golden gamma, then finalise.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in `[0, 1)` from a word: its upper 53 bits.
pub fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_parts() {
        let base = derive(1, "cohort", &[3, 4]);
        assert_eq!(base, derive(1, "cohort", &[3, 4]));
        for other in [
            derive(2, "cohort", &[3, 4]),
            derive(1, "batch", &[3, 4]),
            derive(1, "cohort", &[4, 3]),
            derive(1, "cohort", &[3]),
            derive(1, "cohort", &[3, 4, 0]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn splitmix_gives_the_published_sequence() {
        // First outputs of SplitMix64 seeded with 1234567 (Vigna's reference code).
        let gamma = 0x9E37_79B9_7F4A_7C15_u64;
        let first: Vec<u64> =
            (0..3_u64).map(|i| mix(1_234_567_u64.wrapping_add(gamma.wrapping_mul(i)))).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn unit_stays_below_one() {
        assert!(unit(u64::MAX) < 1.0);
        assert_eq!(unit(0), 0.0);
    }
}
