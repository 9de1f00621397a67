// residual_block and conv_pool.
//
// Images are processed one by one, so that intermediate results stay in the cache: the hidden activations of a block,
// and the map before max-pooling, which is four times as large as the output.

#include "weight_gradient.h"

namespace bcvlr {
namespace {

// 3x3 max-pooling with stride 2 into out [height / 2, width / 2, channels]. If `position` is not null, it receives the
// tap (0 to 8) that holds each maximum: the first one, or a NaN.
void pool(const View& from, Shape shape, int64_t blocks, const View& out, uint8_t* position) {
    for (int64_t y = 0; y < shape.height / 2; ++y)
        for (int64_t x = 0; x < shape.width / 2; ++x)
            for (int64_t b = 0; b < blocks; ++b) {
                __m512 best = _mm512_set1_ps(-__builtin_inff());
                __m512i where = _mm512_set1_epi32(x ? (y ? 0 : 3) : (y ? 1 : 4));  // first tap inside the image
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
                if (!position) continue;
                _mm_storeu_si128(reinterpret_cast<__m128i*>(position), _mm512_cvtepi32_epi8(where));
                position += kBlock;
            }
}

// Backward of max-pooling: adds each gradient to the pixel that held the maximum.
void spread(const View& gradient, const uint8_t* position, Shape shape, int64_t blocks, const View& to) {
    const int64_t columns = shape.width / 2;
    for (int64_t y = 0; y < shape.height; ++y)
        for (int64_t x = 0; x < shape.width; ++x)
            for (int64_t b = 0; b < blocks; ++b) {
                __m512 sum = _mm512_setzero_ps();
                // Windows that contain the pixel: one in an even row, two in an odd row; likewise in columns.
                for (int64_t row = y / 2; row <= min((y + 1) / 2, shape.height / 2 - 1); ++row)
                    for (int64_t column = x / 2; column <= min((x + 1) / 2, columns - 1); ++column) {
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

void residual_block(const ResidualBlock& a, int threads) {
    const Shape shape{a.height, a.width};
    const int64_t channels = a.channels / kBlock, hidden = a.hidden / kBlock;
    const Weights first(a.weight0, a.hidden, a.channels, false), second(a.weight1, a.channels, a.hidden, false);
    auto body = [&](int64_t n) {
        Padded<1> input(shape, a.channels), middle(shape, a.hidden);
        const View x = image(a.x, shape, a.channels, n);
        copy(x, input.inside, shape, channels, true);
        convolve(input.corner, first, shape, {middle.inside, a.bias0, true});
        if (a.middle) copy(middle.inside, image(a.middle, shape, a.hidden, n), shape, hidden);
        convolve(middle.corner, second, shape, {image(a.out, shape, a.channels, n), a.bias1, false, {}, x});
    };
    for_chunks(a.batch, threads, body);
}

void residual_block_backward(const ResidualBlockBackward& a, int threads) {
    const Shape shape{a.height, a.width};
    const int64_t channels = a.channels / kBlock, hidden = a.hidden / kBlock;
    const Weights first(a.weight0, a.hidden, a.channels, true), second(a.weight1, a.channels, a.hidden, true);
    const Batch batch(a.batch);
    const bool learned = a.weight0_gradient != nullptr;
    WeightGradient sums0(batch, a.hidden, a.channels, learned), sums1(batch, a.channels, a.hidden, learned);
    auto body = [&](int64_t part) {
        if (learned) sums0.begin(part), sums1.begin(part);
        Padded<1> padded(shape, a.channels), middle0(shape, a.hidden), middle1(shape, a.hidden);
        Padded<2> outer(shape, a.channels), inner(shape, a.hidden);
        const int64_t end = min((part + 1) * batch.images, a.batch);
        // A null view past the end of the batch.
        auto of = [&](const void* data, int64_t c, int64_t n) { return n < end ? image(data, shape, c, n) : View{}; };
        for (int64_t n = part * batch.images; n < end; n += 2) {
            for (int64_t i = n; i < min(n + 2, end); ++i) {
                const View gradient = of(a.gradient, a.channels, i), x = of(a.x, a.channels, i);
                const Padded<1>& middle = i == n ? middle0 : middle1;
                copy(gradient, padded.inside, shape, channels);
                convolve(padded.corner, second, shape, {middle.inside, nullptr, false, of(a.middle, a.hidden, i)});
                if (a.out) convolve(middle.corner, first, shape, {of(a.out, a.channels, i), nullptr, false, x, gradient});
            }
            if (!learned) continue;
            interleave(of(a.x, a.channels, n), of(a.x, a.channels, n + 1), outer.inside, shape, channels, true);
            interleave(middle0.inside, n + 1 < end ? middle1.inside : View{}, inner.inside, shape, hidden);
            sums0.add(part, outer.corner, inner.inside, shape);
            interleave(of(a.middle, a.hidden, n), of(a.middle, a.hidden, n + 1), inner.inside, shape, hidden);
            interleave(of(a.gradient, a.channels, n), of(a.gradient, a.channels, n + 1), outer.inside, shape, channels);
            sums1.add(part, inner.corner, outer.inside, shape);
        }
    };
    for_chunks(batch.parts, threads, body);
    if (!learned) return;
    sums0.write(a.weight0_gradient, a.bias0_gradient);
    sums1.write(a.weight1_gradient, a.bias1_gradient);
}

void conv_pool(const ConvPool& a, int threads) {
    const Shape shape{a.height, a.width}, half{a.height / 2, a.width / 2};
    const Weights weights(a.weight, a.out_channels, a.in_channels, false);
    auto body = [&](int64_t n) {
        Padded<1> input(shape, a.in_channels), full(shape, a.out_channels);
        copy(image(a.x, shape, a.in_channels, n), input.inside, shape, weights.in_blocks);
        convolve(input.corner, weights, shape, {full.inside, a.bias});
        pool(full.inside, shape, weights.out_blocks, image(a.out, half, a.out_channels, n),
             a.position ? a.position + n * half.pixels() * a.out_channels : nullptr);
    };
    for_chunks(a.batch, threads, body);
}

void conv_pool_backward(const ConvPoolBackward& a, int threads) {
    const Shape shape{a.height, a.width}, half{a.height / 2, a.width / 2};
    const Weights weights(a.weight, a.out_channels, a.in_channels, true);
    const int64_t in_blocks = a.in_channels / kBlock, out_blocks = a.out_channels / kBlock;
    const Batch batch(a.batch);
    const bool learned = a.weight_gradient != nullptr;
    WeightGradient sums(batch, a.out_channels, a.in_channels, learned);
    auto body = [&](int64_t part) {
        if (learned) sums.begin(part);
        Padded<1> full0(shape, a.out_channels), full1(shape, a.out_channels);
        Padded<2> input(shape, a.in_channels), gradient(shape, a.out_channels);
        const int64_t end = min((part + 1) * batch.images, a.batch);
        auto x = [&](int64_t n) { return n < end ? image(a.x, shape, a.in_channels, n) : View{}; };
        for (int64_t n = part * batch.images; n < end; n += 2) {
            for (int64_t i = n; i < min(n + 2, end); ++i) {
                const Padded<1>& full = i == n ? full0 : full1;
                spread(image(a.gradient, half, a.out_channels, i), a.position + i * half.pixels() * a.out_channels,
                       shape, out_blocks, full.inside);
                if (a.out) convolve(full.corner, weights, shape, {image(a.out, shape, a.in_channels, i)});
            }
            if (!learned) continue;
            interleave(x(n), x(n + 1), input.inside, shape, in_blocks);
            interleave(full0.inside, n + 1 < end ? full1.inside : View{}, gradient.inside, shape, out_blocks);
            sums.add(part, input.corner, gradient.inside, shape);
        }
    };
    for_chunks(batch.parts, threads, body);
    if (learned) sums.write(a.weight_gradient, a.bias_gradient);
}

}  // namespace bcvlr
