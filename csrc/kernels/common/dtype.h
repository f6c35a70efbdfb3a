// Element types of the kernels and their conversions. float16 and bfloat16 are plain bit patterns, so that one type
// serves the CPU, CUDA and HIP; device code converts through the intrinsics of gpu.h instead.
#pragma once

#include <cstdint>
#include <cstring>

namespace liger::kernels {

enum class ScalarType : std::uint8_t { float32, bfloat16, float16 };

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

// Conversions are inlined even without optimisation: the CPU kernels are built once per instruction set, and an
// out-of-line copy built for AVX-512 must not be the one that the linker keeps for all of them.
#define LIGER_ALWAYS_INLINE inline __attribute__((always_inline))

LIGER_ALWAYS_INLINE float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

LIGER_ALWAYS_INLINE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

LIGER_ALWAYS_INLINE float to_float(float value) { return value; }

LIGER_ALWAYS_INLINE float to_float(BFloat16 value) {
  return float_from_bits(static_cast<std::uint32_t>(value.bits) << 16);
}

// Every branch is a select, so that loops over rows vectorise on any instruction set.
LIGER_ALWAYS_INLINE float to_float(Float16 value) {
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t rebias =
      magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;  // infinities and NaN keep exponent 255
  const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 5.9604644775390625e-8f;  // 2^-24
  const std::uint32_t bits = magnitude < 0x400u ? bits_of(subnormal) : (magnitude << 13) + rebias;
  return float_from_bits(bits | sign);
}

template <typename T>
T from_float(float value);

template <>
LIGER_ALWAYS_INLINE float from_float<float>(float value) {
  return value;
}

// Round to nearest even; a NaN stays a (quiet) NaN.
template <>
LIGER_ALWAYS_INLINE BFloat16 from_float<BFloat16>(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<std::uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded >> 16)};
}

template <>
LIGER_ALWAYS_INLINE Float16 from_float<Float16>(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 leaves multiples of 2^-24 (the subnormal step) in the low bits, rounded to nearest even by the adder.
  const std::uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;                  // below 2^-14
  return {static_cast<std::uint16_t>(sign | (magnitude >= 0x477ff000u ? special : finite))};  // from 65520: infinity
}

// What a value becomes when it is stored as T and read back.
template <typename T>
LIGER_ALWAYS_INLINE float rounded_to(float value) {
  return to_float(from_float<T>(value));
}

template <typename T>
struct DtypeTraits;

template <>
struct DtypeTraits<float> {
  static constexpr ScalarType scalar_type = ScalarType::float32;
};

template <>
struct DtypeTraits<BFloat16> {
  static constexpr ScalarType scalar_type = ScalarType::bfloat16;
};

template <>
struct DtypeTraits<Float16> {
  static constexpr ScalarType scalar_type = ScalarType::float16;
};

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visitor(TypeTag<T>{}) for the C++ type of `dtype`.
template <typename Visitor>
decltype(auto) dispatch_dtype(ScalarType dtype, Visitor&& visitor) {
  switch (dtype) {
    case ScalarType::bfloat16:
      return visitor(TypeTag<BFloat16>{});
    case ScalarType::float16:
      return visitor(TypeTag<Float16>{});
    case ScalarType::float32:
      break;
  }
  return visitor(TypeTag<float>{});
}

constexpr std::int64_t size_of(ScalarType dtype) { return dtype == ScalarType::float32 ? 4 : 2; }

}  // namespace liger::kernels
