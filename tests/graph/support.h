// Short graphs for the tests of csrc/graph.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "graph/canonical.h"
#include "graph/text.h"

namespace liger::graph {

// A parsed graph with its canonical view.
struct Viewed {
  explicit Viewed(const std::string& text) : graph(parse(text)), canonical(graph) {}
  Viewed(const Viewed&) = delete;

  NodeId id(std::string_view name) const {
    const NodeId found = graph.find(name);
    EXPECT_NE(found, kNoNode) << "no node " << name;
    return found;
  }
  std::string at(std::string_view name) const { return print(canonical, id(name)); }
  std::string names(const std::vector<NodeId>& ids) const {
    std::string text;
    for (NodeId node : ids) text += (text.empty() ? "" : " ") + graph[node].name;
    return text;
  }

  Graph graph;
  CanonicalGraph canonical;
};

// One line of a graph after common inputs, and what it must be read as.
struct Case {
  std::string line;      // "float32[2, 3] = torch.add(%x, %y)"
  std::string expected;  // "add(%x, %y)"

  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.line; }
};

inline const char* const kInputs =
    "%x: float32[2, 3, 8] = placeholder()\n"
    "%y: float32[2, 3, 8] = placeholder()\n"
    "%g: float32[2, 3, 8] grad = placeholder()\n"
    "%b: bfloat16[2, 3, 8] = placeholder()\n"
    "%h: float16[2, 3, 8] = placeholder()\n"
    "%m: bool[2, 3, 8] = placeholder()\n"
    "%m2: bool[2, 3, 8] = placeholder()\n"
    "%i: int64[2, 3, 8] = placeholder()\n"
    "%ids: int64[2, 3] = placeholder()\n"
    "%ids2: int64[2, 3] = placeholder()\n"
    "%w: float32[5, 8] = placeholder()\n"
    "%bias: float32[5] = placeholder()\n"
    "%v: float32[8] = placeholder()\n"
    "%u: float32[8] = placeholder()\n"
    "%a: float32[4, 6] = placeholder()\n"
    "%logits: float32[6, 5] = placeholder()\n"
    "%target: int64[6] = placeholder()\n"
    "%classes: float32[5] = placeholder()\n"
    "%cuda: float32[2, 3, 8] on cuda:0 = placeholder()\n"
    "%q: float32[2, 4, 8, 16] = placeholder()\n"
    "%empty: float32[0] = placeholder()\n"
    "%none: float32[2, 3, 0] = placeholder()\n"
    "%n: size(s0) = placeholder()\n"
    "%four: size(4) = placeholder()\n"
    "%d: float32[s0, 8] = placeholder()\n"
    "%d1: float32[s0 + 1, 8] = placeholder()\n"
    "%scalar: float32[] = placeholder()\n"
    "%eps = .item(%scalar)\n"
    "%subclass = placeholder()\n";

// "%r: <line>" after the inputs.
class CaseTest : public ::testing::TestWithParam<Case> {
 protected:
  void check(const std::string& before = "") {
    const Viewed view(kInputs + before + "%r: " + GetParam().line + "\nreturn %r\n");
    EXPECT_EQ(view.at("r"), GetParam().expected);
  }
};

}  // namespace liger::graph
