#include "rewrite/pattern.h"

#include <algorithm>
#include <cstdio>

namespace liger::rewrite {

const graph::Node* Candidate::operand(std::size_t index) const {
  const auto& operands = canonical().operands;
  return index < operands.size() && operands[index].is_node() ? &view.graph()[operands[index].node] : nullptr;
}

namespace {

void append_unique(std::vector<Op>& ops, const std::vector<Op>& more) {
  for (Op op : more) {
    if (std::find(ops.begin(), ops.end(), op) == ops.end()) ops.push_back(op);
  }
}

std::vector<Op> find_root_ops(const Pattern::Data& data) {
  if (data.kind == Pattern::Kind::operation) return {data.op};
  if (data.kind != Pattern::Kind::either && data.kind != Pattern::Kind::through) return {};
  std::vector<Op> ops = data.chain_ops;
  for (const Pattern& child : data.children) {
    if (child->root_ops.empty()) return {};
    append_unique(ops, child->root_ops);
  }
  return ops;
}

}  // namespace

Pattern::Pattern(Data data) {
  data.root_ops = find_root_ops(data);
  data_ = std::make_shared<const Data>(std::move(data));
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

const std::vector<Op>& root_ops(const Pattern& pattern) { return pattern->root_ops; }

}  // namespace liger::rewrite
