// Causal attention over a tree of segments, in f32. A block of threads works on some queries (or keys) of one head and
// walks over the keys (or queries) in tiles, with the running maximum and sum of the softmax (arXiv 2205.14135); the
// scores of a tile are all that exists of them.
//
// Four threads share a row of the tile: thread 4 * row + lane owns the columns lane, lane + 4, ... of that row.
#include "tables.cuh"

namespace plain_cores {

const int TILE = 32, THREADS = 4 * TILE;

struct Heads {
    const uint32_t *blocks, *runs;
    size_t heads, kv_heads, head_dim, window; // a window of 0 is none
    float scale;
};

// Copies `count` rows of `head` to a tile of E + 1 numbers a row, the rest 0.
template <int E>
__device__ void load_tile(float *tile, const float *x, size_t start, uint32_t count, size_t width, size_t head,
                          size_t head_dim) {
    for (int i = threadIdx.x; i < TILE * E; i += THREADS) {
        uint32_t row = i / E, column = i % E;
        bool there = row < count && column < head_dim;
        tile[row * (E + 1) + column] = there ? x[(start + row) * width + head * head_dim + column] : 0.0f;
    }
}

template <int E> __device__ __forceinline__ float dot(const float *a, const float *b) {
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < E; i++) sum += a[i] * b[i];
    return sum;
}

__device__ __forceinline__ bool sees(uint32_t query, uint32_t key, size_t window) {
    return key <= query && (window == 0 || key + window > query);
}

// out [t, h*e], and log of the sum of e^score of every token and head, [t, h]. Shared: 2 tiles and the scores.
template <int E>
__device__ void forward(const float *q, const float *k, const float *v, float *out, float *normaliser, Heads at) {
    SHARED(shared);
    float *queries = shared, *other = queries + TILE * (E + 1), *scores = other + TILE * (E + 1);
    size_t head = blockIdx.x, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    uint32_t row = threadIdx.x / 4, lane = threadIdx.x % 4;
    Block block(at.blocks);
    float sums[E / 4] = {}, max = -INFINITY, total = 0;
    load_tile<E>(queries, q, block.start, block.count, width, head, at.head_dim);
    for (uint32_t run = block.first_run; run < block.end_run; run++) {
        uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
        for (uint32_t tile = 0; tile < count; tile += TILE) {
            uint32_t keys = count - tile < TILE ? count - tile : TILE;
            __syncthreads();
            load_tile<E>(other, k, start + tile, keys, kv_width, kv_head, at.head_dim);
            __syncthreads();
            float own[TILE / 4], best = -INFINITY;
            for (int j = 0; j < TILE / 4; j++) {
                uint32_t key = lane + 4 * j;
                bool seen = key < keys && sees(block.position + row, position + tile + key, at.window);
                own[j] = seen ? at.scale * dot<E>(queries + row * (E + 1), other + key * (E + 1)) : -INFINITY;
                best = fmaxf(best, own[j]);
            }
            best = fmaxf(max, row_max(best));
            float shrink = best == -INFINITY ? 1.0f : expf(max - best), sum = 0;
            for (int j = 0; j < TILE / 4; j++) {
                float weight = best == -INFINITY ? 0.0f : expf(own[j] - best);
                scores[row * (TILE + 1) + lane + 4 * j] = weight;
                sum += weight;
            }
            total = total * shrink + row_sum(sum);
            max = best;
            __syncthreads();
            load_tile<E>(other, v, start + tile, keys, kv_width, kv_head, at.head_dim);
            __syncthreads();
            for (int j = 0; j < E / 4; j++) sums[j] *= shrink;
            for (uint32_t key = 0; key < keys; key++) {
                float weight = scores[row * (TILE + 1) + key];
#pragma unroll
                for (int j = 0; j < E / 4; j++) sums[j] += weight * other[key * (E + 1) + lane + 4 * j];
            }
        }
    }
    if (row >= block.count) return;
    size_t token = block.start + row;
    for (int j = 0; j < E / 4; j++) {
        if (lane + 4 * j < at.head_dim) out[token * width + head * at.head_dim + lane + 4 * j] = sums[j] / total;
    }
    if (lane == 0) normaliser[token * at.heads + head] = max + logf(total);
}

// dq; a block of threads has queries, the runs are keys. Shared: 4 tiles and the scores.
template <int E>
__device__ void backward_queries(const float *q, const float *k, const float *v, const float *dout,
                                 const float *normaliser, const float *delta, float *dq, Heads at) {
    SHARED(shared);
    float *queries = shared, *grads = queries + TILE * (E + 1), *keys = grads + TILE * (E + 1);
    float *values = keys + TILE * (E + 1), *scores = values + TILE * (E + 1);
    size_t head = blockIdx.x, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    uint32_t row = threadIdx.x / 4, lane = threadIdx.x % 4;
    Block block(at.blocks);
    bool there = row < block.count;
    size_t token = block.start + (there ? row : 0);
    float own_normaliser = normaliser[token * at.heads + head], own_delta = delta[token * at.heads + head];
    float sums[E / 4] = {};
    load_tile<E>(queries, q, block.start, block.count, width, head, at.head_dim);
    load_tile<E>(grads, dout, block.start, block.count, width, head, at.head_dim);
    for (uint32_t run = block.first_run; run < block.end_run; run++) {
        uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
        for (uint32_t tile = 0; tile < count; tile += TILE) {
            uint32_t n = count - tile < TILE ? count - tile : TILE;
            __syncthreads();
            load_tile<E>(keys, k, start + tile, n, kv_width, kv_head, at.head_dim);
            load_tile<E>(values, v, start + tile, n, kv_width, kv_head, at.head_dim);
            __syncthreads();
            for (int j = 0; j < TILE / 4; j++) {
                uint32_t key = lane + 4 * j;
                float dscore = 0;
                if (there && key < n && sees(block.position + row, position + tile + key, at.window)) {
                    float score = at.scale * dot<E>(queries + row * (E + 1), keys + key * (E + 1));
                    float dweight = dot<E>(grads + row * (E + 1), values + key * (E + 1));
                    dscore = expf(score - own_normaliser) * (dweight - own_delta) * at.scale;
                }
                scores[row * (TILE + 1) + key] = dscore;
            }
            __syncthreads();
            for (uint32_t key = 0; key < n; key++) {
                float dscore = scores[row * (TILE + 1) + key];
#pragma unroll
                for (int j = 0; j < E / 4; j++) sums[j] += dscore * keys[key * (E + 1) + lane + 4 * j];
            }
        }
    }
    if (!there) return;
    for (int j = 0; j < E / 4; j++) {
        if (lane + 4 * j < at.head_dim) dq[token * width + head * at.head_dim + lane + 4 * j] = sums[j];
    }
}

// dk and dv; a block of threads has keys of one KV head, the runs are queries. Shared: 4 tiles and two of scores.
template <int E>
__device__ void backward_keys(const float *q, const float *k, const float *v, const float *dout,
                              const float *normaliser, const float *delta, float *dk, float *dv, Heads at) {
    SHARED(shared);
    float *keys = shared, *values = keys + TILE * (E + 1), *queries = values + TILE * (E + 1);
    float *grads = queries + TILE * (E + 1), *weights = grads + TILE * (E + 1);
    float *dscores = weights + TILE * (TILE + 1);
    size_t kv_head = blockIdx.x, group = at.heads / at.kv_heads;
    size_t width = at.heads * at.head_dim, kv_width = at.kv_heads * at.head_dim;
    uint32_t row = threadIdx.x / 4, lane = threadIdx.x % 4;
    Block block(at.blocks);
    float dkeys[E / 4] = {}, dvalues[E / 4] = {};
    load_tile<E>(keys, k, block.start, block.count, kv_width, kv_head, at.head_dim);
    load_tile<E>(values, v, block.start, block.count, kv_width, kv_head, at.head_dim);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (uint32_t run = block.first_run; run < block.end_run; run++) {
            uint32_t start = at.runs[3 * run], count = at.runs[3 * run + 1], position = at.runs[3 * run + 2];
            for (uint32_t tile = 0; tile < count; tile += TILE) {
                uint32_t n = count - tile < TILE ? count - tile : TILE;
                __syncthreads();
                load_tile<E>(queries, q, start + tile, n, width, head, at.head_dim);
                load_tile<E>(grads, dout, start + tile, n, width, head, at.head_dim);
                __syncthreads();
                for (int j = 0; j < TILE / 4; j++) {
                    uint32_t query = lane + 4 * j;
                    float weight = 0, dscore = 0;
                    if (row < block.count && query < n &&
                        sees(position + tile + query, block.position + row, at.window)) {
                        size_t token = (start + tile + query) * at.heads + head;
                        float score = at.scale * dot<E>(queries + query * (E + 1), keys + row * (E + 1));
                        weight = expf(score - normaliser[token]);
                        float dweight = dot<E>(grads + query * (E + 1), values + row * (E + 1));
                        dscore = weight * (dweight - delta[token]) * at.scale;
                    }
                    weights[row * (TILE + 1) + query] = weight;
                    dscores[row * (TILE + 1) + query] = dscore;
                }
                __syncthreads();
                for (uint32_t query = 0; query < n; query++) {
                    float weight = weights[row * (TILE + 1) + query], dscore = dscores[row * (TILE + 1) + query];
#pragma unroll
                    for (int j = 0; j < E / 4; j++) {
                        dkeys[j] += dscore * queries[query * (E + 1) + lane + 4 * j];
                        dvalues[j] += weight * grads[query * (E + 1) + lane + 4 * j];
                    }
                }
            }
        }
    }
    if (row >= block.count) return;
    size_t at_row = (block.start + row) * kv_width + kv_head * at.head_dim;
    for (int j = 0; j < E / 4; j++) {
        if (lane + 4 * j >= at.head_dim) continue;
        dk[at_row + lane + 4 * j] = dkeys[j];
        dv[at_row + lane + 4 * j] = dvalues[j];
    }
}

} // namespace plain_cores

// Sum of out * dout of every token and head; a warp works on one of them.
KERNEL attention_delta(const float *out, const float *dout, float *delta, size_t n, size_t head_dim) {
    size_t at = first_element() / 32;
    if (at >= n) return;
    float sum = 0;
    for (size_t i = threadIdx.x % 32; i < head_dim; i += 32) sum += out[at * head_dim + i] * dout[at * head_dim + i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[at] = sum;
}

#define HEADS                                                                                                          \
    const uint32_t *blocks, const uint32_t *runs, size_t heads, size_t kv_heads, size_t head_dim, size_t window,       \
        float scale
#define HEADS_OF                                                                                                       \
    plain_cores::Heads { blocks, runs, heads, kv_heads, head_dim, window, scale }
#define FORWARD (const float *q, const float *k, const float *v, float *out, float *normaliser, HEADS)
#define QUERIES (const float *q, const float *k, const float *v, const float *dout, const float *normaliser, const float *delta, float *dq, HEADS)
#define KEYS (const float *q, const float *k, const float *v, const float *dout, const float *normaliser, const float *delta, float *dk, float *dv, HEADS)

// One for head dimensions up to 32, 64, 96, 128 and 256.
KERNEL attention_32 FORWARD { plain_cores::forward<32>(q, k, v, out, normaliser, HEADS_OF); }
KERNEL attention_64 FORWARD { plain_cores::forward<64>(q, k, v, out, normaliser, HEADS_OF); }
KERNEL attention_96 FORWARD { plain_cores::forward<96>(q, k, v, out, normaliser, HEADS_OF); }
KERNEL attention_128 FORWARD { plain_cores::forward<128>(q, k, v, out, normaliser, HEADS_OF); }
KERNEL attention_256 FORWARD { plain_cores::forward<256>(q, k, v, out, normaliser, HEADS_OF); }
KERNEL attention_dq_32 QUERIES { plain_cores::backward_queries<32>(q, k, v, dout, normaliser, delta, dq, HEADS_OF); }
KERNEL attention_dq_64 QUERIES { plain_cores::backward_queries<64>(q, k, v, dout, normaliser, delta, dq, HEADS_OF); }
KERNEL attention_dq_96 QUERIES { plain_cores::backward_queries<96>(q, k, v, dout, normaliser, delta, dq, HEADS_OF); }
KERNEL attention_dq_128 QUERIES { plain_cores::backward_queries<128>(q, k, v, dout, normaliser, delta, dq, HEADS_OF); }
KERNEL attention_dq_256 QUERIES { plain_cores::backward_queries<256>(q, k, v, dout, normaliser, delta, dq, HEADS_OF); }
KERNEL attention_dkv_32 KEYS { plain_cores::backward_keys<32>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_OF); }
KERNEL attention_dkv_64 KEYS { plain_cores::backward_keys<64>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_OF); }
KERNEL attention_dkv_96 KEYS { plain_cores::backward_keys<96>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_OF); }
KERNEL attention_dkv_128 KEYS { plain_cores::backward_keys<128>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_OF); }
KERNEL attention_dkv_256 KEYS { plain_cores::backward_keys<256>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_OF); }
#undef HEADS
#undef HEADS_OF
#undef FORWARD
#undef QUERIES
#undef KEYS
