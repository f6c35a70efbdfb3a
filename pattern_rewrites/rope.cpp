// Rotary embedding, half-rotate: y = x * cos + cat(-x[..., d/2:], x[..., :d/2]) * sin, for query and key in one call.
//
// Only the first rotary_dim channels turn where cos is narrower than the head; the rest passes through. The two halves
// of cos and sin need not be equal. Where cos and sin are float32, query and key are promoted and rounded once at the
// end.
#include "shared.h"

namespace liger::rewrite {

namespace {

bool becomes_contiguous(const Match& match, const Pattern& input) {
  return is_contiguous(*match.result_node().tensor) && !is_contiguous(match.tensor(input));
}

}  // namespace

Rule rope() {
  auto x = tensor("query or key"), cos = tensor("cos"), sin = tensor("sin");

  auto turning = either("rotary channels", {slice_last(x, Part::leading), x});
  auto wide = widened(turning);
  auto second = slice_last(wide, Part::second_half);
  auto minus = either("negated half", {neg(second), mul(second, lit(-1))});
  auto rotated = concat_last({minus, slice_last(wide, Part::first_half)});
  auto turned = rounded("rounding", add(mul(wide, cos), mul(rotated, sin)));
  auto rest = slice_last(x, Part::trailing);
  auto joined = concat_last({turned, rest});
  auto y = either("rotated tensor", {joined, turned});

  const auto tables_fit = [=](const Match& m) -> Verdict {
    const graph::TensorMeta &head = m.tensor(turning), &c = m.tensor(cos), &s = m.tensor(sin);
    if (c.shape != s.shape || c.dtype != s.dtype) {
      return because("cos is " + graph::print(c) + " and sin is " + graph::print(s) + "; they must be alike");
    }
    if (c.requires_grad || s.requires_grad) return because("cos or sin require gradients, which the kernel has not");
    if (c.dtype != m.tensor(x).dtype && c.dtype != graph::DType::float32) {
      return because("cos is " + dtype_name(c) + "; the kernel takes float32 or " + dtype_name(m.tensor(x)));
    }
    bool broadcasts = c.rank() == head.rank() && c.shape.back() == head.shape.back();
    for (std::size_t dim = 0; broadcasts && dim + 1 < c.rank(); ++dim) {
      broadcasts = c.shape[dim] == head.shape[dim] || c.shape[dim] == graph::SymInt(1);
    }
    if (broadcasts) return ok();
    return because("cos is " + graph::print(c) + ", which does not broadcast to " + graph::print(head) +
                   " with the same rank and last dim");
  };

  const auto dtypes_fit = [=](const Match& m) -> Verdict {
    if (Verdict verdict = require_kernel_dtype(m[x]); !verdict) return verdict;
    const std::size_t rank = m.tensor(x).rank();
    if (rank < 2 || rank > 4) return because("%" + m[x].name + " has rank " + std::to_string(rank) + ", not 2 to 4");
    return require_same_dtype(m[x], m.root_node());
  };

  // What is kept must be just what does not turn, or the call would make another tensor.
  const auto parts_fit = [=](const Match& m) -> Verdict {
    const graph::SymInt rotary_dim = m.tensor(turning).shape.back();
    if (!m.has(rest)) {
      return m.id(turning) == m.id(x) ? ok() : because("the channels that do not turn are not joined to the result");
    }
    const graph::SymInt start = m.view()[m.id(rest)].bounds[0];
    return start == rotary_dim
               ? ok()
               : because("channels 0 to " + rotary_dim.str() + " turn, but the rest starts at " + start.str());
  };

  // One launch walks both: they differ in one leading dim (the heads) at most.
  const auto alike = [=](const Match& query, const Match& key) -> Verdict {
    const graph::TensorMeta &q = query.tensor(x), &k = key.tensor(x);
    std::size_t differences = 0;
    for (std::size_t dim = 0; dim + 1 < q.rank(); ++dim) differences += q.shape[dim] == k.shape[dim] ? 0 : 1;
    if (q.dtype == k.dtype && q.shape.back() == k.shape.back() && differences <= 1) return ok();
    return because("%" + query[x].name + " is " + graph::print(q) + " and %" + key[x].name + " is " + graph::print(k) +
                   "; they may differ in the number of heads only");
  };

  return Rule("rope")
      .match(y)
      .near_miss_once(rotated)
      .require(tables_fit)
      .require(dtypes_fit)
      .require(parts_fit)
      .require_of_pair(alike)
      .replace_pair({cos, sin}, "no second rotation by the same cos and sin stands next to it",
                    [=](const std::vector<Match>& pair) {
                      const Match &query = pair[0], &key = pair[1];
                      Expr call{"liger::rope", {query(x), key(x), query(cos), query(sin)}, {}};
                      // Arithmetic keeps the layout of its input; torch.cat returns a contiguous tensor.
                      if (becomes_contiguous(query, x)) call.kwarg("contiguous_query", true);
                      if (becomes_contiguous(key, x)) call.kwarg("contiguous_key", true);
                      const std::string detail =
                          "rope, query " + brief(query.tensor(x)) + ", key " + brief(key.tensor(x));
                      return Replacement{call, detail};
                    });
}

}  // namespace liger::rewrite
