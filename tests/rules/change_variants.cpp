// Variants that change what a graph means, or who may see its values.
#include <algorithm>
#include <set>

#include "rules/variants.h"

namespace liger::test {

namespace {

using graph::DType;

bool contains(const std::vector<NodeId>& ids, NodeId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

std::string percent(const Graph& graph, NodeId id) { return "%" + graph[id].name; }

}  // namespace

bool Place::is_interior(NodeId id) const { return contains(interior, id); }

NodeId Place::first_reader(const Graph& graph, NodeId id) const {
  for (NodeId user : graph[id].users) {
    if (is_interior(user)) return user;
  }
  return anchor;
}

std::vector<Place> places_of(const Graph& graph, const rewrite::RewriteResult& result) {
  std::vector<Place> places;
  for (const rewrite::Edit& edit : result.edits) {
    Place place{&edit, edit.interior, {}, edit.anchor};
    for (NodeId id : edit.interior) {
      for (NodeId input : graph::inputs_of(graph[id])) {
        const bool is_new = !place.is_interior(input) && !contains(place.inputs, input);
        if (is_new && !graph[input].size) place.inputs.push_back(input);
      }
    }
    places.push_back(std::move(place));
  }
  return places;
}

std::vector<Escape> escapes(const Graph& graph, const Place& place) {
  std::vector<Escape> variants;
  for (NodeId id : place.interior) {
    if (!graph[id].tensor) continue;
    Draft returned(graph);
    returned.return_also(id);
    variants.push_back({{percent(graph, id) + " returned", returned.finish()}, id});
    for (const bool early : {false, true}) {
      Draft used(graph);
      Node user = call("torch.sin", {ref(id)});
      user.name = "outside";
      user.tensor = graph[id].tensor;
      const NodeId handle = early ? used.insert_after(id, user) : used.insert_before(used.output(), user);
      used.return_also(handle);
      variants.push_back({{percent(graph, id) + (early ? " used at once" : " used at the end"), used.finish()}, id});
    }
  }
  return variants;
}

namespace {

// A write into `value` itself, or into a view of it that is made right after it.
Variant with_write(const Graph& graph, NodeId value, bool through_view,
                   const std::function<NodeId(Draft&, Node)>& put) {
  Draft draft(graph);
  NodeId target = value;
  if (through_view) {
    Node view = call("operator.getitem", {ref(value), tuple({slice(graph::None{}, graph::None{})})});
    view.tensor = graph[value].tensor;
    target = draft.insert_after(value, std::move(view));
  }
  Node write = call(".mul_", {ref(target), 2.0});
  write.tensor = graph[value].tensor;
  write.mutates = true;
  put(draft, std::move(write));
  return {percent(graph, value) + (through_view ? " written through a view" : " written"), draft.finish()};
}

std::vector<NodeId> writable(const Graph& graph, const std::vector<NodeId>& ids) {
  std::vector<NodeId> found;
  for (NodeId id : ids) {
    if (graph[id].tensor && graph[id].tensor->rank() > 0) found.push_back(id);
  }
  return found;
}

}  // namespace

std::vector<Variant> writes_before_anchor(const Graph& graph, const Place& place) {
  std::vector<Variant> variants;
  std::vector<NodeId> values = writable(graph, place.inputs);
  for (NodeId id : writable(graph, place.interior)) {
    if (id != place.anchor) values.push_back(id);
  }
  for (NodeId id : values) {
    if (place.first_reader(graph, id) == place.anchor) continue;  // nothing is moved across the write
    for (const bool through_view : {false, true}) {
      variants.push_back(with_write(graph, id, through_view, [&](Draft& draft, Node write) {
        return draft.insert_before(place.anchor, std::move(write));
      }));
    }
  }
  return variants;
}

std::vector<Variant> writes_after_anchor(const Graph& graph, const Place& place) {
  std::vector<Variant> variants;
  for (NodeId id : writable(graph, place.inputs)) {
    for (const bool through_view : {false, true}) {
      variants.push_back(with_write(graph, id, through_view, [&](Draft& draft, Node write) {
        return draft.insert_before(draft.output(), std::move(write));
      }));
    }
  }
  return variants;
}

std::vector<Variant> region_switches(const Graph& graph, const Place& place) {
  const std::vector<Value> autocast{std::string("cpu"), DType::bfloat16, true, false};
  std::vector<Variant> variants;
  for (NodeId id : place.interior) {
    if (id == place.interior.front()) continue;
    const std::string where = " before " + percent(graph, id);
    Draft cast(graph), grad(graph);
    const NodeId entered = cast.insert_before(id, call("torch.amp.autocast_mode._enter_autocast", autocast));
    cast.insert_after(place.anchor, call("torch.amp.autocast_mode._exit_autocast", {ref(entered)}));
    variants.push_back({"autocast entered" + where, cast.finish()});
    grad.insert_before(id, call("torch._C._set_grad_enabled", {false}));
    grad.insert_after(place.anchor, call("torch._C._set_grad_enabled", {true}));
    variants.push_back({"gradients off" + where, grad.finish()});
  }
  return variants;
}

namespace {

int width(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return 3;
    case DType::float32:
      return 2;
    default:
      return 1;
  }
}

DType promoted(DType a, DType b) {
  if (a == b) return a;
  if (width(a) != width(b)) return width(a) > width(b) ? a : b;
  return DType::float32;  // bfloat16 with float16
}

bool names_its_dtype(const Node& node) {
  static const std::set<std::string> kCasts = {"to", "float", "half", "bfloat16", "double", "type"};
  return node.kind == graph::NodeKind::call_method && kCasts.count(node.target) > 0;
}

// Gives every floating node the dtype that its inputs promote to. A cast keeps its own, type_as takes the other's.
void propagate_dtypes(Draft& draft) {
  for (const Node& node : draft.nodes()) {
    const bool is_call = node.kind == graph::NodeKind::call_function || node.kind == graph::NodeKind::call_method;
    if (!is_call || !node.tensor || !graph::is_floating(node.tensor->dtype) || names_its_dtype(node)) continue;
    DType dtype = DType::other;
    std::vector<NodeId> inputs = graph::inputs_of(node);
    if (node.target == "type_as") inputs.erase(inputs.begin());
    for (NodeId id : inputs) {
      const auto& meta = draft[id].tensor;
      if (!meta || !graph::is_floating(meta->dtype) || (meta->rank() == 0 && node.tensor->rank() > 0)) continue;
      dtype = dtype == DType::other ? meta->dtype : promoted(dtype, meta->dtype);
    }
    if (dtype != DType::other) draft[node.id].tensor->dtype = dtype;
  }
}

Graph in_double(const Graph& graph) {
  Draft draft(graph);
  for (const Node& node : graph.nodes) {
    Node& changed = draft[node.id];
    if (changed.tensor && graph::is_floating(changed.tensor->dtype)) changed.tensor->dtype = DType::float64;
    if (names_its_dtype(changed) && changed.target != "to" && changed.target != "type") changed.target = "double";
    for_each_argument(changed, [](Value& value) {
      const auto* dtype = std::get_if<DType>(&value);
      if (dtype != nullptr && graph::is_floating(*dtype)) value = DType::float64;
    });
  }
  return draft.finish();
}

}  // namespace

std::vector<Variant> other_dtypes(const Graph& graph, const Place& place) {
  std::vector<Variant> variants = {{"everything in float64", in_double(graph)}};
  for (NodeId id : place.inputs) {
    const auto& meta = graph[id].tensor;
    if (!meta || !graph::is_floating(meta->dtype)) continue;
    const DType other_half = meta->dtype == DType::bfloat16 ? DType::float16 : DType::bfloat16;
    for (const DType dtype : {DType::float64, other_half}) {
      if (dtype == other_half && meta->dtype == DType::float32) continue;  // another kernel may take that
      Draft draft(graph);
      Node input = call("placeholder", {});
      input.kind = graph::NodeKind::placeholder;
      input.tensor = meta;
      input.tensor->dtype = dtype;
      const NodeId handle = draft.insert_first(std::move(input));
      for (NodeId user : place.interior) draft.replace_in(user, id, handle);
      propagate_dtypes(draft);
      variants.push_back({percent(graph, id) + " in " + std::string(graph::name_of(dtype)), draft.finish()});
    }
  }
  return variants;
}

namespace {

// Arguments that say nothing which the node's shape does not say.
bool is_told_by_shape(const Node& node) {
  static const std::set<std::string> kLayout = {
      "view",    "reshape",   "flatten",    "unsqueeze", "squeeze",       "unflatten",      "expand",
      "view_as", "expand_as", "contiguous", "clone",     "torch.reshape", "torch.unsqueeze"};
  return kLayout.count(node.target) > 0;
}

std::vector<Value> others_of(const Value& value) {
  if (const auto* truth = std::get_if<bool>(&value)) return {!*truth};
  if (const auto* number = std::get_if<std::int64_t>(&value)) {
    return {*number + 1, *number == 0 ? std::int64_t{2} : *number - 1};
  }
  if (const auto* real = std::get_if<double>(&value)) return {*real + 1.0, *real == 0 ? 0.5 : *real * 0.5};
  if (const auto* text = std::get_if<std::string>(&value)) return {std::string(*text == "sum" ? "mean" : "sum")};
  if (const auto* dtype = std::get_if<DType>(&value)) {
    std::vector<Value> dtypes;
    for (DType other : {DType::float64, DType::float32, DType::bfloat16, DType::float16}) {
      if (other != *dtype) dtypes.emplace_back(other);
    }
    return dtypes;
  }
  return {};
}

std::size_t count_leaves(Node node) {
  std::size_t count = 0;
  for_each_argument(node, [&](Value& value) { map_leaves(value, [&](const Value& leaf) { return ++count, leaf; }); });
  return count;
}

// Replaces leaf `index` of the arguments by change(leaf).
void change_leaf(Node& node, std::size_t index, const std::function<Value(const Value&)>& change) {
  std::size_t current = 0;
  for_each_argument(node, [&](Value& value) {
    value = map_leaves(value, [&](const Value& leaf) { return current++ == index ? change(leaf) : leaf; });
  });
}

Value leaf_of(const Node& node, std::size_t index) {
  Node copy = node;
  Value found = graph::None{};
  change_leaf(copy, index, [&](const Value& leaf) { return found = leaf; });
  return found;
}

// A dim that is out of range, or the same dim counted from the other end, is no other meaning.
bool is_same_dim(const Graph& graph, const Node& node, const Value& before, const Value& after) {
  static const std::set<std::string> kWithDims = {"mean", "torch.mean", "torch.cat", "torch.logsumexp", "logsumexp"};
  const auto *old_dim = std::get_if<std::int64_t>(&before), *new_dim = std::get_if<std::int64_t>(&after);
  if (old_dim == nullptr || new_dim == nullptr || kWithDims.count(node.target) == 0) return false;
  const auto& meta = graph[graph::inputs_of(node).front()].tensor;
  const auto rank = static_cast<std::int64_t>(meta->rank());
  return (*old_dim + rank) % rank == (*new_dim + rank) % rank;
}

// A cast to the dtype that its input has is the input.
bool is_no_cast(const Graph& graph, const Node& node, const Value& after) {
  const auto* dtype = std::get_if<DType>(&after);
  return dtype != nullptr && graph[graph::inputs_of(node).front()].tensor->dtype == *dtype;
}

void add_steps(const Graph& graph, const Node& node, std::vector<Variant>& variants) {
  if (node.target != "operator.getitem" || !node.tensor || node.args.size() != 2) return;
  const auto* index = std::get_if<std::shared_ptr<const graph::List>>(&node.args[1]);
  if (index == nullptr) return;
  for (std::size_t i = 0; i < (*index)->items.size(); ++i) {
    const auto* bounds = std::get_if<std::shared_ptr<const graph::Slice>>(&(*index)->items[i]);
    if (bounds == nullptr || !std::holds_alternative<graph::None>((*bounds)->step)) continue;
    std::vector<Value> items = (*index)->items;
    items[i] = slice((*bounds)->start, (*bounds)->stop, std::int64_t{2});
    Draft draft(graph);
    draft[node.id].args[1] = tuple(std::move(items));
    variants.push_back({"%" + node.name + " with step 2", draft.finish()});
  }
}

void add_reversed_concat(const Graph& graph, const Node& node, std::vector<Variant>& variants) {
  if (node.target != "torch.cat") return;
  std::vector<Value> items = std::get<std::shared_ptr<const graph::List>>(node.args[0])->items;
  std::reverse(items.begin(), items.end());
  Draft draft(graph);
  draft[node.id].args[0] = tuple(std::move(items));
  variants.push_back({"%" + node.name + " reversed", draft.finish()});
}

// The node left out: its users read its first operand, where that has the same shape.
void add_without(const Graph& graph, const Place& place, const Node& node, std::vector<Variant>& variants) {
  static const std::set<std::string> kMeans = {
      "operator.neg",      "torch.neg", "torch.rsqrt", "torch.sqrt", "torch.tanh",   "torch.nn.functional.silu",
      "torch._C._nn.gelu", "pow",       "torch.pow",   "sigmoid",    "torch.sigmoid"};
  if (kMeans.count(node.target) == 0 || node.id == place.anchor) return;
  Draft draft(graph);
  draft.replace_everywhere(node.id, std::get<graph::NodeRef>(node.args[0]).id);
  draft.erase(node.id);
  variants.push_back({"%" + node.name + " left out", draft.finish()});
}

// The call repeats the node, whatever its arguments are.
bool is_repeated(const rewrite::Expr& call, const std::string& name) {
  const auto repeats = [&](const rewrite::Argument& argument) {
    const auto* nested = std::get_if<std::shared_ptr<const rewrite::Expr>>(&argument);
    return nested != nullptr && is_repeated(**nested, name);
  };
  return call.op == "like:" + name || std::any_of(call.args.begin(), call.args.end(), repeats);
}

std::vector<NodeId> with_piece_makers(const Graph& graph, const Place& place) {
  std::vector<NodeId> ids = place.interior;
  for (NodeId id : place.inputs) {
    if (!graph[id].tensor) ids.push_back(id);
  }
  return ids;
}

}  // namespace

std::vector<Variant> other_literals(const Graph& graph, const Place& place) {
  std::vector<Variant> variants;
  for (NodeId id : with_piece_makers(graph, place)) {
    const Node& node = graph[id];
    add_steps(graph, node, variants);
    add_reversed_concat(graph, node, variants);
    add_without(graph, place, node, variants);
    if (is_told_by_shape(node) || is_repeated(place.edit->call, node.name)) continue;
    for (std::size_t leaf = 0; leaf < count_leaves(node); ++leaf) {
      const Value before = leaf_of(node, leaf);
      for (const Value& after : others_of(before)) {
        if (is_same_dim(graph, node, before, after) || is_no_cast(graph, node, after)) continue;
        Draft draft(graph);
        change_leaf(draft[id], leaf, [&](const Value&) { return after; });
        if (const auto* dtype = std::get_if<DType>(&after)) draft[id].tensor->dtype = *dtype;
        propagate_dtypes(draft);
        variants.push_back({"literal " + std::to_string(leaf) + " of %" + node.name + " changed", draft.finish()});
      }
    }
  }
  return variants;
}

std::vector<Variant> other_wiring(const Graph& graph, const Place& place) {
  std::vector<Variant> variants;
  for (NodeId id : place.interior) {
    for (std::size_t leaf = 0; leaf < count_leaves(graph[id]); ++leaf) {
      const Value value = leaf_of(graph[id], leaf);
      const auto* reference = std::get_if<graph::NodeRef>(&value);
      const bool only_shape = graph[id].target == "type_as" && leaf == 1;
      if (reference == nullptr || !graph[reference->id].tensor || only_shape) continue;
      Draft draft(graph);
      Node stranger = call("placeholder", {});
      stranger.kind = graph::NodeKind::placeholder;
      stranger.tensor = graph[reference->id].tensor;
      const NodeId handle = draft.insert_first(std::move(stranger));
      change_leaf(draft[id], leaf, [&](const Value&) { return ref(handle); });
      variants.push_back(
          {"%" + graph[id].name + " reads a stranger for " + percent(graph, reference->id), draft.finish()});
    }
  }
  return variants;
}

}  // namespace liger::test
