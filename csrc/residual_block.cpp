// residual_block: x + conv(relu(conv(relu x))), image by image, so that what lies between stays in the cache.

#include "convolution.h"

namespace bcvlr {

void residual_block(const ResidualBlock& a, int threads) {
    const Shape shape{a.height, a.width};
    const int64_t channels = a.channels / kBlock, hidden = a.hidden / kBlock;
    const Weights first(a.weight0, a.hidden, a.channels, false), second(a.weight1, a.channels, a.hidden, false);
    auto body = [&](int64_t chunk) {
        Padded<1> input(shape, a.channels), middle(shape, a.hidden);
        for (int64_t n = chunk * kImages; n < least((chunk + 1) * kImages, a.batch); ++n) {
            const View x = image(a.x, shape, a.channels, n);
            copy(x, input.inside, shape, channels, true);
            convolve(input.corner, first, shape, {middle.inside, a.bias0, true});
            if (a.middle) copy(middle.inside, image(a.middle, shape, a.hidden, n), shape, hidden);
            convolve(middle.corner, second, shape, {image(a.out, shape, a.channels, n), a.bias1, false, {}, x});
        }
    };
    for_chunks(ceil_div(a.batch, kImages), threads, body);
}

void residual_block_backward(const ResidualBlockBackward& a, int threads) {
    const Shape shape{a.height, a.width};
    const int64_t channels = a.channels / kBlock, hidden = a.hidden / kBlock;
    const Weights first(a.weight0, a.hidden, a.channels, true), second(a.weight1, a.channels, a.hidden, true);
    WeightGradient sums0(a.batch, a.hidden, a.channels), sums1(a.batch, a.channels, a.hidden);
    auto body = [&](int64_t part) {
        Padded<1> padded(shape, a.channels), middle0(shape, a.hidden), middle1(shape, a.hidden);
        Padded<2> outer(shape, a.channels), inner(shape, a.hidden);
        const int64_t end = least((part + 1) * sums0.images, a.batch);
        // null past the end of the batch
        auto of = [&](const void* data, int64_t c, int64_t n) { return n < end ? image(data, shape, c, n) : View{}; };
        for (int64_t n = part * sums0.images; n < end; n += 2) {
            for (int64_t i = n; i < least(n + 2, end); ++i) {
                const View gradient = of(a.gradient, a.channels, i), x = of(a.x, a.channels, i);
                const Padded<1>& middle = i == n ? middle0 : middle1;
                copy(gradient, padded.inside, shape, channels);
                convolve(padded.corner, second, shape, {middle.inside, nullptr, false, of(a.middle, a.hidden, i)});
                convolve(middle.corner, first, shape, {of(a.out, a.channels, i), nullptr, false, x, gradient});
            }
            if (!a.weight0_gradient) continue;
            interleave(of(a.x, a.channels, n), of(a.x, a.channels, n + 1), outer.inside, shape, channels, true);
            interleave(middle0.inside, n + 1 < end ? middle1.inside : View{}, inner.inside, shape, hidden);
            sums0.add(part, outer.corner, inner.inside, shape);
            interleave(of(a.middle, a.hidden, n), of(a.middle, a.hidden, n + 1), inner.inside, shape, hidden);
            interleave(of(a.gradient, a.channels, n), of(a.gradient, a.channels, n + 1), outer.inside, shape, channels);
            sums1.add(part, inner.corner, outer.inside, shape);
        }
    };
    for_chunks(sums0.parts, threads, body);
    if (!a.weight0_gradient) return;
    sums0.write(a.weight0_gradient, a.bias0_gradient);
    sums1.write(a.weight1_gradient, a.bias1_gradient);
}

}  // namespace bcvlr
