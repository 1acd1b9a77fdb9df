// Exact Gaussian noise on an integer grid: `privacy::sampler` on a GPU, the same integers from the same
// key. One block of threads is one shard of a vector (65,536 scalars): it follows the shard's ChaCha20
// stream in batches of 512 attempts as the CPU does, an attempt a thread. What the 64 bits of an attempt
// leave open is decided by f64 in its thread, and where that draws more bits, in order by the first thread.
// Nothing is rounded by the machine's own exponential function.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define BATCH 512u
#define SHARD 65536u
#define BLOCKS 512u
#define WORDS (16u * BLOCKS)
#define SLOTS 1024u
#define CUT_BITS 14
#define OFFSET_BITS 28
#define NARROW_BITS 20
#define TRIAL_BITS 19
#define SURE_BITS 16
#define EXP_ERROR 3e-14
#define LIMBS 6
#define DROPPED ((i64)0x8000000000000000ull)

// As `privacy::sampler::Tables`, in its order.
struct Tables {
    u64 discrete, bits, round, shift, known_bits;
    double kappa;
    u64 exact_kappa[LIMBS];
};

__device__ u32 rotated(u32 v, int by) { return v << by | v >> (32 - by); }

#define QUARTER(a, b, c, d)                                              \
    s[a] += s[b], s[d] = rotated(s[d] ^ s[a], 16), s[c] += s[d],         \
    s[b] = rotated(s[b] ^ s[c], 12), s[a] += s[b], s[d] = rotated(s[d] ^ s[a], 8), \
    s[c] += s[d], s[b] = rotated(s[b] ^ s[c], 7)

// A block of the stream (Bernstein 2008, 64-bit counter and nonce).
__device__ void chacha(u32 (&s)[16], const u32 *key, u64 counter, u64 stream) {
    const u32 start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, key[0], key[1], key[2], key[3],
                           key[4], key[5], key[6], key[7], (u32)counter, (u32)(counter >> 32), (u32)stream,
                           (u32)(stream >> 32)};
#pragma unroll
    for (int i = 0; i < 16; i++) s[i] = start[i];
#pragma unroll 1
    for (int round = 0; round < 10; round++) {
        QUARTER(0, 4, 8, 12), QUARTER(1, 5, 9, 13), QUARTER(2, 6, 10, 14), QUARTER(3, 7, 11, 15);
        QUARTER(0, 5, 10, 15), QUARTER(1, 6, 11, 12), QUARTER(2, 7, 8, 13), QUARTER(3, 4, 9, 14);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) s[i] += start[i];
}

// Where word `w` of the buffer lies: quarters of a block change places, for the banks of shared memory.
__device__ u32 place(u32 w) {
    u32 block = w / 16, quarter = w / 4 % 4;
    return 16 * block + 4 * (quarter ^ (block >> 1 & 3)) + w % 4;
}

// The stream of a shard, and how far it is read.
struct Stream {
    const u32 *key;
    u64 number;
    u32 base, at;
};

// Words from `at` on for a batch; all threads.
__device__ void refill(Stream &stream, u32 *buffer, u32 needed) {
    if (stream.at + needed <= stream.base + WORDS) return;
    __syncthreads();
    stream.base = stream.at / 16 * 16;
    for (u32 block = threadIdx.x; block < BLOCKS; block += blockDim.x) {
        u32 s[16];
        chacha(s, stream.key, stream.base / 16 + block, stream.number);
#pragma unroll
        for (u32 quarter = 0; quarter < 4; quarter++)
            *(uint4 *)(buffer + place(16 * block + 4 * quarter)) =
                make_uint4(s[4 * quarter], s[4 * quarter + 1], s[4 * quarter + 2], s[4 * quarter + 3]);
    }
    __syncthreads();
}

// The next 64 bits; one thread.
__device__ u64 next(Stream &stream, const u32 *buffer) {
    u32 words[2];
    for (int i = 0; i < 2; i++, stream.at++) {
        if (stream.at - stream.base < WORDS) {
            words[i] = buffer[place(stream.at - stream.base)];
        } else {
            u32 s[16], at = stream.at % 16;
            chacha(s, stream.key, stream.at / 16, stream.number);
            for (u32 k = 0; k < 16; k++)
                if (k == at) words[i] = s[k];
        }
    }
    return (u64)words[1] << 32 | words[0];
}

// `privacy::sampler::fixed`: numbers in [0, 1) with 384 binary digits, the most significant limb first.
struct Fixed {
    u64 limb[LIMBS];
};

__device__ Fixed whole(u64 limb) {
    Fixed out;
    for (int i = 0; i < LIMBS; i++) out.limb[i] = limb;
    return out;
}

__device__ __noinline__ Fixed add(const Fixed &a, const Fixed &b) {
    Fixed out;
    u64 carry = 0;
    for (int i = LIMBS - 1; i >= 0; i--) {
        u64 sum = a.limb[i] + b.limb[i], total = sum + carry;
        carry = (sum < a.limb[i]) + (total < sum);
        out.limb[i] = total;
    }
    return carry ? whole(~0ull) : out;
}

__device__ __noinline__ Fixed sub(const Fixed &a, const Fixed &b) {
    Fixed out;
    u64 borrow = 0;
    for (int i = LIMBS - 1; i >= 0; i--) {
        u64 difference = a.limb[i] - b.limb[i], rest = difference - borrow;
        borrow = (a.limb[i] < b.limb[i]) + (difference < borrow);
        out.limb[i] = rest;
    }
    return out;
}

// high:low = a b + c + d
__device__ u64 multiply(u64 a, u64 b, u64 c, u64 d, u64 &high) {
    u64 low = a * b, up = __umul64hi(a, b);
    low += c, up += low < c;
    low += d, up += low < d;
    high = up;
    return low;
}

__device__ __noinline__ Fixed times(const Fixed &a, u64 factor) {
    Fixed out;
    u64 carry = 0;
    for (int i = LIMBS - 1; i >= 0; i--) out.limb[i] = multiply(a.limb[i], factor, carry, 0, carry);
    return out;
}

__device__ __noinline__ Fixed mul(const Fixed &a, const Fixed &b) {
    u64 product[2 * LIMBS] = {};
    for (int i = LIMBS - 1; i >= 0; i--) {
        u64 carry = 0;
        for (int j = LIMBS - 1; j >= 0; j--)
            product[i + j + 1] = multiply(a.limb[i], b.limb[j], product[i + j + 1], carry, carry);
        product[i] = carry;
    }
    Fixed out;
    for (int i = 0; i < LIMBS; i++) out.limb[i] = product[i];
    return out;
}

// For divisors below 2^31.
__device__ __noinline__ Fixed divided(const Fixed &a, u32 divisor) {
    Fixed out;
    u64 rest = 0;
    for (int i = 0; i < LIMBS; i++) {
        u64 high = rest << 32 | a.limb[i] >> 32;
        rest = high % divisor;
        u64 low = rest << 32 | (a.limb[i] & 0xffffffffu);
        rest = low % divisor;
        out.limb[i] = high / divisor << 32 | low / divisor;
    }
    return out;
}

// By fewer bits than a limb has.
__device__ __noinline__ Fixed shifted(const Fixed &a, u32 bits) {
    if (bits == 0) return a;
    Fixed out;
    for (int i = LIMBS - 1; i >= 0; i--)
        out.limb[i] = a.limb[i] >> bits | (i > 0 ? a.limb[i - 1] << (64 - bits) : 0);
    return out;
}

// e^-x for x < 1.
__device__ __noinline__ Fixed exp_negative(const Fixed &part) {
    Fixed x = shifted(part, 16), plus = x, minus = whole(0), term = x;
    for (u32 k = 2; k <= 24; k++) {
        term = divided(mul(term, x), k);
        if (k % 2 == 0)
            minus = add(minus, term);
        else
            plus = add(plus, term);
    }
    Fixed power = sub(whole(~0ull), sub(plus, minus));
    for (int i = 0; i < 16; i++) power = mul(power, power);
    return power;
}

// Value / 2^bits, for a value below 2^bits and fewer than 64 bits.
__device__ Fixed fraction(u64 value, u32 bits) {
    Fixed out = whole(0);
    out.limb[0] = bits ? value << (64 - bits) : 0;
    return out;
}

__device__ bool less(const u64 *a, const u64 *b, int limbs) {
    for (int i = 0; i < limbs; i++)
        if (a[i] != b[i]) return a[i] < b[i];
    return false;
}

// The exponential function as the crate libm has it (FreeBSD's, by Sun Microsystems, 2004), for
// -0.5 < x <= 0.
__device__ double exponential(double x) {
    u32 high = (u32)((u64)__double_as_longlong(x) >> 32) & 0x7fffffffu;
    if (high <= 0x3e300000u) return 1.0 + x;
    bool half = high > 0x3fd62e42u;
    double hi = x, lo = 0.0;
    if (half) {
        hi = x - -1.0 * 6.93147180369123816490e-01;
        lo = -1.0 * 1.90821492927058770002e-10;
        x = hi - lo;
    }
    double xx = x * x;
    double c = x - xx * (1.66666666666666019037e-01 +
                         xx * (-2.77777777770155933842e-03 +
                               xx * (6.61375632143793436117e-05 +
                                     xx * (-1.65339022054652515390e-06 + xx * 4.13813679705723846039e-08))));
    double y = 1.0 + (x * c / (2.0 - c) - lo + hi);
    return half ? y * 0.5 : y;
}

// An attempt: its 64 bits, eight more of its offset, and what they say.
struct Attempt {
    u64 word, low;
    __device__ u32 slot() const { return (u32)(word >> 54); }
    __device__ u64 fraction() const { return word >> 40 & ((1u << CUT_BITS) - 1); }
    __device__ u64 offset() const { return (word >> 20 & ((1u << NARROW_BITS) - 1)) << 8 | low; }
    __device__ u64 trial() const { return word >> 1 & ((1u << TRIAL_BITS) - 1); }
};

__device__ u64 choose(u64 slot, u64 own, bool is_own) { return is_own ? own : slot >> 16 & 0x3ff; }

__device__ i64 noise_at(const Tables &plan, const Attempt &a, u64 block) {
    u64 offset = a.offset() >> (OFFSET_BITS - plan.bits);
    i64 size = (i64)(((block << plan.bits) + offset + plan.round) >> plan.shift), sign = -(i64)(a.word & 1);
    // 0 of the discrete law has one sign only.
    return plan.discrete && size + sign == -1 ? DROPPED : (size ^ sign) - sign;
}

__device__ u32 known_bits(const Tables &plan) { return (u32)(plan.discrete ? plan.bits : plan.known_bits); }

// 1: kept; 0: not; -1: f64 does not tell.
__device__ int accepts(const Tables &plan, const Attempt &a, u64 block) {
    u32 bits = known_bits(plan);
    u64 known = a.offset() >> (OFFSET_BITS - bits), trial = a.trial();
    double cell = 1.0 / (double)(1ull << bits), one = 1.0 / (double)(1u << TRIAL_BITS);
    double low = (double)known * cell, high = low + (plan.discrete ? 0.0 : cell), twice = 2.0 * (double)block;
    if ((double)(trial + 1) * one <= exponential(-plan.kappa * high * (twice + high)) * (1.0 - EXP_ERROR)) return 1;
    if ((double)trial * one >= exponential(-plan.kappa * low * (twice + low)) * (1.0 + EXP_ERROR)) return 0;
    return -1;
}

__device__ Fixed drawn(Stream &stream, const u32 *buffer) {
    Fixed out = whole(0);
    for (int i = 0; i < 3; i++) out.limb[i] = next(stream, buffer);
    return out;
}

__device__ __noinline__ bool accepts_exactly(const Tables &plan, const Attempt &a, u64 block, Stream &stream, const u32 *buffer) {
    u32 bits = known_bits(plan);
    Fixed t = fraction(a.offset() >> (OFFSET_BITS - bits), bits), kappa;
    if (!plan.discrete) t = add(t, shifted(drawn(stream, buffer), bits));
    for (int i = 0; i < LIMBS; i++) kappa.limb[i] = plan.exact_kappa[i];
    Fixed scaled = mul(kappa, t), exponent = add(times(scaled, 2 * block), mul(scaled, t));
    Fixed trial = add(fraction(a.trial(), TRIAL_BITS), shifted(drawn(stream, buffer), TRIAL_BITS));
    return less(trial.limb, exp_negative(exponent).limb, LIMBS);
}

// What an attempt comes to that needs more bits; the first thread, in order.
__device__ __noinline__ i64 decide(const Tables &plan, const Attempt &a, u64 slot, const u64 *cuts, Stream &stream,
                      const u32 *buffer) {
    bool is_own = a.fraction() < (slot & 0xffff);
    if (a.fraction() == (slot & 0xffff)) {
        Fixed more = drawn(stream, buffer), draw = shifted(more, CUT_BITS);
        draw.limb[0] |= a.fraction() << (64 - CUT_BITS);
        is_own = less(draw.limb, cuts + 3 * a.slot(), 3);
    }
    u64 block = choose(slot, a.slot(), is_own);
    int kept = accepts(plan, a, block);
    if (kept < 0) kept = accepts_exactly(plan, a, block, stream, buffer);
    return kept ? noise_at(plan, a, block) : DROPPED;
}

// sums += unit * noise, wrapping. Blocks of 512 threads, one for each shard.
extern "C" __global__ void __launch_bounds__(512, 2)
    gaussian(i64 *sums, u64 n, i64 unit, u64 key0, u64 key1, u64 key2, u64 key3, u32 vector, const u64 *slots,
             const u64 *cuts, const Tables *given) {
    __shared__ __align__(16) u32 buffer[WORDS];
    __shared__ u64 table[SLOTS];
    __shared__ u32 pending[BATCH / 32], kept[BATCH / 32], read_to;
    __shared__ i64 decided[BATCH];
    __shared__ Tables plan;
    // The words of the key, two by two.
    __shared__ u64 key[4];
    if (threadIdx.x == 0) plan = *given, key[0] = key0, key[1] = key1, key[2] = key2, key[3] = key3;
    u64 start = (u64)blockIdx.x * SHARD, i = threadIdx.x;
    u32 count = n - start < SHARD ? (u32)(n - start) : SHARD, filled = 0, warp = threadIdx.x / 32;
    for (u32 k = threadIdx.x; k < SLOTS; k += BATCH) table[k] = slots[k];
    __syncthreads();
    Stream stream = {(const u32 *)key, (u64)vector << 32 | blockIdx.x, 0, 0};
    bool wide = plan.known_bits > NARROW_BITS, first = true;
    u32 needed = 2 * BATCH + (wide ? BATCH / 4 : 0);
    while (filled < count) {
        // At first nothing is in the buffer.
        refill(stream, buffer, first ? WORDS + 1 : needed);
        first = false;
        u32 from = stream.at - stream.base;
        Attempt a = {buffer[place(from + 2 * i)] | (u64)buffer[place(from + 2 * i + 1)] << 32, 0};
        if (wide) a.low = buffer[place(from + 2 * BATCH + i / 4)] >> (8 * (i % 4)) & 0xff;
        stream.at += needed;

        u64 slot = table[a.slot()], cut = slot & 0xffff;
        bool is_own = a.fraction() < cut, open = a.fraction() == cut;
        u64 block = choose(slot, a.slot(), is_own), sure = (is_own ? slot >> 26 : slot >> 43) & 0x1ffff;
        i64 noise = noise_at(plan, a, block);
        if (!open && a.trial() >> (TRIAL_BITS - SURE_BITS) >= sure) {
            int is_kept = accepts(plan, a, block);
            open = is_kept < 0;
            if (is_kept == 0) noise = DROPPED;
        }
        u32 mask = __ballot_sync(0xFFFFFFFFu, open);
        if (threadIdx.x % 32 == 0) pending[warp] = mask;
        if (__syncthreads_or(open)) {
            if (open) decided[i] = (i64)a.word;
            __syncthreads();
            if (threadIdx.x == 0) {
                for (u32 w = 0; w < BATCH / 32; w++)
                    for (u32 left = pending[w]; left; left &= left - 1) {
                        u32 which = 32 * w + (__ffs(left) - 1);
                        Attempt b = {(u64)decided[which], 0};
                        if (wide) b.low = buffer[place(from + 2 * BATCH + which / 4)] >> (8 * (which % 4)) & 0xff;
                        decided[which] = decide(plan, b, table[b.slot()], cuts, stream, buffer);
                    }
                read_to = stream.at;
            }
            __syncthreads();
            stream.at = read_to;
            if (open) noise = decided[i];
        }
        mask = __ballot_sync(0xFFFFFFFFu, noise != DROPPED);
        if (threadIdx.x % 32 == 0) kept[warp] = __popc(mask);
        __syncthreads();
        u32 at = filled + __popc(mask & ((1u << threadIdx.x % 32) - 1)), all = 0;
        for (u32 w = 0; w < BATCH / 32; w++) {
            at += w < warp ? kept[w] : 0;
            all += kept[w];
        }
        if (noise != DROPPED && at < count) sums[start + at] = (i64)((u64)sums[start + at] + (u64)noise * (u64)unit);
        filled += all;
        // Before the counts of the next batch are written.
        __syncthreads();
    }
}
