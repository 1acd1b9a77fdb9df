// Around the network: a batch from resident data, and the local step of every plan
// (`algorithms::local`), so that a whole local run needs the host for nothing but launches.
//
// state [2]: steps done, examples taken. A record of an example is five integers: row, label, mirrored,
// shift of rows, shift of columns.

#define RECORD 5

/// Images [channels, batch, height, width] from bytes, by the table [channels, 256] of normalised values;
/// what the pose moves in from outside is zero.
extern "C" __global__ void gather_pixels(const unsigned char *pixels, const int *records, const float *tables,
                                         float *out, unsigned *labels, const unsigned *state, unsigned n,
                                         unsigned channels, unsigned batch, unsigned height, unsigned width) {
    const int *first = records + (size_t)state[1] * RECORD;
    EACH(i, n) {
        unsigned x = i % width, y = i / width % height, b = i / (width * height) % batch;
        unsigned c = i / (width * height * batch);
        const int *record = first + b * RECORD;
        int row = (int)y + record[3], column = (int)x + record[4];
        float v = 0.0f;
        if (row >= 0 && row < (int)height && column >= 0 && column < (int)width) {
            if (record[2]) column = (int)width - 1 - column;
            size_t at = (((size_t)record[0] * channels + c) * height + row) * width + column;
            v = tables[c * 256 + pixels[at]];
        }
        out[i] = v;
        if (i < batch) labels[i] = (unsigned)first[i * RECORD + 1];
    }
}

/// [channels, batch, inner] from numbers [rows, channels, inner], shifted and scaled by columns if there
/// is a mean.
extern "C" __global__ void gather_numbers(const float *values, const int *records, const float *mean,
                                          const float *deviation, float *out, unsigned *labels,
                                          const unsigned *state, unsigned n, unsigned channels, unsigned batch,
                                          unsigned inner) {
    const int *first = records + (size_t)state[1] * RECORD;
    EACH(i, n) {
        unsigned p = i % inner, b = i / inner % batch, c = i / (inner * batch);
        unsigned column = c * inner + p;
        float v = values[(size_t)first[b * RECORD] * channels * inner + column];
        out[i] = mean ? (v - mean[column]) / deviation[column] : v;
        if (i < batch) labels[i] = (unsigned)first[i * RECORD + 1];
    }
}

/// Characters and what follows them, n of each, in runs of `length`.
extern "C" __global__ void gather_text(const unsigned *characters, const unsigned *following,
                                       const unsigned *starts, const int *records, unsigned *out,
                                       unsigned *labels, const unsigned *state, unsigned n, unsigned length) {
    const int *first = records + (size_t)state[1] * RECORD;
    EACH(i, n) {
        size_t from = (size_t)starts[first[i / length * RECORD]] + i % length;
        out[i] = characters[from];
        labels[i] = following[from];
    }
}

extern "C" __global__ void advance(unsigned *state, unsigned batch) {
    if (threadIdx.x) return;
    state[0] += 1;
    state[1] += batch;
}

// Numbers of a round, in this order.
#define LR 0
#define DECAY 1
#define CLIP 2
#define PROX 3
#define SCALE 4
#define RHO 5
#define MERGE 6
#define MOMENTUM 7
#define BETA1 8
#define BETA2 9
#define MIX 10
#define ONE 11
#define THRESHOLD 12
// Found in a step.
#define REACH 13
#define FACTOR 14

/// Squares by blocks of the grid, in f64; x begins where four neighbours may be read at once.
extern "C" __global__ void squares(const float *x, double *partial, unsigned n) {
    double sum = 0.0;
    EACH(i, n / 4) {
        Several<float, 4> some = several<4>(x + (size_t)i * 4);
        for (unsigned k = 0; k < 4; k++) sum += (double)some.v[k] * (double)some.v[k];
    }
    if (blockIdx.x == 0 && threadIdx.x < n % 4) {
        float last = x[n - 1 - threadIdx.x];
        sum += (double)last * (double)last;
    }
    sum = lanes_sum(sum, THREADS);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// From partial squares `ρ / (‖x‖ + 1e-7)` (clip = 0) or `min(1, C / (‖x‖ + 1e-6))`; one block.
extern "C" __global__ void factor(const double *partial, float *numbers, unsigned count, unsigned clip) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) sum += partial[i];
    double norm = sqrt(lanes_sum(sum, THREADS));
    if (threadIdx.x) return;
    if (clip) {
        double ratio = (double)numbers[CLIP] / (norm + 1e-6);
        numbers[FACTOR] = (float)(ratio < 1.0 ? ratio : ratio == ratio ? 1.0 : ratio);
    } else {
        numbers[REACH] = (float)((double)numbers[RHO] / (norm + 1e-7));
    }
}

/// to = w + numbers[which] · e, in bfloat16 as well (may be absent).
extern "C" __global__ void place(float *to, narrow_t *small, const float *w, const float *e, const float *numbers,
                                 unsigned which, unsigned n) {
    float a = numbers[which];
    EACH(i, n) {
        float v = w[i] + a * e[i];
        to[i] = v;
        if (small) small[i] = narrow(v);
    }
}

/// q = g − μ − s, in place.
extern "C" __global__ void dual_direction(float *grad, const float *dual, const float *anchor, unsigned n) {
    EACH(i, n) grad[i] = grad[i] - dual[i] - anchor[i];
}

/// μ ← μ + reach · q − s
extern "C" __global__ void dual_step(float *dual, const float *q, const float *anchor, const float *numbers,
                                     unsigned n) {
    float reach = numbers[REACH];
    EACH(i, n) dual[i] += reach * q[i] - anchor[i];
}

/// g ← α g + (1 − α) kept
extern "C" __global__ void merge(float *grad, const float *kept, const float *numbers, unsigned n) {
    float a = numbers[MERGE];
    EACH(i, n) grad[i] = a * grad[i] + (1.0f - a) * kept[i];
}

/// g ← s g, and for `compat` + v − λ w₀, before the clip.
extern "C" __global__ void correct(float *grad, const float *shift, const float *start, const float *numbers,
                                   unsigned compat, unsigned n) {
    float scale = numbers[SCALE], prox = numbers[PROX];
    EACH(i, n) {
        float g = scale * grad[i];
        if (compat) {
            if (shift) g += shift[i];
            g -= prox * start[i];
        }
        grad[i] = g;
    }
}

/// Where a step goes, and what it depends on.
struct Descent {
    float lr, prox, decay, factor, momentum;
    bool compat;
};

static __device__ __forceinline__ float descended(Descent d, float old, float grad, float start, float shift) {
    float g = d.factor * grad;
    if (d.compat) return old - d.lr * (g + (d.decay + d.prox) * old);
    return old - d.lr * (g + shift + d.prox * (old - start) + d.decay * old);
}

/// N neighbours of a step: nothing is read that does not count.
template <int N>
static __device__ __forceinline__ void descend_some(float *w, narrow_t *small, const float *grad,
                                                    const float *start, const float *shift, float *velocity,
                                                    Descent d) {
    Several<float, N> old = several<N>(w), g = several<N>(grad), from, moved, v, next;
    Several<narrow_t, N> rounded;
    bool near = !d.compat && d.prox != 0.0f, shifted = !d.compat && shift;
    if (near) from = several<N>(start);
    if (shifted) moved = several<N>(shift);
    if (velocity) v = several<N>(velocity);
    for (unsigned k = 0; k < N; k++) {
        next.v[k] = descended(d, old.v[k], g.v[k], near ? from.v[k] : old.v[k], shifted ? moved.v[k] : 0.0f);
        if (velocity) {
            v.v[k] = (next.v[k] - old.v[k]) + d.momentum * v.v[k];
            next.v[k] = old.v[k] + v.v[k];
        }
        rounded.v[k] = narrow(next.v[k]);
    }
    *(Several<float, N> *)w = next;
    if (velocity) *(Several<float, N> *)velocity = v;
    if (small) *(Several<narrow_t, N> *)small = rounded;
}

/// The step after `correct`: clean or compat; with a velocity (may be absent), heavy ball; the weights in
/// bfloat16 as well (may be absent). Vectors begin where four neighbours may be read at once.
extern "C" __global__ void descend(float *w, narrow_t *small, const float *grad, const float *start,
                                   const float *shift, float *velocity, const float *numbers, unsigned clipped,
                                   unsigned compat, unsigned n) {
    Descent d = {numbers[LR], numbers[PROX], numbers[DECAY], clipped ? numbers[FACTOR] : 1.0f,
                 numbers[MOMENTUM], compat != 0};
    EACH(i, n / 4 + n % 4) {
        bool four = i < n / 4;
        size_t at = four ? (size_t)i * 4 : n - n % 4 + (i - n / 4);
        narrow_t *own = small ? small + at : small;
        const float *moved = shift ? shift + at : shift;
        float *v = velocity ? velocity + at : velocity;
        if (four) descend_some<4>(w + at, own, grad + at, start + at, moved, v, d);
        else descend_some<1>(w + at, own, grad + at, start + at, moved, v, d);
    }
}

/// FedLADA's step after `correct` (never compat).
extern "C" __global__ void amsgrad(float *w, const float *grad, const float *start, const float *shift,
                                   float *first, float *second, float *largest, const float *global,
                                   const float *numbers, unsigned clipped, unsigned n) {
    float lr = numbers[LR], prox = numbers[PROX], decay = numbers[DECAY], mix = numbers[MIX];
    float beta1 = numbers[BETA1], beta2 = numbers[BETA2], factor = clipped ? numbers[FACTOR] : 1.0f;
    EACH(i, n) {
        float g = factor * grad[i];
        if (shift) g += shift[i];
        g += prox * (w[i] - start[i]);
        float m = beta1 * first[i] + (1.0f - beta1) * g;
        float v = beta2 * second[i] + (1.0f - beta2) * g * g;
        float most = v > largest[i] ? v : largest[i];
        first[i] = m;
        second[i] = v;
        largest[i] = most;
        w[i] -= lr * (mix * m / sqrtf(most) + (1.0f - mix) * global[i] + decay * w[i]);
    }
}

/// w ← sign(w) max(|w| − η κ, 0)
extern "C" __global__ void shrink(float *w, const float *numbers, unsigned n) {
    float least = numbers[LR] * numbers[THRESHOLD];
    EACH(i, n) {
        float v = w[i], size = fabsf(v) - least;
        w[i] = size > 0.0f ? copysignf(size, v) : v != v ? v : 0.0f;
    }
}

/// Where `frozen` is not 0 the gradient counts as zero.
extern "C" __global__ void mask(float *grad, const float *frozen, unsigned n) {
    EACH(i, n) if (frozen[i] != 0.0f) grad[i] = 0.0f;
}

/// Where `frozen` is not 0 the weights are those of the start.
extern "C" __global__ void restore(float *w, const float *start, const float *frozen, unsigned n) {
    EACH(i, n) if (frozen[i] != 0.0f) w[i] = start[i];
}
