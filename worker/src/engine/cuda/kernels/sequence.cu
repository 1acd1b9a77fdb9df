// Text: embedding, attention, the recurrence of an LSTM, GELU; and the loss.

extern "C" __global__ void embedding(const float *table, const unsigned *rows, float *y, unsigned n,
                                     unsigned width) {
    EACH(i, n) y[i] = table[(size_t)rows[i / width] * width + i % width];
}

/// The gradient of one row of the table a column of the grid, of one part of the sequence a row of it:
/// partial [parts, table rows, width].
extern "C" __global__ void embedding_back(const float *dy, const unsigned *rows, float *partial, unsigned count,
                                          unsigned width) {
    unsigned part = (count + gridDim.y - 1) / gridDim.y;
    unsigned first = blockIdx.y * part, last = min(first + part, count);
    for (unsigned k = threadIdx.x; k < width; k += blockDim.x) {
        float sum = 0.0f;
        for (unsigned r = first; r < last; r++)
            if (rows[r] == blockIdx.x) sum += dy[(size_t)r * width + k];
        partial[((size_t)blockIdx.y * gridDim.x + blockIdx.x) * width + k] = sum;
    }
}

extern "C" __global__ void gelu(const float *x, float *y, unsigned n) {
    EACH(i, n) y[i] = x[i] * (0.5f * (1.0f + erff(x[i] * 0.70710678f)));
}

extern "C" __global__ void gelu_back(const float *x, const float *dy, float *dx, unsigned n) {
    EACH(i, n) {
        float v = x[i];
        float slope = 0.5f * (1.0f + erff(v * 0.70710678f)) + v * 0.39894228f * expf(-0.5f * v * v);
        dx[i] = dy[i] * slope;
    }
}

// Attention: a row of the grid is one head of one sequence. `a` and `b` are matrices whose rows are
// `stride` apart and begin at (sequence · length · stride + head · size).

#define TILE 16
#define DEPTH 32

/// out [i, j] = factor · a_i · b_j for j ≤ i, 0 for others; a block does 16 × 16 of them.
extern "C" __global__ void attention_products(const float *a, const float *b, float *out, unsigned heads,
                                              unsigned length, unsigned size, unsigned a_stride,
                                              unsigned b_stride, float factor, unsigned tiles) {
    __shared__ float left[TILE][DEPTH + 1], right[TILE][DEPTH + 1];
    unsigned sequence = blockIdx.y / heads, head = blockIdx.y % heads;
    unsigned top = blockIdx.x / tiles * TILE, side = blockIdx.x % tiles * TILE;
    unsigned i = top + threadIdx.x / TILE, j = side + threadIdx.x % TILE;
    const float *x = a + (size_t)sequence * length * a_stride + head * size;
    const float *y = b + (size_t)sequence * length * b_stride + head * size;
    float sum = 0.0f;
    if (side < top + TILE)
        for (unsigned begin = 0; begin < size; begin += DEPTH) {
            __syncthreads();
            for (unsigned e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
                unsigned row = e / DEPTH, k = begin + e % DEPTH;
                left[row][e % DEPTH] = k < size && top + row < length ? x[(size_t)(top + row) * a_stride + k] : 0.0f;
                right[row][e % DEPTH] = k < size && side + row < length ? y[(size_t)(side + row) * b_stride + k] : 0.0f;
            }
            __syncthreads();
            for (unsigned k = 0; k < DEPTH; k++)
                sum = fmaf(left[threadIdx.x / TILE][k], right[threadIdx.x % TILE][k], sum);
        }
    if (i < length && j < length)
        out[((size_t)blockIdx.y * length + i) * length + j] = j <= i ? sum * factor : 0.0f;
}

/// out_i = Σ_{j ≤ i} m [i, j] · a_j
extern "C" __global__ void attention_rows(const float *m, const float *a, float *out, unsigned heads,
                                          unsigned length, unsigned size, unsigned a_stride,
                                          unsigned out_stride) {
    unsigned sequence = blockIdx.y / heads, head = blockIdx.y % heads;
    const float *matrix = m + (size_t)blockIdx.y * length * length;
    EACH(at, length * size) {
        unsigned i = at / size, e = at % size;
        const float *x = a + (size_t)sequence * length * a_stride + head * size + e;
        float sum = 0.0f;
        for (unsigned j = 0; j <= i; j++) sum = fmaf(matrix[i * length + j], x[(size_t)j * a_stride], sum);
        out[(size_t)(sequence * length + i) * out_stride + head * size + e] = sum;
    }
}

/// out_j = Σ_{i ≥ j} m [i, j] · a_i
extern "C" __global__ void attention_columns(const float *m, const float *a, float *out, unsigned heads,
                                             unsigned length, unsigned size, unsigned a_stride,
                                             unsigned out_stride) {
    unsigned sequence = blockIdx.y / heads, head = blockIdx.y % heads;
    const float *matrix = m + (size_t)blockIdx.y * length * length;
    EACH(at, length * size) {
        unsigned j = at / size, e = at % size;
        const float *x = a + (size_t)sequence * length * a_stride + head * size + e;
        float sum = 0.0f;
        for (unsigned i = j; i < length; i++) sum = fmaf(matrix[i * length + j], x[(size_t)i * a_stride], sum);
        out[(size_t)(sequence * length + j) * out_stride + head * size + e] = sum;
    }
}

/// Scores become weights that sum to 1, in place, 32 threads a row.
extern "C" __global__ void attention_softmax(float *scores, unsigned rows, unsigned length) {
    __shared__ float largest[THREADS];
    unsigned row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned seen = row < rows ? row % length + 1 : 0;
    float *own = scores + (size_t)row * length, most = __uint_as_float(0xff800000u);
    for (unsigned j = lane; j < seen; j += 32) most = fmaxf(most, own[j]);
    largest[threadIdx.x] = most;
    __syncthreads();
    for (unsigned half = 16; half > 0; half /= 2) {
        if (lane < half) largest[threadIdx.x] = fmaxf(largest[threadIdx.x], largest[threadIdx.x + half]);
        __syncthreads();
    }
    most = largest[threadIdx.x - lane];
    float sum = 0.0f;
    for (unsigned j = lane; j < seen; j += 32) {
        own[j] = expf(own[j] - most);
        sum += own[j];
    }
    float inverse = 1.0f / lanes_sum(sum, 32);
    for (unsigned j = lane; j < seen; j += 32) own[j] *= inverse;
}

/// Gradients of weights become gradients of scores, in place.
extern "C" __global__ void attention_softmax_back(float *gradient, const float *weights, unsigned rows,
                                                  unsigned length, float scale) {
    unsigned row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned seen = row < rows ? row % length + 1 : 0;
    size_t at = (size_t)row * length;
    float sum = 0.0f;
    for (unsigned j = lane; j < seen; j += 32) sum += gradient[at + j] * weights[at + j];
    float mean = lanes_sum(sum, 32);
    for (unsigned j = lane; j < seen; j += 32)
        gradient[at + j] = weights[at + j] * (gradient[at + j] - mean) * scale;
}

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// One step of an LSTM: gates [batch, length, 4 · size] are activated in place, cells and hidden
/// [batch, length, size] written.
extern "C" __global__ void lstm_step(float *gates, float *cells, float *hidden, unsigned batch, unsigned length,
                                     unsigned size, unsigned step) {
    EACH(at, batch * size) {
        unsigned e = at % size;
        size_t row = (size_t)(at / size) * length + step;
        float *own = gates + row * 4 * size + e;
        float i = sigmoid(own[0]), f = sigmoid(own[size]), g = tanhf(own[2 * size]), o = sigmoid(own[3 * size]);
        float c = (step ? f * cells[(row - 1) * size + e] : 0.0f) + i * g;
        own[0] = i;
        own[size] = f;
        own[2 * size] = g;
        own[3 * size] = o;
        cells[row * size + e] = c;
        hidden[row * size + e] = o * tanhf(c);
    }
}

/// The same backwards: above [batch, length, size] is the gradient of the hidden states, next [batch, size]
/// what the following step adds, carried [batch, size] the cells' gradient; writes that of the gates.
extern "C" __global__ void lstm_step_back(const float *gates, const float *cells, const float *above,
                                          const float *next, float *carried, float *gradient, unsigned batch,
                                          unsigned length, unsigned size, unsigned step) {
    EACH(at, batch * size) {
        unsigned e = at % size;
        size_t row = (size_t)(at / size) * length + step;
        const float *own = gates + row * 4 * size + e;
        float i = own[0], f = own[size], g = own[2 * size], o = own[3 * size];
        bool last = step + 1 == length;
        float squashed = tanhf(cells[row * size + e]);
        float dh = above[row * size + e] + (last ? 0.0f : next[at]);
        float dc = (last ? 0.0f : carried[at]) + dh * o * (1.0f - squashed * squashed);
        float *to = gradient + row * 4 * size + e;
        to[0] = dc * g * i * (1.0f - i);
        to[size] = dc * (step ? cells[(row - 1) * size + e] : 0.0f) * f * (1.0f - f);
        to[2 * size] = dc * i * (1.0f - g * g);
        to[3 * size] = dh * squashed * o * (1.0f - o);
        carried[at] = dc * f;
    }
}

/// Hidden states one step late, zero at first.
extern "C" __global__ void lstm_late(const float *hidden, float *late, unsigned n, unsigned length, unsigned size) {
    EACH(i, n) late[i] = i / size % length ? hidden[i - size] : 0.0f;
}

/// Rows of logits by 32 threads each: loss and hit of each row, and `scale` times the gradient (may be
/// absent). The first of equal logits is the prediction.
extern "C" __global__ void cross_entropy(const float *logits, const unsigned *labels, float *gradient,
                                         double *losses, unsigned *hits, unsigned rows, unsigned classes,
                                         float scale) {
    __shared__ float values[THREADS];
    __shared__ unsigned places[THREADS];
    unsigned row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned own = row < rows ? classes : 0;
    const float *from = logits + (size_t)row * classes;
    float best = __uint_as_float(0xff800000u);
    unsigned which = 0xffffffffu;
    for (unsigned j = lane; j < own; j += 32)
        if (from[j] > best || which == 0xffffffffu) {
            best = from[j];
            which = j;
        }
    values[threadIdx.x] = best;
    places[threadIdx.x] = which;
    __syncthreads();
    for (unsigned half = 16; half > 0; half /= 2) {
        if (lane < half) {
            float v = values[threadIdx.x + half];
            unsigned p = places[threadIdx.x + half];
            if (v > values[threadIdx.x] || (v == values[threadIdx.x] && p < places[threadIdx.x])) {
                values[threadIdx.x] = v;
                places[threadIdx.x] = p;
            }
        }
        __syncthreads();
    }
    best = values[threadIdx.x - lane];
    which = places[threadIdx.x - lane];
    float sum = 0.0f;
    for (unsigned j = lane; j < own; j += 32) sum += expf(from[j] - best);
    sum = lanes_sum(sum, 32);
    if (row >= rows) return;
    unsigned label = labels[row];
    if (lane == 0) {
        losses[row] = log((double)sum) + (double)best - (double)from[label];
        hits[row] = which == label && sum == sum;
    }
    if (gradient)
        for (unsigned j = lane; j < classes; j += 32)
            gradient[(size_t)row * classes + j] = expf(from[j] - best) * (scale / sum) - (j == label ? scale : 0.0f);
}

/// Sums of the rows' losses and hits, to the present step's place; one block.
extern "C" __global__ void tally(const double *losses, const unsigned *hits, double *loss, unsigned *correct,
                                 const unsigned *state, unsigned rows) {
    double sum = 0.0;
    unsigned count = 0;
    for (unsigned r = threadIdx.x; r < rows; r += THREADS) {
        sum += losses[r];
        count += hits[r];
    }
    sum = lanes_sum(sum, THREADS);
    count = lanes_sum(count, THREADS);
    if (threadIdx.x == 0) {
        loss[state[0]] = sum;
        correct[state[0]] = count;
    }
}
