// One complete match of a pattern: which node or number each capture stands for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rewrite/expr.h"
#include "rewrite/mask/known_masks.h"
#include "rewrite/pattern.h"

namespace liger::rewrite {

// What rules may know beside the graph.
struct Context {
  mask::Facts facts;                         // of the graph's placeholders, where it is a subgraph
  bool is_subgraph = false;                  // its own values cannot be asked about before it runs
  bool grouped_cuda = true;                  // the CUDA device has an attention kernel for fewer key than query heads
  std::string block_attention_device;        // the type of device that has attention by blocks of a mask; empty: none
  std::int64_t block_attention_queries = 0;  // how many queries make it worth while, at least
  bool logits_on_demand = false;             // what only the caller reads may be computed when it does
  std::string why_logits_kept;               // for the report, where they are not
  std::shared_ptr<mask::KnownMasks> masks = nullptr;  // of the graph; set by the engine
};

class Match {
 public:
  // What a pattern is bound to. `path` are the nodes that a chain ran through, outermost first.
  struct Binding {
    Operand value;
    std::vector<NodeId> path;
  };
  // In the order of binding. A match has a dozen or two: a search is faster than hashing, and so is a copy.
  using Bindings = std::vector<std::pair<const Pattern::Data*, Binding>>;

  Match(const CanonicalGraph& view, NodeId root, Bindings bindings)
      : view_(&view), root_(root), bindings_(std::move(bindings)) {}

  const CanonicalGraph& view() const { return *view_; }
  const graph::Graph& graph() const { return view_->graph(); }
  NodeId root() const { return root_; }
  const graph::Node& root_node() const { return graph()[root_]; }

  // The node that the call replaces: the root, or an identity of it where nothing else reads the root.
  const graph::Node& result_node() const { return graph()[result_ == graph::kNoNode ? root_ : result_]; }
  void set_result(NodeId result) { result_ = result; }

  // The pattern took part in this match; for a chain (rounded, widened): it ran through at least one node; for an
  // optional tensor: it is there.
  bool has(const Pattern& pattern) const;
  // The node that a pattern stands for. The pattern must be bound to a node.
  const graph::Node& operator[](const Pattern& pattern) const { return graph()[id(pattern)]; }
  NodeId id(const Pattern& pattern) const;
  const graph::TensorMeta& tensor(const Pattern& pattern) const;
  const std::vector<NodeId>& path(const Pattern& pattern) const;
  const Binding* find(const Pattern& pattern) const;
  const Bindings& bindings() const { return bindings_; }

  // Something outside the match reads the kernel's declared output `index` (set by the engine).
  bool needs_output(int index) const;
  // Of what is outside, only the caller of the graph reads it: it is returned, and used nowhere else.
  bool only_returned(int index) const;
  void set_needed_outputs(std::vector<int> outputs, std::vector<int> only_returned) {
    needed_outputs_ = std::move(outputs);
    only_returned_ = std::move(only_returned);
  }

  const Context& context() const { return *context_; }
  void set_context(const Context& context) { context_ = &context; }

  // As arguments of a call: a node, or a number (literal or the node of a symbolic one).
  Argument operator()(const Pattern& pattern) const;
  // The number behind a capture where it is a literal; nullopt where it is symbolic.
  std::optional<double> literal(const Pattern& pattern) const;

 private:
  const CanonicalGraph* view_;
  NodeId root_;
  Bindings bindings_;
  std::vector<int> needed_outputs_, only_returned_;
  const Context* context_ = nullptr;
  NodeId result_ = graph::kNoNode;
};

// Null where the pattern is not bound.
const Match::Binding* find_binding(const Match::Bindings& bindings, const Pattern& pattern);

// The number in a literal operand; nullopt for anything else (booleans are no numbers here).
std::optional<double> number_in(const graph::Value& value);

}  // namespace liger::rewrite
