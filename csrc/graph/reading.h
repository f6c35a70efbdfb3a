// What a canonicaliser sees: one node with its arguments bound to the parameters of its spelling. Internal to
// csrc/graph.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "graph/canonical.h"

namespace liger::graph {

// How the result of a call may share storage with its arguments.
enum class Aliasing : std::uint8_t {
  fresh,       // never
  first,       // may be a view of the first argument, or the same tensor
  first_cast,  // as `first`, but a fresh tensor where the dtype changes
  all,         // may share with any argument (what is not known)
};

class Reading;
// Fills Reading::out and returns true, or returns false: Op::opaque.
using Reader = bool (*)(Reading&);

struct Spelling {
  std::string_view names;  // "operator.add torch.add .add F.add": a dot is a method, "F." the two homes of torch.nn
  std::string_view
      parameters;           // "input dim/axis * dtype": "/" an alias, "*" keyword-only from here, "sizes..." variadic
  Reader reader = nullptr;  // null: opaque, listed for its aliasing alone
  Op op = Op::opaque;
  Aliasing aliasing = Aliasing::fresh;
  bool makes_tensor = true;  // false: the result is a number or nothing
};

inline constexpr std::size_t kMaxParameters = 10;

// A Spelling, parsed.
struct Signature {
  const Spelling* spelling = nullptr;
  std::array<std::array<std::string_view, 2>, kMaxParameters> parameters;
  std::size_t count = 0;
  std::size_t positional = 0;  // the first `positional` parameters may be given by position
  bool variadic = false;       // the last one collects the rest
};

// The tables, one per file of readers.
struct SpellingTable {
  const Spelling* begin;
  const Spelling* end;
};
SpellingTable arithmetic_spellings();
SpellingTable reduction_spellings();
SpellingTable layout_spellings();
SpellingTable slice_spellings();
SpellingTable cast_spellings();
SpellingTable creation_spellings();
SpellingTable nn_spellings();

// Null where the target is in no table.
const Signature* find_signature(const Node& node);

class Reading {
 public:
  Reading(const Graph& graph, const Node& node, const CanonicalGraph& canonical, const std::vector<bool>& written,
          CanonicalNode& out)
      : graph(graph), node(node), out(out), canonical_(canonical), written_(written) {}

  // False where the arguments do not fit the parameters.
  bool bind(const Signature& signature);

  Op op() const { return op_; }
  // The argument of a parameter; null where it was not given.
  const Value* argument(std::size_t parameter) const { return arguments_[parameter]; }
  bool is_given(std::size_t parameter) const;  // and not None
  // The values of a variadic parameter: `view(2, 3)`, `view((2, 3))` and `view(size=(2, 3))` alike.
  bool variadic(std::size_t parameter, std::vector<const Value*>& values) const;

  const Node* node_at(std::size_t parameter) const;
  const TensorMeta* tensor_at(std::size_t parameter) const;
  const TensorMeta& result() const { return *node.tensor; }
  NodeId resolve(NodeId id) const { return canonical_.resolve(id); }

  // Literal readers; a missing argument or None gives the default.
  std::optional<std::int64_t> integer(std::size_t parameter) const;  // no default: must be given
  std::optional<bool> boolean(std::size_t parameter, bool missing) const;
  // A non-negative dim of a tensor of this rank.
  std::optional<std::int64_t> dim(std::size_t parameter, std::size_t rank) const;
  std::optional<std::int64_t> dim_or(std::size_t parameter, std::size_t rank, std::int64_t missing) const;

  // Appends an operand: a node, a number, or None where the argument is missing. False where it is something else.
  bool push(std::size_t parameter) { return push_value(argument(parameter)); }
  bool push_value(const Value* value);
  bool push_tensor(std::size_t parameter);           // must be a tensor
  bool push_optional_tensor(std::size_t parameter);  // a tensor, or None
  bool done() {
    out.op = op_;
    return true;
  }
  // Makes the node Op::identity of the argument, if nothing but strides can differ and nobody writes to either.
  bool identity(std::size_t parameter) { return argument(parameter) != nullptr && identity_of(*argument(parameter)); }
  bool identity_of(const Value& value);
  // The same view of another node of the graph, to read the chunk or split that an item is taken from.
  Reading of(const Node& other, CanonicalNode& scratch) const { return {graph, other, canonical_, written_, scratch}; }

  const Graph& graph;
  const Node& node;
  CanonicalNode& out;

 private:
  const CanonicalGraph& canonical_;
  const std::vector<bool>& written_;  // by storage root
  Op op_ = Op::opaque;
  std::array<const Value*, kMaxParameters> arguments_{};
  std::size_t variadic_begin_ = 0;  // positions of node.args that a variadic parameter collects
};

std::optional<std::int64_t> integer_of(const Graph& graph, const Value& value);  // also of a node of known size
std::optional<double> number_of(const Value& value);                             // int or float literal, not bool
std::optional<std::int64_t> normalized_dim(std::int64_t dim, std::size_t rank);
const TensorMeta* tensor_of(const Graph& graph, const Value& value);
// A list or tuple of values, or one value.
std::vector<const Value*> items_of(const Value& value);

// Regions, storage and writes, one pass each over the graph.
struct Regions {
  std::vector<std::int32_t> autocast;
  std::vector<bool> grad_enabled;
};
Regions find_regions(const Graph& graph);

struct Storage {
  std::vector<NodeId> roots;
  std::vector<CanonicalGraph::Mutation> mutations;
};
Storage find_storage(const Graph& graph);

}  // namespace liger::graph
