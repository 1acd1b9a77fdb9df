//! Randomness as a function of what it is for: a stream depends on the run's seed, a purpose and
//! some numbers, never on when it is read. All nodes draw the same graph without talking.
//!
//! SplitMix64 (Steele, Lea and Flood 2014); FNV-1a turns the purpose into a word.

/// A reproducible stream of words.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream for `purpose`, distinct for each sequence of `parts`.
    pub fn new(seed: u64, purpose: &str, parts: &[u64]) -> Self {
        let word = purpose.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self(parts.iter().fold(mix(seed ^ word), |state, part| mix(state ^ mix(*part))))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        finalise(self.0)
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number in `0..end`; 0 when `end` is 0. Unbiased (Lemire 2019).
    pub fn below(&mut self, end: usize) -> usize {
        let end = end as u64;
        let threshold = end.wrapping_neg().checked_rem(end).unwrap_or(0);
        loop {
            let product = u128::from(self.word()) * u128::from(end);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// The first `count` elements of a random order of `items` (Fisher and Yates), or all.
    pub fn choose<T>(&mut self, mut items: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(items.len());
        for at in 0..count {
            let other = at + self.below(items.len() - at);
            items.swap(at, other);
        }
        items.truncate(count);
        items
    }
}

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(value: u64) -> u64 {
    finalise(value.wrapping_add(GAMMA))
}

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix() {
        // First outputs of SplitMix64 seeded with 1234567 (Vigna's reference code).
        let mut stream = Stream(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| stream.word()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_parts() {
        let first = |seed, purpose, parts: &[u64]| Stream::new(seed, purpose, parts).word();
        let base = first(1, "graph", &[3, 4]);
        assert_eq!(base, first(1, "graph", &[3, 4]));
        for other in [
            first(2, "graph", &[3, 4]),
            first(1, "pair", &[3, 4]),
            first(1, "graph", &[4, 3]),
            first(1, "graph", &[3]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_is_even_and_choose_is_a_permutation() {
        let mut stream = Stream::new(1, "test", &[]);
        let mut counts = [0_u32; 7];
        (0..70_000).for_each(|_| counts[stream.below(7)] += 1);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        let mut all = stream.choose((0..9).collect(), 20);
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<_>>());
    }
}
