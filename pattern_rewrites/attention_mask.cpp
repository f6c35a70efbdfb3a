// Attention as it was meant: softmax(scale * q k^T) v over key <= query, without a mask and without repeated heads; or
// with its mask, but without the blocks that the mask hides.
#include <algorithm>

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

// Whether the mask can go, at least in calls in which conditions hold.
Verdict restorable(const Match& match, const Mask& mask) {
  for (const mask::Term& term : mask.terms) {
    if (term.kind == TermKind::causal) continue;
    const bool can_hold = term.kind == TermKind::padding || term.kind == TermKind::documents;
    if (!can_hold && !mask::is_whole_from_zero(term)) {
      return because("its mask is not just causal: " + mask.text());
    }
    if (Verdict verdict = can_be_asked(match, *term.source); !verdict) return verdict;
  }
  return ok();
}

RunCondition::Kind condition_for(TermKind kind) {
  if (kind == TermKind::padding) return RunCondition::Kind::all_nonzero;
  return kind == TermKind::chunk ? RunCondition::Kind::all_zero : RunCondition::Kind::constant_along;
}

std::vector<RunCondition> conditions_of(const Mask& mask) {
  std::vector<RunCondition> conditions;
  for (const mask::Term& term : mask.terms) {
    if (term.kind == TermKind::causal) continue;
    conditions.push_back({condition_for(term.kind), term.source->name, term.dim, term.source->is_outer});
  }
  return conditions;
}

// Attention by blocks reads the mask itself, so that it is right for any; it pays where much is known to be hidden.
Verdict hides_blocks(const Mask& mask) {
  const auto hides = [](const mask::Term& term) {
    return term.kind != TermKind::window && term.kind != TermKind::padding && term.kind != TermKind::other;
  };
  const bool any = std::any_of(mask.terms.begin(), mask.terms.end(), hides);
  return any ? ok() : because("which blocks it hides is not known");
}

Verdict takes_blocks(const Context& context, const graph::TensorMeta& mask,
                     const std::vector<const graph::TensorMeta*>& operands) {
  const graph::TensorMeta& query = *operands.front();
  if (query.device.rfind(context.block_attention_device, 0) != 0) return because("nothing on its device skips blocks");
  const graph::SymInt& queries = query.shape[query.rank() - 2];
  if (queries.is_constant() && queries.value() < context.block_attention_queries) {
    return because("skipping blocks does not pay for so few queries");
  }
  const bool is_half = query.dtype == graph::DType::bfloat16 || query.dtype == graph::DType::float16;
  for (const graph::TensorMeta* operand : operands) {
    if (!is_half || operand->dtype != query.dtype) return because("nothing skips blocks for its dtypes");
    const graph::SymInt& dim = operand->shape.back();
    const bool is_known = operand->rank() == 4 && dim.is_constant();
    // In between the kernels need more shared memory than there is.
    const bool fits = is_known && ((dim.value() >= 16 && dim.value() <= 128) || dim.value() == 256);
    if (!fits) return because("nothing skips blocks for its shapes");
  }
  const bool is_plain = mask.rank() == 4 && mask.dtype == graph::DType::boolean;
  return is_plain ? ok() : because("only boolean masks of four dims say which blocks are hidden");
}

std::string condition_text(const RunCondition& condition) {
  if (condition.kind == RunCondition::Kind::all_nonzero) return "%" + condition.node + " hides nothing";
  if (condition.kind == RunCondition::Kind::all_zero) return "%" + condition.node + " is 0";
  return "%" + condition.node + " is one document in each row";
}

Argument argument_of(const graph::Value& value) {
  if (const auto* node = std::get_if<graph::NodeRef>(&value)) return *node;
  const auto number = number_in(value);
  return number ? Argument(*number) : Argument(graph::None{});
}

// What can be done about a call.
struct Treatment {
  Verdict possible = ok();
  Mask mask;
  bool is_restored = false;   // its mask can go, where the conditions hold
  bool skips_blocks = false;  // it can be computed by blocks of its mask, in all calls
};

std::string detail_of(const Treatment& treatment, bool is_causal, bool is_grouped, const graph::TensorMeta& result) {
  std::string text = is_causal ? "causal, " : "no mask, ";
  if (!treatment.is_restored) text = "skipping hidden blocks (" + treatment.mask.text() + "), ";
  if (is_grouped) text += "grouped heads, ";
  text += brief(result);
  if (!treatment.is_restored) return text;
  const std::vector<RunCondition> conditions = conditions_of(treatment.mask);
  for (const RunCondition& condition : conditions) text += ", where " + condition_text(condition);
  const bool has_other_form = treatment.skips_blocks && !conditions.empty();
  return has_other_form ? text + ", else skipping hidden blocks" : text;
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
    return m.context().masks->read(m.id(attn_mask), m.root(), scores_of(m.tensor(query), m.tensor(key)));
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
  const auto can_skip_blocks = [=](const Match& m, const Mask& mask) -> Verdict {
    if (!m.has(attn_mask) || m.context().block_attention_device.empty()) return because("nothing here skips blocks");
    if (Verdict verdict = hides_blocks(mask); !verdict) return verdict;
    const auto dropout = number_in(attribute_of(m, attention, "dropout_p"));
    if (!dropout || *dropout != 0) return because("nothing skips blocks with dropout");
    return takes_blocks(m.context(), m.tensor(attn_mask), {&m.tensor(query), &m.tensor(key), &m.tensor(value)});
  };
  const auto treatment_of = [=](const Match& m) -> Treatment {
    if (m.has(attn_mask) && std::get<bool>(is_causal(m))) return {because("it is causal and has a mask"), {}};
    const ReadMask mask = read(m);
    if (!mask.understood) return {mask.understood, {}};
    const Verdict restored = restorable(m, mask.mask), by_blocks = can_skip_blocks(m, mask.mask);
    const bool possible = restored || by_blocks;
    std::string reason = restored.reason();
    if (!m.context().block_attention_device.empty()) reason += "; " + by_blocks.reason();
    return {possible ? ok() : because(reason), mask.mask, bool{restored}, bool{by_blocks}};
  };
  const auto is_improvable = [=](const Match& m) -> Verdict { return treatment_of(m).possible; };
  const auto heads = [=](const Match& m) -> std::vector<Argument> {
    const bool is_grouped = m.has(repeated_key);
    return {m(query), m(is_grouped ? key_heads : key), m(is_grouped ? value_heads : value)};
  };
  const auto without_mask = [=](const Match& m, bool causal) {
    Expr call{"attention", heads(m), {}};
    call.kwarg("dropout_p", argument_of(attribute_of(m, attention, "dropout_p"))).kwarg("is_causal", causal);
    call.kwarg("scale", argument_of(attribute_of(m, attention, "scale")));
    const bool takes_fewer = m.has(repeated_key) || std::get<bool>(attribute_of(m, attention, "enable_gqa"));
    return takes_fewer ? call.kwarg("enable_gqa", true) : call;
  };
  const auto by_blocks = [=](const Match& m) {
    const Expr blocks{"blocks", {m(attn_mask)}, {}};
    Expr call{"block_attention", heads(m), {}};
    call.args.insert(call.args.end(), {m(attn_mask), std::make_shared<const Expr>(blocks)});
    return call.kwarg("scale", argument_of(attribute_of(m, attention, "scale")));
  };

  return Rule("attention_mask")
      .match(attention)
      .near_miss_once(attention)
      .require(both_repeated)
      .require(supported)
      .require(has_something)
      .require(is_improvable)
      .replace([=](const Match& m) {
        const Treatment treatment = treatment_of(m);
        const bool causal = treatment.mask.has(TermKind::causal) || std::get<bool>(is_causal(m));
        const std::string detail = detail_of(treatment, causal, m.has(repeated_key), *m.root_node().tensor);
        if (!treatment.is_restored) return Replacement{by_blocks(m), detail};
        Replacement replacement{without_mask(m, causal), detail};
        replacement.conditions = conditions_of(treatment.mask);
        if (!replacement.conditions.empty() && treatment.skips_blocks) replacement.otherwise = by_blocks(m);
        if (m.has(attn_mask)) replacement.dropped = m.id(attn_mask);
        return replacement;
      });
}

}  // namespace liger::rewrite
