// nearest_code: assignment, quantized vectors, loss, perplexity and EMA in one pass over z.
//
// A row is one position of one sample in one codebook. Blocks of kRows rows are compared with all codes, which are
// transposed so that vectors run over codes. Chunks do not depend on the number of threads, and their partial sums are
// added in order, so the result is bit-identical for any number of threads.

#include "kernels.h"
#include "simd.h"

#include <cmath>
#include <limits>

namespace bcvlr {
namespace BCVLR_ISA {
namespace {

constexpr int kRows = 4;
#if defined(__AVX512F__)
constexpr int kVectors = 4;  // kRows * kVectors accumulators leave registers for the operands
#else
constexpr int kVectors = 2;
#endif
constexpr int kBlock = kVectors * kLanes;
constexpr float kSmoothing = 1e-5f;

// Codes [books, size, dim] transposed to [books, dim, padded], and half their squared norms [books, padded]; padding
// codes are infinitely far away.
struct Transposed {
    int64_t padded;
    Buffer<float> codes, half_norm;

    explicit Transposed(const NearestCode& a)
        : padded(ceil_div(a.size, kBlock) * kBlock),
          codes(a.books * a.dim * padded, 0.0f),
          half_norm(a.books * padded, std::numeric_limits<float>::infinity()) {
        for (int64_t k = 0; k < a.books; ++k)
            for (int64_t m = 0; m < a.size; ++m) {
                float norm = 0;
                for (int64_t d = 0; d < a.dim; ++d) {
                    const float c = a.codes[(k * a.size + m) * a.dim + d];
                    codes[(k * a.dim + d) * padded + m] = c;
                    norm += c * c;
                }
                half_norm[k * padded + m] = norm / 2;
            }
    }
};

// Indices [kRows] of the codes nearest to rows [kRows][dim]; ties go to the lowest index.
// x c - |c|^2 / 2 is largest where |x - c| is smallest.
void nearest(const float* rows, int64_t dim, const float* codes, const float* half_norm, int64_t padded,
             int32_t* indices) {
    float best[kRows];
    for (int r = 0; r < kRows; ++r) {
        best[r] = -std::numeric_limits<float>::infinity();
        indices[r] = 0;
    }
    for (int64_t m = 0; m < padded; m += kBlock) {
        Floats score[kRows][kVectors];
        for (int v = 0; v < kVectors; ++v)
            for (int r = 0; r < kRows; ++r) score[r][v] = -load(half_norm + m + v * kLanes);
        for (int64_t d = 0; d < dim; ++d) {
            Floats code[kVectors];
            for (int v = 0; v < kVectors; ++v) code[v] = load(codes + d * padded + m + v * kLanes);
            for (int r = 0; r < kRows; ++r) {
                const Floats x = all(rows[r * dim + d]);
                for (int v = 0; v < kVectors; ++v) score[r][v] += x * code[v];
            }
        }
        for (int r = 0; r < kRows; ++r) {
            Floats highest = score[r][0];
            for (int v = 1; v < kVectors; ++v) highest = score[r][v] > highest ? score[r][v] : highest;
            const float block_best = maximum(highest);
            if (block_best > best[r]) {
                uint64_t lanes = 0;
                for (int v = 0; v < kVectors; ++v)
                    lanes |= uint64_t{equal_lanes(score[r][v], all(block_best))} << v * kLanes;
                best[r] = block_best;
                indices[r] = static_cast<int32_t>(m) + __builtin_ctzll(lanes);
            }
        }
    }
}

// Partial sums of each chunk of samples: uses as integers, sums in row order.
struct Partials {
    int64_t uses_size, sums_size;
    Buffer<double> squared_error;  // [chunks]
    Buffer<int64_t> uses;          // [chunks, books, size]
    Buffer<float> sums;            // [chunks, books, size, dim], with EMA

    Partials(const NearestCode& a, int64_t chunks)
        : uses_size(a.books * a.size),
          sums_size(a.ema_count ? uses_size * a.dim : 0),
          squared_error(chunks, 0.0),
          uses(chunks * uses_size, 0),
          sums(chunks * sums_size, 0.0f) {}
};

// [rows][columns] -> [columns][rows], with a constant 4 for the four positions of LAPO, which the compiler vectorizes.
inline void transpose(const float* __restrict in, int64_t rows, int64_t columns, float* __restrict out) {
    if (columns == 4)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < 4; ++j) out[j * rows + i] = in[i * 4 + j];
    else if (rows == 4)
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = 0; i < 4; ++i) out[j * 4 + i] = in[i * columns + j];
    else
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = in[i * columns + j];
}

void assign(const NearestCode& a, const Transposed& transposed, int64_t begin, int64_t end, int64_t chunk,
            const Partials& partials) {
    const int64_t count = (end - begin) * a.positions, padded = ceil_div(count, kRows) * kRows;
    const Buffer<float> row_buffer(padded * a.dim), code_buffer(a.positions * a.dim);
    const Buffer<int32_t> index(padded);
    float* const rows = row_buffer.get();
    float* const picked = code_buffer.get();
    for (int64_t i = count * a.dim; i < padded * a.dim; ++i) rows[i] = 0;
    double squared_error = 0;
    for (int64_t k = 0; k < a.books; ++k) {
        const auto start = [&](int64_t b) { return (b * a.books + k) * a.dim * a.positions; };
        for (int64_t b = begin; b < end; ++b)
            transpose(a.z + start(b), a.dim, a.positions, rows + (b - begin) * a.positions * a.dim);
        for (int64_t r = 0; r < count; r += kRows)
            nearest(rows + r * a.dim, a.dim, transposed.codes.get() + k * a.dim * transposed.padded,
                    transposed.half_norm.get() + k * transposed.padded, transposed.padded, index.get() + r);
        for (int64_t b = begin; b < end; ++b) {
            Floats squared{};
            for (int64_t p = 0; p < a.positions; ++p) {
                const int64_t r = (b - begin) * a.positions + p, used = k * a.size + index[r];
                a.indices[(b * a.books + k) * a.positions + p] = index[r];
                ++partials.uses[chunk * partials.uses_size + used];
                float* const sums = partials.sums.get() + chunk * partials.sums_size + used * a.dim;
                for_vectors(a.dim, [&](int64_t d, int64_t n) {
                    const Floats row = take(rows + r * a.dim + d, n), code = take(a.codes + used * a.dim + d, n);
                    squared += (row - code) * (row - code);
                    put(picked + p * a.dim + d, n, code);
                    if (a.ema_count) put(sums + d, n, take(sums + d, n) + row);
                });
            }
            squared_error += sum(squared);
            transpose(picked, a.positions, a.dim, a.quantized + start(b));
        }
    }
    partials.squared_error[chunk] = squared_error;
}

// Row r = b * positions + p of codebook k; its elements lie `positions` apart in z.
float element(const NearestCode& a, int64_t k, int64_t r, int64_t d) {
    return a.z[(((r / a.positions) * a.books + k) * a.dim + d) * a.positions + r % a.positions];
}

void update(const NearestCode& a, int64_t k, const int64_t* uses, const float* sums) {
    const float weight = static_cast<float>(1 - a.decay);
    float* const count = a.ema_count + k * a.size;
    float total = 0;
    const Buffer<bool> not_begun(a.size);
    for (int64_t m = 0; m < a.size; ++m) {
        not_begun[m] = count[m] == 0;
        count[m] += weight * (static_cast<float>(uses[k * a.size + m]) - count[m]);
        total += count[m];
    }
    int64_t dead = 0;
    const int64_t rows = a.batch * a.positions;
    for (int64_t m = 0; m < a.size; ++m) {
        float* const sum = a.ema_sum + (k * a.size + m) * a.dim;
        const float* const added = sums + (k * a.size + m) * a.dim;
        count[m] = (count[m] + kSmoothing) * (total / (total + a.size * kSmoothing));
        const bool restart = a.restart_below > 0 && (not_begun[m] || count[m] < static_cast<float>(a.restart_below));
        for (int64_t d = 0; d < a.dim; ++d)
            sum[d] = restart ? element(a, k, dead % rows, d) : sum[d] + weight * (added[d] - sum[d]);
        if (restart) {
            count[m] = 1;
            ++dead;
        }
        for (int64_t d = 0; d < a.dim; ++d) a.codes[(k * a.size + m) * a.dim + d] = sum[d] / count[m];
    }
}

}  // namespace

void nearest_code(const NearestCode& a, int threads) {
    constexpr int64_t kMaxChunks = 64, kMinSamples = 64;
    const int64_t each = max(kMinSamples, ceil_div(a.batch, kMaxChunks)), chunks = ceil_div(a.batch, each);
    const Transposed transposed(a);
    const Partials partials(a, chunks);
    auto body = [&](int64_t chunk) {
        assign(a, transposed, chunk * each, min(a.batch, (chunk + 1) * each), chunk, partials);
    };
    for_chunks(chunks, threads, body);

    double squared_error = partials.squared_error[0];
    int64_t* const uses = partials.uses.get();
    float* const sums = partials.sums.get();
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
        squared_error += partials.squared_error[chunk];
        for (int64_t i = 0; i < partials.uses_size; ++i) uses[i] += uses[chunk * partials.uses_size + i];
        for (int64_t i = 0; i < partials.sums_size; ++i) sums[i] += sums[chunk * partials.sums_size + i];
    }
    const int64_t rows = a.batch * a.positions;
    *a.commitment = static_cast<float>(squared_error / static_cast<double>(rows * a.books * a.dim));
    for (int64_t k = 0; k < a.books; ++k) {
        float entropy = 0;
        for (int64_t m = 0; m < a.size; ++m) {
            const float share = static_cast<float>(uses[k * a.size + m]) / static_cast<float>(rows);
            if (share > 0) entropy -= share * std::log(share + 1e-10f);
        }
        a.perplexity[k] = std::exp(entropy);
        if (a.ema_count) update(a, k, uses, sums);
    }
}

// The gradient of the quantized vectors passes straight through; the commitment loss adds 2 (z - quantized) / size.
void nearest_code_backward(const NearestCodeBackward& a, int threads) {
    constexpr int64_t kChunk = 1 << 16;
    const float scale = *a.commitment_gradient * static_cast<float>(2.0 / static_cast<double>(a.size));
    auto body = [&](int64_t chunk) {
        for (int64_t i = chunk * kChunk; i < min(a.size, (chunk + 1) * kChunk); ++i)
            a.out[i] = a.quantized_gradient[i] + scale * (a.z[i] - a.quantized[i]);
    };
    for_chunks(ceil_div(a.size, kChunk), threads, body);
}

}  // namespace BCVLR_ISA
}  // namespace bcvlr
