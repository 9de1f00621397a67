// random_shift: gather, stack, shift, normalize, cast and lay out in one pass.
//
// A frame stack is a grid of [height][width] pixels of `step` bytes: one byte for channels first (one plane at a time),
// stack * channels bytes for channels last, whose planes are interleaved into a grid first. Both share the code: a
// shift moves the whole grid, and only its border is filled in.

#include "kernels.h"
#include "simd.h"

namespace bcvlr {
namespace BCVLR_ISA {
namespace {

// x / 255 - 0.5, rounded after each operation as the reference does (this file is compiled without contraction).
template <typename Out>
inline Out normalized(uint8_t x) {
    return rounded<Out>(x * (1.0f / 255) - 0.5f);
}

template <typename Out>
void normalize(const uint8_t* __restrict in, Out* __restrict out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = normalized<Out>(in[i]);
}

// Integer crop: crop(y, x) = grid(clamp(y + dy), clamp(x + dx)). Bytes are cheap to move in the cache; one pass can
// then normalize them and write to memory in order.
void shift_grid(const uint8_t* grid, int64_t height, int64_t width, int64_t step, int64_t dy, int64_t dx,
                uint8_t* crop) {
    dy = max(1 - height, min(height - 1, dy));
    dx = max(1 - width, min(width - 1, dx));
    const int64_t row = width * step, top = max(0, -dy), bottom = min(height, height - dy);
    const int64_t left = max(0, -dx) * step, right = max(0, dx) * step;
    // One copy of the inside, which also overwrites the row borders; then the row borders; then the rows above and
    // below.
    std::memcpy(crop + top * row + left, grid + (top + dy) * row + right, (bottom - top) * row - left - right);
    uint8_t* const begin = crop + top * row;
    uint8_t* const end = crop + bottom * row;
    if (dx && step == 1 && width >= 16 && left + right < 8) {  // the usual small shift: eight bytes at a time
        const int64_t at = dx < 0 ? 0 : width - 8, edge = dx < 0 ? left : width - right - 1;
        const uint64_t keep = dx < 0 ? ~uint64_t{0} << 8 * left : ~uint64_t{0} >> 8 * right;  // little-endian
        for (uint8_t* line = begin; line != end; line += row) {
            uint64_t bytes;
            std::memcpy(&bytes, line + at, 8);
            bytes = (bytes & keep) | (line[edge] * 0x0101010101010101u & ~keep);
            std::memcpy(line + at, &bytes, 8);
        }
    } else if (dx) {
        for (uint8_t* line = begin; line != end; line += row) {
            for (int64_t i = left - 1; i >= 0; --i) line[i] = line[i + step];
            for (int64_t i = row - right; i < row; ++i) line[i] = line[i - step];
        }
    }
    for (int64_t y = 0; y < top; ++y) std::memcpy(crop + y * row, crop + top * row, row);
    for (int64_t y = bottom; y < height; ++y) std::memcpy(crop + y * row, crop + (bottom - 1) * row, row);
}

// Weights of the official sampling points along a line of `padded` pixels. The point q * padded / (padded - 1) - 1/2
// lies between q - 1 and q, or between q and q + 1: three weights for each q, one of which is zero, repeated `step`
// times.
struct Taps {
    int64_t size;  // padded * step
    Buffer<float> weights;  // [3][size]

    Taps(int64_t padded, int64_t step) : size(padded * step), weights(3 * size) {
        for (int64_t q = 0; q < padded; ++q) {
            const double point = static_cast<double>(q) * padded / (padded - 1) - 0.5;
            for (int64_t tap = q - 1; tap <= q + 1; ++tap) {
                const double away = point < tap ? tap - point : point - tap;
                const bool inside = tap >= 0 && tap < padded && away < 1;
                for (int64_t i = 0; i < step; ++i)
                    weights[(tap - q + 1) * size + q * step + i] = inside ? static_cast<float>(1 - away) : 0;
            }
        }
    }

    const float* line(int64_t which) const { return weights.get() + which * size; }
};

// Bilinear crop: blends rows, then columns. `line` [(width + 2 * pad + 2) * step] is scratch space for a blended row
// with its replicated border and one pixel of zero weight on either side.
template <typename Out>
void blend(const uint8_t* grid, int64_t height, int64_t width, int64_t step, int64_t pad, int64_t row_offset,
           int64_t column_offset, const Taps& rows, const Taps& columns, float* line, Out* out) {
    const int64_t row = width * step, padded = width + 2 * pad;
    float* const inside = line + (pad + 1) * step;
    // The part of the border that this crop and its outer taps reach.
    const int64_t left = max(0, min(pad, pad - column_offset + 1)) * step;
    const int64_t right = max(0, min(pad, column_offset - pad + 1)) * step;
    std::memset(line, 0, step * sizeof(float));
    std::memset(line + (padded + 1) * step, 0, step * sizeof(float));
    for (int64_t y = 0; y < height; ++y) {
        const int64_t q = y + row_offset;
        const bool below = rows.line(0)[q] != 0;  // taps q - 1 and q; else q and q + 1
        const int64_t first = below ? q - 1 : q;
        const float a = rows.line(below ? 0 : 1)[q] / 255, b = rows.line(below ? 1 : 2)[q] / 255;
        const uint8_t* const one = grid + max(0, min(height - 1, first - pad)) * row;
        const uint8_t* const two = grid + max(0, min(height - 1, first + 1 - pad)) * row;
        for (int64_t i = 0; i < row; ++i) inside[i] = a * one[i] + b * two[i];
        for (int64_t i = 1; i <= left; ++i) inside[-i] = inside[step - i];
        for (int64_t i = 0; i < right; ++i) inside[row + i] = inside[row + i - step];
        const int64_t shift = column_offset * step;
        const float* const center = line + step + shift;
        const float *const w0 = columns.line(0) + shift, *const w1 = columns.line(1) + shift,
                    *const w2 = columns.line(2) + shift;
        Out* const target = out + y * row;
        for (int64_t i = 0; i < row; ++i)
            target[i] = rounded<Out>(w0[i] * center[i - step] + w1[i] * center[i] + w2[i] * center[i + step] - 0.5f);
    }
}

#ifdef __SSSE3__
// Interleaves three planes: 16 pixels of each become three vectors.
int64_t weave_three(const uint8_t* const* planes, int64_t pixels, uint8_t* out) {
    __m128i pick[3][3];  // [vector][plane]: source of each byte, 0x80 for none
    for (int v = 0; v < 3; ++v)
        for (int p = 0; p < 3; ++p) {
            alignas(16) uint8_t from[16];
            for (int i = 0; i < 16; ++i) from[i] = (16 * v + i) % 3 == p ? (16 * v + i) / 3 : 0x80;
            pick[v][p] = _mm_load_si128(reinterpret_cast<const __m128i*>(from));
        }
    int64_t x = 0;
    for (; x + 16 <= pixels; x += 16) {
        __m128i in[3];
        for (int p = 0; p < 3; ++p) in[p] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(planes[p] + x));
        for (int v = 0; v < 3; ++v) {
            const __m128i woven = _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(in[0], pick[v][0]),
                                                            _mm_shuffle_epi8(in[1], pick[v][1])),
                                               _mm_shuffle_epi8(in[2], pick[v][2]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * x + 16 * v), woven);
        }
    }
    return x;
}

// Interleaves eight planes into bytes 0..7 of each pixel of `count` bytes.
int64_t weave_eight(const uint8_t* const* planes, int64_t count, int64_t pixels, uint8_t* out) {
    int64_t x = 0;
    for (; x + 16 <= pixels; x += 16) {
        __m128i a[8], b[8];
        for (int p = 0; p < 8; ++p) a[p] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(planes[p] + x));
        for (int p = 0; p < 4; ++p) {  // b: pixels 0-7 and 8-15 of planes p, p + 4
            b[2 * p] = _mm_unpacklo_epi8(a[p], a[p + 4]);
            b[2 * p + 1] = _mm_unpackhi_epi8(a[p], a[p + 4]);
        }
        for (int half = 0; half < 2; ++half) {
            const __m128i even_low = _mm_unpacklo_epi8(b[half], b[4 + half]);
            const __m128i even_high = _mm_unpackhi_epi8(b[half], b[4 + half]);
            const __m128i odd_low = _mm_unpacklo_epi8(b[2 + half], b[6 + half]);
            const __m128i odd_high = _mm_unpackhi_epi8(b[2 + half], b[6 + half]);
            const __m128i pixel[4] = {_mm_unpacklo_epi8(even_low, odd_low), _mm_unpackhi_epi8(even_low, odd_low),
                                      _mm_unpacklo_epi8(even_high, odd_high), _mm_unpackhi_epi8(even_high, odd_high)};
            uint8_t* target = out + (x + 8 * half) * count;
            for (int i = 0; i < 4; ++i, target += 2 * count) {
                uint64_t both[2];
                std::memcpy(both, &pixel[i], sizeof both);
                std::memcpy(target, &both[0], 8);
                std::memcpy(target + count, &both[1], 8);
            }
        }
    }
    return x;
}
#endif

// Interleaves planes [count][pixels] to pixels [pixels][count].
void weave(const uint8_t* const* planes, int64_t count, int64_t pixels, uint8_t* out) {
    int64_t plane = 0;
    auto rest = [&](int64_t x, int64_t planes_done, int64_t planes_end) {
        for (; x < pixels; ++x)
            for (int64_t p = planes_done; p < planes_end; ++p) out[x * count + p] = planes[p][x];
    };
#ifdef __SSSE3__
    if (count == 3) {
        rest(weave_three(planes, pixels, out), 0, 3);
        return;
    }
    for (; plane + 8 <= count; plane += 8)
        rest(weave_eight(planes + plane, count, pixels, out + plane), plane, plane + 8);
#endif
    for (; plane < count; ++plane) rest(0, plane, plane + 1);
}

template <typename Out>
void shift(const RandomShift& a, int threads) {
    const int64_t pixels = a.height * a.width, planes = a.stack * a.channels, sample = planes * pixels;
    const int64_t step = a.channels_last ? planes : 1, grids = planes / step;
    const bool bilinear = a.bilinear && a.pad > 0;
    const Taps rows(bilinear ? a.height + 2 * a.pad : 0, 1), columns(bilinear ? a.width + 2 * a.pad : 0, step);
    constexpr int64_t kChunkBytes = 1 << 17;
    const int64_t each = max(1, kChunkBytes / max(1, sample)), chunks = ceil_div(a.batch, each);
    auto body = [&](int64_t chunk) {
        const Buffer<uint8_t> woven(step > 1 ? sample : 0);
        const Buffer<uint8_t> crop(bilinear ? 0 : pixels * step);
        const Buffer<float> line(bilinear ? (a.width + 2 * a.pad + 2) * step : 0);
        const Buffer<const uint8_t*> plane(planes);
        for (int64_t b = chunk * each; b < min(a.batch, (chunk + 1) * each); ++b) {
            for (int64_t p = 0; p < planes; ++p)
                plane[p] = a.frames + (a.index[b * a.stack + p / a.channels] * a.channels + p % a.channels) * pixels;
            if (step > 1) weave(plane.get(), planes, pixels, woven.get());
            const int64_t y = a.offset ? a.offset[2 * b] : a.pad, x = a.offset ? a.offset[2 * b + 1] : a.pad;
            for (int64_t g = 0; g < grids; ++g) {
                const uint8_t* const grid = step > 1 ? woven.get() : plane[g];
                Out* const out = static_cast<Out*>(a.out) + b * sample + g * pixels * step;
                if (bilinear)
                    blend(grid, a.height, a.width, step, a.pad, y, x, rows, columns, line.get(), out);
                else if (y == a.pad && x == a.pad)
                    normalize(grid, out, pixels * step);
                else {
                    shift_grid(grid, a.height, a.width, step, y - a.pad, x - a.pad, crop.get());
                    normalize(crop.get(), out, pixels * step);
                }
            }
        }
    };
    for_chunks(chunks, threads, body);
}

}  // namespace

void random_shift(const RandomShift& arguments, int threads) {
    arguments.bf16 ? shift<uint16_t>(arguments, threads) : shift<float>(arguments, threads);
}

}  // namespace BCVLR_ISA
}  // namespace bcvlr
