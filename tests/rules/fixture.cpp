#include "rules/fixture.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "graph/text.h"
#include "rewrite/engine.h"
#include "rewrite/rule_table.h"
#include "rules/draft.h"

namespace liger::test {

namespace {

namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(LIGER_TESTS_DIR) / "rules" / "fixtures";

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

std::string percent(const graph::Graph& graph, NodeId id) { return "%" + graph[id].name; }

std::string results_of(const graph::Graph& graph, const rewrite::Edit& edit) {
  std::string text;
  for (const rewrite::Result& result : edit.results) {
    text += (text.empty() ? "" : ", ") + percent(graph, result.node);
    if (result.output != rewrite::kOnlyResult) text += " = output " + std::to_string(result.output);
  }
  return text;
}

std::string text_of(const rewrite::RunCondition& condition) {
  switch (condition.kind) {
    case rewrite::RunCondition::Kind::all_nonzero:
      return "all of %" + condition.node + " is not zero";
    case rewrite::RunCondition::Kind::all_zero:
      return "all of %" + condition.node + " is zero";
    case rewrite::RunCondition::Kind::constant_along:
      break;
  }
  return "%" + condition.node + " is constant along dim " + std::to_string(condition.dim);
}

std::string line_of(const graph::Graph& graph, const rewrite::Edit& edit) {
  std::string line = "rewrite " + edit.rule + " at " + percent(graph, edit.anchor) + ": " +
                     rewrite::print(graph, edit.call) + " -> " + results_of(graph, edit);
  for (const rewrite::RunCondition& condition : edit.conditions) {
    line += ", if " + text_of(condition);
  }
  for (NodeId id : edit.on_demand) {
    line += ", " + percent(graph, id) + " on demand from " + percent(graph, edit.on_demand_from);
  }
  if (edit.otherwise) line += ", otherwise " + rewrite::print(graph, *edit.otherwise);
  return line;
}

NodeId insert_call(Draft& draft, NodeId anchor, const rewrite::Expr& expr);

Value as_value(Draft& draft, NodeId anchor, const rewrite::Argument& argument) {
  return std::visit(
      [&](const auto& item) -> Value {
        if constexpr (std::is_same_v<std::decay_t<decltype(item)>, std::shared_ptr<const rewrite::Expr>>) {
          return ref(insert_call(draft, anchor, *item));
        } else {
          return item;
        }
      },
      argument);
}

NodeId insert_call(Draft& draft, NodeId anchor, const rewrite::Expr& expr) {
  Node node = call(expr.op, {});
  for (const auto& argument : expr.args) node.args.push_back(as_value(draft, anchor, argument));
  for (const auto& [name, argument] : expr.kwargs) node.kwargs.emplace_back(name, as_value(draft, anchor, argument));
  return draft.insert_before(anchor, std::move(node));
}

// What each replaced node gives way to. All calls are made before any use is moved, as an edit may read what another
// one replaces.
using Replacements = std::vector<std::pair<NodeId, NodeId>>;

void insert_calls(Draft& draft, const rewrite::Edit& edit, Replacements& replacements) {
  const NodeId made = insert_call(draft, edit.anchor, edit.call);
  for (const rewrite::Result& result : edit.results) {
    NodeId value = made;
    if (result.output != rewrite::kOnlyResult) {
      value = draft.insert_before(edit.anchor, call("operator.getitem", {ref(made), std::int64_t{result.output}}));
    }
    replacements.emplace_back(result.node, value);
  }
  for (NodeId id : edit.on_demand) replacements.emplace_back(id, edit.on_demand_from);
}

void erase_unused(Draft& draft, const rewrite::Edit& edit) {
  for (const auto* ids : {&edit.interior, &edit.unused}) {
    for (auto id = ids->rbegin(); id != ids->rend(); ++id) {
      if (draft.has(*id) && !draft.is_used(*id)) draft.erase(*id);
    }
  }
}

}  // namespace

bool Fixture::skips(const std::string& kind) const {
  const auto is_named = [&](const std::string& other) { return other == kind || other == "variants"; };
  return std::any_of(skipped.begin(), skipped.end(), is_named);
}

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(kFixtures)) {
    if (entry.path().extension() != ".txt") continue;
    names.push_back(fs::relative(entry.path(), kFixtures).replace_extension("").generic_string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Fixture load_fixture(const std::string& name) {
  Fixture fixture;
  fixture.name = name;
  std::ifstream file(kFixtures / (name + ".txt"));
  if (!file) throw std::runtime_error("cannot open the fixture " + name);
  std::string text, line;
  while (std::getline(file, line) && trimmed(line) != "---") {
    const std::string skip = "// skip: ", device = "// block_attention_device: ";
    const std::string queries = "// block_attention_queries: ";
    if (line == "// logits_on_demand") fixture.logits_on_demand = true;
    if (starts_with(line, device)) fixture.block_attention_device = line.substr(device.size());
    if (starts_with(line, queries)) fixture.block_attention_queries = std::stoll(line.substr(queries.size()));
    if (starts_with(line, skip))
      fixture.skipped.push_back(line.substr(skip.size(), line.find(' ', skip.size()) - skip.size()));
    text += line + "\n";
  }
  fixture.graph = graph::parse(text);
  while (std::getline(file, line)) {
    line = trimmed(line);
    if (!line.empty() && line != "nothing" && !starts_with(line, "//")) fixture.expected.push_back(line);
  }
  return fixture;
}

std::vector<std::string> lines_of(const graph::Graph& graph, const rewrite::RewriteResult& result) {
  std::vector<std::string> lines;
  for (const rewrite::Edit& edit : result.edits) lines.push_back(line_of(graph, edit));
  for (const rewrite::Record& record : result.records) {
    if (record.kind == rewrite::Record::Kind::rewritten) continue;
    const std::string kind = record.kind == rewrite::Record::Kind::declined ? "declined " : "near_miss ";
    lines.push_back(kind + record.rule + " at " + percent(graph, record.node) + ": " + record.reason);
  }
  for (const auto& [rule, message] : result.errors) lines.push_back("error " + rule + ": " + message);
  return lines;
}

std::vector<std::string> rewrites_of(const graph::Graph& graph, const rewrite::RewriteResult& result) {
  std::vector<std::string> lines;
  for (rewrite::Edit edit : result.edits) {
    if (edit.call.op == "liger::add_rms_norm" &&
        rewrite::print(graph, edit.call.args[0]) > rewrite::print(graph, edit.call.args[1])) {
      std::swap(edit.call.args[0], edit.call.args[1]);
    }
    lines.push_back(line_of(graph, edit));
  }
  return lines;
}

graph::Graph applied(const graph::Graph& graph, const rewrite::RewriteResult& result) {
  Draft draft(graph);
  Replacements replacements;
  for (const rewrite::Edit& edit : result.edits) insert_calls(draft, edit, replacements);
  for (const auto& [old, value] : replacements) draft.replace_everywhere(old, value);
  for (auto edit = result.edits.rbegin(); edit != result.edits.rend(); ++edit) erase_unused(draft, *edit);
  for (const auto& [old, value] : replacements) {
    if (draft.has(old)) throw std::logic_error("%" + graph[old].name + " is replaced and still used");
  }
  return draft.finish();
}

rewrite::RewriteResult run_all_rules(const Fixture& fixture, const graph::Graph& graph) {
  rewrite::EngineOptions options;
  options.context.block_attention_device = fixture.block_attention_device;
  options.context.block_attention_queries = fixture.block_attention_queries;
  options.context.logits_on_demand = fixture.logits_on_demand;
  return rewrite::rewrite(graph, rewrite::all_rules(), options);
}

}  // namespace liger::test
