// The backward passes of attention on tensor cores: one for the queries, one for keys and values.
#include "attention_bf16.cuh"

namespace tensor_cores {

// Rows of a block in the backward passes, and rows of a tile of the other side. In shared memory: the block's rows of two
// matrices, and two tiles of two matrices, one at work and one on its way.
const int ROWS = 64, OTHERS = 32;

// Starts to copy the block's rows of both matrices.
template <int E>
__device__ __forceinline__ void fetch_own(uint16_t *tiles, const uint16_t *x, const uint16_t *y, size_t width,
                                          const Block &block, uint32_t head_dim) {
    fetch<E, ROWS, THREADS>(tiles, x + block.start * width, width, block.count, head_dim);
    fetch<E, ROWS, THREADS>(row_of<E>(tiles, ROWS), y + block.start * width, width, block.count, head_dim);
}

// Starts to copy a tile of both matrices of the other side.
template <int E>
__device__ __forceinline__ void fetch_pair(uint16_t *tiles, const uint16_t *x, const uint16_t *y, size_t width,
                                           const Walk<OTHERS> &walk, uint32_t head_dim) {
    fetch<E, OTHERS, THREADS>(tiles, x + walk.start * width, width, walk.count, head_dim);
    fetch<E, OTHERS, THREADS>(row_of<E>(tiles, OTHERS), y + walk.start * width, width, walk.count, head_dim);
}

// first (16 x 8 N) = 16 own rows, from `row` on, of the first matrix * tile^T, and second likewise of the second.
template <int E, int N>
__device__ __forceinline__ void both_products(float (*first)[4], float (*second)[4], uint16_t *own, int row,
                                              uint16_t *tiles) {
    clear<N>(first);
    clear<N>(second);
#pragma unroll
    for (int e = 0; e < E; e += 16) {
        uint32_t a[4], b[4];
        left_side<E>(a, own, row, e);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            right_sides<E>(b, tiles, 8 * n, e);
            mma(first[n], a, b);
            mma(first[n + 1], a, b + 2);
        }
        left_side<E>(a, own, ROWS + row, e);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            right_sides<E>(b, tiles, OTHERS + 8 * n, e);
            mma(second[n], a, b);
            mma(second[n + 1], a, b + 2);
        }
    }
}

// sums (16 x E) += weights (16 x 8 N) * the rows of a tile.
template <int E, int N>
__device__ __forceinline__ void add_weighted(float (*sums)[4], const float (*weights)[4], uint16_t *tile) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[4];
        as_left_side(a, weights[n], weights[n + 1]);
#pragma unroll
        for (int e = 0; e < E / 8; e += 2) {
            uint32_t b[4];
            right_sides_as_stored<E>(b, tile, 8 * n, 8 * e);
            mma(sums[e], a, b);
            mma(sums[e + 1], a, b + 2);
        }
    }
}

// dq; a block of threads has queries, the runs are keys.
template <int E>
__device__ void backward_queries(const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout,
                                 const float *normaliser, const float *delta, uint16_t *dq, const Heads &at) {
    SHARED(shared);
    uint16_t *own_rows = (uint16_t *)shared, *tiles = row_of<E>(own_rows, 2 * ROWS);
    const int N = OTHERS / 8;
    uint32_t head = blockIdx.x, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at.blocks);
    fetch_own<E>(own_rows, q + head * at.head_dim, dout + head * at.head_dim, width, block, at.head_dim);
    float own_normaliser[2], own_delta[2], sums[E / 8][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t own = first + g + 8 * half;
        size_t token = (block.start + (own < block.count ? own : 0)) * at.heads + head;
        own_normaliser[half] = normaliser[token] * LOG2_E;
        own_delta[half] = delta[token];
    }
    clear<E / 8>(sums);
    k += kv_head * at.head_dim;
    v += kv_head * at.head_dim;
    Walk<OTHERS> walk(at, block);
    fetch_pair<E>(tiles, k, v, kv_width, walk, at.head_dim);
    end_copies();
    for (int turn = 0;; turn ^= 1) {
        uint16_t *keys = row_of<E>(tiles, turn * 2 * OTHERS);
        uint32_t count = walk.count, position = walk.position, own = block.position + first;
        walk.next();
        if (!walk.over()) fetch_pair<E>(row_of<E>(tiles, (turn ^ 1) * 2 * OTHERS), k, v, kv_width, walk, at.head_dim);
        end_copies();
        await_copies<1>();
        __syncthreads();
        if (!none_sees_any(own, 16, position, OTHERS, at.reach)) {
            float scores[N][4], dweights[N][4];
            both_products<E, N>(scores, dweights, own_rows, first, keys);
            if (count < OTHERS || !all_see_all(own, 16, position, OTHERS, at.reach)) {
#pragma unroll
                for (int n = 0; n < N; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t key = 8 * n + 2 * t + i % 2, query = own + g + 8 * (i / 2);
                        bool seen = (key < count) & sees(query, position + key, at.reach);
                        scores[n][i] = seen ? scores[n][i] : -INFINITY;
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float weight = exp2f(scores[n][i] * pace - own_normaliser[i / 2]);
                    scores[n][i] = weight * (dweights[n][i] - own_delta[i / 2]) * at.scale;
                }
            }
            add_weighted<E, N>(sums, scores, keys);
        }
        if (walk.over()) break;
        __syncthreads();
    }
    float factors[2] = {1.0f, 1.0f};
    store<E>(dq, sums, first, block, width, head, at.head_dim, factors);
}

// dk and dv; a block of threads has keys of one KV head, the runs are queries.
template <int E>
__device__ void backward_keys(const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout,
                              const float *normaliser, const float *delta, uint16_t *dk, uint16_t *dv, const Heads &at) {
    SHARED(shared);
    uint16_t *own_rows = (uint16_t *)shared, *tiles = row_of<E>(own_rows, 2 * ROWS);
    // behind the tiles log-sums and deltas of their queries
    float *numbers = (float *)row_of<E>(tiles, 4 * OTHERS);
    const int N = OTHERS / 8;
    uint32_t kv_head = blockIdx.x, group = at.heads / at.kv_heads;
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at.blocks);
    fetch_own<E>(own_rows, k + kv_head * at.head_dim, v + kv_head * at.head_dim, kv_width, block, at.head_dim);
    float dkeys[E / 8][4], dvalues[E / 8][4];
    clear<E / 8>(dkeys);
    clear<E / 8>(dvalues);
    uint32_t head = kv_head * group;
    Walk<OTHERS> walk(at, block);
    auto fetch_queries = [&](int turn) {
        fetch_pair<E>(row_of<E>(tiles, turn * 2 * OTHERS), q + head * at.head_dim, dout + head * at.head_dim, width, walk,
                      at.head_dim);
        if (threadIdx.x < OTHERS) {
            bool there = threadIdx.x < walk.count;
            size_t token = (size_t)(walk.start + (there ? threadIdx.x : 0)) * at.heads + head;
            numbers[turn * 2 * OTHERS + threadIdx.x] = there ? normaliser[token] * LOG2_E : 0.0f;
            numbers[turn * 2 * OTHERS + OTHERS + threadIdx.x] = there ? delta[token] : 0.0f;
        }
    };
    fetch_queries(0);
    end_copies();
    for (int turn = 0;; turn ^= 1) {
        uint16_t *queries = row_of<E>(tiles, turn * 2 * OTHERS), *grads = row_of<E>(queries, OTHERS);
        const float *own_numbers = numbers + turn * 2 * OTHERS;
        uint32_t count = walk.count, position = walk.position, own = block.position + first;
        walk.next();
        if (walk.over() && ++head < (kv_head + 1) * group) walk = Walk<OTHERS>(at, block);
        bool more = !walk.over();
        if (more) fetch_queries(turn ^ 1);
        end_copies();
        await_copies<1>();
        __syncthreads();
        if (!none_sees_any(position, OTHERS, own, 16, at.reach)) {
            float weights[N][4], dscores[N][4];
            both_products<E, N>(weights, dscores, own_rows, first, queries);
            if (count < OTHERS || !all_see_all(position, OTHERS, own, 16, at.reach)) {
#pragma unroll
                for (int n = 0; n < N; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t query = 8 * n + 2 * t + i % 2, key = own + g + 8 * (i / 2);
                        bool seen = (query < count) & sees(position + query, key, at.reach);
                        weights[n][i] = seen ? weights[n][i] : -INFINITY;
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t query = 8 * n + 2 * t + i % 2;
                    weights[n][i] = exp2f(weights[n][i] * pace - own_numbers[query]);
                    dscores[n][i] = weights[n][i] * (dscores[n][i] - own_numbers[OTHERS + query]) * at.scale;
                }
            }
            add_weighted<E, N>(dkeys, dscores, queries);
            add_weighted<E, N>(dvalues, weights, grads);
        }
        if (!more) break;
        __syncthreads();
    }
    float factors[2] = {1.0f, 1.0f};
    store<E>(dk, dkeys, first, block, kv_width, kv_head, at.head_dim, factors);
    store<E>(dv, dvalues, first, block, kv_width, kv_head, at.head_dim, factors);
}

} // namespace tensor_cores

// Sum of out * dout of every token and head; a warp works on one of them.
KERNEL attention_bf16_delta(const uint16_t *out, const uint16_t *dout, float *delta, size_t n, size_t head_dim) {
    size_t at = first_element() / 32;
    if (at >= n) return;
    float sum = 0;
    for (size_t i = threadIdx.x % 32 * 2; i < head_dim; i += 64) {
        uint32_t a = *(const uint32_t *)(out + at * head_dim + i), b = *(const uint32_t *)(dout + at * head_dim + i);
        sum += from_bf16((uint16_t)a) * from_bf16((uint16_t)b) + from_bf16(a >> 16) * from_bf16(b >> 16);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[at] = sum;
}

#define QUERIES(E)                                                                                                     \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout, const float *normaliser,           \
     const float *delta, uint16_t *dq, HEADS) {                                                                        \
        tensor_cores::backward_queries<E>(q, k, v, dout, normaliser, delta, dq, HEADS_GIVEN);                          \
    }
#define KEYS(E)                                                                                                        \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout, const float *normaliser,           \
     const float *delta, uint16_t *dk, uint16_t *dv, HEADS) {                                                          \
        tensor_cores::backward_keys<E>(q, k, v, dout, normaliser, delta, dk, dv, HEADS_GIVEN);                         \
    }

// One for head dimensions up to 32, 64, 96 and 128, multiples of 8.
KERNEL attention_bf16_dq_32 QUERIES(32)
KERNEL attention_bf16_dq_64 QUERIES(64)
KERNEL attention_bf16_dq_96 QUERIES(96)
KERNEL attention_bf16_dq_128 QUERIES(128)
KERNEL attention_bf16_dkv_32 KEYS(32)
KERNEL attention_bf16_dkv_64 KEYS(64)
KERNEL attention_bf16_dkv_96 KEYS(96)
KERNEL attention_bf16_dkv_128 KEYS(128)
#undef QUERIES
#undef KEYS
#undef HEADS
#undef HEADS_GIVEN
