// The vector kernels (`worker/src/engine/vectors`) for a GPU: the same arithmetic, one pass over memory.
//
// Compiled by NVRTC for the device that is found, without fused products, so that results are the CPU's to
// the bit wherever that says f32 or f64 step by step. Vectors begin at multiples of 16 bytes and are read
// four scalars at a time. Sums are of one f64 for each block of a grid that follows from the length
// alone, added in the order of the blocks. Blocks have 256 threads unless said otherwise.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EACH(i, n) \
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)
// Four neighbours, from `i` on; at the end of the vector there may be fewer.
#define QUADS(i, n) \
    for (u64 i = 4 * (blockIdx.x * (u64)blockDim.x + threadIdx.x); i < (n); i += 4 * (u64)gridDim.x * blockDim.x)
#define LANES(k) _Pragma("unroll") for (int k = 0; k < 4; k++)

// What is past the end, or all of it where there is no vector, is 0.
__device__ void read4(float (&v)[4], const float *x, u64 i, u64 n) {
    if (!x) {
        LANES(k) v[k] = 0.0f;
    } else if (i + 4 <= n) {
        float4 q = *(const float4 *)(x + i);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
        LANES(k) v[k] = i + k < n ? x[i + k] : 0.0f;
    }
}

__device__ void write4(float *x, u64 i, u64 n, const float (&v)[4]) {
    if (i + 4 <= n) {
        *(float4 *)(x + i) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        LANES(k) if (i + k < n) x[i + k] = v[k];
    }
}

// The sum over a block, valid in thread 0.
__device__ double block_sum(double value) {
    __shared__ double parts[32];
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, lane);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.0;
    if (threadIdx.x < 32)
        for (int lane = 16; lane > 0; lane /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, lane);
    return value;
}

// to = sum of a_t x_t; absent terms have a null pointer, and none comes before a present one.
extern "C" __global__ void combine(float *to, u64 n, float a0, const float *x0, float a1, const float *x1,
                                   float a2, const float *x2, float a3, const float *x3, float a4,
                                   const float *x4, float a5, const float *x5) {
    QUADS(i, n) {
        float v0[4], v1[4], v2[4], v3[4], v4[4], v5[4];
        read4(v0, x0, i, n), read4(v1, x1, i, n), read4(v2, x2, i, n);
        read4(v3, x3, i, n), read4(v4, x4, i, n), read4(v5, x5, i, n);
        LANES(k) {
            float sum = x0 ? a0 * v0[k] : 0.0f;
            if (x1) sum += a1 * v1[k];
            if (x2) sum += a2 * v2[k];
            if (x3) sum += a3 * v3[k];
            if (x4) sum += a4 * v4[k];
            if (x5) sum += a5 * v5[k];
            v0[k] = sum;
        }
        write4(to, i, n, v0);
    }
}

// partial[block] = sum of a_i b_i
extern "C" __global__ void dot(const float *a, const float *b, u64 n, double *partial) {
    double sum = 0.0;
    bool one = a == b;
    QUADS(i, n) {
        float v[4], w[4];
        read4(v, a, i, n);
        if (!one) read4(w, b, i, n);
        LANES(k) sum += (double)v[k] * (one ? v[k] : w[k]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// sums[block] = sum of the `count` parts of the block; 1,024 threads.
extern "C" __global__ void total(const double *parts, u64 count, double *sums) {
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[blockIdx.x * count + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// x *= min(1, limit / norm), with the squared norm in device memory: clip without a way to the host.
extern "C" __global__ void clip(float *x, u64 n, const double *square, double limit) {
    double norm = sqrt(*square);
    if (!(norm > limit)) return;
    float factor = (float)(limit / norm);
    QUADS(i, n) {
        float v[4];
        read4(v, x, i, n);
        LANES(k) v[k] *= factor;
        write4(x, i, n, v);
    }
}

// to = w + rho g / (norm of g + 1e-7), with the squared norm in device memory.
extern "C" __global__ void perturb(float *to, const float *w, const float *g, u64 n, const double *square,
                                   float rho) {
    float reach = (float)(rho / (sqrt(*square) + 1e-7));
    QUADS(i, n) {
        float v[4], d[4];
        read4(v, w, i, n), read4(d, g, i, n);
        LANES(k) v[k] += reach * d[k];
        write4(to, i, n, v);
    }
}

// g' = scale g + shift + prox (w - start) + decay w; m = momentum m + g'; w -= lr m (or g').
// Momentum, shift and start may be null.
extern "C" __global__ void descend(float *w, const float *grad, float *m, const float *shift,
                                   const float *start, u64 n, float lr, float scale, float decay, float prox,
                                   float momentum) {
    QUADS(i, n) {
        float x[4], g[4], v[4], from[4], old[4];
        read4(x, w, i, n), read4(g, grad, i, n), read4(v, shift, i, n);
        read4(from, start ? start : w, i, n), read4(old, m, i, n);
        LANES(k) {
            float d = scale * g[k] + v[k] + prox * (x[k] - from[k]) + decay * x[k];
            if (m) d = old[k] = momentum * old[k] + d;
            x[k] -= lr * d;
        }
        if (m) write4(m, i, n, old);
        write4(w, i, n, x);
    }
}

// Adam with decoupled decay.
extern "C" __global__ void adam(float *w, const float *grad, float *first, float *second, u64 n, float lr,
                                float beta1, float beta2, float epsilon, float decay) {
    QUADS(i, n) {
        float x[4], g[4], m[4], v[4];
        read4(x, w, i, n), read4(g, grad, i, n), read4(m, first, i, n), read4(v, second, i, n);
        LANES(k) {
            m[k] = beta1 * m[k] + (1.0f - beta1) * g[k];
            v[k] = beta2 * v[k] + (1.0f - beta2) * g[k] * g[k];
            x[k] -= lr * (m[k] / (sqrtf(v[k]) + epsilon) + decay * x[k]);
        }
        write4(first, i, n, m), write4(second, i, n, v), write4(w, i, n, x);
    }
}

// sums += round(x * scale), half to even
extern "C" __global__ void encode(i64 *sums, const float *x, u64 n, double scale) {
    QUADS(i, n) {
        float v[4];
        read4(v, x, i, n);
        if (i + 4 <= n) {
            longlong2 *to = (longlong2 *)(sums + i), a = to[0], b = to[1];
            a.x += __double2ll_rn((double)v[0] * scale), a.y += __double2ll_rn((double)v[1] * scale);
            b.x += __double2ll_rn((double)v[2] * scale), b.y += __double2ll_rn((double)v[3] * scale);
            to[0] = a, to[1] = b;
        } else {
            LANES(k) if (i + k < n) sums[i + k] += __double2ll_rn((double)v[k] * scale);
        }
    }
}

// One scale, the largest magnitude / 127, for 256 scalars: two warps, of 128 scalars each, a run.
extern "C" __global__ void quantise(const float *x, u64 n, signed char *codes, float *scales) {
    __shared__ float parts[8];
    u32 warp = threadIdx.x / 32;
    u64 i = 4 * (blockIdx.x * (u64)blockDim.x + threadIdx.x);
    float v[4], largest = 0.0f;
    read4(v, x, i, n);
    LANES(k) largest = fmaxf(largest, fabsf(v[k]));
    for (int lane = 16; lane > 0; lane /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, lane));
    if (threadIdx.x % 32 == 0) parts[warp] = largest;
    __syncthreads();
    largest = fmaxf(largest, parts[warp ^ 1]);
    if (i >= n) return;
    if (threadIdx.x % 64 == 0) scales[i / 256] = largest / 127.0f;
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    int code[4];
    LANES(k) code[k] = __float2int_rn(v[k] * inverse);
    if (i + 4 <= n)
        *(char4 *)(codes + i) = make_char4(code[0], code[1], code[2], code[3]);
    else
        LANES(k) if (i + k < n) codes[i + k] = (signed char)code[k];
}

extern "C" __global__ void dequantise(const signed char *codes, const float *scales, float *x, u64 n) {
    QUADS(i, n) {
        float scale = scales[i / 256], v[4];
        if (i + 4 <= n) {
            char4 code = *(const char4 *)(codes + i);
            v[0] = code.x * scale, v[1] = code.y * scale, v[2] = code.z * scale, v[3] = code.w * scale;
        } else {
            LANES(k) v[k] = i + k < n ? codes[i + k] * scale : 0.0f;
        }
        write4(x, i, n, v);
    }
}

__device__ u32 order(float v) { return __float_as_uint(v) & 0x7FFFFFFFu; }

// Of every four neighbours keeps the `keep` largest in magnitude, the first of equals.
extern "C" __global__ void keep_of_four(float *x, u64 n, u32 keep) {
    QUADS(i, n) {
        float v[4];
        u32 o[4];
        read4(v, x, i, n);
        LANES(k) o[k] = order(v[k]);
        LANES(k) {
            u32 before = 0;
            LANES(j) before += o[j] > o[k] || (o[j] == o[k] && j < k);
            if (before >= keep) v[k] = 0.0f;
        }
        write4(x, i, n, v);
    }
}

// The same of every `m`, at most 64.
extern "C" __global__ void keep_of(float *x, u64 n, u32 keep, u32 m) {
    EACH(group, (n + m - 1) / m) {
        u64 first = group * m, kept = 0;
        u32 size = n - first < m ? (u32)(n - first) : m;
        for (u32 round = 0; round < keep && round < size; round++) {
            u32 best = 64, most = 0;
            for (u32 i = 0; i < size; i++) {
                u32 o = order(x[first + i]);
                if (!(kept >> i & 1) && (best == 64 || o > most)) best = i, most = o;
            }
            kept |= 1ull << best;
        }
        for (u32 i = 0; i < size; i++)
            if (!(kept >> i & 1)) x[first + i] = 0.0f;
    }
}

// Of a search for the k-th magnitude.
struct Search {
    // The bits that are known, and which of those with these bits it is, from the top.
    u64 prefix, left;
    // How many have these bits, how many had those of the pass before, and how many of them are listed.
    u64 equal, candidates, listed;
    // Behind the last of its magnitude that stays; where few were candidates.
    u64 last;
};

// Candidates that are worth a list.
#define FEW 4096

// Nothing is known, k from the top.
extern "C" __global__ void begin(Search *search, u64 k) {
    if (threadIdx.x == 0) *search = {0, k, ~0ull, ~0ull, 0, 0};
}

// Adds to counts how many magnitudes have which digit (bits `low` .. `low + bits`, at most 11), among
// those whose bits above it are known: three of these passes find the threshold of the k largest. Where few
// are, the last pass lists them: place and digit.
extern "C" __global__ void count_digits(const float *x, u64 n, Search *search, u32 low, u32 bits, u64 *counts,
                                        u64 *list) {
    // Lanes count by turns in four places, since most digits are of a few.
    __shared__ u32 mine[4 * 2048];
    u64 prefix = search->prefix;
    bool few = low == 0 && search->equal <= FEW;
    for (u32 i = threadIdx.x; i < 4 * 2048; i += blockDim.x) mine[i] = 0;
    __syncthreads();
    u32 lane = threadIdx.x % 32, none = 1u << bits;
    // All threads go round as often, so that warps are whole.
    for (u64 first = 4 * (blockIdx.x * (u64)blockDim.x); first < n; first += 4 * (u64)gridDim.x * blockDim.x) {
        u64 i = first + 4 * threadIdx.x;
        float v[4];
        if (i < n) read4(v, x, i, n);
        LANES(k) {
            u32 o = i + k < n ? order(v[k]) : 0;
            bool counts_here = i + k < n && (u64)o >> (low + bits) == prefix;
            u32 digit = counts_here ? o >> low & (none - 1) : none;
            // What the first of a warp has many have, such as zeros.
            u32 common = __shfl_sync(0xFFFFFFFFu, digit, 0);
            u32 same = __ballot_sync(0xFFFFFFFFu, digit == common);
            if (digit == common) {
                if (lane == 0 && digit != none) atomicAdd(&mine[4 * digit], (u32)__popc(same));
            } else if (digit != none) {
                atomicAdd(&mine[4 * digit + lane % 4], 1u);
            }
            if (few && counts_here) {
                u64 slot = atomicAdd(&search->listed, 1ull);
                if (slot < FEW) list[slot] = (i + k) << 11 | digit;
            }
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < none; i += blockDim.x) {
        u32 sum = mine[4 * i] + mine[4 * i + 1] + mine[4 * i + 2] + mine[4 * i + 3];
        if (sum) atomicAdd(&counts[i], (u64)sum);
    }
}

// The digit of the magnitude that is `left` from the top joins the prefix; `left` is then how far from the
// top it is among those that share the digit. One block of 1,024 threads; leaves counts at 0.
extern "C" __global__ void next_digit(Search *search, u64 *counts, u32 bits) {
    __shared__ u64 above[2048];
    u32 size = 1u << bits;
    for (u32 i = threadIdx.x; i < 2048; i += blockDim.x) above[i] = i < size ? counts[i] : 0, counts[i] = 0;
    __syncthreads();
    Search old = *search;
    for (u32 step = 1; step < 2048; step *= 2) {
        u64 sums[2];
        for (u32 half = 0; half < 2; half++) {
            u32 i = threadIdx.x + 1024 * half;
            sums[half] = above[i] + (i + step < 2048 ? above[i + step] : 0);
        }
        __syncthreads();
        for (u32 half = 0; half < 2; half++) above[threadIdx.x + 1024 * half] = sums[half];
        __syncthreads();
    }
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) {
        u64 higher = i + 1 < size ? above[i + 1] : 0;
        if (above[i] >= old.left && higher < old.left)
            *search = {old.prefix << bits | i, old.left - higher, above[i] - higher, old.equal, old.listed, 0};
    }
}

// Looks in the list for the last of the threshold's magnitude that stays. One block of 1,024 threads.
extern "C" __global__ void last_listed(Search *search, const u64 *list) {
    __shared__ u64 places[FEW];
    __shared__ u32 count;
    if (search->candidates > FEW) return;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    u64 digit = search->prefix & 511, left = search->left;
    for (u64 i = threadIdx.x; i < search->listed; i += blockDim.x)
        if ((list[i] & 2047) == digit) places[atomicAdd(&count, 1u)] = list[i] >> 11;
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u64 before = 0;
        for (u32 other = 0; other < count; other++) before += places[other] < places[i];
        if (before + 1 == left) search->last = places[i] + 1;
    }
}

// Where there is no list: equal[chunk] = how many of its 4,096 have the threshold's magnitude.
extern "C" __global__ void count_equal(const float *x, u64 n, const Search *search, u64 *equal, u64 chunks) {
    u32 threshold = (u32)search->prefix;
    if (search->candidates <= FEW) return;
    for (u64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        double mine = 0.0;
        for (u32 part = 0; part < 4; part++) {
            u64 i = 4096 * chunk + 1024 * part + 4 * threadIdx.x;
            if (i >= n) break;
            float v[4];
            read4(v, x, i, n);
            LANES(k) mine += i + k < n && order(v[k]) == threshold;
        }
        mine = block_sum(mine);
        if (threadIdx.x == 0) equal[chunk] = (u64)mine;
    }
}

// Where there is no list, each count becomes the sum of those before it. One block of 1,024 threads.
extern "C" __global__ void sums_before(const Search *search, u64 *counts, u64 n) {
    __shared__ u64 parts[1024];
    if (search->candidates <= FEW) return;
    u64 each = (n + 1023) / 1024, first = each * threadIdx.x, mine = 0;
    for (u64 i = first; i < first + each && i < n; i++) mine += counts[i];
    parts[threadIdx.x] = mine;
    __syncthreads();
    for (u32 step = 1; step < 1024; step *= 2) {
        u64 sum = parts[threadIdx.x] + (threadIdx.x >= step ? parts[threadIdx.x - step] : 0);
        __syncthreads();
        parts[threadIdx.x] = sum;
        __syncthreads();
    }
    u64 sum = parts[threadIdx.x] - mine;
    for (u64 i = first; i < first + each && i < n; i++) {
        u64 count = counts[i];
        counts[i] = sum;
        sum += count;
    }
}

// Zeroes magnitudes below the threshold, and those equal to it after the first `left` of all. `before`, where
// there is no list: how many are equal before each chunk.
extern "C" __global__ void cut(float *x, u64 n, const Search *search, const u64 *before) {
    __shared__ u32 counts[256];
    __shared__ u64 last;
    u32 threshold = (u32)search->prefix;
    bool listed = search->candidates <= FEW;
    u64 start = 4096 * (u64)blockIdx.x, left = search->left, here = listed ? left : before[blockIdx.x];
    // Only where the chunk may hold the last one that stays, it is looked for.
    bool all = listed || (blockIdx.x + 1 < gridDim.x && before[blockIdx.x + 1] <= left);
    if (threadIdx.x == 0) last = listed ? search->last : all ? n : 0;
    if (!all && here < left) {
        u64 first = start + 16 * threadIdx.x;
        u32 mine = 0;
        for (u64 i = first; i < first + 16 && i < n; i++) mine += order(x[i]) == threshold;
        counts[threadIdx.x] = mine;
        __syncthreads();
        u64 sum = here;
        for (u32 t = 0; t < threadIdx.x; t++) sum += counts[t];
        for (u64 i = first; i < first + 16 && i < n; i++)
            if (order(x[i]) == threshold && ++sum == left) last = i + 1;
    }
    __syncthreads();
    for (u32 part = 0; part < 4; part++) {
        u64 i = start + 1024 * part + 4 * threadIdx.x;
        if (i >= n) break;
        float v[4];
        read4(v, x, i, n);
        LANES(k) {
            u32 o = order(v[k]);
            if (o < threshold || (o == threshold && i + k >= last)) v[k] = 0.0f;
        }
        write4(x, i, n, v);
    }
}

// partial[row * parts + part] = the squares of a part of a row; `parts` blocks a row. Only rows of whole
// quads begin where quads may be read.
extern "C" __global__ void row_squares(const float *rows, u64 width, u64 parts, double *partial) {
    u64 each = ((width + parts - 1) / parts + 3) / 4 * 4, part = blockIdx.x % parts;
    u64 from = part * each, to = from + each < width ? from + each : width;
    const float *row = rows + blockIdx.x / parts * width;
    double sum = 0.0;
    if (width % 4 == 0) {
        for (u64 i = from + 4 * threadIdx.x; i < to; i += 4 * blockDim.x) {
            float v[4];
            read4(v, row, i, to);
            LANES(k) sum += (double)v[k] * v[k];
        }
    } else {
        for (u64 i = from + threadIdx.x; i < to; i += blockDim.x) sum += (double)row[i] * row[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norms = roots of the squares, factors = what brings each norm down to the limit.
extern "C" __global__ void clip_factors(double *squares, u64 count, double limit, float *factors) {
    EACH(i, count) {
        double norm = squares[i] = sqrt(squares[i]);
        factors[i] = norm > limit ? (float)(limit / norm) : 1.0f;
    }
}

// sum += factor * row, for each row.
extern "C" __global__ void add_rows(const float *rows, u64 count, u64 width, const float *factors, float *sum) {
    if (width % 4 == 0) {
        QUADS(i, width) {
            float total[4], v[4];
            read4(total, sum, i, width);
#pragma unroll 4
            for (u64 row = 0; row < count; row++) {
                float factor = factors[row];
                read4(v, rows + row * width, i, width);
                LANES(k) total[k] += factor * v[k];
            }
            write4(sum, i, width, total);
        }
    } else {
        EACH(i, width) {
            float total = sum[i];
#pragma unroll 4
            for (u64 row = 0; row < count; row++) total += factors[row] * rows[row * width + i];
            sum[i] = total;
        }
    }
}

// SplitMix64, as `algorithms::seed::mix`.
__device__ u64 mix(u64 x) {
    u64 z = x + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// The steps of `vectors/noise.rs`, one by one, so that noise is the CPU's to the bit. -2 ln of the odd
// multiple of 2^-31 that the bits name.
__device__ float radius_square(u32 bits) {
    u32 shifted = __float_as_uint((float)(int)(bits >> 1 | 1)) + (0x3f800000u - 0x3f3504f3u);
    float k = (float)((int)(shifted >> 23) - (127 + 31));
    float f = __uint_as_float((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float p = 7.0376836e-2f * f - 1.151461e-1f;
    p = p * f + 1.1676999e-1f;
    p = p * f - 1.2420141e-1f;
    p = p * f + 1.4249323e-1f;
    p = p * f - 1.6668058e-1f;
    p = p * f + 2.0000715e-1f;
    p = p * f - 2.4999994e-1f;
    p = p * f + 3.333333e-1f;
    float z = f * f;
    return -2.0f * (f * z * p + k * -2.1219444e-4f - 0.5f * z + f + k * 0.6933594f);
}

// Cosine and sine of 2 pi times the 32 bits' part of a turn.
__device__ void turn(u32 bits, float &cosine, float &sine) {
    u32 quarter = (bits + (1u << 29)) >> 30;
    float x = (float)(int)(bits - (quarter << 30)) * 1.4629181e-9f, z = x * x;
    float s = ((-1.9515296e-4f * z + 8.332161e-3f) * z - 1.6666655e-1f) * z * x + x;
    float c = ((2.4433157e-5f * z - 1.3887316e-3f) * z + 4.1666646e-2f) * z * z - 0.5f * z + 1.0f;
    bool odd = quarter & 1;
    cosine = __uint_as_float(__float_as_uint(odd ? s : c) ^ ((quarter + 1) & 2) << 30);
    sine = __uint_as_float(__float_as_uint(odd ? c : s) ^ (quarter & 2) << 30);
}

// Adds Gaussian noise named by key and index (Box and Muller on 32 bits each); simulations only.
extern "C" __global__ void add_noise(float *x, u64 n, float deviation, u64 key) {
    QUADS(i, n) {
        float v[4];
        read4(v, x, i, n);
        for (int pair = 0; pair < 2; pair++) {
            u64 word = mix(key ^ (i / 2 + pair));
            float length = deviation * sqrtf(radius_square((u32)(word >> 32))), cosine, sine;
            turn((u32)word, cosine, sine);
            v[2 * pair] += length * cosine;
            v[2 * pair + 1] += length * sine;
        }
        write4(x, i, n, v);
    }
}
