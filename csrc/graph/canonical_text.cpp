// Names of canonical ops, and canonical nodes as text.
#include <array>

#include "graph/canonical.h"
#include "graph/text.h"

namespace liger::graph {
namespace {

// In the order of the enumeration.
// clang-format off
constexpr std::array<std::string_view, 78> kNames = {
    "opaque", "input", "output", "identity", "cast", "add", "sub", "mul", "div", "neg", "pow", "sqrt", "rsqrt",
    "reciprocal", "exp", "log", "log1p", "abs", "tanh", "sigmoid", "log_sigmoid", "silu", "gelu", "relu", "sin",
    "cos", "maximum", "minimum", "clamp", "floor_div", "mean", "sum", "logsumexp", "softmax", "log_softmax", "matmul", "linear",
    "concat", "stack", "slice", "select", "reshape", "permute", "expand", "embedding", "gather", "index", "pad",
    "where", "cumsum", "diff", "tril", "triu", "batch", "unbatch", "arange", "full", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "cross_entropy", "nll_loss", "layer_norm", "rms_norm", "attention", "dropout", "item",
    "tuple_item", "set_grad_enabled", "enter_autocast", "exit_autocast", "subgraph_call",
};
// clang-format on
static_assert(kNames.size() == static_cast<std::size_t>(Op::subgraph_call) + 1);

std::string join(const std::string& text, const std::string& item) { return text.empty() ? item : text + ", " + item; }

template <typename Items, typename ToText>
std::string bracketed(const Items& items, ToText to_text) {
  std::string text;
  for (const auto& item : items) text = join(text, to_text(item));
  return "[" + text + "]";
}

}  // namespace

std::string_view name_of(Op op) { return kNames[static_cast<std::size_t>(op)]; }

std::string print(const CanonicalGraph& graph, NodeId id) {
  const CanonicalNode& node = graph[id];
  std::string text;
  for (const Operand& operand : node.operands) {
    const Value value = operand.is_node() ? Value(NodeRef{operand.node}) : operand.literal;
    text = join(text, print(graph.graph(), value));
  }
  const auto dim_text = [](std::int64_t dim) { return std::to_string(dim); };
  if (!node.dims.empty()) text = join(text, "dims=" + bracketed(node.dims, dim_text));
  if (!node.bounds.empty())
    text = join(text, "bounds=" + bracketed(node.bounds, [](const SymInt& b) { return b.str(); }));
  if (node.keepdim) text = join(text, "keepdim");
  for (const Attribute& attribute : node.attributes) {
    text = join(text, std::string(attribute.name) + "=" + print(graph.graph(), attribute.value));
  }
  return std::string(name_of(node.op)) + "(" + text + ")";
}

}  // namespace liger::graph
