// What kernels on tensor cores share: tiles in shared memory, how they get there and how a warp takes them from there.
//
// What a lane holds of a product (PTX, mma.m16n8k16), with g = lane / 4 and t = lane % 4: of the 16 x 16 left side the
// pairs (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right neighbour; of the 16 x 8 right side the
// pairs (2t, g), (2t + 8, g), each with the one below; of the 16 x 8 result (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1). So two results side by side are the left side of the next product, in the same lanes.
#pragma once
#include "kernel.cuh"

namespace tensor_cores {

// bf16 numbers between the ends of two rows of a tile: rows are then an odd number of 16 bytes apart, and the eight that a
// warp takes at a time lie in different banks.
const int GAP = 8;

// out (16 x 8) += a (16 x 16) * b (16 x 8), over the lanes of a warp.
#ifndef EMULATED
__device__ __forceinline__ void mma(float *out, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(out[0]), "+f"(out[1]), "+f"(out[2]), "+f"(out[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices, whose rows the lanes 0 to 7, 8 to 15, 16 to 23 and 24 to 31 point at: of each the pair at row g,
// columns 2t and 2t + 1; turned, the pair at column g, rows 2t and 2t + 1.
__device__ __forceinline__ void take(uint32_t *out, const uint16_t *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}
__device__ __forceinline__ void take_turned(uint32_t *out, const uint16_t *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}

// Starts to copy 16 bytes to shared memory, or to clear them.
__device__ __forceinline__ void copy_later(uint16_t *to, const uint16_t *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(there ? 16 : 0) : "memory");
}
// Ends a group of copies.
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies but those of the last N groups.
template <int N> __device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
inline void mma(float *out, const uint32_t *a, const uint32_t *b) { emulator::multiply(out, a, b); }
inline void take(uint32_t *out, const uint16_t *row) { emulator::take(out, row, false); }
inline void take_turned(uint32_t *out, const uint16_t *row) { emulator::take(out, row, true); }
inline void copy_later(uint16_t *to, const uint16_t *from, bool there) { emulator::copy_later(to, from, there); }
inline void end_copies() { emulator::end_copies(); }
template <int N> void await_copies() { emulator::await_copies(N); }
#endif

// A tile in shared memory: rows of E numbers.
template <int E> __device__ __forceinline__ uint16_t *row_of(uint16_t *tile, int row) { return tile + row * (E + GAP); }

// Starts to copy ROWS rows of E numbers, of which `count` and the first `columns` of each are there, a multiple of 8; the
// rest becomes 0.
template <int E, int ROWS, int THREADS>
__device__ __forceinline__ void fetch(uint16_t *tile, const uint16_t *x, size_t width, uint32_t count, uint32_t columns) {
    const uint32_t PIECES = E / 8;
    static_assert(ROWS * E / 8 % THREADS == 0, "every thread copies as much");
#pragma unroll
    for (uint32_t n = 0; n < ROWS * PIECES / THREADS; n++) {
        uint32_t i = threadIdx.x + n * THREADS, row = i / PIECES, column = i % PIECES * 8;
        bool there = (row < count) & (column < columns);
        copy_later(row_of<E>(tile, row) + column, there ? x + row * width + column : x, there);
    }
}

// The left side (16 x 16) at `row` and `column`.
template <int E> __device__ __forceinline__ void left_side(uint32_t *a, uint16_t *tile, int row, int column) {
    int lane = threadIdx.x % 32;
    take(a, row_of<E>(tile, row + lane % 16) + column + lane / 16 * 8);
}

// Two right sides (16 x 8): the transpose of the 16 rows and 16 columns at `row` and `column`.
template <int E> __device__ __forceinline__ void right_sides(uint32_t *b, uint16_t *tile, int row, int column) {
    int lane = threadIdx.x % 32;
    take(b, row_of<E>(tile, row + lane % 8 + lane / 16 * 8) + column + lane / 8 % 2 * 8);
}

// Two right sides (16 x 8): the 16 rows and 16 columns at `row` and `column` as they are.
template <int E> __device__ __forceinline__ void right_sides_as_stored(uint32_t *b, uint16_t *tile, int row, int column) {
    int lane = threadIdx.x % 32;
    take_turned(b, row_of<E>(tile, row + lane % 8 + lane / 8 % 2 * 8) + column + lane / 16 * 8);
}

// A left side from two results (16 x 8) side by side.
__device__ __forceinline__ void as_left_side(uint32_t *a, const float *first, const float *second) {
    a[0] = to_bf16_pair(first[0], first[1]);
    a[1] = to_bf16_pair(first[2], first[3]);
    a[2] = to_bf16_pair(second[0], second[1]);
    a[3] = to_bf16_pair(second[2], second[3]);
}

template <int N> __device__ __forceinline__ void clear(float (*x)[4]) {
#pragma unroll
    for (int n = 0; n < N; n++) x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
}

} // namespace tensor_cores
