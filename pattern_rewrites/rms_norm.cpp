// RMSNorm: y = x * rsqrt(mean(x^2, -1) + eps) * weight, in float32 inside; Gemma scales by (1 + weight).
//
// Llama rounds to the input dtype before the weight, OLMo, Gemma and torch.nn.RMSNorm after it; the kernel rounds where
// the model does.
// A residual add before the norm joins the call, which then returns the sum as well.
#include <limits>

#include "shared.h"

namespace liger::rewrite {

namespace {

Verdict adds_two_alike(const Candidate& candidate) {
  const graph::Node *a = candidate.operand(0), *b = candidate.operand(1);
  if (a == nullptr || b == nullptr || !a->tensor || !b->tensor) return because("it does not add two tensors");
  if (Verdict verdict = require_same_shape(*a, *b); !verdict) return verdict;
  return require_same_dtype(*a, *b);
}

std::string detail_of(const Match& match, bool fused_add, const Pattern& input) {
  return std::string(fused_add ? "rms_norm + residual add, " : "rms_norm, ") + brief(match.tensor(input));
}

Verdict require_call(const Match& m, const NormPattern& norm) {
  if (!m.has(norm.call)) return ok();
  const std::size_t num_dims = m.view()[m.id(norm.call)].dims.size();
  if (num_dims != 1) return because("it normalises the last " + std::to_string(num_dims) + " dims together");
  const graph::Value& eps = attribute_of(m, norm.call, "eps");
  return std::holds_alternative<graph::None>(eps) ? ok() : require_number(eps, "eps");
}

Verdict require_weight(const Match& m, const NormPattern& norm) {
  const std::optional<Pattern> w = norm.weight_of(m);
  if (!w) return ok();
  const auto& width = m.tensor(norm.x).shape.back();
  if (m.tensor(*w).shape == std::vector{width}) return ok();
  return because("the weight %" + m[*w].name + " is " + graph::print(m.tensor(*w)) + "; it must be 1-D of length " +
                 width.str());
}

Verdict require_dtypes(const Match& m, const NormPattern& norm) {
  using graph::DType;
  if (Verdict verdict = require_kernel_dtype(m[norm.x]); !verdict) return verdict;
  const DType input = m.tensor(norm.x).dtype, output = m.tensor(norm.y).dtype;
  const std::optional<Pattern> w = norm.weight_of(m);
  const DType of_weight = !w ? input : m.tensor(*w).dtype;
  const bool weight_ok = of_weight == input || of_weight == DType::float32;
  const bool output_ok = output == input || (output == DType::float32 && (!w || of_weight == output));
  if (weight_ok && output_ok) return ok();
  return because("no kernel takes " + std::string(name_of(input)) + " with a " + std::string(name_of(of_weight)) +
                 " weight to " + std::string(name_of(output)));
}

Verdict require_roundings(const Match& m, const NormPattern& norm) {
  if (m.has(norm.early) && m.tensor(norm.early).dtype != m.tensor(norm.x).dtype) {
    return because("%" + m[norm.early].name + " rounds to " + dtype_name(m.tensor(norm.early)) +
                   " before the weight; the kernel can only round to the input's " + dtype_name(m.tensor(norm.x)));
  }
  if (m.has(norm.one_plus) && m.tensor(norm.one_plus).dtype != graph::DType::float32) {
    return because("%" + m[norm.one_plus].name + " rounds 1 + weight to " + dtype_name(m.tensor(norm.one_plus)));
  }
  return ok();
}

}  // namespace

NormPattern norm_of(const Pattern& x) {
  auto weight = tensor("weight"), offset_weight = tensor("weight of (1 + weight)");
  auto eps = scalar("eps");

  auto wide = widened(x);
  auto square = either("x^2", {pow(wide, 2), mul(wide, wide)});
  auto variance = add(mean_last(square), eps).named("mean(x^2) + eps");
  auto rms = either("rms", {sqrt(variance), pow(variance, 0.5)});
  auto inverse = either("1 / rms", {rsqrt(variance), recip(rms), pow(variance, -0.5)});

  auto unit = either("x / rms", {mul(wide, inverse), div(wide, rms)});
  auto early = rounded("rounding before the weight", unit);
  auto one_plus = add(widened(offset_weight), lit(1));
  auto scale = either("weight", {one_plus, widened(weight)});
  auto scaled = rounded("rounding after the weight", mul(early, scale));
  auto bare = rounded("rounding", unit);

  auto with_weight = operation(Op::rms_norm, {wide, widened(weight)});
  auto without_weight = operation(Op::rms_norm, {wide, optional_tensor("no weight")});
  auto call = either("torch.rms_norm", {with_weight, without_weight});
  auto y = either("normalised", {scaled, bare, rounded("rounding of torch.rms_norm", call)});
  return {x, y, weight, offset_weight, eps, variance, early, one_plus, call};
}

std::optional<Pattern> NormPattern::weight_of(const Match& m) const {
  if (m.has(offset_weight)) return offset_weight;
  return m.has(weight) ? std::optional(weight) : std::nullopt;
}

Argument NormPattern::eps_of(const Match& m) const {
  if (!m.has(call)) return m(eps);
  // torch's default is the epsilon of the dtype that it computes in.
  return number_in(attribute_of(m, call, "eps")).value_or(std::numeric_limits<float>::epsilon());
}

Verdict require_norm(const Match& m, const NormPattern& norm) {
  for (const auto requirement : {require_call, require_weight, require_dtypes, require_roundings}) {
    if (Verdict verdict = requirement(m, norm); !verdict) return verdict;
  }
  return ok();
}

Rule rms_norm() {
  auto a = tensor("hidden_states"), residual = tensor("residual"), plain = tensor("hidden_states");
  auto sum = add(a, residual).where(adds_two_alike).as_output(1);
  const NormPattern norm = norm_of(either("input", {sum, plain}));

  return Rule("rms_norm")
      .match(norm.y)
      .near_miss_once(norm.variance)
      .require([=](const Match& m) { return require_norm(m, norm); })
      .replace([=](const Match& m) {
        const bool fused_add = m.has(sum);
        const std::optional<Pattern> w = norm.weight_of(m);
        Expr call{fused_add ? "liger::add_rms_norm" : "liger::rms_norm", {}, {}};
        call.args = fused_add ? std::vector<Argument>{m(a), m(residual)} : std::vector<Argument>{m(plain)};
        call.args.push_back(!w ? Argument(graph::None{}) : m(*w));
        call.args.push_back(norm.eps_of(m));
        if (m.has(norm.one_plus)) call.kwarg("weight_offset", 1.0);
        if (m.has(norm.early) && w.has_value()) call.kwarg("round_before_weight", true);
        const graph::DType output = m.root_node().tensor->dtype;
        if (output != m.tensor(norm.x).dtype) call.kwarg("out_dtype", output);
        return Replacement{call, detail_of(m, fused_add, norm.x), fused_add ? 0 : kOnlyResult};
      });
}

}  // namespace liger::rewrite
