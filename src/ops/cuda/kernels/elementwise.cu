// Element by element: conversions, the gate of an MLP, rotation, dropout, checks, the optimiser.
#include "kernel.cuh"

KERNEL narrow_to_bf16(const float *x, uint16_t *y, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[i] = to_bf16(x[i]);
}

KERNEL widen_bf16(const uint16_t *x, float *y, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[i] = from_bf16(x[i]);
}

KERNEL copy(const float *x, float *y, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[i] = x[i];
}

// y = silu(gate) * up
KERNEL swiglu(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float g = gate[i];
        y[i] = g / (1.0f + expf(-g)) * up[i];
    }
}

KERNEL swiglu_backward(const float *gate, const float *up, const float *dy, float *dgate, float *dup, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float sigmoid = 1.0f / (1.0f + expf(-gate[i]));
        float silu = gate[i] * sigmoid;
        dgate[i] = dy[i] * up[i] * (sigmoid + silu * (1.0f - sigmoid));
        dup[i] = dy[i] * silu;
    }
}

// Number j and number j + half of every head turn by the angle of their row, the other way with sign -1.
KERNEL rope(const float *x, const float *cosine, const float *sine, float *y, size_t n, size_t width, size_t head_dim,
            size_t half, float sign) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        size_t row = i / width, j = i % width % head_dim;
        if (j >= 2 * half) {
            y[i] = x[i];
        } else if (j < half) {
            size_t angle = row * half + j;
            y[i] = x[i] * cosine[angle] - x[i + half] * (sign * sine[angle]);
        } else {
            size_t angle = row * half + j - half;
            y[i] = x[i] * cosine[angle] + x[i - half] * (sign * sine[angle]);
        }
    }
}

#define TURN(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define QUARTER(a, b, c, d)                                                                                            \
    a += b, d = TURN(d ^ a, 16), c += d, b = TURN(b ^ c, 12), a += b, d = TURN(d ^ a, 8), c += d, b = TURN(b ^ c, 7)

// Word first + i of the ChaCha8 stream decides on number i: the same mask as on the CPU. A thread makes a block of 16
// words; the words of the first block that come before `first` are nobody's.
KERNEL dropout(const float *x, float *y, size_t n, size_t first, size_t key0, size_t key1, size_t key2, size_t key3,
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
        for (int i = 0; i < 16; i++) {
            size_t word = own * 16 + i;
            size_t at = word - before;
            if (word >= before && at < n) y[at] = w[i] + start[i] < (uint32_t)limit ? 0.0f : x[at] * keep;
        }
    }
}

// Raises the flag where a number is not finite.
KERNEL find_not_finite(const float *x, uint32_t *flag, size_t n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        if (!(fabsf(x[i]) <= 3.402823466e38f)) *flag = 1;
    }
}

// One sum of squares a block, in f64.
KERNEL square_sums(const float *x, double *sums, size_t n) {
    double sum = 0;
    for (size_t i = first_element(); i < n; i += all_threads()) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Row rows[i] of y is row i of x.
KERNEL scatter_rows(const float *x, const uint32_t *rows, float *y, size_t n, size_t width) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[rows[i / width] * width + i % width] = x[i];
}

// Row i of y is row rows[i] of x.
KERNEL gather_f32(const float *x, const uint32_t *rows, float *y, size_t n, size_t width) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[i] = x[rows[i / width] * width + i % width];
}

KERNEL gather_bf16(const uint16_t *x, const uint32_t *rows, float *y, size_t n, size_t width) {
    for (size_t i = first_element(); i < n; i += all_threads()) y[i] = from_bf16(x[rows[i / width] * width + i % width]);
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
