// Root mean square norm; a block of threads works on a row.
#include "kernel.cuh"

__device__ float norm_factor(const float *x, size_t d, float eps) {
    float sum = 0;
    for (size_t i = threadIdx.x; i < d; i += blockDim.x) sum += x[i] * x[i];
    return 1.0f / sqrtf(block_sum(sum) / (float)d + eps);
}

// y = x * factor * weight
KERNEL rms_norm(const float *x, const float *weight, float *y, size_t d, float eps) {
    x += blockIdx.x * d;
    y += blockIdx.x * d;
    float factor = norm_factor(x, d, eps);
    for (size_t i = threadIdx.x; i < d; i += blockDim.x) y[i] = x[i] * factor * weight[i];
}

// With x^ = x * factor and g = weight * dy: dx = factor * (g - x^ * mean(g * x^)). Keeps the factor of every row.
KERNEL rms_norm_backward(const float *x, const float *weight, const float *dy, float *dx, float *factors, size_t d,
                         float eps) {
    x += blockIdx.x * d;
    dy += blockIdx.x * d;
    dx += blockIdx.x * d;
    float factor = norm_factor(x, d, eps), sum = 0;
    for (size_t i = threadIdx.x; i < d; i += blockDim.x) sum += weight[i] * dy[i] * x[i];
    float shrink = block_sum(sum) * factor * factor / (float)d;
    for (size_t i = threadIdx.x; i < d; i += blockDim.x) dx[i] = factor * (weight[i] * dy[i] - x[i] * shrink);
    if (threadIdx.x == 0) factors[blockIdx.x] = factor;
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
