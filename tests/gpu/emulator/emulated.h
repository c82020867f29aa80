// CUDA's language for the host: what the kernels' sources use of it, so that they compile with a C++ compiler. The threads
// of a block are fibers of one system thread, which run until they wait for each other.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define EMULATED
#define __device__
#define __forceinline__ inline
#define __global__
// static variables of a system thread: it works on one block at a time
#define __shared__ static thread_local
#define KERNEL extern "C" void
#define SHARED(name) float *name = (float *)emulator::dynamic_shared

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};
extern thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
extern thread_local void *dynamic_shared;
// Waits until all threads of the block are here.
void wait_block();
// Multiplies on the emulated tensor core what the lanes of a warp hold.
void multiply(float *out, const uint32_t *a, const uint32_t *b);
// Takes matrices from shared memory, the rows of which the lanes of a warp point at.
void take(uint32_t *out, const uint16_t *row, bool turned);
// Copies 16 bytes, or clears them, when the thread waits for it and no sooner.
void copy_later(void *to, const void *from, bool there);
void end_copies();
void await_copies(unsigned groups);
// Gives `bits` and gets those of the thread of this warp whose lane is its own xor `mask`.
uint64_t exchange(uint64_t bits, int mask);
} // namespace emulator

inline void __syncthreads() { emulator::wait_block(); }

template <typename T> T __shfl_xor_sync(unsigned, T x, int mask) {
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    bits = emulator::exchange(bits, mask);
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline void atomicMin(uint32_t *at, uint32_t x) { *at = std::min(*at, x); }
