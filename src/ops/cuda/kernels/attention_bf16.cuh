// Attention on tensor cores: everything that is read and written is bf16, sums, maxima and the softmax are f32. A warp of
// the forward pass has 32 queries, one of the backward passes 16 queries or keys; a block of threads has four warps and
// walks over the other side in tiles (arXiv 2307.08691). No sum is made by several blocks, so the same input gives the same
// bits every time.
#pragma once
#include "tables.cuh"
#include "tensor_cores.cuh"

namespace tensor_cores {

const int THREADS = 128;
const float LOG2_E = 1.4426950408889634f;

struct Heads {
    const uint32_t *blocks, *runs;
    uint32_t heads, kv_heads, head_dim;
    // a token sees so many, itself included
    uint32_t reach;
    float scale;
    __device__ Heads(const uint32_t *blocks, const uint32_t *runs, size_t heads, size_t kv_heads, size_t head_dim,
                     size_t window, float scale)
        : blocks(blocks), runs(runs), heads(heads), kv_heads(kv_heads), head_dim(head_dim),
          reach(window == 0 ? 0x80000000u : window), scale(scale) {}
    __device__ size_t width() const { return (size_t)heads * head_dim; }
    __device__ size_t kv_width() const { return (size_t)kv_heads * head_dim; }
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

// Positions are below 2^31, so that a later key is further away than any reach.
__device__ __forceinline__ bool sees(uint32_t query, uint32_t key, uint32_t reach) { return query - key < reach; }

// Whether all of `queries` queries from position `query` on see all of `keys` keys from `key` on.
__device__ __forceinline__ bool all_see_all(uint32_t query, uint32_t queries, uint32_t key, uint32_t keys, uint32_t reach) {
    return (query - (key + keys - 1) < reach) & (query + queries - 1 - key < reach);
}

// Whether none of them sees any.
__device__ __forceinline__ bool none_sees_any(uint32_t query, uint32_t queries, uint32_t key, uint32_t keys,
                                              uint32_t reach) {
    return (query + queries - 1 < key) | (query >= key + keys - 1 && query - (key + keys - 1) >= reach);
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

} // namespace tensor_cores

// The last arguments of every kernel, and what they are.
#define HEADS                                                                                                          \
    const uint32_t *blocks, const uint32_t *runs, size_t heads, size_t kv_heads, size_t head_dim, size_t window,       \
        float scale
#define HEADS_GIVEN tensor_cores::Heads(blocks, runs, heads, kv_heads, head_dim, window, scale)
