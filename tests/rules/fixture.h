// Fixtures: a graph in text form, a line "---", and what the rules must make of it as exact text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "rewrite/expr.h"

namespace liger::test {

struct Fixture {
  std::string name;  // "rms_norm/llama"
  graph::Graph graph;
  std::vector<std::string> expected;         // one line each; empty where nothing must happen
  bool logits_on_demand = false;             // of a line "// logits_on_demand"
  std::string block_attention_device;        // of a line "// block_attention_device: <type>"; empty: none
  std::int64_t block_attention_queries = 0;  // of a line "// block_attention_queries: <number>"
  std::vector<std::string>
      skipped;  // kinds of variants that the line "// skip: <kind> <why>" leaves out; "variants": all

  bool skips(const std::string& kind) const;
};

std::vector<std::string> fixture_names();  // of every tests/rules/fixtures/<rule>/<name>.txt
Fixture load_fixture(const std::string& name);

// What the rules did, as a fixture states it:
//   rewrite <rule> at %anchor: <call> -> %root            (or: -> %root = output 0, %sum = output 1)
//   declined <rule> at %node: <reason>                    (or near_miss)
std::vector<std::string> lines_of(const graph::Graph& graph, const rewrite::RewriteResult& result);
// The rewrites alone. The two summands of a fused residual add are sorted, since they have no order.
std::vector<std::string> rewrites_of(const graph::Graph& graph, const rewrite::RewriteResult& result);

// The graph after the edits. Throws std::logic_error where a node would read one that is gone or comes later.
graph::Graph applied(const graph::Graph& graph, const rewrite::RewriteResult& result);

// The graph is the fixture's own, or a variant of it.
rewrite::RewriteResult run_all_rules(const Fixture& fixture, const graph::Graph& graph);

}  // namespace liger::test
