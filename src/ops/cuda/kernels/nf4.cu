// Four-bit weights to numbers. A thread decodes the eight weights of four bytes at a time.
#include "kernel.cuh"

__device__ __forceinline__ void put(float *out, float x) { *out = x; }
__device__ __forceinline__ void put(uint16_t *out, float x) { *out = to_bf16(x); }

struct Plain {
    const float *scales;
    __device__ float scale(size_t block) const { return scales[block]; }
};

// Scales are bytes themselves: two roundings, as bitsandbytes has.
struct Double {
    const uint8_t *codes;
    const float *map, *outer;
    size_t outer_block;
    float offset;
    __device__ float scale(size_t block) const {
        return __fadd_rn(__fmul_rn(map[codes[block]], outer[block / outer_block]), offset);
    }
};

// n weights whose scales change every `block`, an even number.
template <typename S, typename T>
__device__ void decode(const uint8_t *packed, const float *codes, S scales, T *out, size_t n, size_t block) {
    for (size_t eight = first_element(); eight * 8 < n; eight += all_threads()) {
        for (size_t byte = eight * 4; byte < eight * 4 + 4 && byte * 2 < n; byte++) {
            float scale = scales.scale(byte * 2 / block);
            put(out + byte * 2, codes[packed[byte] >> 4] * scale);
            if (byte * 2 + 1 < n) put(out + byte * 2 + 1, codes[packed[byte] & 15] * scale);
        }
    }
}

KERNEL nf4_f32(const uint8_t *packed, const float *codes, const float *scales, float *out, size_t n, size_t block) {
    decode(packed, codes, Plain{scales}, out, n, block);
}

KERNEL nf4_bf16(const uint8_t *packed, const float *codes, const float *scales, uint16_t *out, size_t n, size_t block) {
    decode(packed, codes, Plain{scales}, out, n, block);
}

KERNEL nf4_double_f32(const uint8_t *packed, const float *codes, const uint8_t *scales, const float *map,
                      const float *outer, float *out, size_t n, size_t block, size_t outer_block, float offset) {
    decode(packed, codes, Double{scales, map, outer, outer_block, offset}, out, n, block);
}

KERNEL nf4_double_bf16(const uint8_t *packed, const float *codes, const uint8_t *scales, const float *map,
                       const float *outer, uint16_t *out, size_t n, size_t block, size_t outer_block, float offset) {
    decode(packed, codes, Double{scales, map, outer, outer_block, offset}, out, n, block);
}
