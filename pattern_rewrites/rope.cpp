// Rotary embedding, half-rotate: y = x * cos + cat(-x[..., d/2:], x[..., :d/2]) * sin, for query and key in one call.
//
// Only the first rotary_dim channels turn where cos is narrower than the head; the rest passes through. The two halves
// of cos and sin need not be equal. Where cos and sin are float32, query and key are promoted and rounded once at the
// end.
#include "shared.h"

namespace liger::rewrite {

RotationPattern rotation_of(const Pattern& x) {
  auto cos = tensor("cos"), sin = tensor("sin");
  auto turning = either("rotary channels", {slice_last(x, Part::leading), x});
  auto wide = widened(turning);
  auto second = slice_last(wide, Part::second_half);
  auto minus = either("negated half", {neg(second), mul(second, lit(-1))});
  auto rotated = concat_last({minus, slice_last(wide, Part::first_half)});
  auto turned = rounded("rounding", add(mul(wide, cos), mul(rotated, sin)));
  auto rest = slice_last(x, Part::trailing);
  auto joined = concat_last({turned, rest});
  auto y = either("rotated tensor", {joined, turned});
  return {x, y, cos, sin, turning, rotated, rest};
}

Verdict require_tables(const Match& m, const RotationPattern& rotation) {
  const graph::TensorMeta &head = m.tensor(rotation.turning), &c = m.tensor(rotation.cos), &s = m.tensor(rotation.sin);
  if (c.shape != s.shape || c.dtype != s.dtype) {
    return because("cos is " + graph::print(c) + " and sin is " + graph::print(s) + "; they must be alike");
  }
  if (c.requires_grad || s.requires_grad) return because("cos or sin require gradients, which the kernel has not");
  if (c.dtype != m.tensor(rotation.x).dtype && c.dtype != graph::DType::float32) {
    return because("cos is " + dtype_name(c) + "; the kernel takes float32 or " + dtype_name(m.tensor(rotation.x)));
  }
  bool broadcasts = c.rank() == head.rank() && c.shape.back() == head.shape.back();
  for (std::size_t dim = 0; broadcasts && dim + 1 < c.rank(); ++dim) {
    broadcasts = c.shape[dim] == head.shape[dim] || c.shape[dim] == graph::SymInt(1);
  }
  if (broadcasts) return ok();
  return because("cos is " + graph::print(c) + ", which does not broadcast to " + graph::print(head) +
                 " with the same rank and last dim");
}

Verdict require_rotated_dtype(const Match& m, const RotationPattern& rotation) {
  if (Verdict verdict = require_kernel_dtype(m[rotation.x]); !verdict) return verdict;
  const std::size_t rank = m.tensor(rotation.x).rank();
  if (rank < 2 || rank > 4) {
    return because("%" + m[rotation.x].name + " has rank " + std::to_string(rank) + ", not 2 to 4");
  }
  return require_same_dtype(m[rotation.x], m.root_node());
}

// What is kept must be just what does not turn, or the call would make another tensor.
Verdict require_parts(const Match& m, const RotationPattern& rotation) {
  const graph::SymInt rotary_dim = m.tensor(rotation.turning).shape.back();
  if (!m.has(rotation.rest)) {
    return m.id(rotation.turning) == m.id(rotation.x)
               ? ok()
               : because("the channels that do not turn are not joined to the result");
  }
  const graph::SymInt start = m.view()[m.id(rotation.rest)].bounds[0];
  return start == rotary_dim
             ? ok()
             : because("channels 0 to " + rotary_dim.str() + " turn, but the rest starts at " + start.str());
}

// One launch walks both: they differ in one leading dim (the heads) at most.
Verdict require_alike(const Match& query, const Match& key, const RotationPattern& rotation) {
  const graph::TensorMeta &q = query.tensor(rotation.x), &k = key.tensor(rotation.x);
  std::size_t differences = 0;
  for (std::size_t dim = 0; dim + 1 < q.rank(); ++dim) differences += q.shape[dim] == k.shape[dim] ? 0 : 1;
  if (q.dtype == k.dtype && q.shape.back() == k.shape.back() && differences <= 1) return ok();
  return because("%" + query[rotation.x].name + " is " + graph::print(q) + " and %" + key[rotation.x].name + " is " +
                 graph::print(k) + "; they may differ in the number of heads only");
}

// Arithmetic keeps the layout of its input; torch.cat returns a contiguous tensor.
void add_layouts(Expr& call, const Match& query, const Match& key, const RotationPattern& rotation) {
  const auto becomes_contiguous = [&](const Match& m) {
    return is_contiguous(*m.result_node().tensor) && !is_contiguous(m.tensor(rotation.x));
  };
  if (becomes_contiguous(query)) call.kwarg("contiguous_query", true);
  if (becomes_contiguous(key)) call.kwarg("contiguous_key", true);
}

Rule rope() {
  const RotationPattern rotation = rotation_of(tensor("query or key"));
  const Pattern &x = rotation.x, &cos = rotation.cos, &sin = rotation.sin;

  return Rule("rope")
      .match(rotation.y)
      .near_miss_once(rotation.rotated)
      .require([=](const Match& m) { return require_tables(m, rotation); })
      .require([=](const Match& m) { return require_rotated_dtype(m, rotation); })
      .require([=](const Match& m) { return require_parts(m, rotation); })
      .require_of_pair([=](const Match& query, const Match& key) { return require_alike(query, key, rotation); })
      .replace_pair({cos, sin}, kNoSecondRotation, [=](const std::vector<Match>& pair) {
        const Match &query = pair[0], &key = pair[1];
        Expr call{"liger::rope", {query(x), key(x), query(cos), query(sin)}, {}};
        add_layouts(call, query, key, rotation);
        return Replacement{call, "rope, query " + brief(query.tensor(x)) + ", key " + brief(key.tensor(x))};
      });
}

}  // namespace liger::rewrite
