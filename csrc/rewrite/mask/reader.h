// Reads a tensor of the graph as a function of position: what is the element at [i, j, ...]?
//
// The question is passed on from a node to its operands with the positions that they need, so that views, broadcasts
// and vmap's batch dims cost nothing, and the answer holds for all positions at once.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/canonical.h"
#include "rewrite/mask/value.h"

namespace liger::rewrite::mask {

// What is known of a subgraph's placeholder from the graph that calls it: its element at position(0), position(1), ...
struct Fact {
  Value element;
};
using Facts = std::map<std::string, Fact>;

// The formal position along a dim in a Fact.
Linear position(std::size_t dim, const graph::SymInt& range);

class Reader {
 public:
  // As node `at` finds the tensors: later writes into them do not matter.
  Reader(const graph::CanonicalGraph& view, const Facts& facts, graph::NodeId at)
      : view_(view), facts_(facts), at_(at) {}

  // Null where it is not understood; reason() then says which node is not.
  Value read(graph::NodeId id, const std::vector<Linear>& index);
  const std::string& reason() const { return reason_; }

 private:
  using Index = std::vector<Linear>;

  Value read_operation(graph::NodeId id, const Index& index);
  Value read_input(graph::NodeId id, const Index& index);
  Value read_layout(graph::NodeId id, const Index& index);
  Value read_concat(graph::NodeId id, const Index& index);
  Value read_pieces(const std::vector<graph::NodeId>& pieces, std::size_t which, std::size_t dim, const Index& index,
                    graph::DType dtype);
  Value read_lookup(graph::NodeId id, const Index& index);
  Value lookup_position(graph::NodeId id, const Index& index, std::size_t leading);
  Value read_arithmetic(graph::NodeId id, const Index& index);
  Value read_comparison(graph::NodeId id, const Index& index);
  Value read_logic(graph::NodeId id, const Index& index);
  Value read_where(graph::NodeId id, const Index& index);
  Value read_scan(graph::NodeId id, const Index& index);
  Value read_arange(graph::NodeId id, const Index& index);
  Value read_reshape(graph::NodeId id, const Index& index);
  Value read_pad(graph::NodeId id, const Index& index);
  Value read_triangle(graph::NodeId id, const Index& index);
  Value read_diff(graph::NodeId id, const Index& index);
  Value read_batched(graph::NodeId id, const Index& index);

  // An operand of an elementwise op at a position of the result.
  Value operand(graph::NodeId id, std::size_t which, const Index& index);
  Value operand_in(graph::NodeId id, std::size_t which, const Index& index, graph::DType dtype);
  Value scalar(const graph::Operand& operand);
  // The element itself, as a symbol.
  Value symbol(graph::NodeId id, const Index& index);
  Value fail(graph::NodeId id, const std::string& why);

  const graph::Node& node(graph::NodeId id) const { return view_.graph()[id]; }
  const graph::TensorMeta& meta(graph::NodeId id) const { return *node(id).tensor; }
  graph::NodeId input_of(graph::NodeId id, std::size_t which = 0) const { return view_[id].operands[which].node; }
  bool is_written(graph::NodeId id) const;

  const graph::CanonicalGraph& view_;
  const Facts& facts_;
  graph::NodeId at_;
  std::map<std::int64_t, Linear> levels_;  // positions along the dims that vmap hides, by level
  std::string reason_;
  std::size_t steps_ = 0;
};

}  // namespace liger::rewrite::mask
