// Small rules over small graphs.
#pragma once

#include <string>
#include <vector>

#include "graph/text.h"
#include "rewrite/dsl.h"
#include "rewrite/engine.h"
#include "rules/fixture.h"

namespace liger::test {

using rewrite::Match;
using rewrite::Pattern;
using rewrite::Rule;

// A rule that writes test::call(...) of the given captures.
inline Rule rule_of(Pattern root, std::vector<Pattern> captures, std::string name = "rule") {
  Rule rule(name);
  rule.match(std::move(root)).replace([captures, name](const Match& match) {
    rewrite::Expr call{"test::" + name, {}, {}};
    for (const Pattern& capture : captures) call.args.push_back(match(capture));
    return rewrite::Replacement{call, name};
  });
  return rule;
}

// What the rules do, one line each, as fixtures state it; "nothing" where there is nothing.
inline std::string outcome(const std::string& text, const std::vector<Rule>& rules,
                           const rewrite::EngineOptions& options = {}) {
  const graph::Graph graph = graph::parse(text);
  const rewrite::RewriteResult result = rewrite::rewrite(graph, rules, options);
  applied(graph, result);
  std::string lines;
  for (const std::string& line : lines_of(graph, result)) lines += (lines.empty() ? "" : "\n") + line;
  return lines.empty() ? "nothing" : lines;
}

// Every operation of the pattern is a place to report.
inline std::string outcome(const std::string& text, const Pattern& root, const std::vector<Pattern>& captures) {
  return outcome(text, {rule_of(root, captures)});
}

inline std::string with_inputs(const std::string& body) {
  return "%x: float32[4, 8] = placeholder()\n"
         "%y: float32[4, 8] = placeholder()\n"
         "%z: float32[4, 8] = placeholder()\n" +
         body;
}

}  // namespace liger::test
