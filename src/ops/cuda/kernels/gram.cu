// Inner products of all residual streams of a token, in f64.
#include "kernel.cuh"

// Columns that a block has at hand.
#define COLUMNS 32
// A thread works on the products of four streams with four.
#define TILE 4

struct alignas(16) Two {
    double low, high;
};

__device__ __forceinline__ void take_four(double *x, const double *from) {
    Two first = ((const Two *)from)[0], second = ((const Two *)from)[1];
    x[0] = first.low, x[1] = first.high, x[2] = second.low, x[3] = second.high;
}

// states is [streams, tokens, d], products [tokens, streams * (streams + 1) / 2]: of each stream those with itself and the
// later ones. A block of threads works on one token and up to blockDim.x pairs of tiles; where those are few, several
// threads share the columns of a pair.
KERNEL gram(const float *states, double *products, size_t streams, size_t tokens, size_t d) {
    SHARED(shared);
    double *panel = (double *)shared; // [COLUMNS, pitch]
    size_t token = blockIdx.x, tiles = (streams + TILE - 1) / TILE, pitch = tiles * TILE + 2;
    uint32_t pairs = tiles * (tiles + 1) / 2, own_pairs = pairs < blockDim.x ? pairs : blockDim.x;
    uint32_t groups = blockDim.x / own_pairs, group = threadIdx.x / own_pairs;
    uint32_t pair = blockIdx.y * blockDim.x + threadIdx.x % own_pairs;
    bool works = group < groups && pair < pairs;
    size_t a = 0, b = pair;
    for (size_t row = tiles; works && b >= row; row--) b -= row, a++;
    b += a;
    double sums[TILE][TILE] = {};
    for (size_t start = 0; start < d; start += COLUMNS) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < tiles * TILE * COLUMNS; i += blockDim.x) {
            uint32_t stream = i / COLUMNS, column = i % COLUMNS;
            bool there = stream < streams && start + column < d;
            panel[column * pitch + stream] = there ? states[(stream * tokens + token) * d + start + column] : 0.0f;
        }
        __syncthreads();
        for (uint32_t column = group; works && column < COLUMNS; column += groups) {
            double left[TILE], right[TILE];
            take_four(left, panel + column * pitch + a * TILE);
            take_four(right, panel + column * pitch + b * TILE);
#pragma unroll
            for (int i = 0; i < TILE; i++) {
#pragma unroll
                for (int j = 0; j < TILE; j++) sums[i][j] += left[i] * right[j];
            }
        }
    }
    // the groups one after the other, into the panel: several there are only where it is large enough
    double *total = panel + threadIdx.x % own_pairs * TILE * TILE;
    for (uint32_t turn = 0; turn < groups && groups > 1; turn++) {
        __syncthreads();
        if (!works || group != turn) continue;
        for (int i = 0; i < TILE * TILE; i++) {
            double sum = sums[i / TILE][i % TILE] + (turn == 0 ? 0.0 : total[i]);
            if (turn + 1 < groups) total[i] = sum;
            else sums[i / TILE][i % TILE] = sum;
        }
    }
    if (!works || group + 1 != groups) return;
    products += token * (streams * (streams + 1) / 2);
    for (size_t i = a * TILE; i < (a + 1) * TILE && i < streams; i++) {
        for (size_t j = b * TILE < i ? i : b * TILE; j < (b + 1) * TILE && j < streams; j++) {
            products[i * streams - i * (i + 1) / 2 + j] = sums[i % TILE][j % TILE];
        }
    }
}
