// Layers of images and rows: bias and rectifier, sums, convolution's patches, pooling, normalisation.

extern "C" __global__ void narrow_all(const float *x, narrow_t *y, unsigned n) {
    EACH(i, n) y[i] = narrow(x[i]);
}

/// y = x + bias (none: 0), rectified if asked for; element i has bias (i / inner) % width.
extern "C" __global__ void bias_act(const float *x, float *y, const float *bias, unsigned n, unsigned inner,
                                    unsigned width, unsigned relu) {
    EACH(i, n) {
        float v = x[i];
        if (bias) v += bias[i / inner % width];
        y[i] = relu ? (v > 0.0f || v != v ? v : 0.0f) : v;
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

/// Windows of x [channels, batch, height, width] as [channels · side², batch · rows · columns]; a row of
/// the result is a row of the grid, a thread does four neighbours where a line divides by four.
template <class T>
static __device__ __forceinline__ void im2col(const float *x, T *out, unsigned batch, unsigned height,
                                              unsigned width, unsigned rows, unsigned columns, unsigned side,
                                              unsigned stride, unsigned padding) {
    unsigned kx = blockIdx.y % side, ky = blockIdx.y / side % side, c = blockIdx.y / (side * side);
    unsigned places = batch * rows * columns, step = columns % 4 == 0 ? 4 : 1;
    const float *plane = x + (size_t)c * batch * height * width;
    T *to = out + (size_t)blockIdx.y * places;
    EACH(i, places / step) {
        unsigned j = i * step, left = j % columns, top = j / columns % rows, b = j / (columns * rows);
        int y = (int)(top * stride + ky) - (int)padding;
        bool inside = y >= 0 && y < (int)height;
        const float *line = plane + ((size_t)b * height + (inside ? y : 0)) * width;
        T values[4];
        for (unsigned k = 0; k < 4; k++) {
            int at = (int)((left + k) * stride + kx) - (int)padding;
            if (k < step) put(values + k, inside && at >= 0 && at < (int)width ? line[at] : 0.0f);
        }
        if (step == 4) {
            struct alignas(4 * sizeof(T)) Four { T v[4]; };
            *(Four *)(to + j) = *(const Four *)values;
        } else {
            to[j] = values[0];
        }
    }
}

extern "C" __global__ void im2col_wide(const float *x, float *out, unsigned batch, unsigned height,
                                       unsigned width, unsigned rows, unsigned columns, unsigned side,
                                       unsigned stride, unsigned padding) {
    im2col(x, out, batch, height, width, rows, columns, side, stride, padding);
}

extern "C" __global__ void im2col_narrow(const float *x, narrow_t *out, unsigned batch, unsigned height,
                                         unsigned width, unsigned rows, unsigned columns, unsigned side,
                                         unsigned stride, unsigned padding) {
    im2col(x, out, batch, height, width, rows, columns, side, stride, padding);
}

/// The transpose of `im2col`: each pixel collects what its windows have for it.
template <class T>
static __device__ __forceinline__ void col2im(const T *from, float *x, unsigned n, unsigned batch,
                                              unsigned height, unsigned width, unsigned rows, unsigned columns,
                                              unsigned side, unsigned stride, unsigned padding) {
    unsigned places = batch * rows * columns;
    EACH(i, n) {
        unsigned left = i % width, top = i / width % height, b = i / (width * height) % batch;
        unsigned c = i / (width * height * batch);
        float sum = 0.0f;
        if (stride == 1) {
            // Divisions by a stride that is not known cost more than the sum.
            for (unsigned ky = 0; ky < side; ky++) {
                unsigned y = top + padding - ky;
                if (y >= rows) continue;
                const T *line = from + (size_t)((c * side + ky) * side) * places + (b * rows + y) * columns;
                for (unsigned kx = 0; kx < side; kx++) {
                    unsigned at = left + padding - kx;
                    if (at < columns) sum += get(line + (size_t)kx * places + at);
                }
            }
            x[i] = sum;
            continue;
        }
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

/// y [b, a, inner] from x [a, b, inner].
extern "C" __global__ void swap_outer(const float *x, float *y, unsigned n, unsigned a, unsigned b, unsigned inner) {
    EACH(i, n) {
        unsigned p = i % inner, ia = i / inner % a, ib = i / (inner * a);
        y[i] = x[((size_t)ia * b + ib) * inner + p];
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
