// Backtracking search for one pattern at one node.
//
// Every choice (operand order, alternative, length of a chain of casts) is revisited when a later part of the pattern
// fails, until the step budget is spent. The deepest failure is kept, as a sentence, for the report.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rewrite/function_ref.h"
#include "rewrite/match.h"
#include "rewrite/pattern.h"

namespace liger::rewrite {

struct Failure {
  std::size_t depth = 0;  // how many operations were matched when it happened
  NodeId node = graph::kNoNode;
  std::string reason;
  std::size_t checks_passed = 0;  // of a complete match
};

class Matcher {
 public:
  // Called with each structurally complete match; counts the checks that it passed. Returning a refusal makes the
  // search go on.
  using Accept = std::function<Verdict(const Match&, const std::vector<NodeId>& matched, std::size_t& checks_passed)>;

  Matcher(const CanonicalGraph& view, Pattern root, const Pattern* distinctive, std::size_t step_budget);

  struct Outcome {
    bool accepted = false;
    bool complete = false;  // some match was complete, but refused
    bool budget_exhausted = false;
    Failure failure;                      // the last refusal of a complete match, or else the deepest mismatch
    NodeId distinctive = graph::kNoNode;  // the node of the rule's distinctive part, where the search came that far
  };
  Outcome run(NodeId root, const Accept& accept);

 private:
  using Continue = FunctionRef<bool()>;

  bool match(const Pattern& pattern, const Operand& value, const Continue& next);
  bool match_leaf(const Pattern& pattern, const Operand& value, const Continue& next);
  bool match_operation(const Pattern& pattern, const Operand& value, const Continue& next);
  bool match_operands(const Pattern& pattern, const std::vector<Operand>& operands, std::size_t index, bool swapped,
                      const Continue& next);
  bool match_either(const Pattern& pattern, const Operand& value, const Continue& next);
  bool match_through(const Pattern& pattern, const Operand& value, const Continue& next);
  bool match_bound(const Pattern& pattern, const Match::Binding& bound, const Operand& value, const Continue& next);

  std::vector<NodeId> chain_from(const Pattern& pattern, const Operand& value) const;
  bool with_binding(const Pattern& pattern, Match::Binding binding, const Continue& next);
  bool with_matched(const std::vector<NodeId>& nodes, const Continue& next);
  bool accepted_by_leaf(const Pattern& pattern, const Operand& value);
  bool fail(const Operand& where, const FunctionRef<std::string()>& reason);
  bool only_widens(const std::vector<NodeId>& path) const;
  void note_distinctive();
  bool out_of_steps();
  bool finish();

  const CanonicalGraph& view_;
  Pattern root_;
  const Pattern* distinctive_;
  std::size_t step_budget_;

  const Accept* accept_ = nullptr;
  NodeId root_node_ = graph::kNoNode;
  std::size_t steps_ = 0;
  Match::Bindings bindings_;
  std::vector<NodeId> matched_;
  Outcome outcome_;
};

}  // namespace liger::rewrite
