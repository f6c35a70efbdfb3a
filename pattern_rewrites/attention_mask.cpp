// Attention as it was meant: softmax(scale * q k^T) v over key <= query, without a mask and without repeated heads.
#include "rewrite/mask/mask.h"
#include "shared.h"

namespace liger::rewrite {

namespace {

using mask::Mask;
using mask::ReadMask;
using TermKind = mask::Term::Kind;

// repeat_kv: [batch, heads, keys, dim] -> [batch, heads, 1 -> repeats, keys, dim] -> [batch, heads * repeats, keys,
// dim]
Verdict repeats_heads(const Candidate& candidate) {
  const graph::Node* expanded = candidate.operand(0);
  const graph::Node* single = expanded == nullptr ? nullptr : Candidate{candidate.view, expanded->id}.operand(0);
  const graph::Node* heads = single == nullptr ? nullptr : Candidate{candidate.view, single->id}.operand(0);
  if (heads == nullptr || heads->tensor->rank() != 4 || expanded->tensor->rank() != 5) return because("its rank");
  const auto& from = heads->tensor->shape;
  const auto& wide = expanded->tensor->shape;
  const std::vector<graph::SymInt> one = {from[0], from[1], 1, from[2], from[3]};
  const std::vector<graph::SymInt> all = {from[0], from[1], wide[2], from[2], from[3]};
  const std::vector<graph::SymInt> joined = {from[0], from[1] * wide[2], from[2], from[3]};
  const bool repeats = single->tensor->shape == one && wide == all && candidate.node().tensor->shape == joined;
  return repeats ? ok() : because("it does not repeat the heads of %" + heads->name);
}

Pattern repeated(const Pattern& heads) {
  const Pattern single = operation(Op::reshape, {heads});
  return operation(Op::reshape, {operation(Op::expand, {single})}).where(repeats_heads);
}

// [..., queries, keys], as far as it is known without the products.
std::vector<graph::SymInt> scores_of(const graph::TensorMeta& query, const graph::TensorMeta& key) {
  std::vector<graph::SymInt> shape(query.shape.begin(), query.shape.end() - 1);
  shape.push_back(key.shape[key.rank() - 2]);
  return shape;
}

// The kernels that take fewer key than query heads. On CUDA that is flash attention: half precision, heads of at most
// 256, and as many keys as queries, since it aligns the last ones where a causal mask aligns the first.
Verdict takes_groups(const Context& context, const graph::TensorMeta& query, const graph::TensorMeta& key,
                     const graph::TensorMeta& value) {
  if (key.shape.back() != value.shape.back()) return because("keys and values differ in their last dim");
  if (key.device.rfind("cuda", 0) != 0) return ok();
  if (!context.grouped_cuda) return because("this device has no such kernel");
  const bool is_square = query.shape[query.rank() - 2] == key.shape[key.rank() - 2];
  if (!is_square) return because("there is no such kernel for unlike numbers of queries and keys");
  const bool is_half = key.dtype == graph::DType::bfloat16 || key.dtype == graph::DType::float16;
  if (!is_half) return because("there is no such kernel for " + dtype_name(key));
  const bool is_small = key.shape.back().is_constant() && key.shape.back().value() <= 256;
  return is_small ? ok() : because("there is no such kernel for heads of more than 256");
}

// Ops that can run on their own: understood, without chance, and outside of vmap.
bool runs_alone(const CanonicalGraph& view, NodeId id) {
  switch (view[id].op) {
    case Op::opaque:
    case Op::subgraph_call:
    case Op::tuple_item:
    case Op::dropout:
    case Op::batch:
    case Op::unbatch:
      return false;
    default:
      return true;
  }
}

// The condition is asked before the graph runs, so what it is about must follow from integers that the graph is given.
Verdict can_be_asked(const Match& match, const mask::Source& source) {
  if (source.is_outer) return ok();
  if (match.context().is_subgraph) return because("%" + source.name + " is made where it cannot be asked before");
  std::vector<NodeId> pending = {source.node};
  std::vector<bool> seen(match.graph().nodes.size(), false);
  while (!pending.empty()) {
    const NodeId id = pending.back();
    pending.pop_back();
    if (seen[static_cast<std::size_t>(id)]) continue;
    seen[static_cast<std::size_t>(id)] = true;
    const graph::Node& node = match.graph()[id];
    const bool is_integer = node.tensor ? graph::is_integral(node.tensor->dtype) : node.size.has_value();
    if (!is_integer || !runs_alone(match.view(), id)) {
      return because("%" + source.name + " depends on %" + node.name + ", which is not known before the graph runs");
    }
    const std::vector<NodeId> inputs = graph::inputs_of(node);
    pending.insert(pending.end(), inputs.begin(), inputs.end());
  }
  return ok();
}

Verdict restorable(const Match& match, const Mask& mask) {
  for (const mask::Term& term : mask.terms) {
    if (term.kind == TermKind::causal) continue;
    if (term.kind != TermKind::padding && term.kind != TermKind::documents) {
      return because("its mask is not just causal: " + mask.text());
    }
    if (Verdict verdict = can_be_asked(match, *term.source); !verdict) return verdict;
  }
  return ok();
}

std::vector<RunCondition> conditions_of(const Mask& mask) {
  std::vector<RunCondition> conditions;
  for (const mask::Term& term : mask.terms) {
    if (term.kind == TermKind::causal) continue;
    const bool is_padding = term.kind == TermKind::padding;
    conditions.push_back({is_padding ? RunCondition::Kind::all_nonzero : RunCondition::Kind::constant_along,
                          term.source->name, term.dim, term.source->is_outer});
  }
  return conditions;
}

std::string condition_text(const RunCondition& condition) {
  if (condition.kind == RunCondition::Kind::all_nonzero) return "%" + condition.node + " hides nothing";
  return "%" + condition.node + " is one document in each row";
}

Argument argument_of(const graph::Value& value) {
  if (const auto* node = std::get_if<graph::NodeRef>(&value)) return *node;
  const auto number = number_in(value);
  return number ? Argument(*number) : Argument(graph::None{});
}

}  // namespace

Rule attention_mask() {
  auto query = tensor("query"), key_heads = tensor("key"), value_heads = tensor("value");
  auto repeated_key = repeated(key_heads), repeated_value = repeated(value_heads);
  auto key = either("key", {repeated_key, key_heads}), value = either("value", {repeated_value, value_heads});
  auto attn_mask = optional_tensor("attention mask");
  auto attention = operation(Op::attention, {query, key, value, attn_mask});

  const auto read = [=](const Match& m) -> ReadMask {
    if (!m.has(attn_mask)) return {};
    return read_mask(m.view(), m.context().facts, m.id(attn_mask), m.root(), scores_of(m.tensor(query), m.tensor(key)));
  };
  const auto is_causal = [=](const Match& m) { return attribute_of(m, attention, "is_causal"); };

  const auto both_repeated = [=](const Match& m) -> Verdict {
    const bool both = m.has(repeated_key) == m.has(repeated_value);
    return both ? ok() : because("only one of key and value repeats its heads");
  };
  const auto supported = [=](const Match& m) -> Verdict {
    if (!m.has(repeated_key)) return ok();
    Verdict verdict = takes_groups(m.context(), m.tensor(query), m.tensor(key_heads), m.tensor(value_heads));
    if (verdict) return verdict;
    return because("its heads stay repeated: " + verdict.reason());
  };
  const auto has_something = [=](const Match& m) -> Verdict {
    if (m.tensor(query).rank() < 3 || m.tensor(query).rank() > 4) return because("query has an unexpected rank");
    if (m.has(attn_mask) || m.has(repeated_key)) return ok();
    return because("it has no mask, and its keys are not repeated: there is nothing to restore");
  };
  const auto is_restorable = [=](const Match& m) -> Verdict {
    if (m.has(attn_mask) && std::get<bool>(is_causal(m))) return because("it is causal and has a mask");
    const ReadMask mask = read(m);
    return mask.understood ? restorable(m, mask.mask) : mask.understood;
  };

  return Rule("attention_mask")
      .match(attention)
      .near_miss_once(attention)
      .require(both_repeated)
      .require(supported)
      .require(has_something)
      .require(is_restorable)
      .replace([=](const Match& m) {
        const Mask mask = read(m).mask;
        const bool causal = mask.has(TermKind::causal) || std::get<bool>(is_causal(m));
        const bool is_grouped = m.has(repeated_key);
        Expr call{"attention", {m(query), m(is_grouped ? key_heads : key), m(is_grouped ? value_heads : value)}, {}};
        call.kwarg("dropout_p", argument_of(attribute_of(m, attention, "dropout_p"))).kwarg("is_causal", causal);
        call.kwarg("scale", argument_of(attribute_of(m, attention, "scale")));
        const bool takes_fewer = is_grouped || std::get<bool>(attribute_of(m, attention, "enable_gqa"));
        if (takes_fewer) call.kwarg("enable_gqa", true);
        Replacement replacement{call, causal ? "causal, " : "no mask, "};
        if (is_grouped) replacement.detail += "grouped heads, ";
        replacement.detail += brief(*m.root_node().tensor);
        replacement.conditions = conditions_of(mask);
        for (const RunCondition& condition : replacement.conditions) {
          replacement.detail += ", where " + condition_text(condition);
        }
        if (m.has(attn_mask)) replacement.dropped = m.id(attn_mask);
        return replacement;
      });
}

}  // namespace liger::rewrite
