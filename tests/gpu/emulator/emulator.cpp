// A GPU for tests, on the CPU: a driver library whose launches run our own kernels, compiled for the host, and functions
// that do what candle's kernels do. It is strict where hardware is not: memory ends at a page that must not be touched,
// fresh memory is NaN, a shuffle that some threads of a warp miss ends the launch with an error, and warps run as far ahead
// of each other as barriers let them, in reverse in every other block, so that a missing barrier shows.
#include "emulated.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <utility>
#include <vector>

#include "../../../src/ops/cuda/kernels/kernels.cu"

thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
thread_local void *dynamic_shared;

// ---- fibers

enum State { READY, IN_WARP, IN_BLOCK, DONE };

// What a lane gives the others of its warp.
struct Words {
    uint64_t bits;
    uint32_t a[4], b[2];
};

struct Copy {
    void *to;
    const void *from;
};

struct Fiber {
    void *stack_pointer;
    State state;
    unsigned exchanges;
    // copies that were asked for, by group; the last group has not ended
    std::deque<std::vector<Copy>> copies;
};

const size_t STACK = 256 << 10;

struct Team {
    std::vector<Fiber> fibers;
    std::vector<char *> stacks;
    void *scheduler;
    unsigned current;
    void (*run)(void *);
    void *argument;
    // values on their way between the lanes of a warp: two sets, so that one is read while the next is written
    std::vector<Words> slots[2];
};

thread_local Team *block;

extern "C" void emulator_switch(void **from, void *to);
__asm__(".text\n.globl emulator_switch\nemulator_switch:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %rsp, (%rdi)\n"
        "  mov %rsi, %rsp\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n");

void leave(State state) {
    Fiber &fiber = block->fibers[block->current];
    fiber.state = state;
    emulator_switch(&fiber.stack_pointer, block->scheduler);
}

void entry() {
    block->run(block->argument);
    leave(DONE);
    abort();
}

void wait_block() { leave(IN_BLOCK); }

uint64_t exchange(uint64_t bits, int mask) {
    Fiber &fiber = block->fibers[block->current];
    unsigned own = block->current, other = (own & ~31u) | ((own & 31u) ^ (unsigned)mask);
    std::vector<Words> &slots = block->slots[fiber.exchanges++ % 2];
    slots[own].bits = bits;
    leave(IN_WARP);
    return slots[other].bits;
}

// mma.m16n8k16: the fragments as the PTX manual has them.
void multiply(float *out, const uint32_t *a, const uint32_t *b) {
    Fiber &fiber = block->fibers[block->current];
    std::vector<Words> &slots = block->slots[fiber.exchanges++ % 2];
    memcpy(slots[block->current].a, a, sizeof slots[0].a);
    memcpy(slots[block->current].b, b, sizeof slots[0].b);
    leave(IN_WARP);
    const Words *warp = &slots[block->current & ~31u];
    unsigned lane = block->current % 32;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            // a: lane 4 (row % 8) + (k % 8) / 2; registers (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8)
            uint32_t left = warp[row % 8 * 4 + k % 8 / 2].a[(row >= 8) + 2 * (k >= 8)];
            // b: lane 4 column + (k % 8) / 2; registers k, k + 8
            uint32_t right = warp[column * 4 + k % 8 / 2].b[k >= 8];
            sum += from_bf16((uint16_t)(left >> k % 2 * 16)) * from_bf16((uint16_t)(right >> k % 2 * 16));
        }
        out[i] += sum;
    }
}

// ldmatrix.m8n8.x4: matrix i has the rows that lanes 8 i to 8 i + 7 point at; a lane gets a pair of each.
void take(uint32_t *out, const uint16_t *row, bool turned) {
    Fiber &fiber = block->fibers[block->current];
    std::vector<Words> &slots = block->slots[fiber.exchanges++ % 2];
    slots[block->current].bits = (uint64_t)row;
    leave(IN_WARP);
    const Words *warp = &slots[block->current & ~31u];
    unsigned lane = block->current % 32;
    for (unsigned i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned at_row = turned ? lane % 4 * 2 + j : lane / 4, column = turned ? lane / 4 : lane % 4 * 2 + j;
            uint64_t address = warp[8 * i + at_row].bits;
            if (address % 16) abort();
            pair[j] = ((const uint16_t *)address)[column];
        }
        out[i] = pair[0] | (uint32_t)pair[1] << 16;
    }
}

void copy_later(void *to, const void *from, bool there) {
    if ((uintptr_t)to % 16 || (there && (uintptr_t)from % 16)) abort();
    std::deque<std::vector<Copy>> &copies = block->fibers[block->current].copies;
    if (copies.empty()) copies.emplace_back();
    copies.back().push_back({to, there ? from : nullptr});
}

void end_copies() {
    std::deque<std::vector<Copy>> &copies = block->fibers[block->current].copies;
    if (copies.empty()) copies.emplace_back();
    copies.emplace_back();
}

void await_copies(unsigned groups) {
    std::deque<std::vector<Copy>> &copies = block->fibers[block->current].copies;
    for (; copies.size() > groups + 1; copies.pop_front()) {
        for (Copy copy : copies.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
    }
}

// Runs the threads of a block to their end; says what is wrong where they cannot get there.
const char *run_block(Team &own, unsigned threads, bool reverse) {
    block = &own;
    while (own.stacks.size() < threads) own.stacks.push_back((char *)malloc(STACK));
    own.fibers.assign(threads, Fiber{});
    own.slots[0].assign(threads, Words{});
    own.slots[1].assign(threads, Words{});
    for (unsigned i = 0; i < threads; i++) {
        uint64_t *top = (uint64_t *)(((uintptr_t)own.stacks[i] + STACK) & ~(uintptr_t)63);
        *--top = 0;               // entry never returns
        *--top = (uint64_t)entry; // six registers are popped before it
        top -= 6;
        own.fibers[i] = Fiber{top, READY, 0, {}};
    }
    for (;;) {
        // each warp runs until all of it waits for the block: as far ahead of the others as it can get
        for (unsigned step = 0; step < threads; step += 32) {
            unsigned last = (threads - 1) / 32 * 32, warp = reverse ? last - step : step;
            for (unsigned end = std::min(warp + 32, threads);;) {
                unsigned exchanging = 0;
                for (unsigned i = warp; i < end; i++) {
                    own.current = reverse ? end - 1 - (i - warp) : i;
                    if (own.fibers[own.current].state == READY) {
                        threadIdx.x = own.current;
                        emulator_switch(&own.scheduler, own.fibers[own.current].stack_pointer);
                    }
                    exchanging += own.fibers[own.current].state == IN_WARP;
                }
                if (exchanging == 0) break;
                if (exchanging < 32) return "some threads of a warp miss a shuffle that others wait in";
                for (unsigned i = warp; i < end; i++) own.fibers[i].state = READY;
            }
        }
        unsigned waiting = 0;
        for (Fiber &fiber : own.fibers) {
            waiting += fiber.state == IN_BLOCK;
            if (fiber.state == IN_BLOCK) fiber.state = READY;
        }
        if (waiting == 0) return nullptr;
    }
}

// ---- kernels

template <typename... A, size_t... I> void call(void (*f)(A...), void **args, std::index_sequence<I...>) {
    f(*(A *)args[I]...);
}
template <auto F> struct Call;
template <typename... A, void (*F)(A...)> struct Call<F> {
    static void run(void *args) { call(F, (void **)args, std::index_sequence_for<A...>{}); }
};

struct Kernel {
    void (*run)(void *);
    bool emulated; // else it does the whole launch at once
};

// candle's kernels, as far as the program uses them: (elements, dimensions, dimensions and strides or none, ...)

size_t place(size_t i, size_t dims, const size_t *info, size_t operand) {
    if (!info) return i;
    size_t at = 0;
    for (size_t d = dims; d-- > 0;) {
        at += i % info[d] * info[(1 + operand) * dims + d];
        i /= info[d];
    }
    return at;
}
template <typename T> void badd(size_t n, size_t dims, const size_t *info, const T *a, const T *b, T *out) {
    for (size_t i = 0; i < n; i++) out[i] = a[place(i, dims, info, 0)] + b[place(i, dims, info, 1)];
}
template <typename T> void ucopy(size_t n, size_t dims, const size_t *info, const T *x, T *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[place(i, dims, info, 0)];
}
template <typename T> void const_set(size_t n, size_t dims, const size_t *info, T x, T *out) {
    for (size_t i = 0; i < n; i++) out[place(i, dims, info, 0)] = x;
}
void affine_f32(size_t n, size_t dims, const size_t *info, const float *x, float *out, float mul, float add) {
    for (size_t i = 0; i < n; i++) out[i] = x[place(i, dims, info, 0)] * mul + add;
}
void affine_bf16(size_t n, size_t dims, const size_t *info, const uint16_t *x, uint16_t *out, uint16_t mul, uint16_t add) {
    for (size_t i = 0; i < n; i++) {
        out[i] = to_bf16(from_bf16(to_bf16(from_bf16(x[place(i, dims, info, 0)]) * from_bf16(mul))) + from_bf16(add));
    }
}
// sums over the last of the dimensions; the kernel for few numbers is told how many sums, the other how many numbers
template <typename T> void fast_sum(size_t count, size_t each, size_t dims, const size_t *info, const T *x, T *out) {
    for (size_t i = 0; i < count / each; i++) {
        out[i] = 0;
        for (size_t j = 0; j < each; j++) out[i] += x[place(i * each + j, dims, info, 0)];
    }
}
template <typename T> void fast_sum_small(size_t count, size_t each, size_t dims, const size_t *info, const T *x, T *out) {
    fast_sum<T>(count * each, each, dims, info, x, out);
}
float value(float x) { return x; }
float value(uint16_t x) { return from_bf16(x); }
float value(uint8_t x) { return x; }
void put(float *out, float x) { *out = x; }
void put(uint16_t *out, float x) { *out = to_bf16(x); }
void put(double *out, float x) { *out = x; }
#define EACH(name, result)                                                                                                   \
    template <typename T> void name(size_t n, size_t dims, const size_t *info, const T *xs, T *out) {                        \
        for (size_t i = 0; i < n; i++) {                                                                                     \
            float x = value(xs[place(i, dims, info, 0)]);                                                                    \
            put(out + i, result);                                                                                            \
        }                                                                                                                    \
    }
EACH(usqr, x *x)
EACH(utanh, tanhf(x))
EACH(uexp, expf(x))
EACH(urelu, x < 0 ? 0 : x)
EACH(uerf, erff(x))
EACH(usigmoid, 1 / (1 + expf(-x)))
EACH(ugelu_erf, x * 0.5f * (1 + erff(x * 0.70710678f)))
#define BOTH(name, result)                                                                                                   \
    template <typename T>                                                                                                    \
    void name(size_t n, size_t dims, const size_t *info, const T *as, const T *bs, T *out) {                                 \
        for (size_t i = 0; i < n; i++) {                                                                                     \
            float a = value(as[place(i, dims, info, 0)]), b = value(bs[place(i, dims, info, 1)]);                            \
            put(out + i, result);                                                                                            \
        }                                                                                                                    \
    }
BOTH(bsub, a - b)
BOTH(bmul, a *b)
BOTH(bdiv, a / b)
BOTH(bminimum, b < a ? b : a)
// 1 where it is so, else 0
#define WHETHER(name, condition)                                                                                             \
    template <typename T>                                                                                                    \
    void name(size_t n, size_t dims, const size_t *info, const T *as, const T *bs, uint8_t *out) {                           \
        for (size_t i = 0; i < n; i++) {                                                                                     \
            float a = value(as[place(i, dims, info, 0)]), b = value(bs[place(i, dims, info, 1)]);                            \
            out[i] = condition;                                                                                              \
        }                                                                                                                    \
    }
WHETHER(lt, a < b)
WHETHER(le, a <= b)
template <typename T, typename U> void cast(size_t n, size_t dims, const size_t *info, const T *x, U *out) {
    for (size_t i = 0; i < n; i++) put(out + i, value(x[place(i, dims, info, 0)]));
}
template <typename T>
void is_u32(size_t n, size_t, const size_t *, const uint32_t *ids, const T *x, T *out, size_t, size_t rows, size_t picked,
            size_t width) {
    for (size_t i = 0; i < n; i++) {
        size_t left = i / (width * picked), id = ids[i / width % picked];
        if (id >= rows) abort();
        out[i] = x[(left * rows + id) * width + i % width];
    }
}
template <typename T>
void ia_u32(const uint32_t *ids, size_t picked, const T *x, T *out, size_t left, size_t, size_t rows, size_t width) {
    for (size_t i = 0; i < left * width; i++) {
        for (size_t at = 0; at < picked; at++) {
            if (ids[at] >= rows) abort();
            T *to = out + (i / width * rows + ids[at]) * width + i % width;
            put(to, value(*to) + value(x[(i / width * picked + at) * width + i % width]));
        }
    }
}
template <typename T> void copy2d(const T *x, T *out, uint32_t rows, uint32_t columns, uint32_t from, uint32_t to) {
    for (size_t i = 0; i < (size_t)rows * columns; i++) out[i / columns * to + i % columns] = x[i / columns * from + i % columns];
}

const std::map<std::string, Kernel> &kernels() {
#define OURS(name) {#name, {Call<&::name>::run, true}},
#define CANDLE(name, ...) {#name, {Call<&__VA_ARGS__>::run, false}},
    static const std::map<std::string, Kernel> all = {
#include "kernels.inc"
        CANDLE(badd_f32, badd<float>) CANDLE(ucopy_f32, ucopy<float>) CANDLE(ucopy_bf16, ucopy<uint16_t>)
        CANDLE(const_set_f32, const_set<float>) CANDLE(const_set_bf16, const_set<uint16_t>) CANDLE(affine_f32, affine_f32) CANDLE(affine_bf16, affine_bf16)
        CANDLE(is_u32_f32, is_u32<float>) CANDLE(is_u32_bf16, is_u32<uint16_t>) CANDLE(ia_u32_f32, ia_u32<float>) CANDLE(copy2d_f32, copy2d<float>)
        CANDLE(copy2d_bf16, copy2d<uint16_t>) CANDLE(fast_sum_f32, fast_sum<float>) CANDLE(fast_sum_small_f32, fast_sum_small<float>)
        CANDLE(fast_sum_f64, fast_sum<double>) CANDLE(fast_sum_small_f64, fast_sum_small<double>)
#define OF_BOTH(name) CANDLE(name##_f32, name<float>) CANDLE(name##_bf16, name<uint16_t>)
        OF_BOTH(usqr) OF_BOTH(utanh) OF_BOTH(uexp) OF_BOTH(urelu) OF_BOTH(uerf) OF_BOTH(usigmoid) OF_BOTH(ugelu_erf)
        OF_BOTH(bsub) OF_BOTH(bmul) OF_BOTH(bdiv) OF_BOTH(bminimum) OF_BOTH(lt) OF_BOTH(le)
        CANDLE(cast_f32_bf16, cast<float, uint16_t>) CANDLE(cast_bf16_f32, cast<uint16_t, float>)
        CANDLE(cast_f32_f64, cast<float, double>) CANDLE(cast_u8_f32, cast<uint8_t, float>)};
    return all;
}

// ---- memory

struct Allocation {
    char *base;
    size_t bytes, mapped;
};
std::mutex lock;
std::map<uint64_t, Allocation> allocations;
size_t used, most;
const size_t TOTAL = (size_t)8 << 30, PAGE = 4096;

uint64_t allocate(size_t bytes) {
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    char *base = (char *)mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(base + pages, PAGE, PROT_NONE);
    char *start = base + pages - bytes;
    memset(start, 0xff, bytes);
    std::lock_guard<std::mutex> guard(lock);
    allocations[(uint64_t)start] = {base, bytes, pages + PAGE};
    used += bytes;
    most = std::max(most, used);
    return (uint64_t)start;
}

int release(uint64_t address) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) return 1;
    munmap(found->second.base, found->second.mapped);
    used -= found->second.bytes;
    allocations.erase(found);
    return 0;
}
} // namespace emulator

using namespace emulator;

// ---- libcuda

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int *n) { return *n = 1, 0; }
int cuDeviceGet(int *device, int index) { return *device = index, index == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int n, int) { return snprintf(name, n, "an emulated GPU"), 0; }
int cuDeviceGetAttribute(int *value, int, int) { return *value = 1, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
int cuCtxSynchronize() { return 0; }
int cuStreamCreate(void **stream, unsigned) { return *stream = (void *)1, 0; }
int cuStreamDestroy_v2(void *) { return 0; }
int cuStreamSynchronize(void *) { return 0; }
int cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, 0; }
int cuEventCreate(void **event, unsigned) { return *event = (void *)1, 0; }
int cuEventRecord(void *, void *) { return 0; }
int cuEventSynchronize(void *) { return 0; }
int cuEventDestroy_v2(void *) { return 0; }
int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = (void *)1, 0; }
int cuMemPoolGetAttribute(void *, int what, uint64_t *value) { return *value = most, what == 8 ? 0 : 1; }
int cuMemPoolSetAttribute(void *, int what, void *) {
    if (what == 8) most = used;
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = TOTAL - used, *total = TOTAL, 0; }
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *) { return *address = allocate(bytes), 0; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) { return *address = allocate(bytes), 0; }
int cuMemFreeAsync(uint64_t address, void *) { return release(address); }
int cuMemFree_v2(uint64_t address) { return release(address); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *) { return memcpy((void *)to, from, n), 0; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *) { return memcpy(to, (void *)from, n), 0; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *) { return memcpy((void *)to, (void *)from, n), 0; }
int cuMemsetD8Async(uint64_t at, unsigned char byte, size_t n, void *) { return memset((void *)at, byte, n), 0; }
int cuMemHostAlloc(void **at, size_t n, unsigned) { return *at = malloc(n), 0; }
int cuMemFreeHost(void *at) { return free(at), 0; }
int cuModuleLoadData(void **module, const void *) { return *module = (void *)1, 0; }
int cuModuleUnload(void *) { return 0; }
int cuFuncSetAttribute(void *, int, int) { return 0; }
int cuGetErrorString(int, const char **text) { return *text = "an error of the emulated GPU", 0; }
int cuGetErrorName(int, const char **text) { return *text = "EMULATED_ERROR", 0; }

int cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels().find(name);
    if (found == kernels().end()) {
        fprintf(stderr, "emulated GPU: there is no kernel %s\n", name);
        return 500;
    }
    *function = (void *)&*found;
    return 0;
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, void *, void **args, void **) {
    auto &[name, kernel] = *(const std::pair<const std::string, Kernel> *)function;
    if (!kernel.emulated) return kernel.run(args), 0;
    if (x == 0 || y == 0 || z != 1 || y > 65535 || threads == 0 || threads > 1024 || shared > 163 << 10) {
        fprintf(stderr, "emulated GPU: %s cannot run on (%u, %u, %u) x %u threads, %u shared\n", name.c_str(), x, y, z, threads, shared);
        return 1;
    }
    std::atomic<size_t> next{0};
    std::atomic<const char *> fault{nullptr};
    auto work = [&] {
        Team own;
        own.run = kernel.run;
        own.argument = args;
        std::vector<char> memory(shared + 64);
        dynamic_shared = (void *)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
        for (size_t at; !fault && (at = next++) < (size_t)x * y;) {
            memset(dynamic_shared, 0xff, shared);
            blockIdx = {(unsigned)(at % x), (unsigned)(at / x), 0};
            blockDim = {threads, 1, 1};
            gridDim = {x, y, z};
            if (const char *wrong = run_block(own, threads, at % 2)) fault = wrong;
        }
        for (char *stack : own.stacks) free(stack);
    };
    std::thread other(work);
    work();
    other.join();
    if (fault) fprintf(stderr, "emulated GPU: %s: %s\n", name.c_str(), fault.load());
    return fault ? 719 : 0;
}

// ---- libcublas and libcurand

int cublasCreate_v2(void **handle) { return *handle = (void *)1, 0; }
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int curandCreateGenerator(void **generator, int) { return *generator = (void *)1, 0; }
int curandDestroyGenerator(void *) { return 0; }
int curandSetStream(void *, void *) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }

// C (m x n) = alpha * op(A) * op(B) + beta * C by columns; f32 (0) or bf16 (14) operands and results, sums in f64.
int cublasGemmEx(void *, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int, int) {
    if ((a_type != 0 && a_type != 14) || a_type != b_type || (c_type != 0 && c_type != a_type)) return 15;
    if (lda < (turn_a ? k : m) || ldb < (turn_b ? n : k) || ldc < m) return 7;
    auto number = [](const void *x, int type, size_t at) {
        return type == 0 ? ((const float *)x)[at] : from_bf16(((const uint16_t *)x)[at]);
    };
    float keep = *(const float *)beta, factor = *(const float *)alpha;
    std::vector<float> left((size_t)m * k), right((size_t)n * k);
    for (size_t i = 0; i < (size_t)m; i++)
        for (size_t p = 0; p < (size_t)k; p++)
            left[i * k + p] = number(a, a_type, turn_a ? i * lda + p : p * lda + i);
    for (size_t j = 0; j < (size_t)n; j++)
        for (size_t p = 0; p < (size_t)k; p++)
            right[j * k + p] = number(b, b_type, turn_b ? p * ldb + j : j * ldb + p);
    std::atomic<size_t> next{0};
    auto work = [&] {
        for (size_t j; (j = next++) < (size_t)n;) {
            for (size_t i = 0; i < (size_t)m; i++) {
                double sum = 0;
                for (size_t p = 0; p < (size_t)k; p++) sum += (double)left[i * k + p] * (double)right[j * k + p];
                size_t at = j * ldc + i;
                float out = (float)(factor * sum) + (keep == 0 ? 0 : keep * number(c, c_type, at));
                if (c_type == 0) ((float *)c)[at] = out;
                else ((uint16_t *)c)[at] = to_bf16(out);
            }
        }
    };
    std::thread other(work);
    work();
    other.join();
    return 0;
}
}
