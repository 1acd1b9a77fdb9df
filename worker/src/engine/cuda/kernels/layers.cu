// Layers of images and rows: bias and rectifier, sums, convolution's patches, pooling, normalisation.

extern "C" __global__ void narrow_all(const float *x, narrow_t *y, unsigned n) {
    EACH(i, n) y[i] = narrow(x[i]);
}

/// y = x + bias (none: 0), rectified if asked for, in bfloat16 as well (may be absent); element i has bias
/// (i / inner) % width.
extern "C" __global__ void bias_act(const float *x, float *y, narrow_t *small, const float *bias, unsigned n,
                                    unsigned inner, unsigned width, unsigned relu) {
    EACH(i, n) {
        float v = x[i];
        if (bias) v += bias[i / inner % width];
        v = relu ? (v > 0.0f || v != v ? v : 0.0f) : v;
        y[i] = v;
        if (small) small[i] = narrow(v);
    }
}

/// The gradient before the rectifier whose result was y (none: there was none), as f32 and as bfloat16
/// (either may be absent).
extern "C" __global__ void relu_back(const float *dy, const float *y, float *wide, narrow_t *small, unsigned n) {
    EACH(i, n) {
        float v = y && !(y[i] > 0.0f) ? 0.0f : dy[i];
        if (wide) wide[i] = v;
        if (small) small[i] = narrow(v);
    }
}

extern "C" __global__ void add_to(float *sum, const float *x, unsigned n) {
    EACH(i, n) sum[i] += x[i];
}

/// y = a + b, b repeated, rectified if asked for.
extern "C" __global__ void sum_act(const float *a, const float *b, float *y, unsigned n, unsigned repeat,
                                   unsigned relu) {
    EACH(i, n) {
        float v = a[i] + b[i % repeat];
        y[i] = relu ? (v > 0.0f || v != v ? v : 0.0f) : v;
    }
}

/// Sums of `segments` neighbouring runs of `length`, each by `lanes` threads. A second dimension of the
/// grid cuts each run into parts: out[segment * parts + part].
extern "C" __global__ void sum_segments(const float *x, float *out, unsigned segments, unsigned length,
                                        unsigned lanes) {
    unsigned segment = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    unsigned part = (length + gridDim.y - 1) / gridDim.y;
    unsigned first = blockIdx.y * part, last = min(first + part, length);
    float sum = 0.0f;
    if (segment < segments)
        for (unsigned i = first + threadIdx.x % lanes; i < last; i += lanes) sum += x[(size_t)segment * length + i];
    sum = lanes_sum(sum, lanes);
    if (segment < segments && threadIdx.x % lanes == 0) out[segment * gridDim.y + blockIdx.y] = sum;
}

/// Sum of `parts` matrices, `size` scalars from one to the next, with rows of `width` scalars `stride` apart: n
/// scalars, 32 a block by 8 threads each.
extern "C" __global__ void sum_parts(const float *x, float *out, unsigned n, unsigned parts, unsigned width,
                                     unsigned stride, unsigned size) {
    __shared__ float sums[8][33];
    unsigned lane = threadIdx.x % 32, line = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (i < n) {
        const float *own = x + i / width * stride + i % width;
#pragma unroll 8
        for (unsigned part = line; part < parts; part += 8) sum += own[(size_t)part * size];
    }
    sums[line][lane] = sum;
    __syncthreads();
    if (line == 0 && i < n) {
        for (unsigned k = 1; k < 8; k++) sum += sums[k][lane];
        out[i] = sum;
    }
}

/// Sums over rows of 32 columns a block, by 8 threads each: out[part * width + column].
extern "C" __global__ void sum_columns(const float *x, float *out, unsigned rows, unsigned width) {
    __shared__ float parts[8][33];
    unsigned lane = threadIdx.x % 32, line = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    unsigned part = (rows + gridDim.y - 1) / gridDim.y;
    unsigned first = blockIdx.y * part, last = min(first + part, rows);
    float sum = 0.0f;
    if (column < width)
        for (unsigned r = first + line; r < last; r += 8) sum += x[(size_t)r * width + column];
    parts[line][lane] = sum;
    __syncthreads();
    if (line == 0 && column < width) {
        for (unsigned k = 1; k < 8; k++) sum += parts[k][lane];
        out[(size_t)blockIdx.y * width + column] = sum;
    }
}

/// Windows of x [channels, batch, height, width] as [channels · side², batch · rows · columns]. A row of the
/// grid is `side` rows of the result, from one line of each window; a thread does N neighbours, which divide a
/// line, and where the side is known (SIDE; the stride is then 1) reads what their windows share once. Rows of
/// the grid beyond the windows' are one row of zeros each.
template <int N, int SIDE, class T>
static __device__ __forceinline__ void lines_of(const float *x, T *out, unsigned channels, unsigned batch,
                                                unsigned height, unsigned width, unsigned rows, unsigned columns,
                                                unsigned side, unsigned stride, unsigned padding) {
    unsigned places = batch * rows * columns, ky = blockIdx.y % side, c = blockIdx.y / side;
    T *to = out + (size_t)blockIdx.y * side * places;
    Several<T, N> values;
    if (c >= channels) {
        to = out + ((size_t)channels * side * side + blockIdx.y - channels * side) * places;
        for (unsigned k = 0; k < N; k++) values.v[k] = (T)0;
        EACH(i, places / N) *(Several<T, N> *)(to + i * N) = values;
        return;
    }
    const float *plane = x + (size_t)c * batch * height * width;
    EACH(i, places / N) {
        unsigned j = i * N, left = j % columns, line_of = j / columns, top = line_of % rows, b = line_of / rows;
        int y = (int)(top * stride + ky) - (int)padding;
        bool inside = y >= 0 && y < (int)height;
        const float *line = plane + ((size_t)b * height + (inside ? y : 0)) * width;
        if (SIDE) {
            T shared[N + SIDE];
            for (unsigned k = 0; k < N + SIDE - 1; k++) {
                unsigned at = left + k - padding;
                put(shared + k, inside && at < width ? line[at] : 0.0f);
            }
            for (unsigned kx = 0; kx < SIDE; kx++) {
                for (unsigned k = 0; k < N; k++) values.v[k] = shared[kx + k];
                *(Several<T, N> *)(to + (size_t)kx * places + j) = values;
            }
            continue;
        }
        for (unsigned kx = 0; kx < side; kx++) {
            for (unsigned k = 0; k < N; k++) {
                int at = (int)((left + k) * stride + kx) - (int)padding;
                put(values.v + k, inside && at >= 0 && at < (int)width ? line[at] : 0.0f);
            }
            *(Several<T, N> *)(to + (size_t)kx * places + j) = values;
        }
    }
}

template <class T>
static __device__ __forceinline__ void im2col(const float *x, T *out, unsigned channels, unsigned batch,
                                              unsigned height, unsigned width, unsigned rows, unsigned columns,
                                              unsigned side, unsigned stride, unsigned padding) {
    if (columns % 4)
        lines_of<1, 0>(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
    else if (stride == 1 && side == 5)
        lines_of<4, 5>(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
    else if (stride == 1 && side == 3)
        lines_of<4, 3>(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
    else lines_of<4, 0>(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
}

extern "C" __global__ void im2col_wide(const float *x, float *out, unsigned channels, unsigned batch,
                                       unsigned height, unsigned width, unsigned rows, unsigned columns,
                                       unsigned side, unsigned stride, unsigned padding) {
    im2col(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
}

extern "C" __global__ void im2col_narrow(const float *x, narrow_t *out, unsigned channels, unsigned batch,
                                         unsigned height, unsigned width, unsigned rows, unsigned columns,
                                         unsigned side, unsigned stride, unsigned padding) {
    im2col(x, out, channels, batch, height, width, rows, columns, side, stride, padding);
}

/// Rows of `width` with zeros up to `stride`, n scalars in all.
template <class T>
static __device__ __forceinline__ void widen(const T *x, T *out, unsigned n, unsigned width, unsigned stride) {
    EACH(i, n) out[i] = i % stride < width ? x[i / stride * width + i % stride] : (T)0;
}

extern "C" __global__ void pad_wide(const float *x, float *out, unsigned n, unsigned width, unsigned stride) {
    widen(x, out, n, width, stride);
}

extern "C" __global__ void pad_narrow(const narrow_t *x, narrow_t *out, unsigned n, unsigned width,
                                      unsigned stride) {
    widen(x, out, n, width, stride);
}

/// The transpose of `im2col` with a stride of 1 and lines of windows that divide by four: a block collects
/// `own` planes (channels · batch of them) in its memory, a thread for four neighbours of a line. Each pixel adds
/// by columns of its windows, then by their lines.
template <int SIDE, class T>
static __device__ __forceinline__ void collect(const T *from, float *x, unsigned planes, unsigned own,
                                               unsigned batch, unsigned height, unsigned width, unsigned rows,
                                               unsigned columns, unsigned padding) {
    __shared__ float pixels[8 * THREADS];
    unsigned first = blockIdx.x * own, here = min(own, planes - first), fours = columns / 4;
    unsigned four = threadIdx.x % fours, line = threadIdx.x / fours, top = line % height;
    unsigned plane = first + line / height;
    bool works = plane < first + here;
    float sums[SIDE][4];
    for (unsigned kx = 0; kx < SIDE; kx++)
        for (unsigned k = 0; k < 4; k++) sums[kx][k] = 0.0f;
    if (works) {
        size_t places = (size_t)batch * rows * columns;
        const T *windows = from + (size_t)(plane / batch) * SIDE * SIDE * places +
                           (size_t)(plane % batch) * rows * columns + four * 4;
#pragma unroll
        for (unsigned ky = 0; ky < SIDE; ky++) {
            unsigned y = top + padding - ky;
            if (y >= rows) continue;
#pragma unroll
            for (unsigned kx = 0; kx < SIDE; kx++) {
                Several<T, 4> some = several<4>(windows + (ky * SIDE + kx) * places + y * columns);
                for (unsigned k = 0; k < 4; k++) sums[kx][k] += get(some.v + k);
            }
        }
    }
    for (unsigned i = threadIdx.x; i < here * height * width; i += THREADS) pixels[i] = 0.0f;
    __syncthreads();
#pragma unroll
    for (unsigned kx = 0; kx < SIDE; kx++) {
        unsigned left = four * 4 + kx - padding;
        for (unsigned k = 0; k < 4; k++)
            if (works && left + k < width) pixels[line * width + left + k] += sums[kx][k];
        __syncthreads();
    }
    float *to = x + (size_t)first * height * width;
    for (unsigned i = threadIdx.x; i < here * height * width; i += THREADS) to[i] = pixels[i];
}

extern "C" __global__ void col2im_3_wide(const float *from, float *x, unsigned planes, unsigned own,
                                          unsigned batch, unsigned height, unsigned width, unsigned rows,
                                          unsigned columns, unsigned padding) {
    collect<3>(from, x, planes, own, batch, height, width, rows, columns, padding);
}

extern "C" __global__ void col2im_3_narrow(const narrow_t *from, float *x, unsigned planes, unsigned own,
                                          unsigned batch, unsigned height, unsigned width, unsigned rows,
                                          unsigned columns, unsigned padding) {
    collect<3>(from, x, planes, own, batch, height, width, rows, columns, padding);
}

extern "C" __global__ void col2im_5_wide(const float *from, float *x, unsigned planes, unsigned own,
                                          unsigned batch, unsigned height, unsigned width, unsigned rows,
                                          unsigned columns, unsigned padding) {
    collect<5>(from, x, planes, own, batch, height, width, rows, columns, padding);
}

extern "C" __global__ void col2im_5_narrow(const narrow_t *from, float *x, unsigned planes, unsigned own,
                                          unsigned batch, unsigned height, unsigned width, unsigned rows,
                                          unsigned columns, unsigned padding) {
    collect<5>(from, x, planes, own, batch, height, width, rows, columns, padding);
}

/// The transpose of `im2col` for any stride: each pixel collects what its windows have for it.
template <class T>
static __device__ __forceinline__ void col2im(const T *from, float *x, unsigned n, unsigned batch,
                                              unsigned height, unsigned width, unsigned rows, unsigned columns,
                                              unsigned side, unsigned stride, unsigned padding) {
    unsigned places = batch * rows * columns;
    EACH(i, n) {
        unsigned left = i % width, top = i / width % height, b = i / (width * height) % batch;
        unsigned c = i / (width * height * batch);
        float sum = 0.0f;
        for (unsigned ky = 0; ky < side; ky++) {
            int y = (int)(top + padding) - (int)ky;
            if (y < 0 || y % (int)stride || y / (int)stride >= (int)rows) continue;
            for (unsigned kx = 0; kx < side; kx++) {
                int at = (int)(left + padding) - (int)kx;
                if (at < 0 || at % (int)stride || at / (int)stride >= (int)columns) continue;
                unsigned place = (b * rows + y / stride) * columns + at / stride;
                sum += get(from + (size_t)((c * side + ky) * side + kx) * places + place);
            }
        }
        x[i] = sum;
    }
}

extern "C" __global__ void col2im_wide(const float *from, float *x, unsigned n, unsigned batch, unsigned height,
                                       unsigned width, unsigned rows, unsigned columns, unsigned side,
                                       unsigned stride, unsigned padding) {
    col2im(from, x, n, batch, height, width, rows, columns, side, stride, padding);
}

extern "C" __global__ void col2im_narrow(const narrow_t *from, float *x, unsigned n, unsigned batch,
                                         unsigned height, unsigned width, unsigned rows, unsigned columns,
                                         unsigned side, unsigned stride, unsigned padding) {
    col2im(from, x, n, batch, height, width, rows, columns, side, stride, padding);
}

static __device__ __forceinline__ void better(float v, unsigned place, float *best, unsigned *which) {
    if (v > *best || v != v) {
        *best = v;
        *which = place;
    }
}

/// Of each window (side × side, side by side) of x + bias, rectified, the maximum and its place (255: nothing is
/// above zero); n results, planes [filters, batch] of height × width.
extern "C" __global__ void relu_pool(const float *x, const float *bias, float *y, unsigned char *chosen,
                                     unsigned n, unsigned batch, unsigned height, unsigned width, unsigned rows,
                                     unsigned columns, unsigned side) {
    bool pairs = side == 2 && width % 2 == 0;
    EACH(i, n) {
        unsigned left = i % columns, line = i / columns, top = line % rows, plane = line / rows, which = 255;
        const float *from = x + ((size_t)plane * height + top * side) * width + left * side;
        float b = bias ? bias[plane / batch] : 0.0f, best = 0.0f;
        if (pairs) {
            Several<float, 2> upper = several<2>(from), lower = several<2>(from + width);
            for (unsigned c = 0; c < 2; c++) better(upper.v[c] + b, c, &best, &which);
            for (unsigned c = 0; c < 2; c++) better(lower.v[c] + b, 2 + c, &best, &which);
        } else {
            for (unsigned r = 0; r < side; r++)
                for (unsigned c = 0; c < side; c++) better(from[r * width + c] + b, r * side + c, &best, &which);
        }
        y[i] = best;
        chosen[i] = (unsigned char)which;
    }
}

/// The gradient of x from that of `relu_pool`'s result. A row of the grid is a filter; each block of it does a
/// part and sums it: partial [filters, blocks].
template <class T>
static __device__ __forceinline__ void unpool(const float *dy, const unsigned char *chosen, T *dx, float *partial,
                                              unsigned batch, unsigned height, unsigned width, unsigned rows,
                                              unsigned columns, unsigned side) {
    unsigned down = (height + side - 1) / side, across = (width + side - 1) / side;
    unsigned windows = batch * down * across, part = (windows + gridDim.x - 1) / gridDim.x;
    unsigned first = blockIdx.x * part, last = min(first + part, windows);
    bool pairs = side == 2 && width % 2 == 0;
    float sum = 0.0f;
    for (unsigned i = first + threadIdx.x; i < last; i += THREADS) {
        unsigned left = i % across, line = i / across, top = line % down;
        size_t plane = (size_t)blockIdx.y * batch + line / down;
        unsigned which = 255;
        float g = 0.0f;
        if (top < rows && left < columns) {
            size_t from = (plane * rows + top) * columns + left;
            which = chosen[from];
            if (which != 255) g = dy[from];
        }
        sum += g;
        T *to = dx + (plane * height + top * side) * width + left * side;
        for (unsigned r = 0; r < side && top * side + r < height; r++) {
            if (pairs) {
                Several<T, 2> two;
                for (unsigned c = 0; c < 2; c++) put(two.v + c, which == r * 2 + c ? g : 0.0f);
                *(Several<T, 2> *)(to + r * width) = two;
                continue;
            }
            for (unsigned c = 0; c < side && left * side + c < width; c++)
                put(to + r * width + c, which == r * side + c ? g : 0.0f);
        }
    }
    sum = lanes_sum(sum, THREADS);
    if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void relu_pool_back_wide(const float *dy, const unsigned char *chosen, float *dx,
                                               float *partial, unsigned batch, unsigned height, unsigned width,
                                               unsigned rows, unsigned columns, unsigned side) {
    unpool(dy, chosen, dx, partial, batch, height, width, rows, columns, side);
}

extern "C" __global__ void relu_pool_back_narrow(const float *dy, const unsigned char *chosen, narrow_t *dx,
                                                 float *partial, unsigned batch, unsigned height, unsigned width,
                                                 unsigned rows, unsigned columns, unsigned side) {
    unpool(dy, chosen, dx, partial, batch, height, width, rows, columns, side);
}

/// Of each window the maximum and its place; n results, planes of height × width.
extern "C" __global__ void max_pool(const float *x, float *y, unsigned char *chosen, unsigned n, unsigned height,
                                    unsigned width, unsigned rows, unsigned columns, unsigned side,
                                    unsigned stride, unsigned padding) {
    EACH(i, n) {
        unsigned left = i % columns, top = i / columns % rows, plane = i / (columns * rows);
        float best = __uint_as_float(0xff800000u);
        unsigned which = 255;
        for (unsigned place = 0; place < side * side; place++) {
            int r = (int)(top * stride + place / side) - (int)padding;
            int c = (int)(left * stride + place % side) - (int)padding;
            if (r < 0 || c < 0 || r >= (int)height || c >= (int)width) continue;
            float v = x[((size_t)plane * height + r) * width + c];
            if (v > best || v != v || which == 255) {
                best = v;
                which = place;
            }
        }
        y[i] = best;
        chosen[i] = (unsigned char)which;
    }
}

/// Each of n pixels collects the gradient of the windows that chose it.
extern "C" __global__ void max_pool_back(const float *dy, const unsigned char *chosen, float *dx, unsigned n,
                                         unsigned height, unsigned width, unsigned rows, unsigned columns,
                                         unsigned side, unsigned stride, unsigned padding) {
    EACH(i, n) {
        unsigned left = i % width, top = i / width % height, plane = i / (width * height);
        float sum = 0.0f;
        if (side == stride) {
            // One window at most.
            unsigned row = (top + padding) / stride, column = (left + padding) / stride;
            unsigned place = (top + padding - row * stride) * side + left + padding - column * stride;
            unsigned from = (plane * rows + row) * columns + column;
            dx[i] = row < rows && column < columns && chosen[from] == place ? dy[from] : 0.0f;
            continue;
        }
        for (unsigned place = 0; place < side * side; place++) {
            int r = (int)(top + padding) - (int)(place / side), c = (int)(left + padding) - (int)(place % side);
            if (r < 0 || c < 0 || r % (int)stride || c % (int)stride) continue;
            unsigned row = r / stride, column = c / stride;
            if (row >= rows || column >= columns) continue;
            unsigned from = (plane * rows + row) * columns + column;
            if (chosen[from] == place) sum += dy[from];
        }
        dx[i] = sum;
    }
}

/// y [b, a, inner] from x [a, b, inner], in bfloat16 as well (may be absent).
extern "C" __global__ void swap_outer(const float *x, float *y, narrow_t *small, unsigned n, unsigned a,
                                      unsigned b, unsigned inner) {
    EACH(i, n) {
        unsigned p = i % inner, ia = i / inner % a, ib = i / (inner * a);
        float v = x[((size_t)ia * b + ib) * inner + p];
        y[i] = v;
        if (small) small[i] = narrow(v);
    }
}

/// y [batch, channels] = scale · sums of x [channels, batch, inner].
extern "C" __global__ void global_mean(const float *x, float *y, unsigned n, unsigned channels, unsigned batch,
                                       unsigned inner, float scale) {
    EACH(i, n) {
        const float *plane = x + ((size_t)(i % channels) * batch + i / channels) * inner;
        float sum = 0.0f;
        for (unsigned p = 0; p < inner; p++) sum += plane[p];
        y[i] = sum * scale;
    }
}

extern "C" __global__ void global_mean_back(const float *dy, float *dx, unsigned n, unsigned channels,
                                            unsigned batch, unsigned inner, float scale) {
    EACH(i, n) {
        unsigned b = i / inner % batch, c = i / (inner * batch);
        dx[i] = dy[b * channels + c] * scale;
    }
}

/// Images with the frame of a visual prompt: up, down [channels, padding, width], left, right [channels,
/// height − 2 padding, padding].
extern "C" __global__ void frame(const float *x, const float *up, const float *down, const float *left,
                                 const float *right, float *out, unsigned n, unsigned batch, unsigned height,
                                 unsigned width, unsigned padding) {
    unsigned inner = height - 2 * padding;
    EACH(i, n) {
        unsigned col = i % width, row = i / width % height, c = i / (width * height * batch);
        float v = x[i];
        if (row < padding) v += up[(c * padding + row) * width + col];
        else if (row >= height - padding) v += down[(c * padding + row - (height - padding)) * width + col];
        else if (col < padding) v += left[(c * inner + row - padding) * padding + col];
        else if (col >= width - padding) v += right[(c * inner + row - padding) * padding + col - (width - padding)];
        out[i] = v;
    }
}

/// The gradient of one part of a frame: n scalars [channels, rows, columns] at (top, left).
extern "C" __global__ void frame_back(const float *dy, float *out, unsigned n, unsigned batch, unsigned height,
                                      unsigned width, unsigned top, unsigned left, unsigned rows,
                                      unsigned columns) {
    EACH(i, n) {
        unsigned col = i % columns, row = i / columns % rows, c = i / (columns * rows);
        float sum = 0.0f;
        for (unsigned b = 0; b < batch; b++)
            sum += dy[((size_t)(c * batch + b) * height + top + row) * width + left + col];
        out[i] = sum;
    }
}
