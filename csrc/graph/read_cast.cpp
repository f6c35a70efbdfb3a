// Casts, copies and everything else that keeps shape and order: the operand itself, perhaps in another dtype.
#include <array>
#include <utility>

#include "graph/reading.h"

namespace liger::graph {
namespace {

// The value on the same device, in the node's dtype. The node's meta says which dtype and device all the forms of `to`
// amount to.
bool read_cast(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr) return false;
  const TensorMeta& result = reading.result();
  if (input->device != result.device || input->shape != result.shape) return false;
  if (input->dtype == DType::other || result.dtype == DType::other) return false;
  if (input->dtype == result.dtype) return reading.identity(0);
  return reading.push(0) && reading.done();
}

DType dtype_of_method(std::string_view target) {
  constexpr std::array<std::pair<std::string_view, DType>, 10> methods = {{{"float", DType::float32},
                                                                           {"double", DType::float64},
                                                                           {"half", DType::float16},
                                                                           {"bfloat16", DType::bfloat16},
                                                                           {"long", DType::int64},
                                                                           {"int", DType::int32},
                                                                           {"short", DType::int16},
                                                                           {"char", DType::int8},
                                                                           {"byte", DType::uint8},
                                                                           {"bool", DType::boolean}}};
  target = target.substr(target.rfind('.') + 1);
  for (const auto& [name, dtype] : methods) {
    if (name == target) return dtype;
  }
  return DType::other;
}

bool read_named_cast(Reading& reading) {
  return reading.result().dtype == dtype_of_method(reading.node.target) && read_cast(reading);
}

bool read_unchanged(Reading& reading) { return reading.identity(0); }

constexpr Spelling kSpellings[] = {
    {".to", "input options... * dtype device other non_blocking copy memory_format", read_cast, Op::cast,
     Aliasing::first_cast},
    {".type", "input dtype non_blocking", read_cast, Op::cast, Aliasing::first_cast},
    {".type_as", "input other", read_cast, Op::cast, Aliasing::first_cast},
    {"torch.as_tensor", "data dtype device", read_cast, Op::cast, Aliasing::first_cast},
    {".float .double .half .bfloat16 .long .int .short .char .byte .bool", "input memory_format", read_named_cast,
     Op::cast, Aliasing::first_cast},
    {".cpu", "input memory_format", read_cast, Op::cast, Aliasing::first},
    {".cuda", "input device non_blocking memory_format", read_cast, Op::cast, Aliasing::first},
    {".contiguous", "input memory_format", read_unchanged, Op::identity, Aliasing::first},
    {".clone torch.clone", "input * memory_format", read_unchanged, Op::identity, Aliasing::fresh},
    // The result requires no gradient: no identity where the input did.
    {".detach torch.detach", "input", read_unchanged, Op::identity, Aliasing::first},
    {"operator.pos torch.positive .positive .__pos__", "input", read_unchanged, Op::identity, Aliasing::first},
};

}  // namespace

SpellingTable cast_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
