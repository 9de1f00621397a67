// The C interface, and the choice of the instruction set at run time.
//
// Functions return 0 for success, 1 if memory ran out, and 2 if this machine cannot run them. The Python callers check
// the arguments; for the values of index and offset they use bcvlr_first_outside.

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

// Incremented when a signature below changes, so that an outdated library is not used.
BCVLR_EXPORT int bcvlr_version() { return 3; }

BCVLR_EXPORT const char* bcvlr_isa() { return isa == kAvx512 ? "AVX-512" : isa == kAvx2 ? "AVX2" : "baseline"; }

// Selects baseline (0), AVX2 (1) or AVX-512 (2) for all later calls; returns the best that this machine supports of it.
BCVLR_EXPORT int bcvlr_choose_isa(int requested) {
    isa = requested < kBest ? static_cast<Isa>(requested < 0 ? 0 : requested) : kBest;
    return isa;
}

// Whether the functions that need AVX512-BF16 are in this library and supported by this machine and instruction set.
BCVLR_EXPORT bool bcvlr_has_bf16() { return has_bf16(); }

// Uses the threads of the OpenMP runtime with this GOMP_parallel; null uses a separate pool.
BCVLR_EXPORT void bcvlr_use_openmp(void* gomp_parallel) { use_openmp(gomp_parallel); }

// Position of the first of the values [n] outside 0..last; n if there is none.
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

BCVLR_EXPORT int bcvlr_nearest_code(const float* z, float* codes, float* ema_count, float* ema_sum, float* quantized,
                                    int64_t* indices, float* commitment, float* perplexity, int64_t batch,
                                    int64_t books, int64_t size, int64_t dim, int64_t positions, double decay,
                                    double restart_below, int threads) {
    const NearestCode arguments{z, codes, ema_count, ema_sum, quantized, indices, commitment, perplexity,
                                batch, books, size, dim, positions, decay, restart_below};
    return BCVLR_RUN(nearest_code, arguments, threads);
}

BCVLR_EXPORT int bcvlr_nearest_code_backward(const float* z, const float* quantized, const float* quantized_gradient,
                                             const float* commitment_gradient, float* out, int64_t size, int threads) {
    const NearestCodeBackward arguments{z, quantized, quantized_gradient, commitment_gradient, out, size};
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

// The functions below need AVX512-BF16.

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
