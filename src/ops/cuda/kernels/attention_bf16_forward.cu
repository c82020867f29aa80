// The forward pass of attention on tensor cores.
#include "attention_bf16.cuh"

namespace tensor_cores {

// Queries of a block and keys of a tile in the forward pass; blocks of 16 queries that a warp has.
const int QUERIES = 128, KEYS = 64, PARTS = 2;

// out [t, h*e], and log of the sum of e^score of every token and head, [t, h].
template <int E>
__device__ void forward(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, float *normaliser,
                        const Heads &at) {
    SHARED(shared);
    uint16_t *queries = (uint16_t *)shared, *keys = row_of<E>(queries, QUERIES), *values = row_of<E>(keys, KEYS);
    const int N = KEYS / 8;
    uint32_t head = blockIdx.x, kv_head = head / (at.heads / at.kv_heads);
    size_t width = at.width(), kv_width = at.kv_width();
    const float pace = at.scale * LOG2_E;
    int first = threadIdx.x / 32 * 16 * PARTS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Block block(at.blocks);
    k += kv_head * at.head_dim;
    v += kv_head * at.head_dim;
    Walk<KEYS> walk(at, block);
    fetch<E, QUERIES, THREADS>(queries, q + block.start * width + head * at.head_dim, width, block.count, at.head_dim);
    fetch<E, KEYS, THREADS>(keys, k + walk.start * kv_width, kv_width, walk.count, at.head_dim);
    end_copies();
    fetch<E, KEYS, THREADS>(values, v + walk.start * kv_width, kv_width, walk.count, at.head_dim);
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
        bool idle = none_sees_any(own, 16 * PARTS, position, count, at.reach);
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
        if (!walk.over()) fetch<E, KEYS, THREADS>(keys, k + walk.start * kv_width, kv_width, walk.count, at.head_dim);
        end_copies();
        if (!idle) {
            bool whole = count == KEYS && all_see_all(own, 16 * PARTS, position, KEYS, at.reach);
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                if (!whole) {
#pragma unroll
                    for (int n = 0; n < N; n++) {
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            uint32_t key = 8 * n + 2 * t + i % 2, query = own + 16 * p + g + 8 * (i / 2);
                            bool seen = (key < count) & sees(query, position + key, at.reach);
                            scores[p][n][i] = seen ? scores[p][n][i] : -INFINITY;
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
        fetch<E, KEYS, THREADS>(values, v + walk.start * kv_width, kv_width, walk.count, at.head_dim);
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

} // namespace tensor_cores

#define FORWARD(E)                                                                                                     \
    (const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, float *normaliser, HEADS) {               \
        tensor_cores::forward<E>(q, k, v, out, normaliser, HEADS_GIVEN);                                               \
    }

// One for head dimensions up to 32, 64, 96 and 128, multiples of 8.
KERNEL attention_bf16_32 FORWARD(32)
KERNEL attention_bf16_64 FORWARD(64)
KERNEL attention_bf16_96 FORWARD(96)
KERNEL attention_bf16_128 FORWARD(128)
#undef FORWARD
