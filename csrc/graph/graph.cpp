#include "graph/graph.h"

#include <algorithm>

namespace liger::graph {

bool is_contiguous(const TensorMeta& meta) {
  const std::vector<SymInt> expected = contiguous_strides(meta.shape);
  for (std::size_t dim = 0; dim < meta.rank(); ++dim) {
    if (meta.shape[dim] != SymInt(1) && meta.strides[dim] != expected[dim]) return false;
  }
  return true;
}

namespace {

void collect_inputs(const Value& value, std::vector<NodeId>& inputs) {
  if (const auto* ref = std::get_if<NodeRef>(&value)) {
    if (std::find(inputs.begin(), inputs.end(), ref->id) == inputs.end()) inputs.push_back(ref->id);
  } else if (const auto* list = std::get_if<std::shared_ptr<const List>>(&value)) {
    for (const Value& item : (*list)->items) collect_inputs(item, inputs);
  } else if (const auto* slice = std::get_if<std::shared_ptr<const Slice>>(&value)) {
    for (const Value* part : {&(*slice)->start, &(*slice)->stop, &(*slice)->step}) collect_inputs(*part, inputs);
  }
}

}  // namespace

std::vector<NodeId> inputs_of(const Value& value) {
  std::vector<NodeId> inputs;
  collect_inputs(value, inputs);
  return inputs;
}

std::vector<NodeId> inputs_of(const Node& node) {
  std::vector<NodeId> inputs;
  for (const Value& argument : node.args) collect_inputs(argument, inputs);
  for (const auto& [name, argument] : node.kwargs) collect_inputs(argument, inputs);
  return inputs;
}

NodeId Graph::find(std::string_view name) const {
  for (const Node& node : nodes) {
    if (node.name == name) return node.id;
  }
  return kNoNode;
}

NodeId Graph::append(Node node) {
  node.id = static_cast<NodeId>(nodes.size());
  node.users.clear();
  nodes.push_back(std::move(node));
  for (NodeId input : inputs_of(nodes.back())) nodes[static_cast<std::size_t>(input)].users.push_back(nodes.back().id);
  return nodes.back().id;
}

}  // namespace liger::graph
