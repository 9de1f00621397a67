// The C interface, and the choice among instruction sets at run time.
//
// Functions return 0, or 1 when memory ran out. Arguments are checked by the Python that calls them, all but the
// values of index and offset, which bcvlr_first_outside tells.

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

const Isa kBest = best_isa();
Isa isa = kBest;

template <typename Arguments>
using Operation = void (*)(const Arguments&, int);

template <typename Arguments>
int run(const Arguments& arguments, int threads, Operation<Arguments> baseline, Operation<Arguments> avx2,
        Operation<Arguments> avx512) {
    try {
        (isa == kAvx512 ? avx512 : isa == kAvx2 ? avx2 : baseline)(arguments, threads);
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

#ifdef BCVLR_X86
#define BCVLR_RUN(name, arguments, threads) \
    run(arguments, threads, baseline::name, avx2::name, avx512::name)
#else
#define BCVLR_RUN(name, arguments, threads) \
    run(arguments, threads, baseline::name, baseline::name, baseline::name)
#endif

}  // namespace
}  // namespace bcvlr

using namespace bcvlr;

// Raised whenever a signature below changes: an old library is then not used.
BCVLR_EXPORT int bcvlr_version() { return 2; }

BCVLR_EXPORT const char* bcvlr_isa() { return isa == kAvx512 ? "AVX-512" : isa == kAvx2 ? "AVX2" : "baseline"; }

// Chooses 0 baseline, 1 AVX2 or 2 AVX-512 for all later calls; returns what this machine allows of it.
BCVLR_EXPORT int bcvlr_choose_isa(int wanted) {
    isa = wanted < kBest ? static_cast<Isa>(wanted < 0 ? 0 : wanted) : kBest;
    return isa;
}

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
