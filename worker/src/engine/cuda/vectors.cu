// The vector kernels (`worker/src/engine/vectors`) for a GPU: the same arithmetic, one pass over memory.
//
// Compiled by NVRTC for the device that is found; a test compiles every kernel for sm_80 and sm_90.
// Every kernel takes any number of elements with any grid (grid-stride loops). Sums are partial: one
// f64 for each block, added by the caller in the order of the blocks, so that equal grids give equal
// bytes. Blocks have at most 1,024 threads, a multiple of 32.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EACH(i, n) \
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

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

// to = sum of a_t x_t; absent terms have a null pointer.
extern "C" __global__ void combine(float *to, u64 n, float a0, const float *x0, float a1, const float *x1,
                                   float a2, const float *x2, float a3, const float *x3, float a4,
                                   const float *x4, float a5, const float *x5) {
    EACH(i, n) {
        float sum = x0 ? a0 * x0[i] : 0.0f;
        if (x1) sum += a1 * x1[i];
        if (x2) sum += a2 * x2[i];
        if (x3) sum += a3 * x3[i];
        if (x4) sum += a4 * x4[i];
        if (x5) sum += a5 * x5[i];
        to[i] = sum;
    }
}

// partial[block] = sum of a_i b_i
extern "C" __global__ void dot(const float *a, const float *b, u64 n, double *partial) {
    double sum = 0.0;
    EACH(i, n) sum += (double)a[i] * b[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// x *= min(1, limit / norm), with the squared norm in device memory: clip without a way to the host.
extern "C" __global__ void clip(float *x, u64 n, const double *square, double limit) {
    double norm = sqrt(*square);
    float factor = norm > limit ? (float)(limit / norm) : 1.0f;
    EACH(i, n) x[i] *= factor;
}

// to = w + rho g / (norm of g + 1e-7), with the squared norm in device memory.
extern "C" __global__ void perturb(float *to, const float *w, const float *g, u64 n, const double *square,
                                   float rho) {
    float reach = (float)(rho / (sqrt(*square) + 1e-7));
    EACH(i, n) to[i] = w[i] + reach * g[i];
}

// g' = scale g + shift + prox (w - start) + decay w; m = momentum m + g'; w -= lr m (or g').
// Momentum, shift and start may be null.
extern "C" __global__ void descend(float *w, const float *grad, float *m, const float *shift,
                                   const float *start, u64 n, float lr, float scale, float decay, float prox,
                                   float momentum) {
    EACH(i, n) {
        float x = w[i];
        float g = scale * grad[i] + (shift ? shift[i] : 0.0f) + prox * (x - (start ? start[i] : x)) + decay * x;
        if (m) {
            g += momentum * m[i];
            m[i] = g;
        }
        w[i] = x - lr * g;
    }
}

// Adam with decoupled decay.
extern "C" __global__ void adam(float *w, const float *grad, float *first, float *second, u64 n, float lr,
                                float beta1, float beta2, float epsilon, float decay) {
    EACH(i, n) {
        float g = grad[i], x = w[i];
        float m = beta1 * first[i] + (1.0f - beta1) * g;
        float v = beta2 * second[i] + (1.0f - beta2) * g * g;
        first[i] = m;
        second[i] = v;
        w[i] = x - lr * (m / (sqrtf(v) + epsilon) + decay * x);
    }
}

// sums += round(x * scale), half to even
extern "C" __global__ void encode(i64 *sums, const float *x, u64 n, double scale) {
    EACH(i, n) sums[i] += __double2ll_rn((double)x[i] * scale);
}

// One scale, the largest magnitude / 127, for 256 scalars: one block of 256 threads for each such run.
extern "C" __global__ void quantise(const float *x, u64 n, signed char *codes, float *scales) {
    __shared__ float parts[8];
    for (u64 run = blockIdx.x; run * 256 < n; run += gridDim.x) {
        u64 i = run * 256 + threadIdx.x;
        float v = i < n ? x[i] : 0.0f, largest = fabsf(v);
        for (int lane = 16; lane > 0; lane /= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, lane));
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = largest;
        __syncthreads();
        for (int part = 0; part < 8; part++) largest = fmaxf(largest, parts[part]);
        __syncthreads();
        if (threadIdx.x == 0) scales[run] = largest / 127.0f;
        if (i < n) codes[i] = (signed char)__float2int_rn(v * (largest > 0.0f ? 127.0f / largest : 0.0f));
    }
}

extern "C" __global__ void dequantise(const signed char *codes, const float *scales, float *x, u64 n) {
    EACH(i, n) x[i] = (float)codes[i] * scales[i / 256];
}

// Of every `m` neighbours (at most 32) keeps the `k` largest in magnitude, the first of equals.
extern "C" __global__ void keep_of(float *x, u64 n, u32 k, u32 m) {
    EACH(group, (n + m - 1) / m) {
        u64 first = group * m;
        u32 size = n - first < m ? (u32)(n - first) : m, kept = 0;
        for (u32 round = 0; round < k && round < size; round++) {
            u32 best = 32, most = 0;
            for (u32 i = 0; i < size; i++) {
                u32 order = __float_as_uint(x[first + i]) & 0x7FFFFFFFu;
                if (!(kept >> i & 1) && (best == 32 || order > most)) best = i, most = order;
            }
            kept |= 1u << best;
        }
        for (u32 i = 0; i < size; i++)
            if (!(kept >> i & 1)) x[first + i] = 0.0f;
    }
}

// Adds to counts how many magnitudes have which digit (bits `low` .. `low + bits`, at most 11), among
// those whose bits above it are `prefix`: three of these passes find the threshold of the k largest.
extern "C" __global__ void count_digits(const float *x, u64 n, u32 prefix, u32 low, u32 bits, u64 *counts) {
    __shared__ u32 mine[2048];
    for (u32 i = threadIdx.x; i < 2048; i += blockDim.x) mine[i] = 0;
    __syncthreads();
    EACH(i, n) {
        u32 order = __float_as_uint(x[i]) & 0x7FFFFFFFu;
        if ((u64)order >> (low + bits) == prefix) atomicAdd(&mine[order >> low & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < 1u << bits; i += blockDim.x)
        if (mine[i]) atomicAdd(&counts[i], (u64)mine[i]);
}

// Zeroes magnitudes below the threshold, and those equal to it from element `last` on.
extern "C" __global__ void cut(float *x, u64 n, u32 threshold, u64 last) {
    EACH(i, n) {
        u32 order = __float_as_uint(x[i]) & 0x7FFFFFFFu;
        if (order < threshold || (order == threshold && i >= last)) x[i] = 0.0f;
    }
}

// squares[row] of each row; one block a row.
extern "C" __global__ void row_squares(const float *rows, u64 count, u64 width, double *squares) {
    for (u64 row = blockIdx.x; row < count; row += gridDim.x) {
        double sum = 0.0;
        for (u64 i = threadIdx.x; i < width; i += blockDim.x) {
            double v = rows[row * width + i];
            sum += v * v;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) squares[row] = sum;
    }
}

// sum += rows, each scaled down to norm `limit` if it is longer.
extern "C" __global__ void clipped_sum(const float *rows, u64 count, u64 width, const double *squares,
                                       double limit, float *sum) {
    EACH(i, width) {
        float total = sum[i];
        for (u64 row = 0; row < count; row++) {
            double norm = sqrt(squares[row]);
            total += (norm > limit ? (float)(limit / norm) : 1.0f) * rows[row * width + i];
        }
        sum[i] = total;
    }
}

// SplitMix64, as `algorithms::seed::mix`.
__device__ u64 mix(u64 x) {
    u64 z = x + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// Adds Gaussian noise named by key and index (Box and Muller on 32 bits each); simulations only.
extern "C" __global__ void add_noise(float *x, u64 n, float deviation, u64 key) {
    EACH(pair, (n + 1) / 2) {
        u64 word = mix(key ^ pair);
        double radius = ((double)(word >> 32) + 1.0) / 4294967296.0;
        double angle = (double)(u32)word / 4294967296.0;
        double length = deviation * sqrt(-2.0 * log(radius)), sine, cosine;
        sincospi(2.0 * angle, &sine, &cosine);
        x[2 * pair] += (float)(length * cosine);
        if (2 * pair + 1 < n) x[2 * pair + 1] += (float)(length * sine);
    }
}
