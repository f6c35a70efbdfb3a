// Pieces that several rules use.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/text.h"
#include "rewrite/dsl.h"

namespace liger::rewrite {

// The kernels' element types.
inline bool has_kernel_dtype(const graph::TensorMeta& meta) {
  using graph::DType;
  return meta.dtype == DType::float32 || meta.dtype == DType::bfloat16 || meta.dtype == DType::float16;
}

inline std::string dtype_name(const graph::TensorMeta& meta) { return std::string(graph::name_of(meta.dtype)); }

// "bfloat16[2, 16, 64]", for the report: strides say nothing to its reader.
inline std::string brief(const graph::TensorMeta& meta) {
  graph::TensorMeta contiguous = meta;
  contiguous.strides = graph::contiguous_strides(meta.shape);
  return graph::print(contiguous);
}

inline Verdict require_kernel_dtype(const graph::Node& node) {
  if (has_kernel_dtype(*node.tensor)) return ok();
  return because("%" + node.name + " is " + dtype_name(*node.tensor) +
                 "; the kernels take float32, bfloat16 and float16");
}

inline Verdict require_same_dtype(const graph::Node& a, const graph::Node& b) {
  if (a.tensor->dtype == b.tensor->dtype) return ok();
  return because("%" + a.name + " is " + dtype_name(*a.tensor) + " and %" + b.name + " is " + dtype_name(*b.tensor));
}

inline Verdict require_same_shape(const graph::Node& a, const graph::Node& b) {
  if (a.tensor->shape == b.tensor->shape) return ok();
  return because("%" + a.name + " is " + graph::print(*a.tensor) + " and %" + b.name + " is " +
                 graph::print(*b.tensor) + "; their shapes must be equal");
}

// A cast that loses nothing, or a reshape that keeps the last dim: each row of the last dim stays a row.
inline Verdict keeps_rows(const Candidate& candidate) {
  if (is_lossless_upcast(candidate)) return ok();
  const graph::Node* input = candidate.operand(0);
  const auto& output = candidate.node().tensor;
  const bool same_rows = candidate.canonical().op == Op::reshape && input != nullptr && input->tensor && output &&
                         input->tensor->rank() > 0 && output->rank() > 0 &&
                         input->tensor->shape.back() == output->shape.back();
  return same_rows ? ok() : because("it changes the last dim");
}

// As keeps_rows, or a slice of another dim than the last.
inline Verdict keeps_or_drops_rows(const Candidate& candidate) {
  if (candidate.canonical().op != Op::slice) return keeps_rows(candidate);
  const graph::Node* input = candidate.operand(0);
  const auto& dims = candidate.canonical().dims;
  const bool other_dim = input != nullptr && input->tensor && dims.size() == 1 &&
                         dims[0] + 1 < static_cast<std::int64_t>(input->tensor->rank());
  return other_dim ? ok() : because("it slices the last dim");
}

inline const graph::Value& attribute_of(const Match& match, const Pattern& pattern, std::string_view name) {
  static const graph::Value kNone = graph::None{};
  const graph::Value* value = match.view()[match.id(pattern)].attribute(name);
  return value == nullptr ? kNone : *value;
}

inline Verdict require_number(const graph::Value& value, const std::string& name) {
  return number_in(value) ? ok() : because(name + " is not a literal number");
}

// RMSNorm of `x`, defined in rms_norm.cpp: `y` is the normalised value.
struct NormPattern {
  Pattern x, y, weight, offset_weight, eps, variance, early, one_plus;
  Pattern call;  // of torch.rms_norm, where that is all

  std::optional<Pattern> weight_of(const Match& m) const;
  Argument eps_of(const Match& m) const;
};

NormPattern norm_of(const Pattern& x);
Verdict require_norm(const Match& m, const NormPattern& norm);  // that a call of ours fits

// Rotary embedding of `x`, defined in rope.cpp: `y` is the rotated value, the root of the match. A call that replaces
// it fits where the first three requirements hold of query and key, and the last of both.
struct RotationPattern {
  Pattern x, y, cos, sin, turning, rotated, rest;
};

inline constexpr auto kNoSecondRotation = "no second rotation by the same cos and sin stands next to it";

RotationPattern rotation_of(const Pattern& x);
Verdict require_tables(const Match& m, const RotationPattern& rotation);
Verdict require_rotated_dtype(const Match& m, const RotationPattern& rotation);
Verdict require_parts(const Match& m, const RotationPattern& rotation);
Verdict require_alike(const Match& query, const Match& key, const RotationPattern& rotation);
// The keywords that say where the call must make a result contiguous.
void add_layouts(Expr& call, const Match& query, const Match& key, const RotationPattern& rotation);

// What both loss rules hand to their op, and what F.cross_entropy takes but the ops do not.
inline std::string reduction_of(const Match& match, const Pattern& cross_entropy) {
  const auto* text = std::get_if<std::string>(&attribute_of(match, cross_entropy, "reduction"));
  return text == nullptr ? "" : *text;
}

inline Verdict require_plain_cross_entropy(const Match& match, const Pattern& cross_entropy) {
  const graph::CanonicalNode& call = match.view()[match.id(cross_entropy)];
  const graph::Node& logits = match.graph()[call.operands[0].node];
  const graph::Node& target = match.graph()[call.operands[1].node];
  if (call.operands.size() > 2 && call.operands[2].is_node()) return because("it has class weights");
  if (logits.tensor->rank() != 2 || target.tensor->rank() != 1) {
    return because("logits are " + graph::print(*logits.tensor) + " and targets " + graph::print(*target.tensor) +
                   "; they must be [tokens, vocab] and [tokens]");
  }
  if (target.tensor->dtype != graph::DType::int64) {
    return because("the targets are " + dtype_name(*target.tensor) + ", not class indices");
  }
  const std::string reduction = reduction_of(match, cross_entropy);
  if (reduction != "mean" && reduction != "sum" && reduction != "none") return because("its reduction is unknown");
  if (Verdict v = require_number(attribute_of(match, cross_entropy, "ignore_index"), "ignore_index"); !v) return v;
  if (Verdict v = require_number(attribute_of(match, cross_entropy, "label_smoothing"), "label_smoothing"); !v)
    return v;
  return require_kernel_dtype(logits);
}

inline void add_cross_entropy_attributes(Expr& call, const Match& match, const Pattern& cross_entropy) {
  const auto ignore_index = *number_in(attribute_of(match, cross_entropy, "ignore_index"));
  const double label_smoothing = *number_in(attribute_of(match, cross_entropy, "label_smoothing"));
  call.kwarg("ignore_index", static_cast<std::int64_t>(ignore_index))
      .kwarg("reduction", reduction_of(match, cross_entropy));
  if (label_smoothing != 0) call.kwarg("label_smoothing", label_smoothing);
  call.kwarg("out_dtype", match[cross_entropy].tensor->dtype);
}

}  // namespace liger::rewrite
