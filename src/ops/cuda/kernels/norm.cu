// Root mean square norm; a block of threads works on a row.
#include "kernel.cuh"

template <typename T> __device__ float norm_factor(const T *x, size_t d, bool eights, float eps) {
    float sum = 0;
    over_row(d, eights, [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float numbers[W];
        load<W>(numbers, x + i);
#pragma unroll
        for (int j = 0; j < W; j++) sum += numbers[j] * numbers[j];
    });
    return 1.0f / sqrtf(block_sum(sum) / (float)d + eps);
}

// y = x * factor * weight
template <typename A, typename B> __device__ void norm(const A *x, const float *weight, B *y, size_t d, float eps) {
    bool eights = in_eights(d, x, weight, y);
    x += blockIdx.x * d;
    y += blockIdx.x * d;
    float factor = norm_factor(x, d, eights, eps);
    over_row(d, eights, [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float numbers[W], weights[W];
        load<W>(numbers, x + i);
        load<W>(weights, weight + i);
#pragma unroll
        for (int j = 0; j < W; j++) numbers[j] *= factor * weights[j];
        store<W>(y + i, numbers);
    });
}
KERNEL rms_norm_f32_f32(const float *x, const float *weight, float *y, size_t d, float eps) { norm(x, weight, y, d, eps); }
KERNEL rms_norm_f32_bf16(const float *x, const float *weight, uint16_t *y, size_t d, float eps) {
    norm(x, weight, y, d, eps);
}
KERNEL rms_norm_bf16_bf16(const uint16_t *x, const float *weight, uint16_t *y, size_t d, float eps) {
    norm(x, weight, y, d, eps);
}

// With x^ = x * factor and g = weight * dy: dx = factor * (g - x^ * mean(g * x^)). Keeps the factor of every row.
template <typename A, typename B>
__device__ void norm_backward(const A *x, const float *weight, const B *dy, A *dx, float *factors, size_t d, float eps) {
    bool eights = in_eights(d, x, weight, dy, dx);
    x += blockIdx.x * d;
    dy += blockIdx.x * d;
    dx += blockIdx.x * d;
    float factor = norm_factor(x, d, eights, eps), sum = 0;
    over_row(d, eights, [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float own[W], weights[W], gradients[W];
        load<W>(own, x + i);
        load<W>(weights, weight + i);
        load<W>(gradients, dy + i);
#pragma unroll
        for (int j = 0; j < W; j++) sum += weights[j] * gradients[j] * own[j];
    });
    float shrink = block_sum(sum) * factor * factor / (float)d;
    over_row(d, eights, [&](auto width, size_t i) {
        const int W = width.NUMBERS;
        float own[W], weights[W], gradients[W];
        load<W>(own, x + i);
        load<W>(weights, weight + i);
        load<W>(gradients, dy + i);
#pragma unroll
        for (int j = 0; j < W; j++) own[j] = factor * (weights[j] * gradients[j] - own[j] * shrink);
        store<W>(dx + i, own);
    });
    if (threadIdx.x == 0) factors[blockIdx.x] = factor;
}
KERNEL rms_norm_backward_f32_f32(const float *x, const float *weight, const float *dy, float *dx, float *factors, size_t d,
                                 float eps) {
    norm_backward(x, weight, dy, dx, factors, d, eps);
}
KERNEL rms_norm_backward_f32_bf16(const float *x, const float *weight, const uint16_t *dy, float *dx, float *factors,
                                  size_t d, float eps) {
    norm_backward(x, weight, dy, dx, factors, d, eps);
}
KERNEL rms_norm_backward_bf16_bf16(const uint16_t *x, const float *weight, const uint16_t *dy, uint16_t *dx,
                                   float *factors, size_t d, float eps) {
    norm_backward(x, weight, dy, dx, factors, d, eps);
}

// Sum of dy * x^ over the rows, a thread a column.
KERNEL rms_norm_weight(const float *x, const float *dy, const float *factors, float *dweight, size_t rows, size_t d) {
    for (size_t i = first_element(); i < d; i += all_threads()) {
        float sum = 0;
        for (size_t row = 0; row < rows; row++) sum += dy[row * d + i] * x[row * d + i] * factors[row];
        dweight[i] = sum;
    }
}

// Sum over the rows, a thread a column.
KERNEL sum_rows(const float *x, float *sums, size_t rows, size_t d) {
    for (size_t i = first_element(); i < d; i += all_threads()) {
        float sum = 0;
        for (size_t row = 0; row < rows; row++) sum += x[row * d + i];
        sums[i] = sum;
    }
}
