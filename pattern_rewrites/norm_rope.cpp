// Rotary embedding of a query and a key that are RMS-normalised per head: y = rotate(rms_norm(x)), both in one call.
//
// The heads may be moved between norm and rotation (transposed): the call then reads what is normalised moved so. It
// keeps in float32 what the model rounds on the way. Where something else reads a normalised value, or one of the two
// fits no kernel, norms and rotation stay apart and are left to their own rules.
#include <algorithm>

#include "shared.h"

namespace liger::rewrite {

namespace {

constexpr std::int64_t kWidestHead = 512;  // of the kernel

// Moves other dims than the last: each head stays a row.
Verdict moves_heads(const Candidate& candidate) {
  const auto& dims = candidate.canonical().dims;
  const bool keeps_last = !dims.empty() && dims.back() + 1 == static_cast<std::int64_t>(dims.size());
  return keeps_last ? ok() : because("it moves the last dim");
}

// What the norm reads, with the heads moved as its result is.
Argument moved(const Match& m, const Pattern& from, const Pattern& moves) {
  Argument value = m(from);
  const std::vector<NodeId>& path = m.path(moves);
  std::for_each(path.rbegin(), path.rend(), [&](NodeId id) {
    value = std::make_shared<const Expr>(Expr{"like:" + m.graph()[id].name, {value}, {}});
  });
  return value;
}

Verdict require_head_dim(const graph::SymInt& head_dim) {
  const bool fits = head_dim.is_constant() && head_dim.value() % 2 == 0 && head_dim.value() <= kWidestHead;
  return fits ? ok()
              : because("heads of " + head_dim.str() + "; the kernel takes even ones of up to " +
                        std::to_string(kWidestHead));
}

bool same_number(const Argument& a, const Argument& b) {
  const auto* x = std::get_if<graph::NodeRef>(&a);
  const auto* y = std::get_if<graph::NodeRef>(&b);
  return x != nullptr && y != nullptr ? x->id == y->id
                                      : a.index() == b.index() && std::get<double>(a) == std::get<double>(b);
}

Verdict require_same_norm(const Match& query, const Match& key, const NormPattern& norm) {
  if (!same_number(norm.eps_of(query), norm.eps_of(key)))
    return because("the norms of query and key have different eps");
  if (query.has(norm.one_plus) != key.has(norm.one_plus)) return because("only one of the norms scales by 1 + weight");
  const std::optional<Pattern> query_weight = norm.weight_of(query), key_weight = norm.weight_of(key);
  if (query_weight.has_value() != key_weight.has_value()) return because("only one of the norms has a weight");
  return query_weight ? require_same_dtype(query[*query_weight], key[*key_weight]) : ok();
}

Argument weight_argument(const Match& m, const NormPattern& norm) {
  const std::optional<Pattern> weight = norm.weight_of(m);
  return weight ? m(*weight) : Argument(graph::None{});
}

}  // namespace

Rule norm_rope() {
  const NormPattern norm = norm_of(tensor("query or key"));
  const Pattern moves = through("moved heads", norm.y, {Op::permute}, moves_heads);
  const RotationPattern rotation = rotation_of(moves);

  return Rule("norm_rope")
      .match(rotation.y)
      .leave_refusals_to_others()
      .require([=](const Match& m) { return require_norm(m, norm); })
      .require([=](const Match& m) { return require_same_dtype(m[norm.x], m[norm.y]); })
      .require([=](const Match& m) { return require_tables(m, rotation); })
      .require([=](const Match& m) { return require_rotated_dtype(m, rotation); })
      .require([=](const Match& m) { return require_parts(m, rotation); })
      .require([=](const Match& m) { return require_head_dim(m.tensor(norm.x).shape.back()); })
      .require_of_pair([=](const Match& query, const Match& key) {
        const Verdict alike = require_alike(query, key, rotation);
        return alike ? require_same_norm(query, key, norm) : alike;
      })
      .replace_pair({rotation.cos, rotation.sin}, kNoSecondRotation, [=](const std::vector<Match>& pair) {
        const Match &query = pair[0], &key = pair[1];
        Expr call{"liger::norm_rope", {moved(query, norm.x, moves), moved(key, norm.x, moves)}, {}};
        call.args.push_back(weight_argument(query, norm));
        call.args.push_back(weight_argument(key, norm));
        call.args.insert(call.args.end(), {query(rotation.cos), query(rotation.sin), norm.eps_of(query)});
        if (query.has(norm.one_plus)) call.kwarg("weight_offset", 1.0);
        add_layouts(call, query, key, rotation);
        return Replacement{call,
                           "norm_rope, query " + brief(query.tensor(moves)) + ", key " + brief(key.tensor(moves))};
      });
}

}  // namespace liger::rewrite
