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
__device__ __forceinline__ uint16_t to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float from_bf16(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }
