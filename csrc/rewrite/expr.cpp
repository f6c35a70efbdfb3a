#include "rewrite/expr.h"

#include "graph/text.h"

namespace liger::rewrite {

namespace {

graph::Value as_value(const Argument& argument) {
  return std::visit(
      [](const auto& item) -> graph::Value {
        using Item = std::decay_t<decltype(item)>;
        if constexpr (std::is_same_v<Item, std::shared_ptr<const Expr>>) {
          return graph::None{};
        } else {
          return item;
        }
      },
      argument);
}

void visit_nodes(Argument& argument, const std::function<void(graph::NodeRef&)>& visit) {
  if (auto* node = std::get_if<graph::NodeRef>(&argument)) visit(*node);
  if (auto* inner = std::get_if<std::shared_ptr<const Expr>>(&argument)) {
    Expr expr = **inner;
    for_each_node(expr, visit);
    *inner = std::make_shared<const Expr>(std::move(expr));
  }
}

}  // namespace

void for_each_node(Expr& expr, const std::function<void(graph::NodeRef&)>& visit) {
  for (Argument& argument : expr.args) visit_nodes(argument, visit);
  for (auto& entry : expr.kwargs) visit_nodes(entry.second, visit);
}

std::string print(const graph::Graph& graph, const Argument& argument) {
  if (const auto* expr = std::get_if<std::shared_ptr<const Expr>>(&argument)) return print(graph, **expr);
  return graph::print(graph, as_value(argument));
}

std::string print(const graph::Graph& graph, const Expr& expr) {
  std::string text;
  for (const Argument& argument : expr.args) {
    text += (text.empty() ? "" : ", ") + print(graph, argument);
  }
  for (const auto& [name, value] : expr.kwargs) {
    text += (text.empty() ? "" : ", ") + name + "=" + print(graph, value);
  }
  return expr.op + "(" + text + ")";
}

}  // namespace liger::rewrite
