// The C interface, and the choice among instruction sets at run time.
//
// Functions return 0, or 1 when memory ran out, or 2 where this machine cannot run them. Arguments are checked by the
// Python that calls them, all but the values of index and offset, which bcvlr_first_outside tells.

#include "kernels.h"

#include <exception>

#define BCVLR_EXPORT extern "C" __attribute__((visibility("default")))

namespace bcvlr {
namespace {

enum Isa { kBaseline, kAvx2, kAvx512 };

Isa best_isa() {
#ifdef BCVLR_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
    return kBaseline;
}

#ifdef BCVLR_BF16
const bool kBf16 = best_isa() == kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
constexpr bool kBf16 = false;
#endif

const Isa kBest = best_isa();
Isa isa = kBest;

template <typename Arguments>
using Operation = void (*)(const Arguments&, int);

template <typename Arguments>
Operation<Arguments> chosen(Operation<Arguments> baseline, Operation<Arguments> avx2, Operation<Arguments> avx512) {
    return isa == kAvx512 ? avx512 : isa == kAvx2 ? avx2 : baseline;
}

template <typename Arguments>
int run(const Arguments& arguments, int threads, Operation<Arguments> operation) {
    try {
        operation(arguments, threads);
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

#ifdef BCVLR_X86
#define BCVLR_RUN(name, arguments, threads) \
    run(arguments, threads, chosen(baseline::name, avx2::name, avx512::name))
#else
#define BCVLR_RUN(name, arguments, threads) run(arguments, threads, baseline::name)
#endif

#ifdef BCVLR_BF16
#define BCVLR_RUN_BF16(name, arguments, threads) (has_bf16() ? run(arguments, threads, name) : 2)
#else
#define BCVLR_RUN_BF16(name, arguments, threads) (static_cast<void>(arguments), static_cast<void>(threads), 2)
#endif

bool has_bf16() { return kBf16 && isa == kAvx512; }

}  // namespace
}  // namespace bcvlr

using namespace bcvlr;

// Raised whenever a signature below changes: an old library is then not used.
BCVLR_EXPORT int bcvlr_version() { return 3; }

BCVLR_EXPORT const char* bcvlr_isa() { return isa == kAvx512 ? "AVX-512" : isa == kAvx2 ? "AVX2" : "baseline"; }

// Chooses 0 baseline, 1 AVX2 or 2 AVX-512 for all later calls; returns what this machine allows of it.
BCVLR_EXPORT int bcvlr_choose_isa(int wanted) {
    isa = wanted < kBest ? static_cast<Isa>(wanted < 0 ? 0 : wanted) : kBest;
    return isa;
}

// Whether this library, this machine and the instruction set chosen have the functions for AVX512-BF16 alone.
BCVLR_EXPORT bool bcvlr_has_bf16() { return has_bf16(); }

// Threads are taken from the OpenMP runtime whose GOMP_parallel this is; null: from a pool of our own.
BCVLR_EXPORT void bcvlr_use_openmp(void* gomp_parallel) { use_openmp(gomp_parallel); }

// Position of the first of values [n] outside 0..last; n where there is none.
BCVLR_EXPORT int64_t bcvlr_first_outside(const int64_t* values, int64_t n, int64_t last) {
    for (int64_t i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] > last) return i;
    return n;
}

BCVLR_EXPORT int bcvlr_random_shift(const uint8_t* frames, const int64_t* index, const int64_t* offset, void* out,
                                    int64_t count, int64_t channels, int64_t height, int64_t width, int64_t batch,
                                    int64_t stack, int64_t pad, bool bilinear, bool bf16, bool channels_last,
                                    int threads) {
    const RandomShift arguments{frames, index, offset, out, count, channels, height,
                                width, batch, stack, pad, bilinear, bf16, channels_last};
    return BCVLR_RUN(random_shift, arguments, threads);
}

BCVLR_EXPORT int bcvlr_nearest_code(const float* z, float* codes, float* ema_count, float* ema_sum, float* quantised,
                                    int64_t* indices, float* commitment, float* perplexity, int64_t batch,
                                    int64_t books, int64_t size, int64_t dim, int64_t positions, double decay,
                                    double restart_below, int threads) {
    const NearestCode arguments{z, codes, ema_count, ema_sum, quantised, indices, commitment, perplexity,
                                batch, books, size, dim, positions, decay, restart_below};
    return BCVLR_RUN(nearest_code, arguments, threads);
}

BCVLR_EXPORT int bcvlr_nearest_code_backward(const float* z, const float* quantised, const float* quantised_gradient,
                                             const float* commitment_gradient, float* out, int64_t size, int threads) {
    const NearestCodeBackward arguments{z, quantised, quantised_gradient, commitment_gradient, out, size};
    return BCVLR_RUN(nearest_code_backward, arguments, threads);
}

BCVLR_EXPORT int bcvlr_sinkhorn(const float* scores, const float* logits, float* out, float* loss, int64_t batch,
                                int64_t size, int64_t iterations, double temperature, int threads) {
    const Sinkhorn arguments{scores, logits, out, loss, batch, size, iterations, temperature};
    return BCVLR_RUN(sinkhorn, arguments, threads);
}

BCVLR_EXPORT int bcvlr_stack_frames(const void* features, void* out, int64_t frames, int64_t batch, int64_t pixels,
                                    int64_t channels, double gain, bool bf16, int threads) {
    const StackFrames arguments{features, out, frames, batch, pixels, channels, static_cast<float>(gain), bf16};
    return BCVLR_RUN(stack_frames, arguments, threads);
}

// From here on for AVX512-BF16 alone.

BCVLR_EXPORT int bcvlr_residual_block(const void* x, const float* weight0, const float* bias0, const float* weight1,
                                      const float* bias1, void* middle, void* out, int64_t batch, int64_t height,
                                      int64_t width, int64_t channels, int64_t hidden, int threads) {
    const ResidualBlock arguments{x, weight0, bias0, weight1, bias1, middle, out,
                                  batch, height, width, channels, hidden};
    return BCVLR_RUN_BF16(residual_block, arguments, threads);
}

BCVLR_EXPORT int bcvlr_residual_block_backward(const void* gradient, const void* x, const void* middle,
                                               const float* weight0, const float* weight1, void* out,
                                               float* weight0_gradient, float* bias0_gradient, float* weight1_gradient,
                                               float* bias1_gradient, int64_t batch, int64_t height, int64_t width,
                                               int64_t channels, int64_t hidden, int threads) {
    const ResidualBlockBackward arguments{gradient, x, middle, weight0, weight1, out,
                                          weight0_gradient, bias0_gradient, weight1_gradient, bias1_gradient,
                                          batch, height, width, channels, hidden};
    return BCVLR_RUN_BF16(residual_block_backward, arguments, threads);
}

BCVLR_EXPORT int bcvlr_conv_pool(const void* x, const float* weight, const float* bias, void* out, uint8_t* position,
                                 int64_t batch, int64_t height, int64_t width, int64_t in_channels,
                                 int64_t out_channels, int threads) {
    const ConvPool arguments{x, weight, bias, out, position, batch, height, width, in_channels, out_channels};
    return BCVLR_RUN_BF16(conv_pool, arguments, threads);
}

BCVLR_EXPORT int bcvlr_conv_pool_backward(const void* gradient, const uint8_t* position, const void* x,
                                          const float* weight, void* out, float* weight_gradient,
                                          float* bias_gradient, int64_t batch, int64_t height, int64_t width,
                                          int64_t in_channels, int64_t out_channels, int threads) {
    const ConvPoolBackward arguments{gradient, position, x, weight, out, weight_gradient, bias_gradient,
                                     batch, height, width, in_channels, out_channels};
    return BCVLR_RUN_BF16(conv_pool_backward, arguments, threads);
}
