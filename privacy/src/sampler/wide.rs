//! ChaCha20 in 32 blocks at a time, where the machine has registers for sixteen of its words (AVX-512).
//!
//! Noise for a model is made of four to eight bytes of key stream a parameter, and the cipher takes much of
//! the time that it costs. One block's steps wait for each other: two times sixteen blocks side by side fill
//! the 32 registers and are 1.4 times as fast as sixteen. The bytes are those of `rand_chacha`, which makes
//! them on every other machine.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused_variables, reason = "only x86-64 has a wide path")
)]

use std::convert::Infallible;

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, TryRng},
};

/// Blocks of a register, and at a time.
const LANES: usize = 16;
const BLOCKS: usize = 2 * LANES;
/// Words of a block.
const WORDS: usize = 16;
/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// Words of all blocks.
pub(super) const SHEAF: usize = BLOCKS * WORDS;

/// A stream of a key, from its beginning.
#[derive(Clone)]
pub(super) struct Wide {
    key: [u32; 8],
    stream: u64,
    /// Of the next block.
    counter: u64,
    words: [u32; SHEAF],
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
            return Some(Self { key, stream, counter: 0, words: [0; _], given: SHEAF });
        }
        None
    }

    #[allow(unsafe_code, reason = "a function for a machine that was checked for when this was made")]
    fn refill(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `new` is the only way to make one, and found the instructions.
        unsafe {
            x86::columns(&self.key, self.counter, self.stream, &mut self.words);
            x86::in_order(&mut self.words);
        }
        self.counter = self.counter.wrapping_add(BLOCKS as u64);
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

/// A stream of a key, 32 blocks at a time, in the order in which the registers have them: of sixteen blocks
/// the first words, then the second words, and so on; then of the other sixteen.
#[derive(Clone)]
pub(super) struct Columns(Source);

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one of them at a time")]
enum Source {
    Plain(ChaCha20Rng),
    Wide { key: [u32; 8], stream: u64, counter: u64 },
}

impl Columns {
    /// The stream that `plain` is at the beginning of.
    pub(super) fn new(key: [u8; 32], stream: u64, plain: ChaCha20Rng) -> Self {
        Self(match Wide::new(key, stream) {
            Some(Wide { key, stream, counter, .. }) => Source::Wide { key, stream, counter },
            None => Source::Plain(plain),
        })
    }

    /// The next ones.
    #[allow(unsafe_code, reason = "a function for a machine that was checked for when this was made")]
    pub(super) fn next(&mut self, words: &mut [u32; SHEAF]) {
        match &mut self.0 {
            Source::Plain(plain) => {
                for half in words.as_chunks_mut::<{ LANES * WORDS }>().0 {
                    for at in 0..LANES * WORDS {
                        half[at % WORDS * LANES + at / WORDS] = plain.next_u32();
                    }
                }
            }
            Source::Wide { key, stream, counter } => {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Wide::new` found the instructions.
                unsafe {
                    x86::columns(key, *counter, *stream, words);
                }
                *counter = counter.wrapping_add(BLOCKS as u64);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_rol_epi32, _mm512_set1_epi32,
        _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
    };

    use super::{BLOCKS, CONSTANTS, LANES, SHEAF, WORDS};

    /// One step of four quarter rounds: the sums, and the rotated differences that they make.
    macro_rules! step {
        ($x:ident, $bits:literal, $([$a:literal, $b:literal, $d:literal]),*) => {
            $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
            $($x[$d] = _mm512_xor_si512($x[$d], $x[$a]);)*
            $($x[$d] = _mm512_rol_epi32::<$bits>($x[$d]);)*
        };
    }

    macro_rules! quarters {
        ($x:ident, $([$a:literal, $b:literal, $c:literal, $d:literal]),*) => {
            step!($x, 16, $([$a, $b, $d]),*);
            step!($x, 12, $([$c, $d, $b]),*);
            step!($x, 8, $([$a, $b, $d]),*);
            step!($x, 7, $([$c, $d, $b]),*);
        };
    }

    /// A register for each word of sixteen blocks, as they begin (RFC 8439, section 2.3, with Bernstein's 64
    /// bits each of counter and stream).
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn beginning(key: &[u32; 8], counter: u64, stream: u64) -> [__m512i; WORDS] {
        let mut counters = [[0; LANES]; 2];
        for lane in 0..LANES {
            let counter = counter.wrapping_add(lane as u64);
            (counters[0][lane], counters[1][lane]) = (counter as u32, (counter >> 32) as u32);
        }
        let mut x = [_mm512_set1_epi32(stream as i32); WORDS];
        x[15] = _mm512_set1_epi32((stream >> 32) as i32);
        for i in 0..4 {
            x[i] = _mm512_set1_epi32(CONSTANTS[i] as i32);
        }
        for i in 0..8 {
            x[4 + i] = _mm512_set1_epi32(key[i] as i32);
        }
        (x[12], x[13]) = (load(&counters[0]), load(&counters[1]));
        x
    }

    /// The next 32 blocks, a register for each word.
    #[target_feature(enable = "avx512f")]
    pub(super) fn columns(key: &[u32; 8], counter: u64, stream: u64, words: &mut [u32; SHEAF]) {
        let starts =
            [beginning(key, counter, stream), beginning(key, counter.wrapping_add(LANES as u64), stream)];
        let [mut x, mut y] = starts;
        for _ in 0..10 {
            quarters!(x, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
            quarters!(y, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
            quarters!(x, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
            quarters!(y, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
        }
        let (columns, _) = words.as_chunks_mut::<LANES>();
        for i in 0..WORDS {
            store(_mm512_add_epi32(x[i], starts[0][i]), &mut columns[i]);
            store(_mm512_add_epi32(y[i], starts[1][i]), &mut columns[WORDS + i]);
        }
    }

    /// From columns to one block after the other.
    #[target_feature(enable = "avx512f")]
    pub(super) fn in_order(words: &mut [u32; SHEAF]) {
        let (rows, _) = words.as_chunks_mut::<LANES>();
        for half in 0..BLOCKS / LANES {
            let rows = &mut rows[half * WORDS..][..WORDS];
            let mut columns = [load(&rows[0]); WORDS];
            for i in 1..WORDS {
                columns[i] = load(&rows[i]);
            }
            let blocks = transpose(&columns);
            for i in 0..WORDS {
                store(blocks[i], &mut rows[i]);
            }
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

    #[allow(unsafe_code, reason = "loads are intrinsics that take pointers")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; LANES]) -> __m512i {
        // SAFETY: sixteen words lie there.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[allow(unsafe_code, reason = "stores are intrinsics that take pointers")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(register: __m512i, words: &mut [u32; LANES]) {
        // SAFETY: sixteen words lie there.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) }
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
    fn columns_are_the_stream_in_another_order_on_every_machine() {
        let plain = || {
            let mut plain = ChaCha20Rng::from_seed([5; 32]);
            plain.set_stream(9);
            plain
        };
        let (mut here, mut anywhere) = (Columns::new([5; 32], 9, plain()), Columns(Source::Plain(plain())));
        let (mut stream, mut words) = (plain(), [[0; SHEAF]; 2]);
        for _ in 0..3 {
            here.next(&mut words[0]);
            anywhere.next(&mut words[1]);
            assert_eq!(words[0], words[1]);
            let mut in_order = [0; SHEAF];
            in_order.fill_with(|| stream.next_u32());
            assert!((0..SHEAF).all(|at| {
                let (block, word) = (at / WORDS, at % WORDS);
                in_order[at] == words[0][block / LANES * LANES * WORDS + word * LANES + block % LANES]
            }));
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
