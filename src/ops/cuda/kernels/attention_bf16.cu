// The same attention on tensor cores: operands rounded to bf16, sums, maxima and the softmax in f32. A block of threads
// has 64 rows, a warp 16 of them, and walks over the other side in tiles.
//
// What a lane holds of a product (PTX, mma.m16n8k16), with g = lane / 4 and t = lane % 4: of the 16 x 16 left side the
// pairs (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right neighbour; of the 16 x 8 right side the
// pairs (2t, g), (2t + 8, g), each with the one below; of the 16 x 8 result (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1). So two results side by side are the left side of the next product, in the same lanes.
#include "kernel.cuh"

namespace tensor_cores {

const int ROWS = 64, WARP_ROWS = 16, THREADS = 128;
// Numbers between the ends of two rows in shared memory, so that the lanes of a warp reach different banks.
const int GAP = 8;

struct Heads {
    const uint32_t *blocks, *runs;
    size_t heads, kv_heads, head_dim, window; // a window of 0 is none
    float scale;
};

struct Block {
    uint32_t start, count, position, first_run, end_run;
    __device__ Block(const Heads &at)
        : start(at.blocks[5 * blockIdx.x]), count(at.blocks[5 * blockIdx.x + 1]),
          position(at.blocks[5 * blockIdx.x + 2]), first_run(at.blocks[5 * blockIdx.x + 3]),
          end_run(at.blocks[5 * blockIdx.x + 4]) {}
};

__device__ __forceinline__ bool sees(uint32_t query, uint32_t key, size_t window) {
    return key <= query && (window == 0 || key + window > query);
}

// Rows of `head` as bf16, E + GAP numbers a row, what is not there 0.
template <int E>
__device__ void load_rows(uint16_t *tile, int rows, const float *x, size_t start, uint32_t count, size_t width,
                          size_t head, size_t head_dim) {
    for (int i = threadIdx.x; i < rows * E / 2; i += THREADS) {
        uint32_t row = i / (E / 2), column = i % (E / 2) * 2;
        const float *at = x + (start + row) * width + head * head_dim + column;
        float low = row < count && column < head_dim ? at[0] : 0.0f;
        float high = row < count && column + 1 < head_dim ? at[1] : 0.0f;
        *(uint32_t *)(tile + row * (E + GAP) + column) = to_bf16_pair(low, high);
    }
}

// The same, columns as rows: N + GAP numbers a column, N the rows of the tile.
template <int E, int N>
__device__ void load_columns(uint16_t *tile, const float *x, size_t start, uint32_t count, size_t width, size_t head,
                             size_t head_dim) {
    for (int i = threadIdx.x; i < N / 2 * E; i += THREADS) {
        uint32_t row = i / E * 2, column = i % E;
        const float *at = x + (start + row) * width + head * head_dim + column;
        float low = row < count && column < head_dim ? at[0] : 0.0f;
        float high = row + 1 < count && column < head_dim ? at[width] : 0.0f;
        *(uint32_t *)(tile + column * (N + GAP) + row) = to_bf16_pair(low, high);
    }
}

__device__ __forceinline__ uint32_t at(const uint16_t *tile, int stride, int row, int column) {
    return *(const uint32_t *)(tile + row * stride + column);
}

// A lane's part of a left side whose 16 rows start at `row`, 16 columns at `column`.
__device__ __forceinline__ void left_side(uint32_t *a, const uint16_t *tile, int stride, int row, int column) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    a[0] = at(tile, stride, row + g, column + 2 * t);
    a[1] = at(tile, stride, row + g + 8, column + 2 * t);
    a[2] = at(tile, stride, row + g, column + 2 * t + 8);
    a[3] = at(tile, stride, row + g + 8, column + 2 * t + 8);
}

// A lane's part of a right side, the transpose of what is stored: 8 rows from `row` on, 16 columns from `column` on.
__device__ __forceinline__ void right_side(uint32_t *b, const uint16_t *tile, int stride, int row, int column) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    b[0] = at(tile, stride, row + g, column + 2 * t);
    b[1] = at(tile, stride, row + g, column + 2 * t + 8);
}

// out (16 x 8 N) += left (16 x E, rows from `row` on) * right^T (8 N x E), both stored by rows.
template <int E, int N>
__device__ __forceinline__ void product(float (*out)[4], const uint16_t *left, int row, const uint16_t *right) {
    for (int e = 0; e < E; e += 16) {
        uint32_t a[4], b[2];
        left_side(a, left, E + GAP, row, e);
#pragma unroll
        for (int n = 0; n < N; n++) {
            right_side(b, right, E + GAP, 8 * n, e);
            mma(out[n], a, b);
        }
    }
}

// out (16 x E) += weights (16 x 8 N, in the lanes) * right (8 N x E, stored by columns).
template <int E, int N>
__device__ __forceinline__ void weighted(float (*out)[4], const float (*weights)[4], const uint16_t *right) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[4] = {to_bf16_pair(weights[n][0], weights[n][1]), to_bf16_pair(weights[n][2], weights[n][3]),
                         to_bf16_pair(weights[n + 1][0], weights[n + 1][1]), to_bf16_pair(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
        for (int e = 0; e < E / 8; e++) {
            uint32_t b[2];
            right_side(b, right, 8 * N + GAP, 8 * e, 8 * n);
            mma(out[e], a, b);
        }
    }
}

template <int N> __device__ __forceinline__ void clear(float (*x)[4]) {
#pragma unroll
    for (int n = 0; n < N; n++) x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
}

// Writes the first `count` of the block's rows from a warp's 16 x E result, times a factor for each of its two rows.
template <int E>
__device__ void store(float *x, const float (*values)[4], Block block, size_t width, size_t head, size_t head_dim,
                      const float *factors) {
    int row = threadIdx.x / 32 * WARP_ROWS + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int half = 0; half < 2; half++) {
        uint32_t own = row + 8 * half;
        if (own >= block.count) continue;
        float *out = x + (block.start + own) * width + head * head_dim;
#pragma unroll
        for (int e = 0; e < E / 8; e++) {
            for (int i = 0; i < 2; i++) {
                uint32_t column = 8 * e + 2 * t + i;
                if (column < head_dim) out[column] = values[e][2 * half + i] * factors[half];
            }
        }
    }
}

// Over the four lanes of a row.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Keys of a tile.
const int KEYS = 64;

// out [t, h*e], and log of the sum of e^score of every token and head, [t, h].
template <int E>
__device__ void forward(const float *q, const float *k, const float *v, float *out, float *normaliser, Heads at) {
    SHARED(shared);
    uint16_t *queries = (uint16_t *)shared, *keys = queries + ROWS * (E + GAP), *values = keys + KEYS * (E + GAP);
    const int N = KEYS / 8;
    size_t head = blockIdx.y, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    int first = threadIdx.x / 32 * WARP_ROWS, row = first + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    float sums[E / 8][4], max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    clear<E / 8>(sums);
    load_rows<E>(queries, ROWS, q, block.start, block.count, width, head, at.head_dim);
    for (uint32_t run = block.first_run; run < block.end_run; run++) {
        uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
        for (uint32_t tile = 0; tile < count; tile += KEYS) {
            uint32_t n_keys = count - tile < KEYS ? count - tile : KEYS;
            __syncthreads();
            load_rows<E>(keys, KEYS, k, start + tile, n_keys, kv_width, kv_head, at.head_dim);
            load_columns<E, KEYS>(values, v, start + tile, n_keys, kv_width, kv_head, at.head_dim);
            __syncthreads();
            float scores[N][4];
            clear<N>(scores);
            product<E, N>(scores, queries, first, keys);
            float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t key = 8 * n + 2 * t + i % 2, query = block.position + row + 8 * (i / 2);
                    bool seen = key < n_keys && sees(query, position + tile + key, at.window);
                    scores[n][i] = seen ? scores[n][i] * at.scale : -INFINITY;
                    best[i / 2] = fmaxf(best[i / 2], scores[n][i]);
                }
            }
            float shrink[2], sum[2] = {0, 0};
            for (int half = 0; half < 2; half++) {
                best[half] = fmaxf(max[half], row_max(best[half]));
                shrink[half] = best[half] == -INFINITY ? 1.0f : expf(max[half] - best[half]);
                max[half] = best[half];
            }
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    scores[n][i] = max[i / 2] == -INFINITY ? 0.0f : expf(scores[n][i] - max[i / 2]);
                    sum[i / 2] += scores[n][i];
                }
            }
            for (int half = 0; half < 2; half++) total[half] = total[half] * shrink[half] + row_sum(sum[half]);
#pragma unroll
            for (int e = 0; e < E / 8; e++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[e][i] *= shrink[i / 2];
            }
            weighted<E, N>(sums, scores, values);
        }
    }
    float factors[2] = {1.0f / total[0], 1.0f / total[1]};
    store<E>(out, sums, block, width, head, at.head_dim, factors);
    for (int half = 0; half < 2; half++) {
        uint32_t own = row + 8 * half;
        if (t == 0 && own < block.count) {
            normaliser[(block.start + own) * at.heads + head] = max[half] + logf(total[half]);
        }
    }
}

// Rows of a tile in the backward passes.
const int OTHERS = 32;

// dq; a block of threads has queries, the runs are keys.
template <int E>
__device__ void backward_queries(const float *q, const float *k, const float *v, const float *dout,
                                 const float *normaliser, const float *delta, float *dq, Heads at) {
    SHARED(shared);
    uint16_t *queries = (uint16_t *)shared, *grads = queries + ROWS * (E + GAP), *keys = grads + ROWS * (E + GAP);
    uint16_t *values = keys + OTHERS * (E + GAP), *columns = values + OTHERS * (E + GAP);
    const int N = OTHERS / 8;
    size_t head = blockIdx.y, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    int first = threadIdx.x / 32 * WARP_ROWS, row = first + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    float own_normaliser[2], own_delta[2];
    for (int half = 0; half < 2; half++) {
        uint32_t own = row + 8 * half;
        size_t token = (block.start + (own < block.count ? own : 0)) * at.heads + head;
        own_normaliser[half] = normaliser[token];
        own_delta[half] = delta[token];
    }
    float sums[E / 8][4];
    clear<E / 8>(sums);
    load_rows<E>(queries, ROWS, q, block.start, block.count, width, head, at.head_dim);
    load_rows<E>(grads, ROWS, dout, block.start, block.count, width, head, at.head_dim);
    for (uint32_t run = block.first_run; run < block.end_run; run++) {
        uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
        for (uint32_t tile = 0; tile < count; tile += OTHERS) {
            uint32_t n_keys = count - tile < OTHERS ? count - tile : OTHERS;
            __syncthreads();
            load_rows<E>(keys, OTHERS, k, start + tile, n_keys, kv_width, kv_head, at.head_dim);
            load_rows<E>(values, OTHERS, v, start + tile, n_keys, kv_width, kv_head, at.head_dim);
            load_columns<E, OTHERS>(columns, k, start + tile, n_keys, kv_width, kv_head, at.head_dim);
            __syncthreads();
            float scores[N][4], dweights[N][4];
            clear<N>(scores);
            clear<N>(dweights);
            product<E, N>(scores, queries, first, keys);
            product<E, N>(dweights, grads, first, values);
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t key = 8 * n + 2 * t + i % 2, query = block.position + row + 8 * (i / 2);
                    bool seen = key < n_keys && sees(query, position + tile + key, at.window);
                    float weight = seen ? expf(scores[n][i] * at.scale - own_normaliser[i / 2]) : 0.0f;
                    scores[n][i] = seen ? weight * (dweights[n][i] - own_delta[i / 2]) * at.scale : 0.0f;
                }
            }
            weighted<E, N>(sums, scores, columns);
        }
    }
    float factors[2] = {1.0f, 1.0f};
    store<E>(dq, sums, block, width, head, at.head_dim, factors);
}

// dk and dv; a block of threads has keys of one KV head, the runs are queries.
template <int E>
__device__ void backward_keys(const float *q, const float *k, const float *v, const float *dout,
                              const float *normaliser, const float *delta, float *dk, float *dv, Heads at) {
    SHARED(shared);
    uint16_t *keys = (uint16_t *)shared, *values = keys + ROWS * (E + GAP), *queries = values + ROWS * (E + GAP);
    uint16_t *grads = queries + OTHERS * (E + GAP), *query_columns = grads + OTHERS * (E + GAP);
    uint16_t *grad_columns = query_columns + E * (OTHERS + GAP);
    const int N = OTHERS / 8;
    size_t kv_head = blockIdx.y, group = at.heads / at.kv_heads;
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    int first = threadIdx.x / 32 * WARP_ROWS, row = first + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    float dkeys[E / 8][4], dvalues[E / 8][4];
    clear<E / 8>(dkeys);
    clear<E / 8>(dvalues);
    load_rows<E>(keys, ROWS, k, block.start, block.count, kv_width, kv_head, at.head_dim);
    load_rows<E>(values, ROWS, v, block.start, block.count, kv_width, kv_head, at.head_dim);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (uint32_t run = block.first_run; run < block.end_run; run++) {
            uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
            for (uint32_t tile = 0; tile < count; tile += OTHERS) {
                uint32_t n_queries = count - tile < OTHERS ? count - tile : OTHERS;
                __syncthreads();
                load_rows<E>(queries, OTHERS, q, start + tile, n_queries, width, head, at.head_dim);
                load_rows<E>(grads, OTHERS, dout, start + tile, n_queries, width, head, at.head_dim);
                load_columns<E, OTHERS>(query_columns, q, start + tile, n_queries, width, head, at.head_dim);
                load_columns<E, OTHERS>(grad_columns, dout, start + tile, n_queries, width, head, at.head_dim);
                __syncthreads();
                float weights[N][4], dscores[N][4];
                clear<N>(weights);
                clear<N>(dscores);
                product<E, N>(weights, keys, first, queries);
                product<E, N>(dscores, values, first, grads);
#pragma unroll
                for (int n = 0; n < N; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t query = 8 * n + 2 * t + i % 2, own = row + 8 * (i / 2);
                        bool seen = query < n_queries && own < block.count &&
                                    sees(position + tile + query, block.position + own, at.window);
                        size_t token = (start + tile + (query < n_queries ? query : 0)) * at.heads + head;
                        float weight = seen ? expf(weights[n][i] * at.scale - normaliser[token]) : 0.0f;
                        weights[n][i] = weight;
                        dscores[n][i] = seen ? weight * (dscores[n][i] - delta[token]) * at.scale : 0.0f;
                    }
                }
                weighted<E, N>(dkeys, dscores, query_columns);
                weighted<E, N>(dvalues, weights, grad_columns);
            }
        }
    }
    float factors[2] = {1.0f, 1.0f};
    store<E>(dk, dkeys, block, kv_width, kv_head, at.head_dim, factors);
    store<E>(dv, dvalues, block, kv_width, kv_head, at.head_dim, factors);
}

} // namespace tensor_cores

#define HEADS                                                                                                          \
    const uint32_t *blocks, const uint32_t *runs, size_t heads, size_t kv_heads, size_t head_dim, size_t window,       \
        float scale
#define FORWARD(E)                                                                                                     \
    (const float *q, const float *k, const float *v, float *out, float *normaliser, HEADS) {                           \
        tensor_cores::forward<E>(q, k, v, out, normaliser, {blocks, runs, heads, kv_heads, head_dim, window, scale});  \
    }
#define QUERIES(E)                                                                                                     \
    (const float *q, const float *k, const float *v, const float *dout, const float *normaliser, const float *delta,   \
     float *dq, HEADS) {                                                                                               \
        tensor_cores::backward_queries<E>(q, k, v, dout, normaliser, delta, dq,                                        \
                                          {blocks, runs, heads, kv_heads, head_dim, window, scale});                   \
    }
#define KEYS(E)                                                                                                        \
    (const float *q, const float *k, const float *v, const float *dout, const float *normaliser, const float *delta,   \
     float *dk, float *dv, HEADS) {                                                                                    \
        tensor_cores::backward_keys<E>(q, k, v, dout, normaliser, delta, dk, dv,                                       \
                                       {blocks, runs, heads, kv_heads, head_dim, window, scale});                      \
    }

// One for head dimensions up to 32, 64, 96 and 128.
KERNEL attention_bf16_32 FORWARD(32)
KERNEL attention_bf16_64 FORWARD(64)
KERNEL attention_bf16_96 FORWARD(96)
KERNEL attention_bf16_128 FORWARD(128)
KERNEL attention_bf16_dq_32 QUERIES(32)
KERNEL attention_bf16_dq_64 QUERIES(64)
KERNEL attention_bf16_dq_96 QUERIES(96)
KERNEL attention_bf16_dq_128 QUERIES(128)
KERNEL attention_bf16_dkv_32 KEYS(32)
KERNEL attention_bf16_dkv_64 KEYS(64)
KERNEL attention_bf16_dkv_96 KEYS(96)
KERNEL attention_bf16_dkv_128 KEYS(128)
#undef HEADS
#undef FORWARD
#undef QUERIES
#undef KEYS
