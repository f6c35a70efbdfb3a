// Patterns: immutable values that describe a piece of a graph. Sharing a pattern means sharing the value it stands for.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "graph/canonical.h"
#include "rewrite/verdict.h"

namespace liger::rewrite {

using graph::CanonicalGraph;
using graph::NodeId;
using graph::Op;
using graph::Operand;

// A node under test, handed to the predicates of patterns.
struct Candidate {
  const CanonicalGraph& view;
  NodeId id;

  const graph::CanonicalNode& canonical() const { return view[id]; }
  const graph::Node& node() const { return view.graph()[id]; }
  // Operand `index` as a node, or null where it is a number or absent.
  const graph::Node* operand(std::size_t index) const;
};

using Predicate = std::function<Verdict(const Candidate&)>;

class Pattern {
 public:
  enum class Kind : std::uint8_t {
    tensor,     // captures any tensor
    optional,   // captures a tensor, or None
    scalar,     // captures a number: a literal, or a symbolic node
    literal,    // one exact number
    operation,  // a canonical op with operands; add and mul match in either order
    either,     // alternatives, most specific first
    through,    // the inner pattern behind a chain of nodes that a predicate accepts, longest chain first
  };

  struct Data {
    Kind kind = Kind::tensor;
    std::string name;  // how explanations call it
    Op op = Op::opaque;
    double literal = 0;
    std::vector<Pattern> children;
    std::vector<Predicate> predicates;  // of a tensor or an operation; for `through`, [0] accepts a node of the chain
    std::size_t max_length = 0;         // of a chain
    std::vector<Op> chain_ops;          // the ops that a chain can run through
    int declared_output = -1;           // index of the kernel's output that carries this value, where it has one
    std::vector<Op> root_ops;           // see below; set by the constructor, as matching asks at every step
  };

  explicit Pattern(Data data);

  // A new pattern with one more condition on the matched node. Refine before sharing: the result is another value.
  Pattern where(Predicate predicate) const;
  Pattern named(std::string name) const;
  // Uses outside the match do not refuse it: the kernel returns this value as its output `index`.
  Pattern as_output(int index) const;

  const Data& operator*() const { return *data_; }
  const Data* operator->() const { return data_.get(); }
  const Data* key() const { return data_.get(); }

 private:
  std::shared_ptr<const Data> data_;
};

// The pattern as text, for tests and for reading: "mul(rounded(mul(x, rsqrt(...))), weight)".
std::string describe(const Pattern& pattern);

// The canonical ops that a match of `pattern` can have at its root; empty where any op can.
const std::vector<Op>& root_ops(const Pattern& pattern);

}  // namespace liger::rewrite
