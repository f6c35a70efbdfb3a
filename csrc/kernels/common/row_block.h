// Blocks of neighbouring elements as floats, for loops over rows that the compiler vectorises. float and bfloat16 are
// converted inside such a loop. float16 is not: GCC 12 vectorises no conversion of it but integer arithmetic of some
// twenty instructions, so a block of it is converted before or after the loop, by the machine's instructions for that.
// Where nothing is rounded to NaN, every instruction set gives the same bits as dtype.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernels/common/dtype.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

#if defined(__F16C__)
// The intrinsics with masks: the plain ones start from a register that GCC 12 takes for uninitialised.
inline constexpr int kHalfRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

LIGER_ALWAYS_INLINE void widen_8(const Float16* from, float* to) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

LIGER_ALWAYS_INLINE void narrow_8(const float* from, Float16* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
}

LIGER_ALWAYS_INLINE void widen_16(const Float16* from, float* to) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm512_storeu_ps(to, _mm512_maskz_cvtph_ps(0xffff, half));
#else
  widen_8(from, to);
  widen_8(from + 8, to + 8);
#endif
}

LIGER_ALWAYS_INLINE void narrow_16(const float* from, Float16* to) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(from), kHalfRounding);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
#else
  narrow_8(from, to);
  narrow_8(from + 8, to + 8);
#endif
}
#endif

// to[j] = from[j] for count elements.
inline void widen(const Float16* from, float* to, std::int64_t count) {
#if defined(__F16C__)
  std::int64_t j = 0;
  for (; j + 16 <= count; j += 16) widen_16(from + j, to + j);
  if (j == count) return;
  Float16 halves[16] = {};
  float floats[16];
  std::memcpy(halves, from + j, static_cast<std::size_t>(count - j) * sizeof(Float16));
  widen_16(halves, floats);
  std::memcpy(to + j, floats, static_cast<std::size_t>(count - j) * sizeof(float));
#else
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) to[j] = to_float(from[j]);
#endif
}

inline void narrow(const float* from, Float16* to, std::int64_t count) {
#if defined(__F16C__)
  std::int64_t j = 0;
  for (; j + 16 <= count; j += 16) narrow_16(from + j, to + j);
  if (j == count) return;
  float floats[16] = {};
  Float16 halves[16];
  std::memcpy(floats, from + j, static_cast<std::size_t>(count - j) * sizeof(float));
  narrow_16(floats, halves);
  std::memcpy(to + j, halves, static_cast<std::size_t>(count - j) * sizeof(Float16));
#else
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) to[j] = from_float<Float16>(from[j]);
#endif
}

// Elements [0, count) from an address on, count <= kSize, as floats.
template <typename T, std::int64_t kSize>
class ReadBlock {
 public:
  ReadBlock(const T* from, std::int64_t) : from_(from) {}
  LIGER_ALWAYS_INLINE float operator[](std::int64_t j) const { return to_float(from_[j]); }

 private:
  const T* from_;
};

template <std::int64_t kSize>
class ReadBlock<Float16, kSize> {
 public:
  ReadBlock(const Float16* from, std::int64_t count) { widen(from, values_, count); }
  LIGER_ALWAYS_INLINE float operator[](std::int64_t j) const { return values_[j]; }

 private:
  float values_[kSize];
};

// from_float for what arithmetic made of elements of T. A NaN of bfloat16 arithmetic is one of its operands or the
// default one, and the low bits of both are zero, so that rounding cannot carry into the sign: no test for it is
// needed.
template <typename T>
LIGER_ALWAYS_INLINE T from_result(float value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const std::uint32_t bits = bits_of(value);
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  } else {
    return from_float<T>(value);
  }
}

// Takes floats for elements [0, count), count <= kSize; all are written once `finish` returns.
template <typename T, std::int64_t kSize>
class WriteBlock {
 public:
  WriteBlock(T* to, std::int64_t) : to_(to) {}
  LIGER_ALWAYS_INLINE void set(std::int64_t j, float value) { to_[j] = from_float<T>(value); }
  // For a value that was computed from elements of T alone.
  LIGER_ALWAYS_INLINE void set_result(std::int64_t j, float value) { to_[j] = from_result<T>(value); }
  void finish() {}

 private:
  T* to_;
};

template <std::int64_t kSize>
class WriteBlock<Float16, kSize> {
 public:
  WriteBlock(Float16* to, std::int64_t count) : to_(to), count_(count) {}
  LIGER_ALWAYS_INLINE void set(std::int64_t j, float value) { values_[j] = value; }
  LIGER_ALWAYS_INLINE void set_result(std::int64_t j, float value) { values_[j] = value; }
  void finish() { narrow(values_, to_, count_); }

 private:
  Float16* to_;
  std::int64_t count_;
  float values_[kSize];
};

// Rounds values to what float16 holds.
inline void round_to_float16(float* values, std::int64_t count) {
  constexpr std::int64_t kStep = 64;
  Float16 halves[kStep];
  for (std::int64_t begin = 0; begin < count; begin += kStep) {
    const std::int64_t size = kStep < count - begin ? kStep : count - begin;
    narrow(values + begin, halves, size);
    widen(halves, values + begin, size);
  }
}

// body(begin, count) over [0, size) in blocks of kSize and a last one that may be shorter.
template <std::int64_t kSize, typename Body>
LIGER_ALWAYS_INLINE void for_blocks(std::int64_t size, Body&& body) {
  for (std::int64_t begin = 0; begin < size; begin += kSize) {
    body(begin, kSize < size - begin ? kSize : size - begin);
  }
}

}  // namespace LIGER_ISA_NAMESPACE
}  // namespace liger::kernels
