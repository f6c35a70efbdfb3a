// A graph under change: nodes keep their handles while others are inserted, and finish() numbers them anew.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"

namespace liger::test {

using graph::Graph;
using graph::Node;
using graph::NodeId;
using graph::Value;

class Draft {
 public:
  // The handles of the graph's own nodes are their ids there.
  explicit Draft(const Graph& graph) : nodes_(graph.nodes), next_(static_cast<NodeId>(graph.nodes.size())) {}

  const std::vector<Node>& nodes() const { return nodes_; }
  Node& operator[](NodeId handle) { return nodes_[position(handle)]; }
  bool has(NodeId handle) const;

  // Both return the handle of the new node, which gets a name of its own where it has none.
  NodeId insert_before(NodeId handle, Node node) { return insert(position(handle), std::move(node)); }
  NodeId insert_after(NodeId handle, Node node) { return insert(position(handle) + 1, std::move(node)); }
  NodeId insert_first(Node node) { return insert(0, std::move(node)); }

  void replace_in(NodeId user, NodeId from, NodeId to);
  void replace_everywhere(NodeId from, NodeId to);
  void erase(NodeId handle) { nodes_.erase(nodes_.begin() + static_cast<std::ptrdiff_t>(position(handle))); }
  bool is_used(NodeId handle) const;
  NodeId output() const { return nodes_.back().id; }
  void return_also(NodeId handle);

  // Throws std::logic_error where a node reads one that is gone or comes later.
  Graph finish() const;

 private:
  std::size_t position(NodeId handle) const;
  NodeId insert(std::size_t position, Node node);

  std::vector<Node> nodes_;
  NodeId next_;
};

// `value` with every leaf that is not a list or a slice replaced by `change(leaf)`.
Value map_leaves(const Value& value, const std::function<Value(const Value&)>& change);
void for_each_argument(Node& node, const std::function<void(Value&)>& visit);

// A call; a target that starts with a dot is a method.
Node call(std::string target, std::vector<Value> args, std::vector<std::pair<std::string, Value>> kwargs = {});
Value ref(NodeId id);
Value tuple(std::vector<Value> items);
Value list(std::vector<Value> items);
Value slice(Value start, Value stop, Value step = graph::None{});

}  // namespace liger::test
