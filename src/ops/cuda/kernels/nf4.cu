// Four-bit weights to numbers. A thread decodes the eight weights of four bytes at a time.
#include "kernel.cuh"

// Counts of weights fit into 32 bits, in which division is quick.
struct Plain {
    const float *scales;
    __device__ float scale(uint32_t block) const { return scales[block]; }
};

// Scales are bytes themselves: two roundings, as bitsandbytes has.
struct Double {
    const uint8_t *codes;
    const float *map, *outer;
    uint32_t outer_block;
    float offset;
    __device__ float scale(uint32_t block) const {
        return __fadd_rn(__fmul_rn(map[codes[block]], outer[block / outer_block]), offset);
    }
};

// n weights whose scales change every `block`, an even number.
template <typename S, typename T>
__device__ void decode(const uint8_t *packed, const float *codes, S scales, T *out, uint32_t n, uint32_t block) {
    bool eights = in_eights(block, out) && (size_t)packed % 4 == 0;
    for (uint32_t eight = first_element(); (size_t)eight * 8 < n; eight += all_threads()) {
        uint32_t first = eight * 8;
        if (eights && first + 8 <= n) {
            uint32_t bytes = *(const uint32_t *)(packed + first / 2);
            float scale = scales.scale(first / block), x[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[2 * i] = codes[bytes >> (8 * i + 4) & 15] * scale;
                x[2 * i + 1] = codes[bytes >> 8 * i & 15] * scale;
            }
            store<8>(out + first, x);
            continue;
        }
        for (uint32_t i = first; i < first + 8 && i < n; i++) {
            uint32_t code = i % 2 ? packed[i / 2] & 15 : packed[i / 2] >> 4;
            float x = codes[code] * scales.scale(i / block);
            store<1>(out + i, &x);
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
    decode(packed, codes, Double{scales, map, outer, (uint32_t)outer_block, offset}, out, n, block);
}

KERNEL nf4_double_bf16(const uint8_t *packed, const float *codes, const uint8_t *scales, const float *map,
                       const float *outer, uint16_t *out, size_t n, size_t block, size_t outer_block, float offset) {
    decode(packed, codes, Double{scales, map, outer, (uint32_t)outer_block, offset}, out, n, block);
}
