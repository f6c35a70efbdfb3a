// Head and loss in one: loss = cross_entropy(softcap * tanh(scale * (hidden_states @ weight^T + bias) / softcap),
// target).
//
// The logits are made in chunks and never as a whole, unless something outside reads them: then the call returns them
// too. Where they are only returned to the caller, the graph may return the hidden states instead, from which the
// caller computes them when they are read. A z-loss, z * mean(logsumexp(logits)^2), joins where it is spelled over the
// same logits.
#include <algorithm>

#include "shared.h"

namespace liger::rewrite {

namespace {

// x[..., a:b, c:d] is read as a slice of one dim where the other is full; of the hidden states c:d may not be.
bool mentions_last_dim(const graph::Graph& graph, const graph::Node& getitem) {
  const auto* index = std::get_if<std::shared_ptr<const graph::List>>(&getitem.args[1]);
  if (index == nullptr) return false;
  const std::vector<graph::Value>& items = (*index)->items;
  const bool has_dots = std::any_of(items.begin(), items.end(), [](const graph::Value& item) {
    return std::holds_alternative<graph::Ellipsis>(item);
  });
  const std::size_t rank = graph[graph::inputs_of(getitem).front()].tensor->rank();
  if (items.empty() || (!has_dots && items.size() < rank)) return false;
  const auto* last = std::get_if<std::shared_ptr<const graph::Slice>>(&items.back());
  if (last == nullptr) return !std::holds_alternative<graph::Ellipsis>(items.back());
  const auto is_none = [](const graph::Value& bound) { return std::holds_alternative<graph::None>(bound); };
  return !is_none((*last)->start) || !is_none((*last)->stop);
}

// The chain from the logits to the loss must slice before it flattens: only then can the hidden states be sliced alike.
Verdict slices_before_reshapes(const Match& m, const std::vector<NodeId>& path) {
  bool flattened = false;
  for (auto id = path.rbegin(); id != path.rend(); ++id) {
    const Op op = m.view()[*id].op;
    flattened = flattened || op == Op::reshape;
    if (op != Op::slice) continue;
    if (flattened) return because("%" + m.graph()[*id].name + " slices logits that are already flattened");
    if (m.graph()[*id].target != "operator.getitem") {
      return because("%" + m.graph()[*id].name + " slices the logits by " + m.graph()[*id].target);
    }
    if (mentions_last_dim(m.graph(), m.graph()[*id])) {
      return because("%" + m.graph()[*id].name + " also bounds the vocabulary, which the hidden states have not");
    }
  }
  return ok();
}

std::vector<NodeId> slices_in(const Match& m, const std::vector<NodeId>& path) {
  std::vector<NodeId> slices;
  for (auto id = path.rbegin(); id != path.rend(); ++id) {
    if (m.view()[*id].op == Op::slice) slices.push_back(*id);
  }
  return slices;
}

std::string in_brackets(const std::string& text) { return text.empty() ? "" : " (" + text + ")"; }

bool is_written_after(const CanonicalGraph& view, NodeId id, NodeId from) {
  const NodeId root = view.storage_root(id);
  const auto& mutations = view.mutations();
  return std::any_of(mutations.begin(), mutations.end(), [&](const CanonicalGraph::Mutation& mutation) {
    const auto& roots = mutation.storage_roots;
    return mutation.node > from && std::find(roots.begin(), roots.end(), root) != roots.end();
  });
}

Argument nested(Expr expr) { return std::make_shared<const Expr>(std::move(expr)); }

Argument cast_to(Argument value, graph::DType from, graph::DType to) {
  return from == to ? value : nested({"cast", {std::move(value), to}, {}});
}

Verdict is_logsumexp_of_last_dim(const Candidate& candidate) {
  const graph::Node* input = candidate.operand(0);
  const auto& dims = candidate.canonical().dims;
  const bool last = input != nullptr && input->tensor && dims.size() == 1 &&
                    dims[0] + 1 == static_cast<std::int64_t>(input->tensor->rank());
  return last ? ok() : because("it must reduce the last dim only");
}

Verdict swaps_two_dims(const Candidate& candidate) {
  return candidate.canonical().dims == std::vector<std::int64_t>{1, 0} ? ok() : because("it must transpose a matrix");
}

Verdict reduces_to_scalar(const Candidate& candidate) {
  return candidate.node().tensor->rank() == 0 ? ok() : because("it must reduce every dim");
}

}  // namespace

Rule linear_cross_entropy() {
  auto hidden_states = tensor("hidden_states"), weight = tensor("head weight"), target = tensor("targets");
  auto bias = optional_tensor("head bias"), class_weight = optional_tensor("class weight");
  auto divisor = scalar("logit divisor"), factor = scalar("logit scale"), softcap = scalar("softcap");
  auto z_weight = scalar("z-loss weight");

  auto product = operation(Op::matmul, {hidden_states, operation(Op::permute, {weight}).where(swaps_two_dims)});
  auto raw = either("lm_head", {operation(Op::linear, {hidden_states, weight, bias}), product});
  auto wide = widened(raw);
  auto divided = div(wide, divisor), multiplied = mul(wide, factor);
  auto scaled = either("scaled logits", {divided, multiplied, wide});
  auto capped = mul(tanh(div(scaled, softcap)), softcap);
  auto logits = either("logits of a linear layer", {capped, scaled}).as_output(1);

  auto rows = through("flattened", logits, {Op::cast, Op::reshape, Op::slice}, keeps_or_drops_rows);
  auto loss = operation(Op::cross_entropy, {rows, target, class_weight});

  auto same_rows = through("flattened", logits, {Op::cast, Op::reshape}, keeps_rows);
  auto lse = operation(Op::logsumexp, {same_rows}).where(is_logsumexp_of_last_dim);
  auto square = either("lse^2", {pow(lse, 2), mul(lse, lse)});
  auto mean_z = operation(Op::mean, {square}).where(reduces_to_scalar);
  auto sum_z = operation(Op::sum, {square}).where(reduces_to_scalar);
  auto with_z = add(loss, mul(either("reduced lse^2", {mean_z, sum_z}), z_weight));
  auto y = either("loss", {with_z, loss});

  // The caller has the head's weight and bias where they are inputs of the graph.
  const auto why_kept = [=](const Match& m) -> std::string {
    if (!m.context().logits_on_demand) return m.context().why_logits_kept;
    if (!m.only_returned(1)) return "the graph itself reads them";
    if (m.context().is_subgraph) return "they leave a checkpoint";
    for (const Pattern& parameter : {weight, bias}) {
      const bool is_given = !m.has(parameter) || m[parameter].kind == graph::NodeKind::placeholder;
      if (!is_given) return "%" + m[parameter].name + " is computed in the graph";
    }
    for (const Pattern& operand : {hidden_states, weight, bias}) {
      if (m.has(operand) && is_written_after(m.view(), m.id(operand), m.id(raw))) {
        return "%" + m[operand].name + " may be modified in place after they are made";
      }
    }
    return "";
  };
  const auto on_demand = [=](const Match& m) {
    return m.needs_output(1) && m.context().logits_on_demand && why_kept(m).empty();
  };
  const auto kept = [=](const Match& m) { return m.needs_output(1) && !on_demand(m); };

  const auto rows_fit = [=](const Match& m) -> Verdict {
    if (Verdict verdict = slices_before_reshapes(m, m.path(rows)); !verdict) return verdict;
    const bool sliced = !slices_in(m, m.path(rows)).empty();
    if (sliced && kept(m)) return because("all logits leave the graph, but the loss reads a slice of them");
    if (sliced && m.has(with_z)) return because("the loss reads a slice of the logits and the z-loss all of them");
    return ok();
  };

  const auto numbers_fit = [=](const Match& m) -> Verdict {
    for (const Pattern& number : {divisor, factor, softcap, z_weight}) {
      if (m.has(number) && !m.literal(number)) return because("the " + number->name + " is not a literal number");
    }
    if (m.has(capped) && *m.literal(softcap) <= 0) return because("the softcap is not positive");
    if (m.has(divided) && *m.literal(divisor) == 0) return because("the logits are divided by 0");
    if (!m.has(with_z)) return ok();
    const std::string needed = m.has(mean_z) ? "mean" : "sum";
    if (reduction_of(m, loss) == needed) return ok();
    return because("the z-loss is reduced by " + needed + " and the loss by " + reduction_of(m, loss));
  };

  const auto dtypes_fit = [=](const Match& m) -> Verdict {
    if (Verdict verdict = require_kernel_dtype(m[raw]); !verdict) return verdict;
    for (const Pattern& input : {hidden_states, weight}) {
      if (Verdict verdict = require_kernel_dtype(m[input]); !verdict) return verdict;
    }
    if (kept(m) && m.tensor(logits).dtype != m.tensor(raw).dtype) {
      return because("the logits leave the graph as " + dtype_name(m.tensor(logits)) + ", the head makes " +
                     dtype_name(m.tensor(raw)));
    }
    return ok();
  };

  return Rule("linear_cross_entropy")
      .match(y)
      .near_miss_once(raw)
      .require([=](const Match& m) { return require_plain_cross_entropy(m, loss); })
      .require(rows_fit)
      .require(numbers_fit)
      .require(dtypes_fit)
      .replace([=](const Match& m) {
        const graph::DType dtype = m.tensor(raw).dtype;  // under autocast not that of the inputs
        const auto operand = [&](const Pattern& p) { return cast_to(m(p), m.tensor(p).dtype, dtype); };
        Argument sliced = m(hidden_states);
        for (NodeId id : slices_in(m, m.path(rows))) sliced = nested({"like:" + m.graph()[id].name, {sliced}, {}});
        const bool keeps_logits = kept(m);
        Expr call{keeps_logits ? "liger::linear_cross_entropy_with_logits" : "liger::linear_cross_entropy", {}, {}};
        call.args = {cast_to(sliced, m.tensor(hidden_states).dtype, dtype), operand(weight), m(target)};
        if (m.has(bias)) call.args.push_back(operand(bias));
        add_cross_entropy_attributes(call, m, loss);
        if (m.has(divided)) call.kwarg("logit_scale", 1.0 / *m.literal(divisor));
        if (m.has(multiplied)) call.kwarg("logit_scale", *m.literal(factor));
        if (m.has(capped)) call.kwarg("softcap", *m.literal(softcap));
        if (m.has(with_z)) call.kwarg("z_loss", *m.literal(z_weight));
        const std::string detail = "linear_cross_entropy, " + reduction_of(m, loss) + ", hidden states " +
                                   brief(m.tensor(hidden_states)) + ", vocab " + m.tensor(weight).shape[0].str();
        Replacement replacement{call, detail, keeps_logits ? 0 : kOnlyResult};
        if (keeps_logits) replacement.detail += ", keeps logits" + in_brackets(why_kept(m));
        if (on_demand(m)) {
          replacement.detail += ", logits on demand";
          replacement.on_demand = OnDemand{1, m.id(hidden_states)};
        }
        return replacement;
      });
}

}  // namespace liger::rewrite
