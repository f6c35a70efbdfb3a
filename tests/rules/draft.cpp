#include "rules/draft.h"

#include <algorithm>
#include <stdexcept>
#include <unordered_map>

namespace liger::test {

namespace {

NodeId id_in(const Value& value) {
  const auto* reference = std::get_if<graph::NodeRef>(&value);
  return reference == nullptr ? graph::kNoNode : reference->id;
}

Value replaced(const Value& value, NodeId from, NodeId to) {
  return map_leaves(value, [&](const Value& leaf) { return id_in(leaf) == from ? ref(to) : leaf; });
}

}  // namespace

std::size_t Draft::position(NodeId handle) const {
  const auto found = std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.id == handle; });
  if (found == nodes_.end()) throw std::logic_error("no node has the handle " + std::to_string(handle));
  return static_cast<std::size_t>(found - nodes_.begin());
}

bool Draft::has(NodeId handle) const {
  return std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.id == handle; });
}

NodeId Draft::insert(std::size_t position, Node node) {
  node.id = next_++;
  if (node.name.empty()) node.name = "new_" + std::to_string(node.id);
  nodes_.insert(nodes_.begin() + static_cast<std::ptrdiff_t>(position), std::move(node));
  return next_ - 1;
}

void Draft::replace_in(NodeId user, NodeId from, NodeId to) {
  for_each_argument((*this)[user], [&](Value& value) { value = replaced(value, from, to); });
}

void Draft::replace_everywhere(NodeId from, NodeId to) {
  for (Node& node : nodes_) {
    for_each_argument(node, [&](Value& value) { value = replaced(value, from, to); });
  }
}

bool Draft::is_used(NodeId handle) const {
  return std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) {
    const std::vector<NodeId> inputs = graph::inputs_of(node);
    return std::find(inputs.begin(), inputs.end(), handle) != inputs.end();
  });
}

void Draft::return_also(NodeId handle) {
  Node& output = nodes_.back();
  output.args = {tuple({output.args.front(), ref(handle)})};
}

Graph Draft::finish() const {
  Graph graph;
  std::unordered_map<NodeId, NodeId> numbers;
  for (Node node : nodes_) {
    const NodeId handle = node.id;
    for_each_argument(node, [&](Value& value) {
      value = map_leaves(value, [&](const Value& leaf) {
        if (id_in(leaf) == graph::kNoNode) return leaf;
        const auto found = numbers.find(id_in(leaf));
        if (found == numbers.end()) throw std::logic_error("%" + node.name + " reads a node that is not there yet");
        return ref(found->second);
      });
    });
    numbers.emplace(handle, graph.append(std::move(node)));
  }
  return graph;
}

Value map_leaves(const Value& value, const std::function<Value(const Value&)>& change) {
  if (const auto* items = std::get_if<std::shared_ptr<const graph::List>>(&value)) {
    auto copy = std::make_shared<graph::List>(**items);
    for (Value& item : copy->items) item = map_leaves(item, change);
    return Value(std::shared_ptr<const graph::List>(std::move(copy)));
  }
  if (const auto* bounds = std::get_if<std::shared_ptr<const graph::Slice>>(&value)) {
    auto copy = std::make_shared<graph::Slice>(**bounds);
    for (Value* part : {&copy->start, &copy->stop, &copy->step}) *part = map_leaves(*part, change);
    return Value(std::shared_ptr<const graph::Slice>(std::move(copy)));
  }
  return change(value);
}

void for_each_argument(Node& node, const std::function<void(Value&)>& visit) {
  for (Value& argument : node.args) visit(argument);
  for (auto& [name, argument] : node.kwargs) visit(argument);
}

Node call(std::string target, std::vector<Value> args, std::vector<std::pair<std::string, Value>> kwargs) {
  Node node;
  const bool is_method = target.front() == '.';
  node.kind = is_method ? graph::NodeKind::call_method : graph::NodeKind::call_function;
  node.target = is_method ? target.substr(1) : std::move(target);
  node.args = std::move(args);
  node.kwargs = std::move(kwargs);
  return node;
}

Value ref(NodeId id) { return graph::NodeRef{id}; }

namespace {

Value sequence(std::vector<Value> items, bool is_tuple) {
  auto list = std::make_shared<graph::List>();
  list->items = std::move(items);
  list->is_tuple = is_tuple;
  return Value(std::shared_ptr<const graph::List>(std::move(list)));
}

}  // namespace

Value tuple(std::vector<Value> items) { return sequence(std::move(items), true); }
Value list(std::vector<Value> items) { return sequence(std::move(items), false); }

Value slice(Value start, Value stop, Value step) {
  auto bounds = std::make_shared<graph::Slice>();
  bounds->start = std::move(start);
  bounds->stop = std::move(stop);
  bounds->step = std::move(step);
  return Value(std::shared_ptr<const graph::Slice>(std::move(bounds)));
}

}  // namespace liger::test
