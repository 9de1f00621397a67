// Vectors of the instruction set that the including file is compiled for, through the compiler's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace bcvlr {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));

inline Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

// Loads n lanes, and zeros in the others; n is a whole vector except at the end of a line.
inline Floats take(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}

inline void put(float* p, int64_t n, Floats v) {
    if (n >= kLanes)
        store(p, v);
    else
        std::memcpy(p, &v, n * sizeof(float));
}

// Calls body(start, n) for the whole vectors of a line, then for the rest.
template <typename Body>
inline void for_vectors(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) body(i, kLanes);
    if (i < size) body(i, size - i);
}

inline Floats all(float x) { return x - Floats{}; }

// a * b + c, with one rounding if the instruction set has fused multiply-add.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

inline Bits as_bits(Floats v) {
    Bits bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}

inline Floats as_floats(Bits bits) {
    Floats v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// Sum of the lanes by folding halves, in a fixed order of log2(lanes) steps.
template <typename T, int64_t kBytes>
struct Half {
    typedef T Vector __attribute__((vector_size(kBytes)));
};

template <typename T, typename Vector, typename Combine>
inline T fold(Vector v, Combine combine) {
    if constexpr (sizeof v == 2 * sizeof(T)) {
        return combine(v[0], v[1]);
    } else {
        typename Half<T, sizeof v / 2>::Vector half[2];
        std::memcpy(half, &v, sizeof v);
        return fold<T>(combine(half[0], half[1]), combine);
    }
}

inline float sum(Floats v) {
    return fold<float>(v, [](auto a, auto b) { return a + b; });
}

inline float maximum(Floats v) {
    return fold<float>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// Bit i is set if a[i] == b[i].
inline uint32_t equal_lanes(Floats a, Floats b) {
#if defined(__AVX512F__)
    return _mm512_cmpeq_ps_mask(a, b);
#elif defined(__AVX__)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
#elif defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpeq_ps(a, b)));
#else
    uint32_t lanes = 0;
    for (int i = 0; i < kLanes; ++i) lanes |= static_cast<uint32_t>(a[i] == b[i]) << i;
    return lanes;
#endif
}

// Converts to float, or to the bits of bf16 with rounding to nearest even. NaN only with a zero low half.
template <typename Out>
inline Out rounded(float x);

template <>
inline float rounded<float>(float x) {
    return x;
}

template <>
inline uint16_t rounded<uint16_t>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float value(float x) { return x; }

inline float value(uint16_t bf16) {
    const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// Buffer of n uninitialized elements. Each instruction set has its own type, because instances of standard templates
// are shared among files and might contain instructions of the widest set.
template <typename T>
class Buffer {
public:
    explicit Buffer(int64_t n) : data_(new T[n]) {}
    Buffer(int64_t n, T value) : Buffer(n) {
        for (int64_t i = 0; i < n; ++i) data_[i] = value;
    }
    ~Buffer() { delete[] data_; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* get() const { return data_; }
    T& operator[](int64_t i) const { return data_[i]; }

private:
    T* data_;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
}  // namespace bcvlr
