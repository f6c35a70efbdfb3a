#include "rewrite/match.h"

#include <algorithm>
#include <stdexcept>

namespace liger::rewrite {

std::optional<double> number_in(const graph::Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::nullopt;
}

const Match::Binding* find_binding(const Match::Bindings& bindings, const Pattern& pattern) {
  const auto found =
      std::find_if(bindings.begin(), bindings.end(), [&](const auto& entry) { return entry.first == pattern.key(); });
  return found == bindings.end() ? nullptr : &found->second;
}

const Match::Binding* Match::find(const Pattern& pattern) const { return find_binding(bindings_, pattern); }

bool Match::has(const Pattern& pattern) const {
  const Binding* binding = find(pattern);
  if (binding == nullptr) return false;
  if (pattern->kind == Pattern::Kind::through) return !binding->path.empty();
  if (pattern->kind == Pattern::Kind::optional) return binding->value.is_node();
  return true;
}

NodeId Match::id(const Pattern& pattern) const {
  const Binding* binding = find(pattern);
  if (binding == nullptr || !binding->value.is_node()) {
    throw std::logic_error("pattern '" + describe(pattern) + "' is not bound to a node");
  }
  return binding->value.node;
}

const graph::TensorMeta& Match::tensor(const Pattern& pattern) const {
  const graph::Node& node = (*this)[pattern];
  if (!node.tensor) throw std::logic_error("%" + node.name + " has no tensor meta");
  return *node.tensor;
}

const std::vector<NodeId>& Match::path(const Pattern& pattern) const {
  static const std::vector<NodeId> kEmpty;
  const Binding* binding = find(pattern);
  return binding == nullptr ? kEmpty : binding->path;
}

bool Match::needs_output(int index) const {
  return std::find(needed_outputs_.begin(), needed_outputs_.end(), index) != needed_outputs_.end();
}

bool Match::only_returned(int index) const {
  return std::find(only_returned_.begin(), only_returned_.end(), index) != only_returned_.end();
}

Argument Match::operator()(const Pattern& pattern) const {
  const Binding* binding = find(pattern);
  if (binding == nullptr) return graph::None{};
  if (binding->value.is_node()) return graph::NodeRef{binding->value.node};
  const std::optional<double> number = number_in(binding->value.literal);
  return number ? Argument(*number) : Argument(graph::None{});
}

std::optional<double> Match::literal(const Pattern& pattern) const {
  const Binding* binding = find(pattern);
  if (binding == nullptr || binding->value.is_node()) return std::nullopt;
  return number_in(binding->value.literal);
}

}  // namespace liger::rewrite
