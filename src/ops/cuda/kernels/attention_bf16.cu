// Attention on tensor cores: everything that is read and written is bf16, sums, maxima and the softmax are f32. A warp of
// the forward pass has 32 queries, one of the backward passes 16 queries or keys; a block of threads has four warps and
// walks over the other side in tiles (arXiv 2307.08691). No sum is made by several blocks, so the same input gives the same
// bits every time.
#include "tensor_cores.cuh"

namespace tensor_cores {

const int THREADS = 128;
const float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

struct Heads {
    const uint32_t *blocks, *runs;
    size_t heads, kv_heads, head_dim, window; // a window of 0 is none
    float scale;
    __device__ size_t width() const { return heads * head_dim; }
    __device__ size_t kv_width() const { return kv_heads * head_dim; }
};

struct Block {
    uint32_t start, count, position, first_run, end_run;
    __device__ Block(const Heads &at)
        : start(at.blocks[5 * blockIdx.x]), count(at.blocks[5 * blockIdx.x + 1]),
          position(at.blocks[5 * blockIdx.x + 2]), first_run(at.blocks[5 * blockIdx.x + 3]),
          end_run(at.blocks[5 * blockIdx.x + 4]) {}
};

// The tiles of a block's other side, one after the other: `count` tokens from `start` on, at `position`.
template <int ROWS> struct Walk {
    const uint32_t *run, *end;
    uint32_t done = 0, start = 0, count = 0, position = 0;
    __device__ Walk(const Heads &at, const Block &block)
        : run(at.runs + 3 * block.first_run), end(at.runs + 3 * block.end_run) {
        look();
    }
    __device__ bool over() const { return run == end; }
    __device__ void next() {
        done += ROWS;
        if (done >= run[1]) run += 3, done = 0;
        look();
    }
    __device__ void look() {
        if (over()) return;
        start = run[0] + done;
        count = run[1] - done < ROWS ? run[1] - done : ROWS;
        position = run[2] + done;
    }
};

__device__ __forceinline__ bool sees(uint32_t query, uint32_t key, size_t window) {
    return key <= query && (window == 0 || key + window > query);
}

// Whether all of `queries` queries from position `query` on see all of `keys` keys from `key` on.
__device__ __forceinline__ bool all_see_all(uint32_t query, uint32_t queries, uint32_t key, uint32_t keys, size_t window) {
    return key + keys <= query + 1 && (window == 0 || key + window > query + queries - 1);
}

// Whether none of them sees any.
__device__ __forceinline__ bool none_sees_any(uint32_t query, uint32_t queries, uint32_t key, uint32_t keys,
                                              size_t window) {
    return key > query + queries - 1 || (window != 0 && key + keys - 1 + window <= query);
}

// Writes a warp's 16 x E result whose first row is row `first` of the block, times a factor for each of a lane's two rows.
template <int E>
__device__ void store(uint16_t *x, const float (*values)[4], int first, const Block &block, size_t width, size_t head,
                      size_t head_dim, const float *factors) {
    int row = first + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t own = row + 8 * half;
        if (own >= block.count) continue;
        uint16_t *out = x + (block.start + own) * width + head * head_dim + 2 * t;
#pragma unroll
        for (int e = 0; e < E / 8; e++) {
            if (8u * e >= head_dim) continue;
            *(uint32_t *)(out + 8 * e) =
                to_bf16_pair(values[e][2 * half] * factors[half], values[e][2 * half + 1] * factors[half]);
        }
    }
}

// Queries of a block and keys of a tile in the forward pass; blocks of 16 queries that a warp has.
const int QUERIES = 128, KEYS = 64, PARTS = 2;

// out [t, h*e], and log of the sum of e^score of every token and head, [t, h].
template <int E>
__device__ void forward(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, float *normaliser,
                        const Heads &at) {
    SHARED(shared);
    uint16_t *queries = (uint16_t *)shared, *keys = row_of<E>(queries, QUERIES), *values = row_of<E>(keys, KEYS);
    const int N = KEYS / 8;
    size_t head = blockIdx.y, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16 * PARTS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    k += kv_head * at.head_dim;
    v += kv_head * at.head_dim;
    Walk<KEYS> walk(at, block);
    fetch<E, THREADS>(queries, QUERIES, q + block.start * width + head * at.head_dim, width, block.count, at.head_dim);
    fetch<E, THREADS>(keys, KEYS, k + walk.start * kv_width, kv_width, walk.count, at.head_dim);
    end_copies();
    fetch<E, THREADS>(values, KEYS, v + walk.start * kv_width, kv_width, walk.count, at.head_dim);
    end_copies();
    float sums[PARTS][E / 8][4], max[PARTS][2], total[PARTS][2];
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        clear<E / 8>(sums[p]);
        max[p][0] = max[p][1] = -INFINITY;
        total[p][0] = total[p][1] = 0;
    }
    while (true) {
        uint32_t count = walk.count, position = walk.position;
        walk.next();
        await_copies<1>(); // keys
        __syncthreads();
        uint32_t own = block.position + first;
        bool idle = none_sees_any(own, 16 * PARTS, position, count, at.window);
        float scores[PARTS][N][4];
        if (!idle) {
#pragma unroll
            for (int p = 0; p < PARTS; p++) clear<N>(scores[p]);
#pragma unroll
            for (int e = 0; e < E; e += 16) {
                uint32_t a[PARTS][4];
#pragma unroll
                for (int p = 0; p < PARTS; p++) left_side<E>(a[p], queries, first + 16 * p, e);
#pragma unroll
                for (int n = 0; n < N; n += 2) {
                    uint32_t b[4];
                    right_sides<E>(b, keys, 8 * n, e);
#pragma unroll
                    for (int p = 0; p < PARTS; p++) {
                        mma(scores[p][n], a[p], b);
                        mma(scores[p][n + 1], a[p], b + 2);
                    }
                }
            }
        }
        __syncthreads();
        if (!walk.over()) fetch<E, THREADS>(keys, KEYS, k + walk.start * kv_width, kv_width, walk.count, at.head_dim);
        end_copies();
        if (!idle) {
            bool whole = count == KEYS && all_see_all(own, 16 * PARTS, position, KEYS, at.window);
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                if (!whole) {
#pragma unroll
                    for (int n = 0; n < N; n++) {
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            uint32_t key = 8 * n + 2 * t + i % 2, query = own + 16 * p + g + 8 * (i / 2);
                            if (key >= count || !sees(query, position + key, at.window)) scores[p][n][i] = -INFINITY;
                        }
                    }
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float best = scores[p][0][2 * half];
#pragma unroll
                    for (int n = 0; n < N; n++) {
                        best = fmaxf(best, fmaxf(scores[p][n][2 * half], scores[p][n][2 * half + 1]));
                    }
                    best = fmaxf(max[p][half], row_max(best));
                    // nothing seen so far: any finite base will do
                    float base = best == -INFINITY ? 0.0f : best * pace, sum = 0;
                    float shrink = exp2f(max[p][half] * pace - base);
                    max[p][half] = best;
#pragma unroll
                    for (int n = 0; n < N; n++) {
#pragma unroll
                        for (int i = 2 * half; i < 2 * half + 2; i++) {
                            scores[p][n][i] = exp2f(scores[p][n][i] * pace - base);
                            sum += scores[p][n][i];
                        }
                    }
                    total[p][half] = total[p][half] * shrink + sum;
#pragma unroll
                    for (int e = 0; e < E / 8; e++) {
                        sums[p][e][2 * half] *= shrink;
                        sums[p][e][2 * half + 1] *= shrink;
                    }
                }
            }
        }
        await_copies<1>(); // values
        __syncthreads();
        if (!idle) {
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t a[PARTS][4];
#pragma unroll
                for (int p = 0; p < PARTS; p++) as_left_side(a[p], scores[p][n], scores[p][n + 1]);
#pragma unroll
                for (int e = 0; e < E / 8; e += 2) {
                    uint32_t b[4];
                    right_sides_as_stored<E>(b, values, 8 * n, 8 * e);
#pragma unroll
                    for (int p = 0; p < PARTS; p++) {
                        mma(sums[p][e], a[p], b);
                        mma(sums[p][e + 1], a[p], b + 2);
                    }
                }
            }
        }
        if (walk.over()) break;
        __syncthreads();
        fetch<E, THREADS>(values, KEYS, v + walk.start * kv_width, kv_width, walk.count, at.head_dim);
        end_copies();
    }
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        float factors[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = row_sum(total[p][half]);
            factors[half] = 1.0f / sum;
            uint32_t own = first + 16 * p + g + 8 * half;
            if (t == 0 && own < block.count) {
                normaliser[(block.start + own) * at.heads + head] = max[p][half] * at.scale + logf(sum);
            }
        }
        store<E>(out, sums[p], first + 16 * p, block, width, head, at.head_dim, factors);
    }
}

// Rows of a block in the backward passes, and rows of a tile of the other side, of which two are in shared memory at a time.
const int ROWS = 64, OTHERS = 32;

// A warp's 16 rows of two matrices of the block, to stay in registers. The tiles' memory serves on the way.
template <int E>
__device__ __forceinline__ void hold(uint32_t (*a)[4], uint32_t (*b)[4], uint16_t *tiles, const uint16_t *x,
                                     const uint16_t *y, size_t width, const Block &block, size_t head_dim) {
    fetch<E, THREADS>(tiles, ROWS, x + block.start * width, width, block.count, head_dim);
    fetch<E, THREADS>(row_of<E>(tiles, ROWS), ROWS, y + block.start * width, width, block.count, head_dim);
    end_copies();
    await_copies<0>();
    __syncthreads();
    int first = threadIdx.x / 32 * 16;
#pragma unroll
    for (int e = 0; e < E / 16; e++) {
        left_side<E>(a[e], tiles, first, 16 * e);
        left_side<E>(b[e], tiles, ROWS + first, 16 * e);
    }
    __syncthreads();
}

// Starts to copy a tile of both matrices of the other side.
template <int E>
__device__ __forceinline__ void fetch_pair(uint16_t *tiles, const uint16_t *x, const uint16_t *y, size_t width,
                                           const Walk<OTHERS> &walk, size_t head_dim) {
    fetch<E, THREADS>(tiles, OTHERS, x + walk.start * width, width, walk.count, head_dim);
    fetch<E, THREADS>(row_of<E>(tiles, OTHERS), OTHERS, y + walk.start * width, width, walk.count, head_dim);
}

// first (16 x 16) = own * tile^T over 16 rows of the tile, and second likewise over the tile behind it.
template <int E>
__device__ __forceinline__ void both_products(float (*first)[4], float (*second)[4], const uint32_t (*own)[4],
                                              const uint32_t (*other_own)[4], uint16_t *tiles, int row) {
    clear<2>(first);
    clear<2>(second);
#pragma unroll
    for (int e = 0; e < E / 16; e++) {
        uint32_t b[4];
        right_sides<E>(b, tiles, row, 16 * e);
        mma(first[0], own[e], b);
        mma(first[1], own[e], b + 2);
        right_sides<E>(b, tiles, OTHERS + row, 16 * e);
        mma(second[0], other_own[e], b);
        mma(second[1], other_own[e], b + 2);
    }
}

// sums (16 x E) += weights (16 x 16) * 16 rows of a tile.
template <int E>
__device__ __forceinline__ void add_weighted(float (*sums)[4], const float (*weights)[4], uint16_t *tile, int row) {
    uint32_t a[4];
    as_left_side(a, weights[0], weights[1]);
#pragma unroll
    for (int e = 0; e < E / 8; e += 2) {
        uint32_t b[4];
        right_sides_as_stored<E>(b, tile, row, 8 * e);
        mma(sums[e], a, b);
        mma(sums[e + 1], a, b + 2);
    }
}

// dq; a block of threads has queries, the runs are keys.
template <int E>
__device__ void backward_queries(const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout,
                                 const float *normaliser, const float *delta, uint16_t *dq, const Heads &at) {
    SHARED(shared);
    uint16_t *tiles = (uint16_t *)shared;
    size_t head = blockIdx.y, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    uint32_t queries[E / 16][4], grads[E / 16][4];
    hold<E>(queries, grads, tiles, q + head * at.head_dim, dout + head * at.head_dim, width, block, at.head_dim);
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
#pragma unroll
        for (uint32_t row = 0; row < OTHERS; row += 16) {
            if (row >= count || none_sees_any(own, 16, position + row, 16, at.window)) continue;
            float scores[2][4], dweights[2][4];
            both_products<E>(scores, dweights, queries, grads, keys, row);
            bool whole = row + 16 <= count && all_see_all(own, 16, position + row, 16, at.window);
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t key = row + 8 * n + 2 * t + i % 2, query = own + g + 8 * (i / 2);
                    float weight = exp2f(scores[n][i] * pace - own_normaliser[i / 2]);
                    float dscore = weight * (dweights[n][i] - own_delta[i / 2]) * at.scale;
                    bool seen = whole || (key < count && sees(query, position + key, at.window));
                    scores[n][i] = seen ? dscore : 0.0f;
                }
            }
            add_weighted<E>(sums, scores, keys, row);
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
    // two pairs of tiles, then log-sums and deltas of their queries
    uint16_t *tiles = (uint16_t *)shared;
    float *numbers = (float *)row_of<E>(tiles, 4 * OTHERS);
    size_t kv_head = blockIdx.y, group = at.heads / at.kv_heads;
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at);
    uint32_t keys[E / 16][4], values[E / 16][4];
    hold<E>(keys, values, tiles, k + kv_head * at.head_dim, v + kv_head * at.head_dim, kv_width, block, at.head_dim);
    float dkeys[E / 8][4], dvalues[E / 8][4];
    clear<E / 8>(dkeys);
    clear<E / 8>(dvalues);
    size_t head = kv_head * group;
    Walk<OTHERS> walk(at, block);
    auto fetch_queries = [&](int turn) {
        fetch_pair<E>(row_of<E>(tiles, turn * 2 * OTHERS), q + head * at.head_dim, dout + head * at.head_dim, width, walk,
                      at.head_dim);
        if (threadIdx.x < walk.count) {
            size_t token = (walk.start + threadIdx.x) * at.heads + head;
            numbers[turn * 2 * OTHERS + threadIdx.x] = normaliser[token] * LOG2_E;
            numbers[turn * 2 * OTHERS + OTHERS + threadIdx.x] = delta[token];
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
#pragma unroll
        for (uint32_t row = 0; row < OTHERS; row += 16) {
            if (row >= count || none_sees_any(position + row, 16, own, 16, at.window)) continue;
            float weights[2][4], dscores[2][4];
            both_products<E>(weights, dscores, keys, values, queries, row);
            bool whole = row + 16 <= count && all_see_all(position + row, 16, own, 16, at.window);
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t query = row + 8 * n + 2 * t + i % 2, key = own + g + 8 * (i / 2);
                    bool seen = whole || (query < count && sees(position + query, key, at.window));
                    float weight = seen ? exp2f(weights[n][i] * pace - own_numbers[query]) : 0.0f;
                    weights[n][i] = weight;
                    dscores[n][i] = seen ? weight * (dscores[n][i] - own_numbers[OTHERS + query]) * at.scale : 0.0f;
                }
            }
            add_weighted<E>(dkeys, dscores, queries, row);
            add_weighted<E>(dvalues, weights, grads, row);
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

#define HEADS                                                                                                          \
    const uint32_t *blocks, const uint32_t *runs, size_t heads, size_t kv_heads, size_t head_dim, size_t window,       \
        float scale
#define FORWARD(E)                                                                                                     \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, float *normaliser, HEADS) {               \
        tensor_cores::forward<E>(q, k, v, out, normaliser, {blocks, runs, heads, kv_heads, head_dim, window, scale});  \
    }
#define QUERIES(E)                                                                                                     \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout, const float *normaliser,           \
     const float *delta, uint16_t *dq, HEADS) {                                                                        \
        tensor_cores::backward_queries<E>(q, k, v, dout, normaliser, delta, dq,                                        \
                                          {blocks, runs, heads, kv_heads, head_dim, window, scale});                   \
    }
#define KEYS(E)                                                                                                        \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *dout, const float *normaliser,           \
     const float *delta, uint16_t *dk, uint16_t *dv, HEADS) {                                                          \
        tensor_cores::backward_keys<E>(q, k, v, dout, normaliser, delta, dk, dv,                                       \
                                       {blocks, runs, heads, kv_heads, head_dim, window, scale});                      \
    }

// One for head dimensions up to 32, 64, 96 and 128, multiples of 8.
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
