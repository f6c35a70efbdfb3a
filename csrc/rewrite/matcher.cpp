#include "rewrite/matcher.h"

#include <algorithm>

#include "graph/text.h"

namespace liger::rewrite {

namespace {

bool is_commutative(Op op) { return op == Op::add || op == Op::mul; }

bool same_value(const Operand& a, const Operand& b) {
  if (a.is_node() || b.is_node()) return a.node == b.node;
  const auto x = number_in(a.literal), y = number_in(b.literal);
  return x.has_value() == y.has_value() && (!x || *x == *y);
}

std::string text_of(const CanonicalGraph& view, const Operand& operand) {
  if (!operand.is_node()) return graph::print(view.graph(), operand.literal);
  const graph::CanonicalNode& canonical = view[operand.node];
  const graph::Node& node = view.graph()[operand.node];
  const std::string what = canonical.op == Op::opaque ? node.target : std::string(graph::name_of(canonical.op));
  return "%" + node.name + " (" + what + ")";
}

}  // namespace

Matcher::Matcher(const CanonicalGraph& view, Pattern root, const Pattern* distinctive, std::size_t step_budget)
    : view_(view), root_(std::move(root)), distinctive_(distinctive), step_budget_(step_budget) {}

Matcher::Outcome Matcher::run(NodeId root, const Accept& accept) {
  accept_ = &accept;
  root_node_ = root;
  steps_ = 0;
  bindings_.clear();
  matched_.clear();
  outcome_ = Outcome{};
  Operand start;
  start.node = root;
  outcome_.accepted = match(root_, start, [this] { return finish(); });
  return std::move(outcome_);
}

bool Matcher::finish() {
  const Match match(view_, root_node_, bindings_);
  std::size_t checks_passed = 0;
  const Verdict verdict = (*accept_)(match, matched_, checks_passed);
  if (verdict) return true;
  // A complete match says more than any mismatch. Of several refusals the one that came furthest explains best; among
  // equals the last, which asked for the least.
  if (!outcome_.complete || checks_passed >= outcome_.failure.checks_passed) {
    outcome_.failure = Failure{matched_.size(), root_node_, verdict.reason(), checks_passed};
  }
  outcome_.complete = true;
  note_distinctive();
  return false;
}

void Matcher::note_distinctive() {
  const auto* bound = distinctive_ == nullptr ? nullptr : find_binding(bindings_, *distinctive_);
  if (bound != nullptr && outcome_.distinctive == graph::kNoNode) outcome_.distinctive = bound->value.node;
}

bool Matcher::out_of_steps() {
  if (++steps_ <= step_budget_) return false;
  if (!outcome_.budget_exhausted) {
    outcome_.budget_exhausted = true;
    outcome_.failure =
        Failure{matched_.size(), root_node_, "the search gave up after " + std::to_string(step_budget_) + " steps"};
  }
  return true;
}

bool Matcher::fail(const Operand& where, const FunctionRef<std::string()>& reason) {
  const bool has_distinctive = distinctive_ != nullptr && find_binding(bindings_, *distinctive_) != nullptr;
  if (has_distinctive && outcome_.distinctive == graph::kNoNode) {
    note_distinctive();
    outcome_.failure.depth = 0;  // failures on the way to the distinctive part explain nothing
    if (!outcome_.complete && !outcome_.budget_exhausted) outcome_.failure.reason.clear();
  }
  if (outcome_.complete || outcome_.budget_exhausted) return false;
  const bool explains = has_distinctive || outcome_.distinctive == graph::kNoNode;
  if (!explains || (!outcome_.failure.reason.empty() && matched_.size() <= outcome_.failure.depth)) return false;
  outcome_.failure = Failure{matched_.size(), where.is_node() ? where.node : root_node_, reason()};
  return false;
}

bool Matcher::with_binding(const Pattern& pattern, Match::Binding binding, const Continue& next) {
  bindings_.emplace_back(pattern.key(), std::move(binding));
  if (next()) return true;
  bindings_.pop_back();  // what `next` had bound is gone already
  return false;
}

bool Matcher::with_matched(const std::vector<NodeId>& nodes, const Continue& next) {
  const std::size_t before = matched_.size();
  matched_.insert(matched_.end(), nodes.begin(), nodes.end());
  if (next()) return true;
  matched_.resize(before);
  return false;
}

bool Matcher::match(const Pattern& pattern, const Operand& value, const Continue& next) {
  if (out_of_steps()) return false;
  if (const auto* bound = find_binding(bindings_, pattern)) {
    const Match::Binding copy = *bound;  // the bindings may grow below
    return match_bound(pattern, copy, value, next);
  }
  switch (pattern->kind) {
    case Pattern::Kind::tensor:
    case Pattern::Kind::optional:
    case Pattern::Kind::scalar:
    case Pattern::Kind::literal:
      return match_leaf(pattern, value, next);
    case Pattern::Kind::operation:
      return match_operation(pattern, value, next);
    case Pattern::Kind::either:
      return match_either(pattern, value, next);
    case Pattern::Kind::through:
      return match_through(pattern, value, next);
  }
  return false;
}

bool Matcher::only_widens(const std::vector<NodeId>& path) const {
  return std::all_of(path.begin(), path.end(), [&](NodeId id) {
    const graph::CanonicalNode& canonical = view_[id];
    if (canonical.op != Op::cast) return false;
    const auto &from = view_.graph()[canonical.operands.front().node].tensor, &to = view_.graph()[id].tensor;
    return from && to && graph::is_lossless_cast(from->dtype, to->dtype);
  });
}

bool Matcher::match_bound(const Pattern& pattern, const Match::Binding& bound, const Operand& value,
                          const Continue& next) {
  if (same_value(bound.value, value)) return next();
  // Lossless up-casts of the same inner value are that value, however often they are written; a chain of anything else
  // (a rounding, a slice) is a value of its own.
  const auto* inner =
      pattern->kind == Pattern::Kind::through ? find_binding(bindings_, pattern->children.front()) : nullptr;
  if (inner != nullptr && value.is_node() && only_widens(bound.path)) {
    std::vector<NodeId> path;
    Operand behind = value;
    for (NodeId id : chain_from(pattern, value)) {
      if (same_value(inner->value, behind)) break;
      path.push_back(id);
      behind = view_[id].operands.front();
    }
    if (same_value(inner->value, behind) && only_widens(path)) return with_matched(path, next);
  }
  return fail(value, [&] {
    return text_of(view_, value) + " is not " + text_of(view_, bound.value) + ", which the pattern needs here again";
  });
}

bool Matcher::accepted_by_leaf(const Pattern& pattern, const Operand& value) {
  const bool is_tensor = value.is_node() && view_.graph()[value.node].tensor.has_value();
  switch (pattern->kind) {
    case Pattern::Kind::tensor:
      return is_tensor;
    case Pattern::Kind::optional:
      return is_tensor || (!value.is_node() && std::holds_alternative<graph::None>(value.literal));
    case Pattern::Kind::scalar:
      return value.is_node() ? !is_tensor && view_[value.node].op == Op::item : number_in(value.literal).has_value();
    default: {
      const auto number = value.is_node() ? std::nullopt : number_in(value.literal);
      return number && *number == pattern->literal;
    }
  }
}

bool Matcher::match_leaf(const Pattern& pattern, const Operand& value, const Continue& next) {
  if (!accepted_by_leaf(pattern, value)) {
    return fail(value, [&] { return text_of(view_, value) + " is not " + describe(pattern); });
  }
  for (const Predicate& predicate : pattern->predicates) {
    const Verdict verdict = predicate(Candidate{view_, value.node});
    if (!verdict) return fail(value, [&] { return text_of(view_, value) + ": " + verdict.reason(); });
  }
  return with_binding(pattern, Match::Binding{value, {}}, next);
}

bool Matcher::match_operation(const Pattern& pattern, const Operand& value, const Continue& next) {
  const bool right_op = value.is_node() && view_[value.node].op == pattern->op &&
                        view_[value.node].operands.size() == pattern->children.size();
  if (!right_op) {
    return fail(value, [&] { return text_of(view_, value) + " is not " + pattern->name; });
  }
  for (const Predicate& predicate : pattern->predicates) {
    const Verdict verdict = predicate(Candidate{view_, value.node});
    if (!verdict) return fail(value, [&] { return text_of(view_, value) + ": " + verdict.reason(); });
  }
  const std::vector<Operand>& operands = view_[value.node].operands;
  const bool commutes = is_commutative(pattern->op) && operands.size() == 2;
  return with_matched({value.node}, [&] {
    return with_binding(pattern, Match::Binding{value, {}}, [&] {
      return match_operands(pattern, operands, 0, false, next) ||
             (commutes && match_operands(pattern, operands, 0, true, next));
    });
  });
}

bool Matcher::match_operands(const Pattern& pattern, const std::vector<Operand>& operands, std::size_t index,
                             bool swapped, const Continue& next) {
  if (index == operands.size()) return next();
  const Operand& operand = operands[swapped ? operands.size() - 1 - index : index];
  return match(pattern->children[index], operand,
               [&] { return match_operands(pattern, operands, index + 1, swapped, next); });
}

bool Matcher::match_either(const Pattern& pattern, const Operand& value, const Continue& next) {
  const std::vector<Op>& roots = root_ops(pattern);
  const bool possible =
      roots.empty() || (value.is_node() && std::count(roots.begin(), roots.end(), view_[value.node].op) > 0);
  if (!possible) {
    return fail(value, [&] { return text_of(view_, value) + " is not " + pattern->name; });
  }
  return std::any_of(pattern->children.begin(), pattern->children.end(), [&](const Pattern& alternative) {
    return match(alternative, value, [&] { return with_binding(pattern, Match::Binding{value, {}}, next); });
  });
}

std::vector<NodeId> Matcher::chain_from(const Pattern& pattern, const Operand& value) const {
  std::vector<NodeId> chain;
  Operand current = value;
  while (current.is_node() && chain.size() < pattern->max_length) {
    const graph::CanonicalNode& canonical = view_[current.node];
    const auto& ops = pattern->chain_ops;
    if (std::find(ops.begin(), ops.end(), canonical.op) == ops.end()) break;
    if (!pattern->predicates.front()(Candidate{view_, current.node})) break;
    chain.push_back(current.node);
    current = canonical.operands.front();
  }
  return chain;
}

bool Matcher::match_through(const Pattern& pattern, const Operand& value, const Continue& next) {
  std::vector<NodeId> chain = chain_from(pattern, value);
  while (true) {
    const Operand inner = chain.empty() ? value : view_[chain.back()].operands.front();
    const bool found = with_matched(chain, [&] {
      return match(pattern->children.front(), inner, [&] {
        return with_binding(pattern, Match::Binding{value, chain}, next);
      });
    });
    if (found) return true;
    if (chain.empty()) return false;
    chain.pop_back();
  }
}

}  // namespace liger::rewrite
