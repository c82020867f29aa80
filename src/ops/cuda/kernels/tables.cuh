// Who sees whom, as tables of u32: `blocks` has five numbers a block of threads (first token, tokens, position of the first,
// range of its runs), `runs` three a run of tokens on the other side (first token, tokens, position of the first).
#pragma once
#include "kernel.cuh"

// What a block of threads works on.
struct Block {
    uint32_t start, count, position, first_run, end_run;
    __device__ Block(const uint32_t *blocks)
        : start(blocks[5 * blockIdx.y]), count(blocks[5 * blockIdx.y + 1]), position(blocks[5 * blockIdx.y + 2]),
          first_run(blocks[5 * blockIdx.y + 3]), end_run(blocks[5 * blockIdx.y + 4]) {}
};
