// Group normalisation of images [channels, batch, inner] and layer normalisation of rows. The mean is
// subtracted before squaring: a one-pass variance cancels when the mean is large.

#define EPSILON 1e-5f

/// Mean and sum of squared differences of each of `planes` runs of `inner`, by `lanes` threads.
extern "C" __global__ void plane_moments(const float *x, float *mean, float *square, unsigned planes,
                                         unsigned inner, unsigned lanes) {
    unsigned at = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    const float *own = x + (size_t)at * inner;
    float sum = 0.0f, m2 = 0.0f;
    if (at < planes)
        for (unsigned e = lane; e < inner; e += lanes) sum += own[e];
    float m = lanes_sum(sum, lanes) / (float)inner;
    if (at < planes)
        for (unsigned e = lane; e < inner; e += lanes) m2 += (own[e] - m) * (own[e] - m);
    m2 = lanes_sum(m2, lanes);
    if (at < planes && lane == 0) {
        mean[at] = m;
        square[at] = m2;
    }
}

/// A block for each (group, example): statistics [batch, groups] from those of its planes [channels, batch]
/// (Chan et al. 1983).
extern "C" __global__ void group_moments(const float *means, const float *m2s, float *mean, float *inverse,
                                         unsigned channels, unsigned batch, unsigned inner) {
    unsigned own = channels / gridDim.x, b = blockIdx.y, first = blockIdx.x * own;
    float sum = 0.0f, m2 = 0.0f;
    for (unsigned k = threadIdx.x; k < own; k += THREADS) sum += means[(first + k) * batch + b];
    float m = lanes_sum(sum, THREADS) / (float)own;
    for (unsigned k = threadIdx.x; k < own; k += THREADS) {
        float d = means[(first + k) * batch + b] - m;
        m2 += m2s[(first + k) * batch + b] + (float)inner * d * d;
    }
    m2 = lanes_sum(m2, THREADS);
    if (threadIdx.x == 0) {
        mean[b * gridDim.x + blockIdx.x] = m;
        inverse[b * gridDim.x + blockIdx.x] = 1.0f / sqrtf(m2 / (float)(own * inner) + EPSILON);
    }
}

extern "C" __global__ void group_norm(const float *x, float *y, const float *mean, const float *inverse,
                                      const float *weight, const float *bias, unsigned n, unsigned channels,
                                      unsigned batch, unsigned inner, unsigned groups, unsigned relu) {
    EACH(i, n) {
        unsigned b = i / inner % batch, c = i / (inner * batch), s = b * groups + c / (channels / groups);
        float v = (x[i] - mean[s]) * (weight[c] * inverse[s]) + bias[c];
        y[i] = relu ? (v > 0.0f || v != v ? v : 0.0f) : v;
    }
}

/// For each (channel, example) the sums of the gradient and of its product with the normalised input, by
/// `lanes` threads: plain, scaled [channels, batch]. y: the rectified result, if there was a rectifier.
extern "C" __global__ void group_sums(const float *x, const float *dy, const float *y, const float *mean,
                                      const float *inverse, float *plain, float *scaled, unsigned channels,
                                      unsigned batch, unsigned inner, unsigned groups, unsigned lanes) {
    unsigned at = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    bool inside = at < channels * batch;
    float p = 0.0f, s = 0.0f, m = 0.0f, inv = 0.0f;
    if (inside) {
        unsigned c = at / batch, b = at % batch, of = b * groups + c / (channels / groups);
        m = mean[of];
        inv = inverse[of];
        for (unsigned e = threadIdx.x % lanes; e < inner; e += lanes) {
            size_t i = (size_t)at * inner + e;
            float g = y && !(y[i] > 0.0f) ? 0.0f : dy[i];
            p += g;
            s += g * (x[i] - m);
        }
    }
    p = lanes_sum(p, lanes);
    s = lanes_sum(s, lanes) * inv;
    if (inside && threadIdx.x % lanes == 0) {
        plain[at] = p;
        scaled[at] = s;
    }
}

/// A block for each (group, example): means over the group of weight · plain and weight · scaled.
extern "C" __global__ void group_totals(const float *plain, const float *scaled, const float *weight,
                                        float *first, float *second, unsigned channels, unsigned batch,
                                        unsigned inner) {
    unsigned own = channels / gridDim.x, b = blockIdx.y;
    float p = 0.0f, s = 0.0f;
    for (unsigned k = threadIdx.x; k < own; k += THREADS) {
        unsigned c = blockIdx.x * own + k;
        p += weight[c] * plain[c * batch + b];
        s += weight[c] * scaled[c * batch + b];
    }
    p = lanes_sum(p, THREADS);
    s = lanes_sum(s, THREADS);
    if (threadIdx.x == 0) {
        first[b * gridDim.x + blockIdx.x] = p / (float)(own * inner);
        second[b * gridDim.x + blockIdx.x] = s / (float)(own * inner);
    }
}

extern "C" __global__ void group_norm_back(const float *x, const float *dy, const float *y, float *dx,
                                           const float *mean, const float *inverse, const float *first,
                                           const float *second, const float *weight, unsigned n,
                                           unsigned channels, unsigned batch, unsigned inner, unsigned groups) {
    EACH(i, n) {
        unsigned b = i / inner % batch, c = i / (inner * batch), s = b * groups + c / (channels / groups);
        float g = y && !(y[i] > 0.0f) ? 0.0f : dy[i];
        float hat = (x[i] - mean[s]) * inverse[s];
        dx[i] = inverse[s] * (g * weight[c] - first[s] - hat * second[s]);
    }
}

/// Rows by `lanes` threads each.
extern "C" __global__ void layer_norm(const float *x, float *y, float *mean, float *inverse,
                                      const float *weight, const float *bias, unsigned rows, unsigned width,
                                      unsigned lanes) {
    unsigned row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    const float *from = x + (size_t)row * width;
    float sum = 0.0f;
    if (row < rows)
        for (unsigned k = lane; k < width; k += lanes) sum += from[k];
    float m = lanes_sum(sum, lanes) / (float)width;
    float square = 0.0f;
    if (row < rows)
        for (unsigned k = lane; k < width; k += lanes) square += (from[k] - m) * (from[k] - m);
    float inv = 1.0f / sqrtf(lanes_sum(square, lanes) / (float)width + EPSILON);
    if (row >= rows) return;
    for (unsigned k = lane; k < width; k += lanes)
        y[(size_t)row * width + k] = (from[k] - m) * inv * weight[k] + bias[k];
    if (lane == 0) {
        mean[row] = m;
        inverse[row] = inv;
    }
}

extern "C" __global__ void layer_norm_back(const float *x, const float *dy, float *dx, const float *mean,
                                           const float *inverse, const float *weight, unsigned rows,
                                           unsigned width, unsigned lanes) {
    unsigned row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    size_t at = (size_t)row * width;
    float p = 0.0f, s = 0.0f, m = 0.0f, inv = 0.0f;
    if (row < rows) {
        m = mean[row];
        inv = inverse[row];
        for (unsigned k = lane; k < width; k += lanes) {
            float g = dy[at + k] * weight[k];
            p += g;
            s += g * ((x[at + k] - m) * inv);
        }
    }
    p = lanes_sum(p, lanes) / (float)width;
    s = lanes_sum(s, lanes) / (float)width;
    if (row >= rows) return;
    for (unsigned k = lane; k < width; k += lanes)
        dx[at + k] = inv * (dy[at + k] * weight[k] - p - (x[at + k] - m) * inv * s);
}

/// As `sum_columns`, of dy (bias) and of dy times the normalised rows (weight).
extern "C" __global__ void layer_norm_columns(const float *x, const float *dy, const float *mean,
                                              const float *inverse, float *weight, float *bias, unsigned rows,
                                              unsigned width) {
    __shared__ float parts[2][8][33];
    unsigned lane = threadIdx.x % 32, line = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    unsigned part = (rows + gridDim.y - 1) / gridDim.y;
    unsigned first = blockIdx.y * part, last = min(first + part, rows);
    float p = 0.0f, s = 0.0f;
    if (column < width)
        for (unsigned r = first + line; r < last; r += 8) {
            float g = dy[(size_t)r * width + column];
            p += g;
            s += g * ((x[(size_t)r * width + column] - mean[r]) * inverse[r]);
        }
    parts[0][line][lane] = p;
    parts[1][line][lane] = s;
    __syncthreads();
    if (line == 0 && column < width) {
        for (unsigned k = 1; k < 8; k++) {
            p += parts[0][k][lane];
            s += parts[1][k][lane];
        }
        bias[(size_t)blockIdx.y * width + column] = p;
        weight[(size_t)blockIdx.y * width + column] = s;
    }
}
