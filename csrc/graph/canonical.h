// The canonical view: every spelling of an operation read as one of a small set of ops, without changing the graph.
//
// `x.float()`, `x.to(torch.float32)`, `x.type_as(y)` are Op::cast; `x ** 2`, `x.pow(2)`, `torch.square(x)` are Op::pow;
// `x * 1.0`, a cast to the same dtype, `contiguous`, `clone`, a view to the same shape are Op::identity of their input.
// Dims are non-negative, defaults are explicit, keyword and positional arguments are the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "graph/graph.h"

namespace liger::graph {

// An op computes in, and rounds to, the dtype of its node: under autocast, and where types promote, the operands are
// converted first. A rule that cares compares the dtypes of node and operands.
// clang-format off
enum class Op : std::uint8_t {
  opaque,    // not understood; a value, but no rule looks inside
  input,     // placeholder or get_attr
  output,
  identity,  // operand 0 unchanged as a value (dtype, shape, elements, requires_grad; strides may differ)
  cast,      // operand 0 in the node's dtype
  add, sub, mul, div, neg, pow, sqrt, rsqrt, reciprocal, exp, log, log1p, abs, tanh, sigmoid, log_sigmoid, silu,
  gelu,      // attribute approximate: "none" or "tanh"
  relu, sin, cos, maximum, minimum,
  clamp,     // operands x, min or None, max or None
  floor_div,
  mean, sum, logsumexp,   // dims ascending, keepdim
  softmax, log_softmax,   // dims = {dim}
  matmul,
  linear,    // operands hidden_states, weight, bias or None
  concat,    // dims = {dim}; operands without elements are left out
  stack,     // dims = {dim}
  slice,     // dims = {dim}, bounds = {start, stop, step}, normalised to 0 <= start <= stop <= size
  select,    // dims = {dim}, bounds = {index}: one index of a dim, which is removed
  reshape,   // view, reshape, flatten, unsqueeze, squeeze, unflatten, getitem with None: same elements in order
  permute,   // transpose, permute, mT: dims = permutation
  expand,    // to the node's shape
  embedding, // operands indices, weight; attributes padding_idx, scale_grad_by_freq, sparse
  gather,    // operands x, index; dims = {dim}
  index,     // x[i, j, ...] by index tensors on the leading dims: operands x, i, j, ...
  pad,       // by a constant: attributes pad (a list, last dim first), value
  where,     // operands condition, x, y
  cumsum,    // dims = {dim}
  diff,      // operands x, prepend or None, append or None; dims = {dim}
  tril, triu,      // bounds = {diagonal}
  batch, unbatch,  // vmap's _add_batch_dim and _remove_batch_dim: dims = {the dim that leaves or returns, the level}
  arange,    // operands start, end, step
  full,      // operand: the value
  eq, ne, lt, le, gt, ge,
  logical_and, logical_or, logical_not,  // of booleans, also spelled & | ~
  cross_entropy,  // operands logits, target, class weight or None; attributes ignore_index, reduction, label_smoothing
  nll_loss,       // operands log probabilities, target, class weight or None; attributes ignore_index, reduction
  layer_norm,     // operands x, weight or None, bias or None; dims = the normalised ones; attribute eps
  rms_norm,       // operands x, weight or None; dims = the normalised ones; attribute eps (None: torch's default)
  attention,      // operands query, key, value, mask or None; attributes dropout_p, is_causal, scale, enable_gqa
  dropout,        // attribute p
  item,           // a Python number read from a tensor
  tuple_item,     // element `dims[0]` of a multi-output node that is not a chunk, split or unbind
  set_grad_enabled, enter_autocast, exit_autocast,
  subgraph_call,  // a higher-order op that calls a subgraph (activation checkpointing, ...); operands: all its inputs
};
// clang-format on

std::string_view name_of(Op op);

// An operand is a node (already behind its identities: see CanonicalGraph::resolve), a number, or absent.
struct Operand {
  NodeId node = kNoNode;
  Value literal = None{};  // where node == kNoNode

  bool is_node() const { return node != kNoNode; }
};

struct Attribute {
  std::string_view name;
  Value value;
};

struct CanonicalNode {
  Op op = Op::opaque;
  std::vector<Operand> operands;
  std::vector<std::int64_t> dims;  // reduction dims, permutation, concat dim; never negative
  std::vector<SymInt> bounds;      // of slice and select
  bool keepdim = false;            // of reductions
  std::vector<Attribute>
      attributes;  // "approximate" of gelu, "eps", "reduction", ...; numbers as the op's type has them

  const Value* attribute(std::string_view name) const;  // null where there is none
};

class CanonicalGraph {
 public:
  explicit CanonicalGraph(const Graph& graph);

  const Graph& graph() const { return graph_; }
  const CanonicalNode& operator[](NodeId id) const { return nodes_[static_cast<std::size_t>(id)]; }
  // The value behind identities: the same elements, shape and dtype.
  NodeId resolve(NodeId id) const { return resolved_[static_cast<std::size_t>(id)]; }

  // Users of the value of `id`, looking through identity nodes (which are themselves listed in `identities_of`); each
  // once, in program order. A node that reads only the shape or dtype (`type_as(x, value)`) is a user, too.
  std::vector<NodeId> value_users(NodeId id) const;
  // The identity nodes that `resolve` leads from to resolve(id), in program order.
  std::vector<NodeId> identities_of(NodeId id) const;

  // Regions: two nodes may be merged into one call only where both agree. A new region starts at every autocast
  // bracket, and at every other call that changes how later nodes run (inference mode, functorch levels, streams).
  std::int32_t autocast_region(NodeId id) const { return autocast_region_[static_cast<std::size_t>(id)]; }
  bool grad_enabled(NodeId id) const { return grad_enabled_[static_cast<std::size_t>(id)]; }

  // The first node of those whose tensors may share storage: nodes with different roots never alias, as far as this
  // graph creates them (two placeholders may alias outside; Dynamo guards against that).
  NodeId storage_root(NodeId id) const { return storage_root_[static_cast<std::size_t>(id)]; }
  // Nodes that write into a tensor, with the storage roots they write to, in program order. They are Op::opaque (or
  // Op::subgraph_call), and no identity leads through a tensor whose storage is written anywhere in the graph.
  struct Mutation {
    NodeId node;
    std::vector<NodeId> storage_roots;
  };
  const std::vector<Mutation>& mutations() const { return mutations_; }

 private:
  std::vector<NodeId> identity_closure(NodeId id, std::vector<NodeId>* users) const;

  const Graph& graph_;
  std::vector<CanonicalNode> nodes_;
  std::vector<NodeId> resolved_;
  std::vector<std::int32_t> autocast_region_;
  std::vector<bool> grad_enabled_;
  std::vector<NodeId> storage_root_;
  std::vector<Mutation> mutations_;
};

// One canonical node as text, for tests and messages: "slice(%x, dims=[2], bounds=[0, 8, 1])".
std::string print(const CanonicalGraph& graph, NodeId id);

}  // namespace liger::graph
