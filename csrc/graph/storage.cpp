// Which tensors may share storage, and which nodes write into them. What is not known may alias and is not moved.
#include <algorithm>
#include <array>
#include <numeric>

#include "graph/reading.h"

namespace liger::graph {
namespace {

enum class Writes { nothing, first, all };

struct Effect {
  Writes writes = Writes::nothing;
  std::vector<NodeId> outputs;  // of out=
  Aliasing aliasing = Aliasing::all;
};

template <std::size_t kCount>
bool contains(const std::array<std::string_view, kCount>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

std::string_view last_component(std::string_view target) {
  const std::size_t dot = target.rfind('.');
  return dot == std::string_view::npos ? target : target.substr(dot + 1);
}

// "add_" but not "__add__".
bool has_in_place_name(std::string_view name) {
  return name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_';
}

bool is_in_place_operator(std::string_view target) {
  constexpr std::array<std::string_view, 16> names = {
      "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod",    "ipow",    "imatmul",
      "iand", "ior",  "ixor", "ilshift",  "irshift",   "iconcat", "setitem", "delitem"};
  constexpr std::string_view prefix = "operator.";
  return starts_with(target, prefix) && contains(names, target.substr(prefix.size()));
}

const Value* keyword(const Node& node, std::string_view name) {
  for (const auto& [key, value] : node.kwargs) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool is_true(const Value* value) {
  const bool* literal = value == nullptr ? nullptr : std::get_if<bool>(value);
  return literal != nullptr && *literal;
}

bool any_true(const std::vector<Value>& values) {
  return std::any_of(values.begin(), values.end(), [](const Value& value) { return is_true(&value); });
}

// Functions of torch.nn that write although no name or keyword shows it.
Writes hidden_writes(const Node& node, bool known) {
  constexpr std::array<std::string_view, 2> statistics = {"batch_norm", "instance_norm"};
  constexpr std::array<std::string_view, 3> lookups = {"embedding", "embedding_bag", "embedding_renorm_"};
  constexpr std::array<std::string_view, 3> positional_inplace = {"silu", "relu", "dropout"};
  const std::string_view name = last_component(node.target);
  if (contains(statistics, name)) return Writes::all;
  if (!starts_with(node.target, "torch.nn.functional.") && !starts_with(node.target, "torch._C._nn.")) {
    return Writes::nothing;
  }
  if (contains(lookups, name)) {  // max_norm renormalises the weight
    const Value* max_norm = node.args.size() > 3 ? &node.args[3] : keyword(node, "max_norm");
    return max_norm == nullptr || std::holds_alternative<None>(*max_norm) ? Writes::nothing : Writes::all;
  }
  // inplace comes last; in functions without a row any positional True is taken for it.
  if (name == "dropout") return node.args.size() > 3 && is_true(&node.args[3]) ? Writes::first : Writes::nothing;
  if (known && !contains(positional_inplace, name)) return Writes::nothing;
  return any_true(node.args) ? Writes::first : Writes::nothing;
}

Writes writes_of(const Graph& graph, const Node& node, bool known) {
  if (is_true(keyword(node, "inplace"))) return node.args.empty() ? Writes::all : Writes::first;
  if (node.kind == NodeKind::call_method) {
    if (!has_in_place_name(node.target)) return Writes::nothing;
    return node.args.empty() ? Writes::all : Writes::first;
  }
  if (node.kind != NodeKind::call_function) return Writes::nothing;
  if (starts_with(node.target, "operator.")) {  // "operator.and_" writes nothing
    if (!is_in_place_operator(node.target)) return Writes::nothing;
    const auto* first = node.args.empty() ? nullptr : std::get_if<NodeRef>(&node.args[0]);
    const bool is_number = first != nullptr && graph[first->id].size.has_value();
    return is_number ? Writes::nothing : Writes::first;
  }
  if (node.target == "builtins.setattr") return Writes::all;
  if (has_in_place_name(last_component(node.target))) return node.args.empty() ? Writes::all : Writes::first;
  return hidden_writes(node, known);
}

// In-place methods without an out-of-place row that return their first argument and keep its storage.
bool keeps_storage(const Node& node) {
  constexpr std::array<std::string_view, 22> names = {
      "copy_",      "zero_",       "fill_",    "masked_fill_",  "masked_scatter_", "index_copy_",
      "index_add_", "index_fill_", "scatter_", "scatter_add_",  "index_put_",      "clamp_",
      "clamp_min_", "clamp_max_",  "lerp_",    "addcmul_",      "addcdiv_",        "normal_",
      "uniform_",   "bernoulli_",  "random_",  "requires_grad_"};
  const std::string_view name = last_component(node.target);
  if (contains(names, name) || is_in_place_operator(node.target)) return true;
  Node out_of_place;
  out_of_place.kind = node.kind;
  out_of_place.target = node.target.substr(0, node.target.size() - 1);
  const Signature* signature = find_signature(out_of_place);
  return signature != nullptr && signature->spelling->aliasing != Aliasing::all;
}

Effect effect_of(const Graph& graph, const Node& node) {
  Effect effect;
  if (node.kind == NodeKind::placeholder || node.kind == NodeKind::get_attr || node.kind == NodeKind::output) {
    effect.aliasing = Aliasing::fresh;
    return effect;
  }
  const Signature* signature = find_signature(node);
  effect.writes = writes_of(graph, node, signature != nullptr);
  const Value* out = keyword(node, "out");
  if (out != nullptr) effect.outputs = inputs_of(*out);
  if (node.mutates && effect.writes == Writes::nothing && effect.outputs.empty()) effect.writes = Writes::all;
  if (effect.writes == Writes::first) {
    effect.aliasing = signature != nullptr || keeps_storage(node) ? Aliasing::first : Aliasing::all;
  } else if (signature != nullptr && effect.writes == Writes::nothing) {
    effect.aliasing = signature->spelling->aliasing;
  }
  return effect;
}

bool changes_dtype(const Graph& graph, const Node& node) {
  const TensorMeta* input = node.args.empty() ? nullptr : tensor_of(graph, node.args[0]);
  return input != nullptr && node.tensor && input->dtype != node.tensor->dtype;
}

class StorageFinder {
 public:
  explicit StorageFinder(const Graph& graph) : graph_(graph), parent_(graph.nodes.size()) {
    std::iota(parent_.begin(), parent_.end(), 0);
  }

  Storage find() {
    Storage storage;
    std::vector<std::pair<NodeId, std::vector<NodeId>>> written;
    for (const Node& node : graph_.nodes) {
      Effect effect = effect_of(graph_, node);
      join_inputs(node, effect);
      std::vector<NodeId> tensors = std::move(effect.outputs);
      if (effect.writes != Writes::nothing) {
        const bool first = effect.writes == Writes::first;
        for (NodeId id : first ? inputs_of(node.args[0]) : inputs_of(node)) tensors.push_back(id);
      }
      if (!tensors.empty() || effect.writes != Writes::nothing) written.emplace_back(node.id, std::move(tensors));
    }
    for (const Node& node : graph_.nodes) storage.roots.push_back(root(node.id));
    for (auto& [node, tensors] : written) storage.mutations.push_back({node, roots_of(tensors)});
    return storage;
  }

 private:
  void join_inputs(const Node& node, const Effect& effect) {
    if (node.kind == NodeKind::get_attr) return join_attribute(node);
    for (NodeId output : effect.outputs) join(node.id, output);
    if (node.size || effect.aliasing == Aliasing::fresh) return;
    if (effect.aliasing == Aliasing::first_cast && changes_dtype(graph_, node)) return;
    const bool first = effect.aliasing != Aliasing::all && !node.args.empty();
    for (NodeId input : first ? inputs_of(node.args[0]) : inputs_of(node)) {
      if (!graph_[input].size) join(node.id, input);
    }
  }

  void join_attribute(const Node& node) {
    const auto [same, is_new] = attributes_.emplace(node.target, node.id);
    if (!is_new) join(node.id, same->second);
  }

  NodeId root(NodeId id) {
    while (parent(id) != id) id = parent(id) = parent(parent(id));
    return id;
  }
  // The smaller id stays the root, so that a root is the first node of its class.
  void join(NodeId a, NodeId b) {
    a = root(a);
    b = root(b);
    parent(std::max(a, b)) = std::min(a, b);
  }
  NodeId& parent(NodeId id) { return parent_[static_cast<std::size_t>(id)]; }

  std::vector<NodeId> roots_of(const std::vector<NodeId>& tensors) {
    std::vector<NodeId> roots;
    for (NodeId id : tensors) {
      if (!graph_[id].size) roots.push_back(root(id));
    }
    std::sort(roots.begin(), roots.end());
    roots.erase(std::unique(roots.begin(), roots.end()), roots.end());
    return roots;
  }

  const Graph& graph_;
  std::vector<NodeId> parent_;
  std::unordered_map<std::string_view, NodeId> attributes_;
};

}  // namespace

Storage find_storage(const Graph& graph) { return StorageFinder(graph).find(); }

}  // namespace liger::graph
