#include "graph/canonical.h"

#include <algorithm>

#include "graph/reading.h"

namespace liger::graph {
namespace {

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

Op call_without_spelling(const Node& node) {
  if (node.kind != NodeKind::call_function) return Op::opaque;
  if (starts_with(node.target, "torch.ops.higher_order.")) return Op::subgraph_call;
  if (node.target == "torch._C._set_grad_enabled") return Op::set_grad_enabled;
  if (node.target == "torch.amp.autocast_mode._enter_autocast") return Op::enter_autocast;
  if (node.target == "torch.amp.autocast_mode._exit_autocast") return Op::exit_autocast;
  return Op::opaque;
}

void read_plain(Reading& reading, Op op) {
  reading.out.op = op;
  if (op == Op::opaque || op == Op::input) return;
  for (NodeId input : inputs_of(reading.node)) reading.out.operands.push_back({reading.resolve(input), None{}});
  if (op == Op::set_grad_enabled && !reading.node.args.empty()) reading.push_value(&reading.node.args[0]);
}

Op op_of_kind(const Node& node) {
  switch (node.kind) {
    case NodeKind::placeholder:
    case NodeKind::get_attr:
      return Op::input;
    case NodeKind::output:
      return Op::output;
    default:
      return call_without_spelling(node);
  }
}

void read(Reading& reading, bool writes) {
  const Node& node = reading.node;
  const Signature* signature = writes ? nullptr : find_signature(node);
  if (signature == nullptr) return read_plain(reading, op_of_kind(node));
  const Spelling& spelling = *signature->spelling;
  if (spelling.reader == nullptr || (spelling.makes_tensor && !node.tensor)) return;
  if (!reading.bind(*signature) || !spelling.reader(reading)) reading.out = CanonicalNode{};
}

}  // namespace

const Value* CanonicalNode::attribute(std::string_view name) const {
  for (const Attribute& attribute : attributes) {
    if (attribute.name == name) return &attribute.value;
  }
  return nullptr;
}

CanonicalGraph::CanonicalGraph(const Graph& graph) : graph_(graph), nodes_(graph.nodes.size()) {
  Regions regions = find_regions(graph);
  autocast_region_ = std::move(regions.autocast);
  grad_enabled_ = std::move(regions.grad_enabled);
  Storage storage = find_storage(graph);
  storage_root_ = std::move(storage.roots);
  mutations_ = std::move(storage.mutations);

  std::vector<bool> written(nodes_.size(), false), writes(nodes_.size(), false);
  for (const Mutation& mutation : mutations_) {
    writes[static_cast<std::size_t>(mutation.node)] = true;
    for (NodeId root : mutation.storage_roots) written[static_cast<std::size_t>(root)] = true;
  }
  resolved_.resize(nodes_.size());
  for (const Node& node : graph.nodes) {
    const auto index = static_cast<std::size_t>(node.id);
    resolved_[index] = node.id;
    Reading reading(graph, node, *this, written, nodes_[index]);
    read(reading, writes[index]);
    if (nodes_[index].op == Op::identity) resolved_[index] = nodes_[index].operands[0].node;
  }
}

// The identity nodes of the value of `id`; `users`, where given, receives its other users.
std::vector<NodeId> CanonicalGraph::identity_closure(NodeId id, std::vector<NodeId>* users) const {
  const NodeId value = resolve(id);
  std::vector<NodeId> identities, pending = {value};
  while (!pending.empty()) {
    const NodeId current = pending.back();
    pending.pop_back();
    for (NodeId user : graph_[current].users) {
      if (resolve(user) == value && user != value) {
        pending.push_back(user);
        identities.push_back(user);
      } else if (users != nullptr) {
        users->push_back(user);
      }
    }
  }
  for (std::vector<NodeId>* list : {&identities, users}) {
    if (list == nullptr) continue;
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  return identities;
}

std::vector<NodeId> CanonicalGraph::value_users(NodeId id) const {
  std::vector<NodeId> users;
  identity_closure(id, &users);
  return users;
}

std::vector<NodeId> CanonicalGraph::identities_of(NodeId id) const { return identity_closure(id, nullptr); }

}  // namespace liger::graph
