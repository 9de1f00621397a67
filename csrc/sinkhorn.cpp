// sinkhorn: row and column scalings of K = exp(scores / temperature), and the cross-entropy against them.
//
// K is computed once, into the output. Each iteration reads it once: a block of rows is scaled by its sums and added to
// the column sums of the next scaling while it is in the cache. Column sums are stored per chunk of kChunk rows, which
// does not depend on the number of threads, and are added in order: results are bit-identical, with less rounding
// error.
//
// exp(s / T) = 2^(s c), c = log2(e) / T, needs no subtraction of the maximum: with |s| <= 1 it stays within 2^(+-c),
// and a common factor would cancel.

#include "kernels.h"
#include "simd.h"

#include <cmath>

namespace bcvlr {
namespace BCVLR_ISA {
namespace {

constexpr int kRows = 4;
constexpr int64_t kChunk = 32;

// exp(x / T) for |x| < 2, which fits in float for T >= 1/40. The error is about two units in the last place with fused
// multiply-add; the baseline adds the rounding error of the exponent, |x / T| times 6e-8. log2(e) / T is the sum of two
// floats, the second of which may be negligible (kLow false), as for T = 0.1 in the paper.
template <bool kLow>
struct Exponential {
    float high, low;

    Floats operator()(Floats x) const {
        const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
        const Floats shifted = x * high + magic;
        const Floats whole = shifted - magic;
        Floats f = multiply_add(x, all(high), -whole);  // explicit: a compiler could reuse the rounded x * high
        if constexpr (kLow) f = multiply_add(x, all(low), f);
        Floats y = all(1.326472722e-3f);  // minimax for 2^f on |f| <= 1/2, exact at 0: 9e-8 before rounding
        y = y * f + 9.671512656e-3f;
        y = y * f + 5.550733743e-2f;
        y = y * f + 2.402224209e-1f;
        y = y * f + 6.931469776e-1f;
        y = y * f + 1.0f;
        // The low bits of `shifted` are the whole number; the others are shifted out.
        return as_floats(as_bits(y) + (as_bits(shifted) << 23));
    }
};

// Whether the OR of the bits of many floats shows one with a magnitude of two or more, infinity or NaN.
inline bool outside(Bits bits) {
    bool any = false;
    for (int i = 0; i < kLanes; ++i) any |= (bits[i] & 0x40000000u) != 0;
    return any;
}

// Writes N rows of K = exp(scores / T) to out and adds them to the column sums, whose length is a multiple of a vector.
template <int N, typename Exp>
inline void exponentiate(const Exp& exponential, const float* scores, int64_t size, float* out, float* columns,
                         Bits& bits) {
    for_vectors(size, [&](int64_t m, int64_t n) {
        Floats total = load(columns + m);
        for (int r = 0; r < N; ++r) {
            const Floats x = take(scores + r * size + m, n), k = exponential(x);
            bits |= as_bits(x);
            put(out + r * size + m, n, k);
            total += k;
        }
        store(columns + m, total);
    });
}

// Returns false if a score is out of range.
template <typename Exp>
bool first_pass(const Exp& exponential, const float* scores, int64_t rows, int64_t size, float* out, float* columns) {
    Bits bits{};
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows)
        exponentiate<kRows>(exponential, scores + i * size, size, out + i * size, columns, bits);
    for (; i < rows; ++i) exponentiate<1>(exponential, scores + i * size, size, out + i * size, columns, bits);
    return !outside(bits);
}

// Sums of N rows of K times the column scalings v.
template <int N>
inline void row_sums(const float* k, int64_t size, const float* v, float* result) {
    Floats total[N] = {};
    for_vectors(size, [&](int64_t m, int64_t n) {
        for (int r = 0; r < N; ++r) total[r] += take(k + r * size + m, n) * load(v + m);
    });
    for (int r = 0; r < N; ++r) result[r] = sum(total[r]);
}

template <int N>
inline void scale_rows(const float* k, int64_t size, const float* v, float* columns) {
    float u[N];
    row_sums<N>(k, size, v, u);
    for (int r = 0; r < N; ++r) u[r] = 1 / u[r];
    for_vectors(size, [&](int64_t m, int64_t n) {
        Floats total = load(columns + m);
        for (int r = 0; r < N; ++r) total += take(k + r * size + m, n) * u[r];
        store(columns + m, total);
    });
}

void middle_pass(const float* k, int64_t rows, int64_t size, const float* v, float* columns) {
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows) scale_rows<kRows>(k + i * size, size, v, columns);
    for (; i < rows; ++i) scale_rows<1>(k + i * size, size, v, columns);
}

// Turns K into targets, whose rows sum to one.
void targets(float* k, int64_t rows, int64_t size, const float* v) {
    for (int64_t i = 0; i < rows; ++i, k += size) {
        float total;
        row_sums<1>(k, size, v, &total);
        const float u = 1 / total;
        for (int64_t m = 0; m < size; ++m) k[m] *= v[m] * u;
    }
}

// Turns K into the gradient (softmax(logits / T) - target) / (T * batch); returns the summed cross-entropy of the rows.
// `line` [size] is scratch space for exp(logits / T).
template <typename Exp>
double cross_entropy(const Exp& exponential, const Sinkhorn& a, const float* logits, float* k, int64_t rows,
                     const float* v, float* line) {
    const int64_t size = a.size;
    const float scale = static_cast<float>(1 / (a.temperature * static_cast<double>(a.batch)));
    double loss = 0;
    for (int64_t i = 0; i < rows; ++i, logits += size, k += size) {
        Floats exponentials{}, targets{}, weighted{};
        Bits bits{};
        for_vectors(size, [&](int64_t m, int64_t n) {
            const Floats x = take(logits + m, n), target = take(k + m, n) * load(v + m);
            const Floats e = exponential(x);
            bits |= as_bits(x);
            put(line + m, n, e);
            exponentials += n < kLanes ? take(line + m, n) : e;  // excludes the lanes past the end
            targets += target;
            weighted += target * x;
        });
        const float all_exponentials = outside(bits) ? NAN : sum(exponentials), all_targets = sum(targets);
        loss += std::log(static_cast<double>(all_exponentials)) -
                static_cast<double>(sum(weighted)) / all_targets / a.temperature;
        const float softmax_scale = scale / all_exponentials, target_scale = scale / all_targets;
        for (int64_t m = 0; m < size; ++m) k[m] = line[m] * softmax_scale - k[m] * (v[m] * target_scale);
    }
    return loss;
}

template <typename Exp>
void run(const Sinkhorn& a, int threads, const Exp& exponential) {
    const float share = static_cast<float>(static_cast<double>(a.batch) / static_cast<double>(a.size));
    const int64_t chunks = ceil_div(a.batch, kChunk), padded = ceil_div(a.size, kLanes) * kLanes;
    const Buffer<float> columns(chunks * padded, 0.0f), v(padded, 0.0f);
    const Buffer<double> losses(chunks);
    int64_t iteration = 0;
    auto pass = [&](int64_t chunk) {
        const int64_t start = chunk * kChunk, rows = min(kChunk, a.batch - start);
        float* const k = a.out + start * a.size;
        float* const chunk_columns = columns.get() + chunk * padded;
        if (iteration == 0) {
            if (!first_pass(exponential, a.scores + start * a.size, rows, a.size, k, chunk_columns))
                chunk_columns[0] = NAN;  // makes every target NaN
        } else if (iteration < a.iterations) {
            std::memset(chunk_columns, 0, padded * sizeof(float));
            middle_pass(k, rows, a.size, v.get(), chunk_columns);
        } else if (!a.logits) {
            targets(k, rows, a.size, v.get());
        } else {
            const Buffer<float> line(padded);
            losses[chunk] = cross_entropy(exponential, a, a.logits + start * a.size, k, rows, v.get(), line.get());
        }
    };
    for (; iteration <= a.iterations; ++iteration) {
        for_chunks(chunks, threads, pass);
        if (iteration == a.iterations) break;
        for (int64_t m = 0; m < a.size; ++m) v[m] = columns[m];
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
            for (int64_t m = 0; m < a.size; ++m) v[m] += columns[chunk * padded + m];
        for (int64_t m = 0; m < a.size; ++m) v[m] = share / v[m];
    }
    if (a.logits) {
        double loss = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) loss += losses[chunk];
        *a.loss = static_cast<float>(loss / static_cast<double>(a.batch));
    }
}

}  // namespace

void sinkhorn(const Sinkhorn& a, int threads) {
    const double exponent = 1.4426950408889634 / a.temperature;
    const float high = static_cast<float>(exponent), low = static_cast<float>(exponent - high);
    if (std::fabs(low) < 6e-8f)
        run(a, threads, Exponential<false>{high, low});
    else
        run(a, threads, Exponential<true>{high, low});
}

}  // namespace BCVLR_ISA
}  // namespace bcvlr
