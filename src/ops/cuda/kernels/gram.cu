// Inner products of all residual streams of a token, in f64.
#include "kernel.cuh"

#define COLUMNS 32
#define PAIRS 4

// states is [streams, tokens, d], products [tokens, streams, streams]; a block of threads works on one token and
// PAIRS * blockDim.x pairs of streams.
KERNEL gram(const float *states, double *products, size_t streams, size_t tokens, size_t d) {
    SHARED(panel); // [streams, COLUMNS + 1]
    size_t token = blockIdx.x, pairs = streams * streams;
    double sums[PAIRS] = {};
    for (size_t start = 0; start < d; start += COLUMNS) {
        __syncthreads();
        for (size_t i = threadIdx.x; i < streams * COLUMNS; i += blockDim.x) {
            size_t stream = i / COLUMNS, column = i % COLUMNS;
            panel[stream * (COLUMNS + 1) + column] =
                start + column < d ? states[(stream * tokens + token) * d + start + column] : 0.0f;
        }
        __syncthreads();
        for (int p = 0; p < PAIRS; p++) {
            size_t pair = ((size_t)blockIdx.y * PAIRS + p) * blockDim.x + threadIdx.x;
            if (pair >= pairs || pair / streams > pair % streams) continue;
            const float *a = panel + pair / streams * (COLUMNS + 1), *b = panel + pair % streams * (COLUMNS + 1);
            for (int column = 0; column < COLUMNS; column++) sums[p] += (double)a[column] * (double)b[column];
        }
    }
    for (int p = 0; p < PAIRS; p++) {
        size_t pair = ((size_t)blockIdx.y * PAIRS + p) * blockDim.x + threadIdx.x;
        if (pair >= pairs || pair / streams > pair % streams) continue;
        size_t a = pair / streams, b = pair % streams;
        products[token * pairs + a * streams + b] = sums[p];
        products[token * pairs + b * streams + a] = sums[p];
    }
}
