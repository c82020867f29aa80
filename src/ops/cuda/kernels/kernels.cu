// All kernels in one module.
#include "attention.cu"
#include "attention_bf16_forward.cu"
#include "attention_bf16_backward.cu"
#include "elementwise.cu"
#include "gram.cu"
#include "nf4.cu"
#include "norm.cu"
#include "vocabulary.cu"
