// conv_pool: a 3x3 convolution and the maximum over 3x3 windows at every second pixel of it, image by image: what lies
// between, four times as large as the result, never leaves the cache.

#include "convolution.h"

namespace bcvlr {
namespace {

// out [height / 2, width / 2, channels]: maxima, and which of the nine positions holds each: the first, or a NaN.
void maximum(const View& from, Shape shape, int64_t blocks, const View& out, uint8_t* position) {
    for (int64_t y = 0; y < shape.height / 2; ++y)
        for (int64_t x = 0; x < shape.width / 2; ++x)
            for (int64_t b = 0; b < blocks; ++b) {
                __m512 best = _mm512_set1_ps(-__builtin_inff());
                __m512i where = _mm512_set1_epi32(x ? (y ? 0 : 3) : (y ? 1 : 4));  // the first within the image
                for (int tap = 0; tap < kTaps; ++tap) {
                    const int64_t row = 2 * y + tap / 3 - 1, column = 2 * x + tap % 3 - 1;
                    if (row < 0 || column < 0) continue;
                    const __m512 v = widened(load16(from.at(row, column, b)));
                    const __mmask16 better = static_cast<__mmask16>(_mm512_cmp_ps_mask(v, best, _CMP_GT_OQ) |
                                                                    _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q));
                    best = _mm512_mask_mov_ps(best, better, v);
                    where = _mm512_mask_mov_epi32(where, better, _mm512_set1_epi32(tap));
                }
                store16(out.at(y, x, b), narrowed(best));
                _mm_storeu_si128(reinterpret_cast<__m128i*>(position), _mm512_cvtepi32_epi8(where));
                position += kBlock;
            }
}

// The maxima's gradient back to the pixels that they came from.
void spread(const View& gradient, const uint8_t* position, Shape shape, int64_t blocks, const View& to) {
    const int64_t columns = shape.width / 2;
    for (int64_t y = 0; y < shape.height; ++y)
        for (int64_t x = 0; x < shape.width; ++x)
            for (int64_t b = 0; b < blocks; ++b) {
                __m512 sum = _mm512_setzero_ps();
                // Windows that hold the pixel: one in an even row, two in an odd one; likewise in columns.
                for (int64_t row = y / 2; row <= least((y + 1) / 2, shape.height / 2 - 1); ++row)
                    for (int64_t column = x / 2; column <= least((x + 1) / 2, columns - 1); ++column) {
                        const int64_t tap = (y - 2 * row + 1) * 3 + x - 2 * column + 1;
                        const uint8_t* const at = position + ((row * columns + column) * blocks + b) * kBlock;
                        const __mmask16 chosen =
                            _mm_cmpeq_epi8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)),
                                                _mm_set1_epi8(static_cast<char>(tap)));
                        sum = _mm512_mask_add_ps(sum, chosen, sum, widened(load16(gradient.at(row, column, b))));
                    }
                store16(to.at(y, x, b), narrowed(sum));
            }
}

}  // namespace

void conv_pool(const ConvPool& a, int threads) {
    const Shape shape{a.height, a.width}, half{a.height / 2, a.width / 2};
    const Weights weights(a.weight, a.out_channels, a.in_channels, false);
    auto body = [&](int64_t chunk) {
        Padded<1> input(shape, a.in_channels), full(shape, a.out_channels);
        for (int64_t n = chunk * kImages; n < least((chunk + 1) * kImages, a.batch); ++n) {
            copy(image(a.x, shape, a.in_channels, n), input.inside, shape, weights.in_blocks);
            convolve(input.corner, weights, shape, {full.inside, a.bias});
            maximum(full.inside, shape, weights.out_blocks, image(a.out, half, a.out_channels, n),
                    a.position + n * half.pixels() * a.out_channels);
        }
    };
    for_chunks(ceil_div(a.batch, kImages), threads, body);
}

void conv_pool_backward(const ConvPoolBackward& a, int threads) {
    const Shape shape{a.height, a.width}, half{a.height / 2, a.width / 2};
    const Weights weights(a.weight, a.out_channels, a.in_channels, true);
    const int64_t in_blocks = a.in_channels / kBlock, out_blocks = a.out_channels / kBlock;
    WeightGradient sums(a.batch, a.out_channels, a.in_channels);
    auto body = [&](int64_t part) {
        Padded<1> full0(shape, a.out_channels), full1(shape, a.out_channels);
        Padded<2> input(shape, a.in_channels), gradient(shape, a.out_channels);
        const int64_t end = least((part + 1) * sums.images, a.batch);
        auto x = [&](int64_t n) { return n < end ? image(a.x, shape, a.in_channels, n) : View{}; };
        for (int64_t n = part * sums.images; n < end; n += 2) {
            for (int64_t i = n; i < least(n + 2, end); ++i) {
                const Padded<1>& full = i == n ? full0 : full1;
                spread(image(a.gradient, half, a.out_channels, i), a.position + i * half.pixels() * a.out_channels,
                       shape, out_blocks, full.inside);
                if (a.out) convolve(full.corner, weights, shape, {image(a.out, shape, a.in_channels, i)});
            }
            if (!a.weight_gradient) continue;
            interleave(x(n), x(n + 1), input.inside, shape, in_blocks);
            interleave(full0.inside, n + 1 < end ? full1.inside : View{}, gradient.inside, shape, out_blocks);
            sums.add(part, input.corner, gradient.inside, shape);
        }
    };
    for_chunks(sums.parts, threads, body);
    if (a.weight_gradient) sums.write(a.weight_gradient, a.bias_gradient);
}

}  // namespace bcvlr
