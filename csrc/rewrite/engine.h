// Runs the rules over a graph: every root, every rule, then one decision where matches overlap.
#pragma once

#include <string>
#include <vector>

#include "rewrite/expr.h"
#include "rewrite/match.h"
#include "rewrite/rule.h"

namespace liger::rewrite {

struct EngineOptions {
  std::vector<std::string> disable;  // names of rules
  bool strict = false;               // let exceptions of rules out
  std::size_t step_budget = 10000;   // of the search at one root
  Context context;
};

RewriteResult rewrite(const graph::Graph& graph, const std::vector<Rule>& rules, const EngineOptions& options = {});

}  // namespace liger::rewrite
