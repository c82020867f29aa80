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

// out (16 x 8) += a (16 x 16) * b (16 x 8) on a tensor core, over the lanes of a warp.
#ifndef EMULATED
__device__ __forceinline__ void mma(float *out, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(out[0]), "+f"(out[1]), "+f"(out[2]), "+f"(out[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
