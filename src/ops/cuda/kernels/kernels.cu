// All kernels in one module.
#include "attention.cu"
#include "elementwise.cu"
#include "gram.cu"
#include "nf4.cu"
#include "norm.cu"
#include "vocabulary.cu"
