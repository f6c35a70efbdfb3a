#include <charconv>
#include <cmath>

#include "graph/text.h"

namespace liger::graph {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string bracketed(const std::string& text) {
  std::string out = "<";
  for (char c : text) {
    if (c == '>' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '>';
}

std::string number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  std::string text(buffer, error == std::errc() ? end : buffer);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string join(const std::vector<SymInt>& sizes) {
  std::string text;
  for (const SymInt& size : sizes) text += (text.empty() ? "" : ", ") + size.str();
  return text;
}

struct ValuePrinter {
  const Graph& graph;

  std::string operator()(None) const { return "None"; }
  std::string operator()(bool value) const { return value ? "True" : "False"; }
  std::string operator()(std::int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return number(value); }
  std::string operator()(const std::string& value) const { return quoted(value); }
  std::string operator()(DType value) const { return std::string(name_of(value)); }
  std::string operator()(NodeRef value) const { return "%" + graph[value.id].name; }
  std::string operator()(Ellipsis) const { return "..."; }
  std::string operator()(const Opaque& value) const { return bracketed(value.text); }

  std::string operator()(const std::shared_ptr<const Slice>& slice) const {
    std::string text = part(slice->start) + ":" + part(slice->stop);
    if (!std::holds_alternative<None>(slice->step)) text += ":" + part(slice->step);
    return text;
  }

  std::string operator()(const std::shared_ptr<const List>& list) const {
    std::string text;
    for (const Value& item : list->items) text += (text.empty() ? "" : ", ") + std::visit(*this, item);
    if (!list->is_tuple) return "[" + text + "]";
    return "(" + text + (list->items.size() == 1 ? ",)" : ")");
  }

 private:
  std::string part(const Value& value) const {
    return std::holds_alternative<None>(value) ? "" : std::visit(*this, value);
  }
};

std::string target_text(const Node& node) {
  switch (node.kind) {
    case NodeKind::placeholder:
      return "placeholder";
    case NodeKind::get_attr:
      return "attr:" + node.target;
    case NodeKind::call_method:
      return "." + node.target;
    case NodeKind::call_module:
      return "module:" + node.target;
    default:
      return node.target;
  }
}

std::string arguments_text(const Graph& graph, const Node& node) {
  std::string text;
  for (const Value& argument : node.args) text += (text.empty() ? "" : ", ") + print(graph, argument);
  for (const auto& [name, argument] : node.kwargs) {
    text += (text.empty() ? "" : ", ") + name + "=" + print(graph, argument);
  }
  return text;
}

std::string origin_text(const Node& node) {
  if (node.module_path.empty() && node.source.empty()) return "";
  std::string text = "  @ " + (node.module_path.empty() ? "-" : node.module_path);
  return node.source.empty() ? text : text + "  " + node.source;
}

}  // namespace

std::string print(const Graph& graph, const Value& value) { return std::visit(ValuePrinter{graph}, value); }

std::string print(const TensorMeta& meta) {
  std::string text = std::string(name_of(meta.dtype)) + "[" + join(meta.shape) + "]";
  if (meta.strides != contiguous_strides(meta.shape)) text += "{" + join(meta.strides) + "}";
  if (meta.device != "cpu") text += " on " + meta.device;
  return text;
}

std::string print(const Graph& graph, const Node& node) {
  if (node.kind == NodeKind::output) {
    return "return" + (node.args.empty() ? std::string() : " " + print(graph, node.args[0]));
  }
  std::string text = "%" + node.name;
  if (node.tensor) text += ": " + print(*node.tensor) + (node.tensor->requires_grad ? " grad" : "");
  if (!node.tensor && node.size) text += ": size(" + node.size->str() + ")";
  text += " = " + target_text(node) + "(" + arguments_text(graph, node) + ")";
  if (node.mutates) text += " mutates";
  return text + origin_text(node);
}

std::string print(const Graph& graph) {
  std::string text;
  for (const Node& node : graph.nodes) text += print(graph, node) + "\n";
  return text;
}

}  // namespace liger::graph
