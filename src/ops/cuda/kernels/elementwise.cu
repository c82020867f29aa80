// Element by element: conversions, the gate of an MLP, rotation, dropout, checks, the optimiser.
#include "kernel.cuh"

template <int W, typename A, typename B> __device__ __forceinline__ void convert_some(const A *x, B *y) {
    float numbers[W];
    load<W>(numbers, x);
    store<W>(y, numbers);
}

template <typename A, typename B> __device__ void convert(const A *x, B *y, size_t n) {
    over_all(n, in_eights(n, x, y), [&](auto width, size_t i) { convert_some<width.NUMBERS>(x + i, y + i); });
}
KERNEL narrow_to_bf16(const float *x, uint16_t *y, size_t n) { convert(x, y, n); }
KERNEL widen_bf16(const uint16_t *x, float *y, size_t n) { convert(x, y, n); }
KERNEL copy(const float *x, float *y, size_t n) { convert(x, y, n); }

// sum = x + y, where the `width` numbers of y come again and again
template <typename A, typename B> __device__ void add(const A *x, const B *y, A *sum, size_t n, size_t width) {
    over_all(n, in_eights(width, x, y, sum), [&](auto w, size_t i) {
        const int W = w.NUMBERS;
        float a[W], b[W];
        load<W>(a, x + i);
        load<W>(b, y + (width == n ? i : i % width));
#pragma unroll
        for (int j = 0; j < W; j++) a[j] += b[j];
        store<W>(sum + i, a);
    });
}
KERNEL add_f32_f32(const float *x, const float *y, float *sum, size_t n, size_t width) { add(x, y, sum, n, width); }
KERNEL add_f32_bf16(const float *x, const uint16_t *y, float *sum, size_t n, size_t width) { add(x, y, sum, n, width); }
KERNEL add_bf16_f32(const uint16_t *x, const float *y, uint16_t *sum, size_t n, size_t width) { add(x, y, sum, n, width); }
KERNEL add_bf16_bf16(const uint16_t *x, const uint16_t *y, uint16_t *sum, size_t n, size_t width) {
    add(x, y, sum, n, width);
}

// y = silu(gate) * up
template <typename T> __device__ void gated(const T *gate, const T *up, T *y, size_t n) {
    over_all(n, in_eights(n, gate, up, y), [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float g[W], u[W];
        load<W>(g, gate + i);
        load<W>(u, up + i);
#pragma unroll
        for (int j = 0; j < W; j++) g[j] = g[j] / (1.0f + expf(-g[j])) * u[j];
        store<W>(y + i, g);
    });
}
KERNEL swiglu_f32(const float *gate, const float *up, float *y, size_t n) { gated(gate, up, y, n); }
KERNEL swiglu_bf16(const uint16_t *gate, const uint16_t *up, uint16_t *y, size_t n) { gated(gate, up, y, n); }

template <typename T>
__device__ void gated_backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, size_t n) {
    over_all(n, in_eights(n, gate, up, dy, dgate, dup), [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float g[W], u[W], d[W];
        load<W>(g, gate + i);
        load<W>(u, up + i);
        load<W>(d, dy + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float sigmoid = 1.0f / (1.0f + expf(-g[j])), silu = g[j] * sigmoid;
            g[j] = d[j] * u[j] * (sigmoid + silu * (1.0f - sigmoid));
            u[j] = d[j] * silu;
        }
        store<W>(dgate + i, g);
        store<W>(dup + i, u);
    });
}
KERNEL swiglu_backward_f32(const float *gate, const float *up, const float *dy, float *dgate, float *dup, size_t n) {
    gated_backward(gate, up, dy, dgate, dup, n);
}
KERNEL swiglu_backward_bf16(const uint16_t *gate, const uint16_t *up, const uint16_t *dy, uint16_t *dgate, uint16_t *dup,
                            size_t n) {
    gated_backward(gate, up, dy, dgate, dup, n);
}

// Number j and number j + half of every head turn by the angle of their row, the other way with sign -1; what comes after
// them stays. A thread works on W numbers of each half, or on W that stay.
template <typename T>
__device__ void turn(const T *x, const float *cosine, const float *sine, T *y, size_t rows, size_t width, size_t head_dim,
                     size_t half, float sign) {
    bool eights = in_eights(half, x, y, cosine, sine) && head_dim % 8 == 0;
    // of a head: half of it that turns, and what stays
    uint32_t work = head_dim - half, heads = width / head_dim;
    over_all(rows * heads * work, eights, [&](auto w, size_t at) {
        const int W = w.NUMBERS;
        uint32_t head = (uint32_t)(at / W) / (work / W), j = at - (size_t)head * work, row = head / heads;
        size_t first = (size_t)head * head_dim + j;
        float a[W], b[W], c[W], s[W];
        if (j >= half) {
            load<W>(a, x + first + half);
            store<W>(y + first + half, a);
            return;
        }
        load<W>(a, x + first);
        load<W>(b, x + first + half);
        load<W>(c, cosine + row * half + j);
        load<W>(s, sine + row * half + j);
#pragma unroll
        for (int i = 0; i < W; i++) {
            float one = a[i] * c[i] - b[i] * (sign * s[i]), other = b[i] * c[i] + a[i] * (sign * s[i]);
            a[i] = one, b[i] = other;
        }
        store<W>(y + first, a);
        store<W>(y + first + half, b);
    });
}
KERNEL rope_f32(const float *x, const float *cosine, const float *sine, float *y, size_t rows, size_t width,
                size_t head_dim, size_t half, float sign) {
    turn(x, cosine, sine, y, rows, width, head_dim, half, sign);
}
KERNEL rope_bf16(const uint16_t *x, const float *cosine, const float *sine, uint16_t *y, size_t rows, size_t width,
                 size_t head_dim, size_t half, float sign) {
    turn(x, cosine, sine, y, rows, width, head_dim, half, sign);
}

#define TURN(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define QUARTER(a, b, c, d)                                                                                            \
    a += b, d = TURN(d ^ a, 16), c += d, b = TURN(b ^ c, 12), a += b, d = TURN(d ^ a, 8), c += d, b = TURN(b ^ c, 7)

// Word first + i of the ChaCha8 stream decides on number i: the same mask as on the CPU. A thread makes a block of 16
// words; the words of the first block that come before `first` are nobody's.
template <typename T>
__device__ void drop(const T *x, T *y, size_t n, size_t first, size_t key0, size_t key1, size_t key2, size_t key3,
                     size_t stream, size_t limit, float keep) {
    const size_t before = first % 16;
    for (size_t own = first_element(); own * 16 < before + n; own += all_threads()) {
        const size_t block = first / 16 + own;
        const uint32_t start[16] = {0x61707865u,           0x3320646eu,
                                    0x79622d32u,           0x6b206574u,
                                    (uint32_t)key0,        (uint32_t)(key0 >> 32),
                                    (uint32_t)key1,        (uint32_t)(key1 >> 32),
                                    (uint32_t)key2,        (uint32_t)(key2 >> 32),
                                    (uint32_t)key3,        (uint32_t)(key3 >> 32),
                                    (uint32_t)block,       (uint32_t)(block >> 32),
                                    (uint32_t)stream,      (uint32_t)(stream >> 32)};
        uint32_t w[16];
        for (int i = 0; i < 16; i++) w[i] = start[i];
        for (int round = 0; round < 4; round++) {
            QUARTER(w[0], w[4], w[8], w[12]);
            QUARTER(w[1], w[5], w[9], w[13]);
            QUARTER(w[2], w[6], w[10], w[14]);
            QUARTER(w[3], w[7], w[11], w[15]);
            QUARTER(w[0], w[5], w[10], w[15]);
            QUARTER(w[1], w[6], w[11], w[12]);
            QUARTER(w[2], w[7], w[8], w[13]);
            QUARTER(w[3], w[4], w[9], w[14]);
        }
        bool eights = before == 0 && own * 16 + 16 <= n && in_eights(0, x, y);
#pragma unroll
        for (int i = 0; i < 16; i += 8) {
            over(8, eights, 0, 1, [&](auto width, size_t j) {
                const int W = width.NUMBERS;
                float numbers[W];
                size_t word = own * 16 + i + j, at = word - before;
                if (word < before || at >= n) return;
                load<W>(numbers, x + at);
                for (int l = 0; l < W; l++) {
                    numbers[l] = w[i + j + l] + start[i + j + l] < (uint32_t)limit ? 0.0f : numbers[l] * keep;
                }
                store<W>(y + at, numbers);
            });
        }
    }
}
KERNEL dropout_f32(const float *x, float *y, size_t n, size_t first, size_t key0, size_t key1, size_t key2, size_t key3,
                   size_t stream, size_t limit, float keep) {
    drop(x, y, n, first, key0, key1, key2, key3, stream, limit, keep);
}
KERNEL dropout_bf16(const uint16_t *x, uint16_t *y, size_t n, size_t first, size_t key0, size_t key1, size_t key2,
                    size_t key3, size_t stream, size_t limit, float keep) {
    drop(x, y, n, first, key0, key1, key2, key3, stream, limit, keep);
}

// Raises the flag where a number is not finite.
KERNEL find_not_finite(const float *x, uint32_t *flag, size_t n) {
    over_all(n, in_eights(n, x), [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float numbers[W];
        load<W>(numbers, x + i);
        for (int j = 0; j < W; j++) {
            if (!(fabsf(numbers[j]) <= 3.402823466e38f)) *flag = 1;
        }
    });
}

// One sum of squares a block, in f64.
KERNEL square_sums(const float *x, double *sums, size_t n) {
    double sum = 0;
    for (size_t i = first_element(); i < n; i += all_threads()) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// A row of `width` numbers, by the threads of a block.
template <typename A, typename B> __device__ void convert_row(const A *x, B *y, size_t width) {
    over_row(width, in_eights(width, x, y), [&](auto w, size_t i) { convert_some<w.NUMBERS>(x + i, y + i); });
}

// Row rows[i] of y is row i of x.
KERNEL scatter_rows(const float *x, const uint32_t *rows, float *y, size_t width) {
    convert_row(x + blockIdx.x * width, y + rows[blockIdx.x] * width, width);
}

// Row i of y is row rows[i] of x.
KERNEL gather_f32(const float *x, const uint32_t *rows, float *y, size_t width) {
    convert_row(x + rows[blockIdx.x] * width, y + blockIdx.x * width, width);
}
KERNEL gather_bf16(const uint16_t *x, const uint32_t *rows, float *y, size_t width) {
    convert_row(x + rows[blockIdx.x] * width, y + blockIdx.x * width, width);
}

// One step of AdamW on every number.
KERNEL adamw(float *values, const float *gradients, float *first, float *second, size_t n, float clip, float weight1,
             float beta2, float weight2, float keep, float pace, float correction, float eps) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float gradient = gradients[i] * clip;
        float mean = first[i] + weight1 * (gradient - first[i]);
        float square = second[i] * beta2 + weight2 * gradient * gradient;
        first[i] = mean;
        second[i] = square;
        values[i] = values[i] * keep + pace * (mean / (sqrtf(square) / correction + eps));
    }
}
