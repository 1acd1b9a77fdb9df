//! ChaCha20 sixteen blocks at a time, where the machine has registers for sixteen of its words (AVX-512).
//!
//! Noise for a model is made of eight bytes of key stream a parameter, and the cipher takes most of the
//! time that it costs. The bytes are those of `rand_chacha`, which makes them on every other machine.

use std::convert::Infallible;

use rand_chacha::rand_core::TryRng;

/// Blocks at a time.
const LANES: usize = 16;
/// Words of a block.
const WORDS: usize = 16;
/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// A stream of a key, from its beginning.
#[derive(Clone)]
pub(super) struct Wide {
    key: [u32; 8],
    stream: u64,
    /// Of the next block.
    counter: u64,
    words: [u32; LANES * WORDS],
    /// Words that were given.
    given: usize,
}

impl Wide {
    /// The stream with that number; `None` if the machine cannot.
    pub(super) fn new(key: [u8; 32], stream: u64) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            let (words, _) = key.as_chunks();
            let key = std::array::from_fn(|i| u32::from_le_bytes(words[i]));
            return Some(Self { key, stream, counter: 0, words: [0; _], given: LANES * WORDS });
        }
        None
    }

    #[allow(unsafe_code, reason = "a function for a machine that was checked for when this was made")]
    fn refill(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `new` is the only way to make one, and found the instructions.
        unsafe {
            x86::blocks(&self.key, self.counter, self.stream, &mut self.words);
        }
        self.counter = self.counter.wrapping_add(LANES as u64);
        self.given = 0;
    }

    fn word(&mut self) -> u32 {
        if self.given == self.words.len() {
            self.refill();
        }
        self.given += 1;
        self.words[self.given - 1]
    }
}

impl TryRng for Wide {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = self.word();
        Ok(u64::from(self.word()) << 32 | u64::from(low))
    }

    fn try_fill_bytes(&mut self, mut bytes: &mut [u8]) -> Result<(), Infallible> {
        while !bytes.is_empty() {
            if self.given == self.words.len() {
                self.refill();
            }
            let left = &self.words[self.given..];
            let count = left.len().min(bytes.len().div_ceil(4));
            let (now, later) = bytes.split_at_mut((4 * count).min(bytes.len()));
            let (whole, part) = now.as_chunks_mut::<4>();
            whole.iter_mut().zip(left).for_each(|(to, word)| *to = word.to_le_bytes());
            if let Some(word) = left.get(whole.len()) {
                part.iter_mut().zip(word.to_le_bytes()).for_each(|(to, byte)| *to = byte);
            }
            self.given += count;
            bytes = later;
        }
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        _mm512_xor_si512,
    };

    use super::{CONSTANTS, LANES, WORDS};

    /// One step of a quarter round: the sum, and the rotated difference that it makes.
    macro_rules! step {
        ($x:ident, $a:literal, $b:literal, $d:literal, $bits:literal) => {
            $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
            $x[$d] = _mm512_rol_epi32::<$bits>(_mm512_xor_si512($x[$d], $x[$a]));
        };
    }

    macro_rules! quarter {
        ($x:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
            step!($x, $a, $b, $d, 16);
            step!($x, $c, $d, $b, 12);
            step!($x, $a, $b, $d, 8);
            step!($x, $c, $d, $b, 7);
        };
    }

    /// The next sixteen blocks, one after the other (RFC 8439, section 2.3, with Bernstein's 64 bits each of
    /// counter and stream).
    #[target_feature(enable = "avx512f")]
    pub(super) fn blocks(key: &[u32; 8], counter: u64, stream: u64, words: &mut [u32; LANES * WORDS]) {
        let same = |word: u32| _mm512_set1_epi32(word as i32);
        let counters: [u64; LANES] = std::array::from_fn(|lane| counter.wrapping_add(lane as u64));
        let start: [__m512i; WORDS] = std::array::from_fn(|i| match i {
            0..4 => same(CONSTANTS[i]),
            4..12 => same(key[i - 4]),
            12 => load(counters.map(|counter| counter as u32)),
            13 => load(counters.map(|counter| (counter >> 32) as u32)),
            14 => same(stream as u32),
            _ => same((stream >> 32) as u32),
        });
        let mut x = start;
        for _ in 0..10 {
            quarter!(x, 0, 4, 8, 12);
            quarter!(x, 1, 5, 9, 13);
            quarter!(x, 2, 6, 10, 14);
            quarter!(x, 3, 7, 11, 15);
            quarter!(x, 0, 5, 10, 15);
            quarter!(x, 1, 6, 11, 12);
            quarter!(x, 2, 7, 8, 13);
            quarter!(x, 3, 4, 9, 14);
        }
        for (x, start) in x.iter_mut().zip(start) {
            *x = _mm512_add_epi32(*x, start);
        }
        let (blocks, _) = words.as_chunks_mut::<WORDS>();
        for (block, row) in blocks.iter_mut().zip(transpose(&x)) {
            *block = store(row);
        }
    }

    /// From a register for each word to one for each block.
    #[target_feature(enable = "avx512f")]
    fn transpose(x: &[__m512i; WORDS]) -> [__m512i; LANES] {
        let mut pairs = *x;
        for i in 0..8 {
            let (a, b) = (x[2 * i], x[2 * i + 1]);
            (pairs[2 * i], pairs[2 * i + 1]) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        }
        // Four words of a block in each quarter of a register.
        let mut fours = pairs;
        for i in 0..4 {
            for half in 0..2 {
                let (a, b) = (pairs[4 * i + half], pairs[4 * i + 2 + half]);
                fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(a, b);
                fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
            }
        }
        let mut rows = fours;
        for i in 0..4 {
            let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
            let low = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)];
            let high = [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)];
            rows[i] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            rows[4 + i] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            rows[8 + i] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            rows[12 + i] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        rows
    }

    #[allow(unsafe_code, reason = "a register and sixteen words are the same bits")]
    #[target_feature(enable = "avx512f")]
    fn load(words: [u32; 16]) -> __m512i {
        // SAFETY: any bits are valid in either.
        unsafe { std::mem::transmute(words) }
    }

    #[allow(unsafe_code, reason = "a register and sixteen words are the same bits")]
    #[target_feature(enable = "avx512f")]
    fn store(register: __m512i) -> [u32; 16] {
        // SAFETY: any bits are valid in either.
        unsafe { std::mem::transmute(register) }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{
        ChaCha20Rng,
        rand_core::{Rng, SeedableRng},
    };

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_plain_cipher() {
        for stream in [0, 7, u64::MAX - 3] {
            let key: [u8; 32] = std::array::from_fn(|i| (i * 37 + stream as usize % 91) as u8);
            let Some(mut ours) = Wide::new(key, stream) else { return };
            let mut plain = ChaCha20Rng::from_seed(key);
            plain.set_stream(stream);
            let mut bytes = [[0; 5000]; 2];
            for round in 0..200 {
                let length = [1, 4, 8, 63, 64, 1024, 4096, 5000][round % 8];
                ours.fill_bytes(&mut bytes[0][..length]);
                plain.fill_bytes(&mut bytes[1][..length]);
                assert_eq!(bytes[0], bytes[1], "{stream} {round}");
                assert_eq!(ours.next_u32(), plain.next_u32());
                for _ in 0..round % 5 {
                    assert_eq!(ours.next_u64(), plain.next_u64());
                }
            }
        }
    }

    #[test]
    fn the_counter_has_64_bits() {
        let Some(mut ours) = Wide::new([9; 32], 5) else { return };
        let mut plain = ChaCha20Rng::from_seed([9; 32]);
        plain.set_stream(5);
        ours.counter = (1 << 32) - 24;
        plain.set_word_pos(u128::from(ours.counter) * 16);
        for _ in 0..1000 {
            assert_eq!(ours.next_u32(), plain.next_u32());
        }
    }
}
