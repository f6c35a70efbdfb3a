// The graph as the rules see it: plain C++ data read once from FX (or from text), never mutated by matching.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "graph/dtype.h"
#include "graph/sym_int.h"

namespace liger::graph {

using NodeId = std::int32_t;  // position in Graph::nodes, which is program order
inline constexpr NodeId kNoNode = -1;

struct TensorMeta {
  DType dtype = DType::other;
  std::vector<SymInt> shape;
  std::vector<SymInt> strides;  // in elements
  std::string device = "cpu";
  bool requires_grad = false;

  std::size_t rank() const { return shape.size(); }
};

// Row-major without gaps, as far as the strides of dims with more than one element tell.
bool is_contiguous(const TensorMeta& meta);

// Arguments as FX holds them.
struct None {};
struct Ellipsis {};
struct NodeRef {
  NodeId id = kNoNode;
};
struct Opaque {  // a Python object that no rule reads (memory_format, device, generator, ...)
  std::string text;
};
struct Slice;
struct List;

using Value = std::variant<None, bool, std::int64_t, double, std::string, DType, NodeRef, Ellipsis, Opaque,
                           std::shared_ptr<const Slice>, std::shared_ptr<const List>>;

struct Slice {
  Value start, stop, step;
};
struct List {  // list, tuple or torch.Size
  std::vector<Value> items;
  bool is_tuple = true;
};

enum class NodeKind : std::uint8_t { placeholder, get_attr, call_function, call_method, call_module, output };

struct Node {
  NodeId id = kNoNode;
  std::string name;
  NodeKind kind = NodeKind::call_function;
  // call_function: "operator.add", "torch.rsqrt", "torch.nn.functional.silu", "liger::rms_norm"; call_method: "to".
  std::string target;
  std::vector<Value> args;
  std::vector<std::pair<std::string, Value>> kwargs;
  std::optional<TensorMeta> tensor;  // where the node's value is one tensor
  std::optional<SymInt> size;        // where it is an integer known or symbolic (placeholders and M:size under dynamic)
  std::vector<NodeId> users;         // each user once, in program order
  bool mutates = false;              // writes into a tensor argument, or may (in-place ops, out=, unknown modules)
  std::string module_path;           // "model.layers.0.input_layernorm"
  std::string source;                // "modeling_llama.py:67"
};

// Nodes that a value or the arguments of `node` refer to, in order of appearance, each once.
std::vector<NodeId> inputs_of(const Value& value);
std::vector<NodeId> inputs_of(const Node& node);

struct Graph {
  std::vector<Node> nodes;

  const Node& operator[](NodeId id) const { return nodes[static_cast<std::size_t>(id)]; }
  Node& operator[](NodeId id) { return nodes[static_cast<std::size_t>(id)]; }
  NodeId find(std::string_view name) const;  // kNoNode where there is none
  // Appends a node, sets its id, and registers it with its inputs as a user.
  NodeId append(Node node);
};

}  // namespace liger::graph
