// What all kernels share. Numbers are f32 in row-major order; sizes are size_t, so that every argument is 8 bytes or a
// float. The same sources compile for the host, with the tests' emulator in the place of CUDA's headers.
#pragma once
#ifndef EMULATED
#include <cuda_bf16.h>
#define KERNEL extern "C" __global__ void
// Shared memory whose size the launch says.
#define SHARED(name) extern __shared__ float name[]
#endif
#include <stdint.h>

// First element of a thread, and its stride, in a loop over many.
__device__ __forceinline__ size_t first_element() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ size_t all_threads() { return (size_t)gridDim.x * blockDim.x; }

__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ double plus(double a, double b) { return a + b; }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }

template <typename T> __device__ __forceinline__ T warp_sum(T x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = plus(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    return x;
}

// Over four lanes side by side, which share a row in attention.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Over the threads of a block, whole warps of them; every thread gets it.
template <typename T> __device__ T block_sum(T x) {
    __shared__ T parts[32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum = plus(sum, parts[warp]);
    return sum;
}

__device__ inline float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float max = parts[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) max = larger(max, parts[warp]);
    return max;
}

// bf16 kept as its bits; rounds to the nearest, ties to even, as PyTorch does.
#ifndef EMULATED
__device__ __forceinline__ uint16_t to_bf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
// Two of them, the first in the low half.
__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
#else
inline uint16_t to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline uint32_t to_bf16_pair(float low, float high) { return to_bf16(low) | (uint32_t)to_bf16(high) << 16; }
#endif
__device__ __forceinline__ float from_bf16(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }

// Numbers of either type as f32. W of them at a time, 8 or 1; eight must be aligned to 16 bytes.
struct alignas(16) Quad {
    uint32_t words[4];
};
template <int W> __device__ __forceinline__ void load(float *x, const float *from) {
    if (W == 1) {
        x[0] = from[0];
    } else {
        Quad low = ((const Quad *)from)[0], high = ((const Quad *)from)[1];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = __uint_as_float(low.words[i]), x[W / 2 + i] = __uint_as_float(high.words[i]);
    }
}
template <int W> __device__ __forceinline__ void load(float *x, const uint16_t *from) {
    if (W == 1) {
        x[0] = from_bf16(from[0]);
    } else {
        Quad all = *(const Quad *)from;
#pragma unroll
        for (int i = 0; i < W / 2; i++) {
            x[2 * i] = __uint_as_float(all.words[i] << 16);
            x[2 * i + 1] = __uint_as_float(all.words[i] & 0xffff0000u);
        }
    }
}
template <int W> __device__ __forceinline__ void store(float *to, const float *x) {
    if (W == 1) {
        to[0] = x[0];
    } else {
        Quad low, high;
#pragma unroll
        for (int i = 0; i < 4; i++) low.words[i] = __float_as_uint(x[i]), high.words[i] = __float_as_uint(x[W / 2 + i]);
        ((Quad *)to)[0] = low, ((Quad *)to)[1] = high;
    }
}
template <int W> __device__ __forceinline__ void store(uint16_t *to, const float *x) {
    if (W == 1) {
        to[0] = to_bf16(x[0]);
    } else {
        Quad all;
#pragma unroll
        for (int i = 0; i < W / 2; i++) all.words[i] = to_bf16_pair(x[2 * i], x[2 * i + 1]);
        *(Quad *)to = all;
    }
}

// Whether eight numbers can be moved at a time: rows of a multiple of eight numbers, at addresses that allow it.
template <typename... T> __device__ __forceinline__ bool in_eights(size_t width, const T *...at) {
    return (width % 8 | (... | ((size_t)at % 16))) == 0;
}

template <int N> struct Width {
    static const int NUMBERS = N;
};

// Calls f(width, first) for all of n numbers, from thread `thread` of `threads`.
template <typename F>
__device__ __forceinline__ void over(size_t n, bool eights, size_t thread, size_t threads, F f) {
    if (eights) {
        for (size_t i = thread * 8; i < n; i += threads * 8) f(Width<8>(), i);
    } else {
        for (size_t i = thread; i < n; i += threads) f(Width<1>(), i);
    }
}
// Over all threads of the launch.
template <typename F> __device__ __forceinline__ void over_all(size_t n, bool eights, F f) {
    over(n, eights, first_element(), all_threads(), f);
}
// Over the threads of a block.
template <typename F> __device__ __forceinline__ void over_row(size_t n, bool eights, F f) {
    over(n, eights, threadIdx.x, blockDim.x, f);
}
