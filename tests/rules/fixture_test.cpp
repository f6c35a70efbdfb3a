// Every fixture as it stands, and what follows from each for its variants.
#include "rules/fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <set>

#include "graph/text.h"
#include "rules/variants.h"

namespace liger::test {

namespace {

using Lines = std::vector<std::string>;

std::string joined(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

bool contains(const std::vector<NodeId>& ids, NodeId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

std::string last_name(const std::string& test_name) {
  std::string name;
  for (char c : test_name) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

// Counts the variants, so that a run says how many cases it covered.
class Counter : public testing::Environment {
 public:
  static std::size_t& variants() {
    static std::size_t count = 0;
    return count;
  }
  void TearDown() override { std::cout << "[ variants ] " << variants() << "\n"; }
};
const auto* const kCounter = testing::AddGlobalTestEnvironment(new Counter);

class FixtureTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    fixture_ = load_fixture(GetParam());
    result_ = run_all_rules(fixture_, fixture_.graph);
    rewrites_ = rewrites_of(fixture_.graph, result_);
    places_ = places_of(fixture_.graph, result_);
  }

  // Runs the rules over a variant, whatever comes out of it: the edits must fit the graph.
  rewrite::RewriteResult run(const Variant& variant) {
    ++Counter::variants();
    const rewrite::RewriteResult result = run_all_rules(fixture_, variant.graph);
    EXPECT_NO_THROW(applied(variant.graph, result)) << where(variant);
    EXPECT_TRUE(result.errors.empty()) << where(variant) << joined(lines_of(variant.graph, result));
    return result;
  }

  static std::string where(const Variant& variant) {
    return variant.name + "\n" + graph::print(variant.graph) + "---\n";
  }
  bool skips(const std::string& kind) const { return fixture_.skips(kind); }

  void expect_same_rewrites(const std::vector<Variant>& variants) {
    for (const Variant& variant : variants) {
      EXPECT_EQ(joined(rewrites_of(variant.graph, run(variant))), joined(rewrites_)) << where(variant);
    }
  }

  // The rewrite at the place is not made any more, or is made with another call.
  void expect_other_rewrite(const Place& place, const std::vector<Variant>& variants) {
    const auto index = static_cast<std::size_t>(place.edit - result_.edits.data());
    for (const Variant& variant : variants) {
      const Lines after = rewrites_of(variant.graph, run(variant));
      EXPECT_EQ(std::count(after.begin(), after.end(), rewrites_[index]), 0) << where(variant) << joined(after);
    }
  }

  Fixture fixture_;
  rewrite::RewriteResult result_;
  Lines rewrites_;
  std::vector<Place> places_;
};

TEST_P(FixtureTest, GivesTheExpectedLines) {
  EXPECT_EQ(joined(lines_of(fixture_.graph, result_)), joined(fixture_.expected));
  EXPECT_NO_THROW(applied(fixture_.graph, result_));
}

TEST_P(FixtureTest, OperandOrderDoesNotMatter) {
  if (!skips("operand_orders")) expect_same_rewrites(operand_orders(fixture_.graph));
}

TEST_P(FixtureTest, SpellingDoesNotMatter) {
  if (!skips("spellings")) expect_same_rewrites(spellings(fixture_.graph));
}

TEST_P(FixtureTest, IdentitiesDoNotMatter) {
  if (skips("identities")) return;
  for (const Place& place : places_) expect_same_rewrites(with_identities(fixture_.graph, place));
}

// A cast or view of what the site only reads.
bool is_cheap(const Graph& graph, const rewrite::Edit& edit, NodeId value) {
  static const std::set<std::string> kCheap = {"to",      "float",  "type",       "operator.getitem", "view",
                                               "reshape", "expand", "contiguous", "narrow",           "t"};
  if (kCheap.count(graph[value].target) == 0) return false;
  const NodeId input = graph::inputs_of(graph[value]).front();
  return !contains(edit.interior, input) || is_cheap(graph, edit, input);
}

// The caller computes it, and nothing but the caller reads it.
bool is_left_to_caller(const Graph& graph, const rewrite::Edit& edit, NodeId value) {
  const auto& users = graph[value].users;
  const bool only_returned = std::all_of(users.begin(), users.end(), [&](NodeId user) {
    return contains(edit.interior, user) || graph[user].kind == graph::NodeKind::output;
  });
  return contains(edit.on_demand, value) && only_returned;
}

// A value that something else reads is still made, comes out of the call, or is cheap.
bool accounts_for(const Graph& graph, const rewrite::RewriteResult& result, NodeId value) {
  return std::all_of(result.edits.begin(), result.edits.end(), [&](const rewrite::Edit& edit) {
    const auto is_value = [&](const rewrite::Result& r) { return r.node == value; };
    return !contains(edit.interior, value) || is_cheap(graph, edit, value) || is_left_to_caller(graph, edit, value) ||
           std::any_of(edit.results.begin(), edit.results.end(), is_value);
  });
}

TEST_P(FixtureTest, EscapingValuesStay) {
  if (skips("escapes")) return;
  for (const Place& place : places_) {
    for (const Escape& escape : escapes(fixture_.graph, place)) {
      const Graph& graph = escape.variant.graph;
      const NodeId value = graph.find(fixture_.graph[escape.value].name);
      const rewrite::RewriteResult result = run(escape.variant);
      EXPECT_TRUE(accounts_for(graph, result, value)) << where(escape.variant) << joined(lines_of(graph, result));
      if (result.edits.size() >= result_.edits.size()) continue;
      const std::string text = joined(lines_of(graph, result));
      const bool named =
          text.find("%outside") != std::string::npos || text.find("returned by the graph") != std::string::npos;
      EXPECT_TRUE(named) << "no reason names the user\n" << where(escape.variant) << text;
    }
  }
}

TEST_P(FixtureTest, WritesBeforeTheCallRefuse) {
  if (skips("writes_before")) return;
  for (const Place& place : places_) expect_other_rewrite(place, writes_before_anchor(fixture_.graph, place));
}

TEST_P(FixtureTest, WritesAfterTheCallDoNotMatter) {
  if (skips("writes_after")) return;
  // A tensor that is written to is no identity of another one: the call may read the node beside.
  const auto without_arguments = [](const Lines& lines) {
    std::string text;
    for (const std::string& line : lines) text += line.substr(0, line.find('(')) + "\n";
    return text;
  };
  for (const Place& place : places_) {
    for (const Variant& variant : writes_after_anchor(fixture_.graph, place)) {
      const Lines after = rewrites_of(variant.graph, run(variant));
      EXPECT_EQ(without_arguments(after), without_arguments(rewrites_)) << where(variant);
    }
  }
}

TEST_P(FixtureTest, RegionsAreNotCrossed) {
  if (skips("regions")) return;
  for (const Place& place : places_) expect_other_rewrite(place, region_switches(fixture_.graph, place));
}

TEST_P(FixtureTest, DtypesMatter) {
  if (skips("dtypes")) return;
  for (const Place& place : places_) {
    const bool takes_any = place.edit->call.op == "attention";  // it is torch's own
    if (!takes_any) expect_other_rewrite(place, other_dtypes(fixture_.graph, place));
  }
}

TEST_P(FixtureTest, LiteralsMatter) {
  if (skips("literals")) return;
  for (const Place& place : places_) expect_other_rewrite(place, other_literals(fixture_.graph, place));
}

TEST_P(FixtureTest, EveryEdgeMatters) {
  if (skips("wiring")) return;
  for (const Place& place : places_) expect_other_rewrite(place, other_wiring(fixture_.graph, place));
}

INSTANTIATE_TEST_SUITE_P(Rules, FixtureTest, testing::ValuesIn(fixture_names()),
                         [](const auto& info) { return last_name(info.param); });

}  // namespace

}  // namespace liger::test
