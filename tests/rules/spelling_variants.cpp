// Variants with the same meaning: operand orders, spellings, identity nodes.
#include <functional>

#include "rules/variants.h"

namespace liger::test {

namespace {

using graph::DType;

// Changes one node of a draft into another spelling; false where it does not apply.
using Respelling = std::function<bool(Draft&, NodeId)>;

const std::int64_t* integer(const Value& value) { return std::get_if<std::int64_t>(&value); }
bool is_tensor(Draft& draft, const Value& value) {
  const auto* reference = std::get_if<graph::NodeRef>(&value);
  return reference != nullptr && draft[reference->id].tensor.has_value();
}
std::int64_t rank_of(Draft& draft, const Value& value) {
  return static_cast<std::int64_t>(draft[std::get<graph::NodeRef>(value).id].tensor->rank());
}

std::string last_part(const std::string& target) { return target.substr(target.rfind('.') + 1); }
bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  for (const char* other : names) {
    if (name == other) return true;
  }
  return false;
}

void become(Node& node, std::string target, std::vector<Value> args,
            std::vector<std::pair<std::string, Value>> kwargs = {}) {
  Node changed = call(std::move(target), std::move(args), std::move(kwargs));
  node.kind = changed.kind;
  node.target = std::move(changed.target);
  node.args = std::move(changed.args);
  node.kwargs = std::move(changed.kwargs);
}

// Inserts a node of the same meta as `like` before it.
Value insert_like(Draft& draft, NodeId like, Node node) {
  node.tensor = draft[like].tensor;
  return ref(draft.insert_before(like, std::move(node)));
}

bool is_binary(Draft& draft, NodeId id, const char* name) {
  const Node& node = draft[id];
  const std::string last = last_part(node.target);
  return (last == name || (std::string(name) == "div" && last == "truediv")) && node.args.size() == 2 &&
         node.kwargs.empty() && node.tensor && (is_tensor(draft, node.args[0]) || is_tensor(draft, node.args[1]));
}

Respelling binary(const char* name, std::string target) {
  return [name, target](Draft& draft, NodeId id) {
    Node& node = draft[id];
    if (!is_binary(draft, id, name) || (target.front() != 'o' && !is_tensor(draft, node.args[0]))) return false;
    const std::vector<Value> args = node.args;
    become(node, target, args);
    return true;
  };
}

bool is_call(const Node& node, std::initializer_list<const char*> names, std::size_t args) {
  const bool calls = node.kind == graph::NodeKind::call_function || node.kind == graph::NodeKind::call_method;
  return calls && is_one_of(last_part(node.target), names) && node.args.size() == args && node.kwargs.empty();
}

Respelling unary(const char* name, std::string target) {
  return [name, target](Draft& draft, NodeId id) {
    if (!is_call(draft[id], {name}, 1)) return false;
    become(draft[id], target, {draft[id].args[0]});
    return true;
  };
}

bool power_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  const bool squares = is_call(node, {"pow"}, 2) && integer(node.args[1]) != nullptr && *integer(node.args[1]) == 2;
  if (!squares) return false;
  const Value x = node.args[0];
  if (form == 0) become(node, "operator.mul", {x, x});
  if (form == 1) become(node, "torch.square", {x});
  if (form == 2) become(node, ".pow", {x}, {{"exponent", 2.0}});
  if (form == 3) become(node, "operator.pow", {x, std::int64_t{2}});
  return true;
}

bool rsqrt_as(Draft& draft, NodeId id, int form) {
  if (!is_call(draft[id], {"rsqrt"}, 1)) return false;
  const Value x = draft[id].args[0];
  if (form == 2) {
    become(draft[id], "torch.pow", {x, -0.5});
    return true;
  }
  const Value root = insert_like(draft, id, form == 0 ? call("torch.sqrt", {x}) : call(".pow", {x, 0.5}));
  if (form == 0) become(draft[id], "operator.truediv", {1.0, root});
  if (form == 1) become(draft[id], ".reciprocal", {root});
  return true;
}

bool cast_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  const bool is_cast = is_one_of(node.target, {"to", "float", "type", "type_as", "bfloat16", "half"}) && node.tensor &&
                       node.kind == graph::NodeKind::call_method;
  if (!is_cast) return false;
  const Value x = node.args[0];
  const DType dtype = node.tensor->dtype;
  const bool has_name = dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16;
  if (form == 0) become(node, ".to", {x, dtype});
  if (form == 1) become(node, ".to", {x}, {{"dtype", dtype}});
  if (form == 2) become(node, ".type", {x, dtype});
  if (form == 3) become(node, ".to", {x}, {{"dtype", dtype}, {"device", graph::Opaque{"cpu"}}});
  if (form == 4 && !has_name) return false;
  if (form == 4)
    become(node, dtype == DType::float32 ? ".float" : dtype == DType::float16 ? ".half" : ".bfloat16", {x});
  return true;
}

bool mean_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (last_part(node.target) != "mean" || node.args.size() != 2 || !is_tensor(draft, node.args[0])) return false;
  if (integer(node.args[1]) == nullptr || *integer(node.args[1]) != -1) return false;
  const Value x = node.args[0], keep = true;
  const std::int64_t last = rank_of(draft, x) - 1;
  if (form == 0) become(node, ".mean", {x}, {{"dim", std::int64_t{-1}}, {"keepdim", keep}});
  if (form == 1) become(node, "torch.mean", {x, last, keep});
  if (form == 2) become(node, ".mean", {x, tuple({last})}, {{"keepdim", keep}});
  return true;
}

bool negation_as(Draft& draft, NodeId id, int form) {
  if (!is_call(draft[id], {"neg"}, 1)) return false;
  const Value x = draft[id].args[0];
  if (form == 0) become(draft[id], "torch.neg", {x});
  if (form == 1) become(draft[id], "operator.mul", {x, std::int64_t{-1}});
  if (form == 2) become(draft[id], "operator.mul", {-1.0, x});
  return true;
}

bool concat_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (node.target != "torch.cat" || node.args.size() != 1) return false;
  const Value parts = node.args[0];
  const auto last = static_cast<std::int64_t>(node.tensor->rank()) - 1;
  const auto& items = std::get<std::shared_ptr<const graph::List>>(parts)->items;
  if (form == 0) become(node, "torch.cat", {list(items), std::int64_t{-1}});
  if (form == 1) become(node, "torch.concat", {tuple(items)}, {{"axis", last}});
  return true;
}

// The only slice of `x[..., a:b]` or `x[:, a:b]`, with its position in the index.
struct Sliced {
  std::size_t position = 0;
  std::int64_t start = 0, stop = 0, size = 0, dim = 0;
};

std::optional<Sliced> sliced(Draft& draft, NodeId id) {
  const Node& node = draft[id];
  if (node.target != "operator.getitem" || node.args.size() != 2 || !is_tensor(draft, node.args[0])) return {};
  const auto* index = std::get_if<std::shared_ptr<const graph::List>>(&node.args[1]);
  if (index == nullptr || (*index)->items.empty()) return {};
  const auto* last = std::get_if<std::shared_ptr<const graph::Slice>>(&(*index)->items.back());
  const bool after_dots = (*index)->items.size() == 2 && std::holds_alternative<graph::Ellipsis>((*index)->items[0]);
  const graph::TensorMeta& input = *draft[std::get<graph::NodeRef>(node.args[0]).id].tensor;
  if (last == nullptr || !after_dots || !input.shape.back().is_constant()) return {};
  Sliced found;
  found.size = input.shape.back().value();
  found.dim = static_cast<std::int64_t>(input.rank()) - 1;
  const std::int64_t *start = integer((*last)->start), *stop = integer((*last)->stop);
  found.start = start == nullptr ? 0 : *start < 0 ? *start + found.size : *start;
  found.stop = stop == nullptr ? found.size : *stop < 0 ? *stop + found.size : *stop;
  return found;
}

bool slice_as(Draft& draft, NodeId id, int form) {
  const auto found = sliced(draft, id);
  if (!found || found->stop <= found->start) return false;
  Node& node = draft[id];
  const Value x = node.args[0];
  const std::int64_t length = found->stop - found->start;
  std::vector<Value> index(static_cast<std::size_t>(found->dim), slice(graph::None{}, graph::None{}));
  index.push_back(slice(found->start - found->size,
                        found->stop == found->size ? Value(graph::None{}) : Value(found->stop - found->size)));
  if (form == 0) become(node, "operator.getitem", {x, tuple(std::move(index))});
  if (form == 1) become(node, ".narrow", {x, std::int64_t{-1}, found->start, length});
  if (form == 2) become(node, "torch.narrow", {x, found->dim, found->start, length});
  if (form == 3) {
    const Value bounds = slice(found->start, found->stop, std::int64_t{1});
    become(node, "operator.getitem", {x, tuple({graph::Ellipsis{}, bounds})});
  }
  return true;
}

// x[..., a:b] as an item of chunk or split, where the bounds fall on one.
bool slice_as_piece(Draft& draft, NodeId id, const char* method) {
  const auto found = sliced(draft, id);
  if (!found || found->size % 2 != 0 || found->stop - found->start != found->size / 2) return false;
  if (found->start != 0 && found->start != found->size / 2) return false;
  const Value x = draft[id].args[0];
  const std::int64_t argument = std::string(method) == ".chunk" ? 2 : found->size / 2;
  const NodeId pieces = draft.insert_before(id, call(method, {x, argument}, {{"dim", std::int64_t{-1}}}));
  become(draft[id], "operator.getitem", {ref(pieces), std::int64_t{found->start == 0 ? 0 : 1}});
  return true;
}

bool silu_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (last_part(node.target) != "silu") return false;
  const Value x = node.args[0];
  if (form == 0) become(node, "torch.nn.functional.silu", {x}, {{"inplace", false}});
  if (form == 1) {
    const Value gate = insert_like(draft, id, call("torch.sigmoid", {x}));
    become(draft[id], "operator.mul", {x, gate});
  }
  return true;
}

bool linear_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (last_part(node.target) != "linear" || node.args.size() != 3) return false;
  const std::vector<Value> args = node.args;
  if (form == 0) become(node, "torch.nn.functional.linear", args);
  if (form == 1) become(node, "torch._C._nn.linear", {args[0]}, {{"weight", args[1]}, {"bias", args[2]}});
  return true;
}

bool loss_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (last_part(node.target) != "cross_entropy" || node.args.size() != 2) return false;
  const std::vector<Value> args = node.args;
  auto kwargs = node.kwargs;
  if (form == 1) kwargs.insert(kwargs.end(), {{"input", args[0]}, {"target", args[1]}, {"weight", graph::None{}}});
  become(node, "torch.nn.functional.cross_entropy", form == 1 ? std::vector<Value>{} : args, kwargs);
  return true;
}

bool view_as(Draft& draft, NodeId id, int form) {
  Node& node = draft[id];
  if (!is_one_of(node.target, {"view", "reshape"}) || node.kind != graph::NodeKind::call_method) return false;
  const Value x = node.args[0];
  const std::vector<Value> sizes(node.args.begin() + 1, node.args.end());
  if (sizes.size() < 2) return false;
  if (form == 0) become(node, ".reshape", {x, tuple(sizes)});
  if (form == 1) become(node, "torch.reshape", {x, list(sizes)});
  const bool flattens = rank_of(draft, x) == 3 && sizes.size() == 2;
  if (form == 2 && !flattens) return false;
  if (form == 2) become(node, ".flatten", {x, std::int64_t{0}, std::int64_t{1}});
  return true;
}

bool gelu_as(Draft& draft, NodeId id) {
  if (last_part(draft[id].target) != "gelu") return false;
  draft[id].target = "torch.nn.functional.gelu";
  return true;
}

std::vector<std::pair<std::string, Respelling>> respellings() {
  std::vector<std::pair<std::string, Respelling>> all;
  for (const char* name : {"add", "mul", "div", "sub"}) {
    const bool divides = std::string(name) == "div";
    for (const std::string& home : {std::string("torch."), std::string("."), std::string("operator.")}) {
      const std::string target = home + (divides && home == "operator." ? "truediv" : name);
      all.emplace_back(target, binary(name, target));
    }
  }
  for (const char* name : {"tanh", "rsqrt", "sigmoid"}) {
    all.emplace_back("torch." + std::string(name), unary(name, "torch." + std::string(name)));
    all.emplace_back("." + std::string(name), unary(name, "." + std::string(name)));
  }
  const auto add_forms = [&](const std::string& name, bool (*respell)(Draft&, NodeId, int), int forms) {
    for (int form = 0; form < forms; ++form) {
      all.emplace_back(name + " " + std::to_string(form), [=](Draft& d, NodeId id) { return respell(d, id, form); });
    }
  };
  add_forms("power", power_as, 4);
  add_forms("rsqrt", rsqrt_as, 3);
  add_forms("cast", cast_as, 5);
  add_forms("mean", mean_as, 3);
  add_forms("negation", negation_as, 3);
  add_forms("concat", concat_as, 2);
  add_forms("slice", slice_as, 4);
  add_forms("silu", silu_as, 2);
  add_forms("linear", linear_as, 2);
  add_forms("loss", loss_as, 2);
  add_forms("view", view_as, 3);
  all.emplace_back("chunk", [](Draft& d, NodeId id) { return slice_as_piece(d, id, ".chunk"); });
  all.emplace_back("split", [](Draft& d, NodeId id) { return slice_as_piece(d, id, ".split"); });
  all.emplace_back("gelu", gelu_as);
  return all;
}

bool is_commutative(const Graph& graph, const Node& node) {
  const std::string name = last_part(node.target);
  if ((name != "add" && name != "mul") || node.args.size() != 2 || !node.kwargs.empty()) return false;
  const auto* second = std::get_if<graph::NodeRef>(&node.args[1]);
  const bool is_operator = node.target.rfind("operator.", 0) == 0;
  return is_operator || (second != nullptr && graph[second->id].tensor.has_value());
}

}  // namespace

std::vector<Variant> operand_orders(const Graph& graph) {
  std::vector<Variant> variants;
  Draft all(graph);
  for (const Node& node : graph.nodes) {
    if (!is_commutative(graph, node)) continue;
    Draft one(graph);
    std::swap(one[node.id].args[0], one[node.id].args[1]);
    std::swap(all[node.id].args[0], all[node.id].args[1]);
    variants.push_back({"operands of %" + node.name + " swapped", one.finish()});
  }
  variants.push_back({"all operands swapped", all.finish()});
  return variants;
}

std::vector<Variant> spellings(const Graph& graph) {
  std::vector<Variant> variants;
  for (const auto& [name, respell] : respellings()) {
    Draft all(graph);
    bool any = false;
    for (const Node& node : graph.nodes) {
      Draft one(graph);
      if (!respell(one, node.id)) continue;
      variants.push_back({"%" + node.name + " as " + name, one.finish()});
      any = respell(all, node.id) || any;
    }
    if (any) variants.push_back({"everything as " + name, all.finish()});
  }
  return variants;
}

namespace {

// A node that changes nothing, put between a value and one of its users.
NodeId insert_identity(Draft& draft, NodeId user, NodeId value, int kind) {
  const graph::TensorMeta meta = *draft[value].tensor;
  Node node;
  if (kind == 0) node = call(".contiguous", {ref(value)});
  if (kind == 1) node = call("torch.clone", {ref(value)});
  if (kind == 2) node = call("operator.mul", {ref(value), 1.0});
  if (kind == 3) node = call(".to", {ref(value), meta.dtype});
  if (kind == 4) node = call("operator.getitem", {ref(value), tuple({graph::Ellipsis{}})});
  node.tensor = meta;
  const NodeId identity = draft.insert_before(user, std::move(node));
  draft.replace_in(user, value, identity);
  return identity;
}

constexpr int kIdentityKinds = 5;

bool may_multiply(const graph::TensorMeta& meta) { return graph::is_floating(meta.dtype); }

}  // namespace

std::vector<Variant> with_identities(const Graph& graph, const Place& place) {
  std::vector<Variant> variants;
  for (int kind = 0; kind < kIdentityKinds; ++kind) {
    Draft all(graph);
    for (NodeId user : place.interior) {
      for (NodeId value : graph::inputs_of(graph[user])) {
        const auto& meta = graph[value].tensor;
        if (!meta || (kind == 2 && !may_multiply(*meta))) continue;
        Draft one(graph);
        insert_identity(one, user, value, kind);
        insert_identity(all, user, value, kind);
        const std::string where = "between %" + graph[value].name + " and %" + graph[user].name;
        variants.push_back({"identity " + std::to_string(kind) + " " + where, one.finish()});
      }
    }
    variants.push_back({"identity " + std::to_string(kind) + " everywhere", all.finish()});
  }
  return variants;
}

}  // namespace liger::test
