// Over the vocabulary, a block of threads a row of logits.
#include "kernel.cuh"

// The largest logit; the smallest token that has it in *best.
__device__ float largest(const float *logits, size_t v, uint32_t *best) {
    __shared__ uint32_t found;
    float max = -INFINITY;
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) max = larger(max, logits[i]);
    max = block_max(max);
    if (best) {
        if (threadIdx.x == 0) found = 0xffffffffu;
        __syncthreads();
        for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
            if (logits[i] == max) {
                atomicMin(&found, (uint32_t)i);
                break;
            }
        }
        __syncthreads();
        *best = found;
    }
    return max;
}

// Sum of e^((logit - max) / temperature).
__device__ float normaliser(const float *logits, size_t v, float max, float temperature) {
    float sum = 0;
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) sum += expf((logits[i] - max) / temperature);
    return block_sum(sum);
}

// Log-likelihoods of the tokens first[row] .. first[row + 1], and whether each is the likeliest of all.
KERNEL log_likelihood(const float *logits, const uint32_t *first, const uint32_t *tokens, float *scores,
                      uint32_t *greedy, size_t v) {
    logits += blockIdx.x * v;
    uint32_t best = 0;
    float max = largest(logits, v, &best);
    float log_sum = logf(normaliser(logits, v, max, 1.0f));
    for (uint32_t i = first[blockIdx.x] + threadIdx.x; i < first[blockIdx.x + 1]; i += blockDim.x) {
        scores[i] = logits[tokens[i]] - max - log_sum;
        greedy[i] = best == tokens[i];
    }
}

// losses[row] = -ln p(target); the row's logits become the gradient of that, p - 1(target).
KERNEL cross_entropy(float *logits, const uint32_t *targets, double *losses, size_t v) {
    logits += blockIdx.x * v;
    uint32_t target = targets[blockIdx.x];
    float max = largest(logits, v, nullptr), own = logits[target], sum = normaliser(logits, v, max, 1.0f);
    __syncthreads();
    float factor = 1.0f / sum;
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
        logits[i] = expf(logits[i] - max) * factor - (i == target ? 1.0f : 0.0f);
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = (double)(logf(sum) - (own - max));
}

// (1 - w) * cross-entropy + w * temperature^2 * KL(teacher || model), both softened; losses[2 * row] is that,
// losses[2 * row + 1] the cross-entropy alone. The row's logits become the gradient.
KERNEL distilled(float *logits, const float *teacher, const uint32_t *targets, double *losses, size_t v, float weight,
                 float temperature) {
    logits += blockIdx.x * v;
    teacher += blockIdx.x * v;
    uint32_t target = targets[blockIdx.x];
    float max = largest(logits, v, nullptr), other_max = largest(teacher, v, nullptr), own = logits[target];
    float sum = normaliser(logits, v, max, 1.0f);
    float soft = normaliser(logits, v, max, temperature), other = normaliser(teacher, v, other_max, temperature);
    double gap = 0;
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
        float q = expf((teacher[i] - other_max) / temperature) / other;
        gap += (double)q * ((double)teacher[i] - (double)logits[i]) / (double)temperature;
    }
    gap = block_sum(gap);
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
        float p = expf((logits[i] - max) / temperature) / soft;
        float q = expf((teacher[i] - other_max) / temperature) / other;
        float hard = expf(logits[i] - max) / sum - (i == target ? 1.0f : 0.0f);
        logits[i] = (1.0f - weight) * hard + weight * temperature * (p - q);
    }
    if (threadIdx.x == 0) {
        double own_normaliser = (double)max / temperature + (double)logf(soft);
        double other_normaliser = (double)other_max / temperature + (double)logf(other);
        double divergence = gap - other_normaliser + own_normaliser;
        double cross_entropy = (double)(logf(sum) - (own - max));
        losses[2 * blockIdx.x] =
            (1.0 - (double)weight) * cross_entropy + (double)weight * temperature * temperature * divergence;
        losses[2 * blockIdx.x + 1] = cross_entropy;
    }
}

// (1 - w) * cross-entropy + w * D, softened as above, with D = beta * KL(teacher || m) + (1 - beta) * KL(model || m),
// m = beta * teacher + (1 - beta) * model, or at beta = 1 D = KL(model || teacher). Losses and gradient as above.
KERNEL distilled_jsd(float *logits, const float *teacher, const uint32_t *targets, double *losses, size_t v,
                     float weight, float temperature, float beta) {
    logits += blockIdx.x * v;
    teacher += blockIdx.x * v;
    uint32_t target = targets[blockIdx.x];
    float max = largest(logits, v, nullptr), other_max = largest(teacher, v, nullptr), own = logits[target];
    float sum = normaliser(logits, v, max, 1.0f);
    float soft = normaliser(logits, v, max, temperature), other = normaliser(teacher, v, other_max, temperature);
    double own_normaliser = (double)max / temperature + (double)logf(soft);
    double other_normaliser = (double)other_max / temperature + (double)logf(other);
    bool reverse = beta >= 1.0f;
    // the mean of ln(p / m), m the teacher where it is the reverse KL, and that of ln(q / m)
    double from_p = 0, from_q = 0;
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
        float p = expf((logits[i] - max) / temperature) / soft;
        if (reverse) {
            double gap = ((double)logits[i] - (double)teacher[i]) / (double)temperature;
            from_p += (double)p * (gap - own_normaliser + other_normaliser);
        } else {
            float q = expf((teacher[i] - other_max) / temperature) / other;
            float m = beta * q + (1.0f - beta) * p;
            if (p > 0.0f) from_p += (double)p * (double)logf(p / m);
            if (q > 0.0f) from_q += (double)q * (double)logf(q / m);
        }
    }
    from_p = block_sum(from_p);
    from_q = block_sum(from_q);
    float factor = weight / temperature * (reverse ? 1.0f : 1.0f - beta);
    for (size_t i = threadIdx.x; i < v; i += blockDim.x) {
        float p = expf((logits[i] - max) / temperature) / soft;
        double log = 0;
        if (reverse) {
            double gap = ((double)logits[i] - (double)teacher[i]) / (double)temperature;
            log = gap - own_normaliser + other_normaliser;
        } else if (p > 0.0f) {
            float q = expf((teacher[i] - other_max) / temperature) / other;
            log = (double)logf(p / (beta * q + (1.0f - beta) * p));
        }
        float hard = expf(logits[i] - max) / sum - (i == target ? 1.0f : 0.0f);
        logits[i] = (1.0f - weight) * hard + factor * p * (float)(log - from_p);
    }
    if (threadIdx.x == 0) {
        double divergence = reverse ? from_p : (double)beta * from_q + (1.0 - (double)beta) * from_p;
        double cross_entropy = (double)(logf(sum) - (own - max));
        losses[2 * blockIdx.x] = (1.0 - (double)weight) * cross_entropy + (double)weight * divergence;
        losses[2 * blockIdx.x + 1] = cross_entropy;
    }
}
