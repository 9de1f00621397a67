// 3x3 convolutions with stride 1 and zero padding of one pixel, in bf16 with float sums, for convolution.cpp. They need
// AVX512-BF16.
//
// One instruction multiplies 16 x 2 bf16 values and adds each pair of products to one of 16 floats. In the forward pass
// and the input gradient, lanes are output channels, and a pair is two input channels of one pixel, broadcast; a tile
// of 16 sums stays in registers over all taps and input channels. In the weight gradient, a pair is the same pixel of
// two images, which avoids a transposition.
#pragma once

#include "kernels.h"
#include "simd.h"

#include <immintrin.h>

namespace bcvlr {
namespace {

constexpr int64_t kBlock = 16;  // channels per block: one vector of sums
constexpr int kTaps = 9;
constexpr int64_t kPair = 2 * kBlock;  // bf16 values per vector
constexpr uint16_t kNan = 0x7fc0;

// A bf16 image: channels c .. c + 15 of pixel (y, x) start at data[y * row + x * column + c / 16 * block].
struct View {
    uint16_t* data;
    int64_t row, column, block;

    uint16_t* at(int64_t y, int64_t x, int64_t b) const { return data + y * row + x * column + b * block; }
};

struct Shape {
    int64_t height, width;

    int64_t pixels() const { return height * width; }
    int64_t padded() const { return (height + 2) * (width + 2); }
};

// View of image `number` of a tensor [batch, height, width, channels].
inline View image(const void* data, Shape shape, int64_t channels, int64_t number) {
    uint16_t* const first = static_cast<uint16_t*>(const_cast<void*>(data));
    return {first + number * shape.pixels() * channels, shape.width * channels, channels, kBlock};
}

// Buffer for an image in blocks of 16 channels with a border of zeros; each element holds kDepth values.
template <int64_t kDepth>
struct Padded {
    Padded(Shape shape, int64_t channels)
        : buffer(channels * shape.padded() * kDepth),
          corner{buffer.get(), (shape.width + 2) * kBlock * kDepth, kBlock * kDepth, shape.padded() * kBlock * kDepth},
          inside{corner.at(1, 1, 0), corner.row, corner.column, corner.block} {
        for (int64_t b = 0; b < channels / kBlock; ++b)
            for (int64_t y = 0; y < shape.height + 2; ++y) {
                const bool edge = y == 0 || y == shape.height + 1;
                for (int64_t x = 0; x < shape.width + 2; x += edge ? 1 : shape.width + 1)
                    std::memset(corner.at(y, x, b), 0, kBlock * kDepth * sizeof(uint16_t));
            }
    }

    const Buffer<uint16_t> buffer;
    const View corner;  // starts at pixel (-1, -1), in the border
    const View inside;  // starts at pixel (0, 0); uninitialized
};

inline __m256i load16(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store16(uint16_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline __m512 widened(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
inline __m256i narrowed(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }

// relu; NaN stays NaN.
inline __m256i rectified(__m256i v) {
    const __m256i sign = _mm256_set1_epi16(static_cast<int16_t>(0x8000));
    const __m256i infinity = _mm256_set1_epi16(0x7f80);  // without the sign bit
    return _mm256_maskz_mov_epi16(_mm256_cmpgt_epu16_mask(_mm256_sub_epi16(v, sign), infinity), v);
}

template <bool kRectify>
inline void copy_as(const View& from, const View& to, Shape shape, int64_t blocks) {
    for (int64_t b = 0; b < blocks; ++b)
        for (int64_t y = 0; y < shape.height; ++y)
            for (int64_t x = 0; x < shape.width; ++x) {
                const __m256i v = load16(from.at(y, x, b));
                store16(to.at(y, x, b), kRectify ? rectified(v) : v);
            }
}

inline void copy(const View& from, const View& to, Shape shape, int64_t blocks, bool rectify = false) {
    rectify ? copy_as<true>(from, to, shape, blocks) : copy_as<false>(from, to, shape, blocks);
}

// Interleaves the elements of `first` and `second`; a null `second` counts as zeros.
inline void interleave(const View& first, const View& second, const View& to, Shape shape, int64_t blocks,
                       bool rectify = false) {
    for (int64_t b = 0; b < blocks; ++b)
        for (int64_t y = 0; y < shape.height; ++y)
            for (int64_t x = 0; x < shape.width; ++x) {
                __m256i low = load16(first.at(y, x, b));
                __m256i high = second.data ? load16(second.at(y, x, b)) : _mm256_setzero_si256();
                if (rectify) low = rectified(low), high = rectified(high);
                const __m512i v =
                    _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                _mm512_storeu_si512(to.at(y, x, b), v);
            }
}

// Packs float weights [out, 9, in] into the order in which `convolve` reads them: groups of output channels, blocks of
// input channels, taps, pairs. `backward` swaps input and output channels and flips the kernel.
class Weights {
public:
    Weights(const float* weight, int64_t out, int64_t in, bool backward)
        : out_blocks((backward ? in : out) / kBlock), in_blocks((backward ? out : in) / kBlock), data_(out * in * kTaps) {
        const int64_t to_out = backward ? 1 : kTaps * in, to_in = backward ? kTaps * in : 1;
        uint16_t* to = data_.get();
        for (int64_t group = 0, wide; group < out_blocks; group += wide) {
            wide = min(2, out_blocks - group);
            for (int64_t block = 0; block < in_blocks; ++block)
                for (int64_t tap = 0; tap < kTaps; ++tap) {
                    const float* const at = weight + (backward ? kTaps - 1 - tap : tap) * in + block * kBlock * to_in;
                    for (int64_t pair = 0; pair < kBlock; pair += 2)
                        for (int64_t o = group * kBlock; o < (group + wide) * kBlock; ++o)
                            for (int64_t i = pair; i < pair + 2; ++i) {
                                const float v = at[o * to_out + i * to_in];
                                *to++ = v == v ? rounded<uint16_t>(v) : kNan;
                            }
                }
        }
    }

    const uint16_t* group(int64_t first_block) const {
        return data_.get() + first_block * kBlock * in_blocks * kBlock * kTaps;
    }

    const int64_t out_blocks, in_blocks;

private:
    Buffer<uint16_t> data_;
};

// What `convolve` does to the sums, in this order: adds the bias, applies relu, sets them to 0 where `mask` is 0 or
// less, adds `add`. Null pointers and views are skipped.
struct Finish {
    View out;
    const float* bias = nullptr;
    bool rectify = false;
    View mask{};
    View add{};
};

inline __m512i broadcast_pair(const uint16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}

inline __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// One tile: kRows x kColumns pixels from (y, x), kWide blocks of output channels.
template <int kRows, int kColumns, int kWide>
inline void convolve_tile(const View& corner, const uint16_t* weight, int64_t in_blocks, int64_t y, int64_t x,
                          int64_t out_block, const Finish& finish) {
    __m512 sum[kRows][kColumns][kWide];
#pragma GCC unroll 4
    for (int w = 0; w < kWide; ++w) {
        const __m512 start =
            finish.bias ? _mm512_loadu_ps(finish.bias + (out_block + w) * kBlock) : _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
            for (int c = 0; c < kColumns; ++c) sum[r][c][w] = start;
    }
    for (int64_t block = 0; block < in_blocks; ++block)
        for (int tap = 0; tap < kTaps; ++tap) {
            const uint16_t* const at = corner.at(y + tap / 3, x + tap % 3, block);
#pragma GCC unroll 8
            for (int pair = 0; pair < kBlock; pair += 2) {
                __m512i lanes[kWide];
#pragma GCC unroll 4
                for (int w = 0; w < kWide; ++w) lanes[w] = _mm512_loadu_si512(weight + w * kPair);
                weight += kWide * kPair;
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
                    for (int c = 0; c < kColumns; ++c) {
                        const __m512i pixel = broadcast_pair(at + r * corner.row + c * kBlock + pair);
#pragma GCC unroll 4
                        for (int w = 0; w < kWide; ++w)
                            sum[r][c][w] = multiply_pairs(sum[r][c][w], pixel, lanes[w]);
                    }
            }
        }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 4
            for (int w = 0; w < kWide; ++w) {
                __m512 v = sum[r][c][w];
                const int64_t row = y + r, column = x + c, block = out_block + w;
                if (finish.rectify) v = _mm512_max_ps(_mm512_setzero_ps(), v);  // this order of operands keeps NaN
                if (finish.mask.data) {
                    const __m256i above = rectified(load16(finish.mask.at(row, column, block)));
                    v = _mm512_maskz_mov_ps(_mm256_test_epi16_mask(above, above), v);
                }
                if (finish.add.data) v = _mm512_add_ps(v, widened(load16(finish.add.at(row, column, block))));
                store16(finish.out.at(row, column, block), narrowed(v));
            }
}

template <int kRows, int kColumns, int kWide>
inline void convolve_group(const View& corner, const Weights& weights, Shape shape, int64_t out_block,
                           const Finish& finish) {
    for (int64_t y = 0; y < shape.height; y += kRows)
        for (int64_t x = 0; x < shape.width; x += kColumns)
            convolve_tile<kRows, kColumns, kWide>(corner, weights.group(out_block), weights.in_blocks, y, x, out_block,
                                                  finish);
}

// Convolves one image; `corner` includes the border. Height and width are multiples of 4.
inline void convolve(const View& corner, const Weights& weights, Shape shape, const Finish& finish) {
    const bool long_rows = shape.width % 16 == 0, middling = shape.width % 8 == 0;
    for (int64_t block = 0; block < weights.out_blocks; block += 2) {
        if (weights.out_blocks - block >= 2) {
            if (middling)
                convolve_group<1, 8, 2>(corner, weights, shape, block, finish);
            else
                convolve_group<2, 4, 2>(corner, weights, shape, block, finish);
        } else if (long_rows) {
            convolve_group<1, 16, 1>(corner, weights, shape, block, finish);
        } else if (middling) {
            convolve_group<2, 8, 1>(corner, weights, shape, block, finish);
        } else {
            convolve_group<4, 4, 1>(corner, weights, shape, block, finish);
        }
    }
}

}  // namespace
}  // namespace bcvlr
