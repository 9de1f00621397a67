// The operations, compiled once per instruction set (BCVLR_ISA names it), and the threads that they share.
// dispatch.cpp selects the instruction set at run time and defines the C interface.
#pragma once

#include <cstdint>

namespace bcvlr {

struct RandomShift {
    const uint8_t* frames;   // [count, channels, height, width]
    const int64_t* index;    // [batch, stack], 0 <= index < count
    const int64_t* offset;   // [batch, 2] (row, column), 0 <= offset <= 2 * pad; null is (pad, pad)
    void* out;               // [batch, stack * channels, height, width], float or bf16
    int64_t count, channels, height, width, batch, stack, pad;
    bool bilinear, bf16, channels_last;
};

struct NearestCode {
    const float* z;          // [batch, books, dim, positions]
    float* codes;            // [books, size, dim]
    float* ema_count;        // [books, size]; null: no update
    float* ema_sum;          // [books, size, dim]
    float* quantized;        // like z
    int64_t* indices;        // [batch, books, positions]
    float* commitment;       // [1]
    float* perplexity;       // [books]
    int64_t batch, books, size, dim, positions;
    double decay, restart_below;
};

struct NearestCodeBackward {
    const float* z;                    // [size]
    const float* quantized;            // [size]
    const float* quantized_gradient;   // [size]
    const float* commitment_gradient;  // [1]
    float* out;                        // [size]
    int64_t size;
};

struct Sinkhorn {
    const float* scores;     // [batch, size]
    const float* logits;     // [batch, size]; null: targets only
    float* out;              // [batch, size]: targets, or the gradient of the loss with respect to the logits
    float* loss;             // [1], with logits
    int64_t batch, size, iterations;
    double temperature;
};

struct StackFrames {
    const void* features;    // [frames, batch, pixels, channels], float or bf16
    void* out;               // [batch, pixels, frames, channels], same type
    int64_t frames, batch, pixels, channels;
    float gain;              // 0: the frames; else the differences times gain, and the last frame
    bool bf16;
};

// Images [batch, height, width, channels] in bf16, channels a multiple of 16, height and width of 4; weights [out, 9,
// in], biases and their gradients in float.
struct ResidualBlock {
    const void* x;           // channels
    const float *weight0, *bias0, *weight1, *bias1;
    void* middle;            // hidden; null: not stored
    void* out;               // channels
    int64_t batch, height, width, channels, hidden;
};

struct ResidualBlockBackward {
    const void *gradient, *x, *middle;
    const float *weight0, *weight1;
    void* out;               // gradient of x; null: skipped
    float *weight0_gradient, *bias0_gradient, *weight1_gradient, *bias1_gradient;  // all null: skipped
    int64_t batch, height, width, channels, hidden;
};

struct ConvPool {
    const void* x;           // in_channels
    const float *weight, *bias;
    void* out;               // [batch, height / 2, width / 2, out_channels]
    uint8_t* position;       // like out: tap of the maximum, 0 to 8; null: not stored
    int64_t batch, height, width, in_channels, out_channels;
};

struct ConvPoolBackward {
    const void* gradient;    // like the output
    const uint8_t* position;
    const void* x;
    const float* weight;
    void* out;               // gradient of x; null: skipped
    float *weight_gradient, *bias_gradient;  // both null: skipped
    int64_t batch, height, width, in_channels, out_channels;
};

#define BCVLR_DECLARE(isa)                                               \
    namespace isa {                                                      \
    void random_shift(const RandomShift&, int threads);                  \
    void nearest_code(const NearestCode&, int threads);                  \
    void nearest_code_backward(const NearestCodeBackward&, int threads); \
    void sinkhorn(const Sinkhorn&, int threads);                         \
    void stack_frames(const StackFrames&, int threads);                  \
    }
BCVLR_DECLARE(baseline)
BCVLR_DECLARE(avx2)
BCVLR_DECLARE(avx512)
#undef BCVLR_DECLARE

// These need AVX512-BF16.
void residual_block(const ResidualBlock&, int threads);
void residual_block_backward(const ResidualBlockBackward&, int threads);
void conv_pool(const ConvPool&, int threads);
void conv_pool_backward(const ConvPoolBackward&, int threads);

// Uses the threads of the OpenMP runtime with this GOMP_parallel from now on; null uses a separate pool.
void use_openmp(void* gomp_parallel);

// Calls body(context, chunk) once for each chunk in 0..chunks - 1, on up to `threads` threads including the caller.
// Rethrows the first exception of a body.
void parallel(int64_t chunks, int threads, void (*body)(void*, int64_t), void* context);

// The same for a callable; in an unnamed namespace because each instruction set needs its own copy.
namespace {
template <typename Body>
void for_chunks(int64_t chunks, int threads, Body& body) {
    parallel(chunks, threads, [](void* context, int64_t chunk) { (*static_cast<Body*>(context))(chunk); }, &body);
}
}  // namespace

}  // namespace bcvlr
