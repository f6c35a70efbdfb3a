#include "rewrite/pattern.h"

#include <algorithm>
#include <cstdio>

namespace liger::rewrite {

const graph::Node* Candidate::operand(std::size_t index) const {
  const auto& operands = canonical().operands;
  return index < operands.size() && operands[index].is_node() ? &view.graph()[operands[index].node] : nullptr;
}

Pattern Pattern::where(Predicate predicate) const {
  Data copy = *data_;
  copy.predicates.push_back(std::move(predicate));
  return Pattern(std::move(copy));
}

Pattern Pattern::named(std::string name) const {
  Data copy = *data_;
  copy.name = std::move(name);
  return Pattern(std::move(copy));
}

Pattern Pattern::as_output(int index) const {
  Data copy = *data_;
  copy.declared_output = index;
  return Pattern(std::move(copy));
}

namespace {

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

std::string joined(const std::vector<Pattern>& patterns, std::string_view separator) {
  std::string text;
  for (const Pattern& pattern : patterns) {
    if (!text.empty()) text += separator;
    text += describe(pattern);
  }
  return text;
}

}  // namespace

std::string describe(const Pattern& pattern) {
  switch (pattern->kind) {
    case Pattern::Kind::tensor:
    case Pattern::Kind::optional:
    case Pattern::Kind::scalar:
      return pattern->name;
    case Pattern::Kind::literal:
      return number_text(pattern->literal);
    case Pattern::Kind::operation:
      return std::string(graph::name_of(pattern->op)) + "(" + joined(pattern->children, ", ") + ")";
    case Pattern::Kind::either:
      return "either(" + joined(pattern->children, " | ") + ")";
    case Pattern::Kind::through:
      return pattern->name + "(" + describe(pattern->children.front()) + ")";
  }
  return {};
}

namespace {

void append_unique(std::vector<Op>& ops, const std::vector<Op>& more) {
  for (Op op : more) {
    if (std::find(ops.begin(), ops.end(), op) == ops.end()) ops.push_back(op);
  }
}

}  // namespace

std::vector<Op> root_ops(const Pattern& pattern) {
  if (pattern->kind == Pattern::Kind::operation) return {pattern->op};
  if (pattern->kind != Pattern::Kind::either && pattern->kind != Pattern::Kind::through) return {};
  std::vector<Op> ops = pattern->chain_ops;
  for (const Pattern& child : pattern->children) {
    const std::vector<Op> of_child = root_ops(child);
    if (of_child.empty()) return {};
    append_unique(ops, of_child);
  }
  return ops;
}

}  // namespace liger::rewrite
