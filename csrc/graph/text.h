// The text form of a graph, for fixtures, tests and error messages. parse(print(g)) == g, except that placeholders keep
// no target and the output node is named "output".
//
//   %x: bfloat16[2, 16, 64] grad = placeholder()
//   %q: bfloat16[2, 4, 16, 8]{512, 8, 32, 1} = placeholder()       // {strides}; contiguous where left out
//   %g: float32[16] on cuda:0 = placeholder()                       // the CPU where left out
//   %n: size(s0) = placeholder()                                    // an integer, here symbolic
//   %wide: float32[2, 16, 64] grad = .to(%x, dtype=float32)         // a leading dot: call_method
//   %two: float32[2, 16, 64] = operator.pow(%wide, 2)  @ model.norm  modeling_llama.py:67
//   %h: bfloat16[2, 16, 8] = operator.getitem(%x, (..., 0:8))       // slices, ..., None, [lists], (tuples), "strings"
//   %m: bfloat16[2, 16, 64] = module:mlp.dropout(%x)                // call_module;  attr:name() is get_attr
//   %i: bfloat16[2, 16, 64] = operator.iadd(%x, %x) mutates
//   %e: bfloat16[2, 16] = torch.empty(2, 16, device=<cpu>)          // <text>: an object that no rule reads
//   return (%h, %two)
//
// Numbers are Python's: 1 is an int, 1.0 a float. Lines that start with "//" or "#", and what follows " //" on a line,
// are comments. A symbolic size is an expression in sympy's spelling: [s0, s0*s1, 64]. A source without a module path
// is written after "@ -".
#pragma once

#include <string>
#include <string_view>

#include "graph/graph.h"

namespace liger::graph {

// Throws std::invalid_argument with the line number and what was expected.
Graph parse(std::string_view text);
std::string print(const Graph& graph);
std::string print(const Graph& graph, const Node& node);  // one line
std::string print(const Graph& graph, const Value& value);
std::string print(const TensorMeta& meta);  // "bfloat16[2, 16, 64]", with strides where not contiguous

}  // namespace liger::graph
