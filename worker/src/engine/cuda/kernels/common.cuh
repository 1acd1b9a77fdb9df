// What the training kernels share: loops, sums in a fixed order, and bfloat16 by its bits, so that NVRTC
// needs no header.
//
// Arrays on a device have their own layout: images lie as [channels, batch, height, width], so that a
// convolution of a whole batch is one matrix product whose filters and their gradient lie as in the flat
// vector; everything else is row-major as on the CPU. No kernel adds with atomics.

typedef unsigned short narrow_t;

#define EACH(i, n) for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += gridDim.x * blockDim.x)
/// Threads of a block that reduces.
#define THREADS 256

/// bfloat16, rounded to nearest even.
static __device__ __forceinline__ narrow_t narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (narrow_t)0x7fc0;
    return (narrow_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static __device__ __forceinline__ void put(float *to, float x) { *to = x; }
static __device__ __forceinline__ void put(narrow_t *to, float x) { *to = narrow(x); }
static __device__ __forceinline__ float get(const float *from) { return *from; }
static __device__ __forceinline__ float get(const narrow_t *from) {
    return __uint_as_float((unsigned)*from << 16);
}

/// Sum over each run of `lanes` (a power of two) neighbouring threads, known to all of them.
template <class T> static __device__ __forceinline__ T lanes_sum(T value, unsigned lanes) {
    __shared__ T parts[THREADS];
    unsigned lane = threadIdx.x % lanes;
    __syncthreads();
    parts[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = lanes / 2; half > 0; half /= 2) {
        if (lane < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        __syncthreads();
    }
    return parts[threadIdx.x - lane];
}

/// Neighbours that are read and written at once, from an address that they divide.
template <class T, int N> struct alignas(N * sizeof(T)) Several { T v[N]; };

template <int N, class T> static __device__ __forceinline__ Several<T, N> several(const T *from) {
    return *(const Several<T, N> *)from;
}
