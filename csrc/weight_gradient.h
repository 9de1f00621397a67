// Gradient of the weight and bias of a convolution.
#pragma once

#include "convolution.h"

namespace bcvlr {
namespace {

// Splits a batch into parts of whole pairs of images, independent of the number of threads, so that rounding is too.
struct Batch {
    explicit Batch(int64_t size)
        : images(max(1, ceil_div(size, 2 * kMaxParts)) * 2), parts(max(1, ceil_div(size, images))) {}

    static constexpr int64_t kMaxParts = 32;
    const int64_t images, parts;  // images per part, number of parts
};

// Gradient of a weight and its bias, summed separately for each part of the batch.
class WeightGradient {
public:
    // If not `enabled`, no memory is allocated, and no member may be called.
    WeightGradient(const Batch& batch, int64_t out, int64_t in, bool enabled)
        : parts_(batch.parts), out_(out), in_(in), size_((in * kTaps + 1) * out), sums_(enabled ? parts_ * size_ : 0) {}

    // Clears a part; call it before the first `add`.
    void begin(int64_t part) {
        std::memset(sums_.get() + part * size_, 0, size_ * sizeof(float));
    }

    // Adds the gradient of two images to a part, from their interleaved inputs (with border) and output gradients.
    void add(int64_t part, const View& input_corner, const View& gradient, Shape shape) {
        float* const sums = sums_.get() + part * size_;
        const int64_t blocks = out_ / kBlock;
        for (int64_t block = 0; block < blocks; block += 2) {
            if (blocks - block >= 2)
                for (int64_t i = 0; i < in_; ++i) add_channels<1, 2>(sums, input_corner, gradient, shape, block, i);
            else
                for (int64_t i = 0; i < in_; i += 2) add_channels<2, 1>(sums, input_corner, gradient, shape, block, i);
        }
        add_bias(sums + in_ * kTaps * out_, gradient, shape);
    }

    // Writes the sum of all parts to weight [out, 9, in] and bias [out].
    void write(float* weight, float* bias) {
        float* const sums = sums_.get();
        for (int64_t part = 1; part < parts_; ++part)
            for (int64_t i = 0; i < size_; ++i) sums[i] += sums[part * size_ + i];
        for (int64_t o = 0; o < out_; ++o) {
            for (int64_t tap = 0; tap < kTaps; ++tap)
                for (int64_t i = 0; i < in_; ++i) *weight++ = sums[(i * kTaps + tap) * out_ + o];
            bias[o] = sums[in_ * kTaps * out_ + o];
        }
    }

private:
    // The sums of a part are weight [in, 9, out], bias [out].
    template <int kChannels, int kWide>
    void add_channels(float* sums, const View& corner, const View& gradient, Shape shape, int64_t out_block,
                      int64_t channel) {
        float* const at = sums + channel * kTaps * out_ + out_block * kBlock;
        __m512 sum[kChannels][kTaps][kWide];
#pragma GCC unroll 2
        for (int i = 0; i < kChannels; ++i)
#pragma GCC unroll 9
            for (int tap = 0; tap < kTaps; ++tap)
#pragma GCC unroll 2
                for (int w = 0; w < kWide; ++w)
                    sum[i][tap][w] = _mm512_loadu_ps(at + (i * kTaps + tap) * out_ + w * kBlock);
        for (int64_t y = 0; y < shape.height; ++y) {
            const uint16_t* input = corner.at(y, 0, channel / kBlock) + channel % kBlock * 2;
            const uint16_t* lanes = gradient.at(y, 0, out_block);
            for (int64_t x = 0; x < shape.width; ++x, input += corner.column, lanes += gradient.column) {
                __m512i pixel[kWide];
#pragma GCC unroll 2
                for (int w = 0; w < kWide; ++w) pixel[w] = _mm512_loadu_si512(lanes + w * gradient.block);
#pragma GCC unroll 9
                for (int tap = 0; tap < kTaps; ++tap)
#pragma GCC unroll 2
                    for (int i = 0; i < kChannels; ++i) {
                        const __m512i value = broadcast_pair(input + tap / 3 * corner.row + tap % 3 * kPair + i * 2);
#pragma GCC unroll 2
                        for (int w = 0; w < kWide; ++w)
                            sum[i][tap][w] = multiply_pairs(sum[i][tap][w], value, pixel[w]);
                    }
            }
        }
#pragma GCC unroll 2
        for (int i = 0; i < kChannels; ++i)
#pragma GCC unroll 9
            for (int tap = 0; tap < kTaps; ++tap)
#pragma GCC unroll 2
                for (int w = 0; w < kWide; ++w)
                    _mm512_storeu_ps(at + (i * kTaps + tap) * out_ + w * kBlock, sum[i][tap][w]);
    }

    void add_bias(float* sums, const View& gradient, Shape shape) {
        const __m512i ones = _mm512_set1_epi16(0x3f80);
        for (int64_t block = 0; block < out_ / kBlock; ++block) {
            __m512 sum = _mm512_loadu_ps(sums + block * kBlock);
            for (int64_t y = 0; y < shape.height; ++y)
                for (int64_t x = 0; x < shape.width; ++x)
                    sum = multiply_pairs(sum, _mm512_loadu_si512(gradient.at(y, x, block)), ones);
            _mm512_storeu_ps(sums + block * kBlock, sum);
        }
    }

    const int64_t parts_, out_, in_, size_;
    Buffer<float> sums_;
};

}  // namespace
}  // namespace bcvlr
