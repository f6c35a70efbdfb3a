// The same graph said otherwise, and graphs that differ from it in one thing: made from a fixture by machine.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rewrite/expr.h"
#include "rules/draft.h"

namespace liger::test {

struct Variant {
  std::string name;  // what was done, for failure messages
  Graph graph;
};

// One place that the rules rewrote. Node ids are those of the unchanged graph.
struct Place {
  const rewrite::Edit* edit = nullptr;
  std::vector<NodeId> interior;
  std::vector<NodeId> inputs;  // tensors that the interior reads from outside, and what makes pieces of them (chunk)
  NodeId anchor = graph::kNoNode;

  bool is_interior(NodeId id) const;
  NodeId first_reader(const Graph& graph, NodeId id) const;  // the first interior user
};
std::vector<Place> places_of(const Graph& graph, const rewrite::RewriteResult& result);

// Same meaning: the same rewrites must follow.
std::vector<Variant> operand_orders(const Graph& graph);
std::vector<Variant> spellings(const Graph& graph);
std::vector<Variant> with_identities(const Graph& graph, const Place& place);

// A value of the site gets a user outside of it, named "outside", or is returned.
struct Escape {
  Variant variant;
  NodeId value;
};
std::vector<Escape> escapes(const Graph& graph, const Place& place);

// In-place writes between the first use of a value and the anchor, and after the anchor.
std::vector<Variant> writes_before_anchor(const Graph& graph, const Place& place);
std::vector<Variant> writes_after_anchor(const Graph& graph, const Place& place);

// A region bracket that opens inside the site and closes behind it.
std::vector<Variant> region_switches(const Graph& graph, const Place& place);

// Another meaning, or no meaning that a kernel has.
std::vector<Variant> other_dtypes(const Graph& graph, const Place& place);
std::vector<Variant> other_literals(const Graph& graph, const Place& place);
std::vector<Variant> other_wiring(const Graph& graph, const Place& place);

}  // namespace liger::test
