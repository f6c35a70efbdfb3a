// Element types of tensors, with the two facts that rules ask for: is a cast lossless, is it floating.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace liger::graph {

enum class DType : std::uint8_t {
  float64,
  float32,
  bfloat16,
  float16,
  int64,
  int32,
  int16,
  int8,
  uint8,
  boolean,
  complex64,
  other,  // anything that no rule handles; never equal in meaning to another `other`
};

// "float32"; the spelling of torch without its prefix.
std::string_view name_of(DType dtype);
// Accepts "float32" and "torch.float32"; unknown names give DType::other.
DType dtype_from_name(std::string_view name);
bool is_floating(DType dtype);
bool is_integral(DType dtype);  // integers and boolean
// Every value of `from` is exactly representable in `to` (bfloat16 -> float32, but not float16 -> bfloat16).
bool is_lossless_cast(DType from, DType to);

}  // namespace liger::graph
