#include "graph/dtype.h"

#include <array>
#include <utility>

namespace liger::graph {
namespace {

// In the order of the enumeration.
constexpr std::array<std::string_view, 12> kNames = {"float64", "float32", "bfloat16", "float16", "int64",     "int32",
                                                     "int16",   "int8",    "uint8",    "bool",    "complex64", "other"};
static_assert(kNames.size() == static_cast<std::size_t>(DType::other) + 1);

// Bits that a type can represent exactly: significand (integers: value bits) and exponent range.
struct Precision {
  int significand = 0;
  int max_exponent = 0;
  int min_exponent = 0;  // of the smallest subnormal
  bool is_signed = true;
};

constexpr Precision precision_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return {53, 1023, -1074};
    case DType::float32:
    case DType::complex64:
      return {24, 127, -149};
    case DType::bfloat16:
      return {8, 127, -133};
    case DType::float16:
      return {11, 15, -24};
    case DType::int64:
      return {63, 63, 0};
    case DType::int32:
      return {31, 31, 0};
    case DType::int16:
      return {15, 15, 0};
    case DType::int8:
      return {7, 7, 0};
    case DType::uint8:
      return {8, 8, 0, false};
    case DType::boolean:
      return {1, 1, 0, false};
    default:
      return {};
  }
}

}  // namespace

std::string_view name_of(DType dtype) { return kNames[static_cast<std::size_t>(dtype)]; }

DType dtype_from_name(std::string_view name) {
  constexpr std::string_view prefix = "torch.";
  if (name.substr(0, prefix.size()) == prefix) name.remove_prefix(prefix.size());
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<DType>(i);
  }
  return DType::other;
}

bool is_floating(DType dtype) {
  return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16;
}

bool is_integral(DType dtype) { return dtype >= DType::int64 && dtype <= DType::boolean; }

bool is_lossless_cast(DType from, DType to) {
  if (from == DType::other || to == DType::other) return false;
  if (from == to) return true;
  if (from == DType::complex64 || to == DType::boolean) return false;
  if (is_floating(from) && is_integral(to)) return false;
  const Precision source = precision_of(from), target = precision_of(to);
  if (is_integral(from) && is_integral(to)) {
    return source.significand <= target.significand && (!source.is_signed || target.is_signed);
  }
  // An integer's most negative value, -2^n, is one significand bit at exponent n.
  return source.significand <= target.significand && source.max_exponent <= target.max_exponent &&
         source.min_exponent >= target.min_exponent;
}

}  // namespace liger::graph
