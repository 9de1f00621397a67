// stack_frames: concatenates the features of the frames of a window, or their differences between frames.
//
// Channels are innermost in input and output, so each pixel copies one run of channels per frame. Differences are
// rounded before they are scaled, as in the reference.

#include "kernels.h"
#include "simd.h"

namespace bcvlr {
namespace BCVLR_ISA {
namespace {

constexpr int64_t kPixels = 256;  // per chunk

// kChannels is the number of channels if it is known at compile time, else 0.
template <typename T, int64_t kChannels>
void stack(const StackFrames& a, int threads) {
    const int64_t channels = kChannels ? kChannels : a.channels;
    const int64_t blocks = ceil_div(a.pixels, kPixels);
    const int64_t frame = a.batch * a.pixels * channels;  // distance between frames of a window
    const T* const features = static_cast<const T*>(a.features);
    auto body = [&](int64_t chunk) {
        const int64_t first = chunk / blocks * a.pixels + chunk % blocks * kPixels;
        const int64_t pixels = min(kPixels, a.pixels - chunk % blocks * kPixels);
        for (int64_t p = first; p < first + pixels; ++p) {
            const T* from = features + p * channels;
            T* to = static_cast<T*>(a.out) + p * a.frames * channels;
            for (int64_t k = 0; k < a.frames; ++k, from += frame, to += channels) {
                if (a.gain == 0 || k == a.frames - 1) {
                    std::memcpy(to, from, channels * sizeof(T));
                    continue;
                }
                const T* const next = from + frame;
                for (int64_t c = 0; c < channels; ++c) {
                    const T change = rounded<T>(value(next[c]) - value(from[c]));
                    to[c] = rounded<T>(value(change) * a.gain);
                }
            }
        }
    };
    for_chunks(a.batch * blocks, threads, body);
}

template <typename T>
void stack_any(const StackFrames& a, int threads) {
    if (a.channels == 16)
        stack<T, 16>(a, threads);
    else if (a.channels == 32)
        stack<T, 32>(a, threads);
    else
        stack<T, 0>(a, threads);
}

}  // namespace

void stack_frames(const StackFrames& arguments, int threads) {
    arguments.bf16 ? stack_any<uint16_t>(arguments, threads) : stack_any<float>(arguments, threads);
}

}  // namespace BCVLR_ISA
}  // namespace bcvlr
