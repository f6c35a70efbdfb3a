// Many matches: overlaps, pairs, records, exceptions, options.
#include <gtest/gtest.h>

#include <stdexcept>

#include "rewrite/support.h"

namespace liger::test {

namespace {

using namespace rewrite;  // NOLINT(google-build-using-namespace): the vocabulary of rules

const char* const kChain =
    "%x: float32[4] = placeholder()\n%y: float32[4] = placeholder()\n%n: float32[4] = operator.neg(%x)\n"
    "%t: float32[4] = torch.tanh(%n)\n%m: float32[4] = operator.mul(%t, %y)\nreturn (%m,)";

TEST(Overlaps, TheLargerMatchWins) {
  auto a = tensor("a"), b = tensor("b");
  EXPECT_EQ(outcome(kChain, {rule_of(tanh(neg(a)), {a}, "small"), rule_of(mul(tanh(neg(a)), b), {a, b}, "large")}),
            "rewrite large at %m: test::large(%x, %y) -> %m");
}

TEST(Overlaps, MatchesThatMerelyTouchAreBothMade) {
  auto a = tensor("a"), b = tensor("b");
  EXPECT_EQ(outcome(kChain, {rule_of(mul(tanh(a), b), {a, b}, "second"), rule_of(neg(a), {a}, "first")}),
            "rewrite first at %n: test::first(%x) -> %n\nrewrite second at %m: test::second(%n, %y) -> %m");
}

TEST(Overlaps, WhatTheLargerOneIsRefusedTheSmallerOneGets) {
  auto a = tensor("a"), b = tensor("b");
  Rule large = rule_of(mul(tanh(neg(a)), b), {a, b}, "large");
  large.require([](const Match&) { return because("it is too large"); });
  EXPECT_EQ(outcome(kChain, {rule_of(tanh(neg(a)), {a}, "small"), large}),
            "rewrite small at %t: test::small(%x) -> %t\ndeclined large at %m: it is too large");
}

TEST(Options, DisabledRulesDoNothing) {
  auto a = tensor("a");
  EngineOptions options;
  options.disable = {"rule"};
  EXPECT_EQ(outcome(kChain, {rule_of(neg(a), {a})}, options), "nothing");
}

TEST(Records, ANearMissNeedsTheDistinctivePart) {
  auto a = tensor("a"), b = tensor("b");
  auto distinctive = neg(a);
  Rule rule = rule_of(mul(tanh(distinctive), operation(Op::exp, {b})), {a, b});
  EXPECT_EQ(outcome(kChain, {rule}), "nothing");
  rule.near_miss_once(distinctive);
  EXPECT_EQ(outcome(kChain, {rule}), "near_miss rule at %n: %y (input) is not exp");
}

TEST(Records, ACompleteMatchThatIsRefusedIsDeclined) {
  auto a = tensor("a"), b = tensor("b");
  Rule rule = rule_of(mul(tanh(neg(a)), b), {a, b});
  rule.require([](const Match& m) { return because("%" + m.root_node().name + " does not suit"); });
  EXPECT_EQ(outcome(kChain, {rule}), "declined rule at %m: %m does not suit");
}

// The refusal that passed most checks says what to change.
TEST(Records, TheRefusalThatCameFurthestIsKept) {
  auto a = tensor("a"), b = tensor("b"), wide = tensor("wide");
  auto input = either("input", {neg(a), wide});
  Rule rule = rule_of(mul(tanh(input), b), {b});
  rule.require([=](const Match& m) { return m.has(a) ? ok() : because("the input must be negated"); })
      .require([](const Match&) { return because("the second check fails"); });
  EXPECT_EQ(outcome(kChain, {rule}), "declined rule at %m: the second check fails");
}

TEST(Records, CountNodesAndKeepTheDetail) {
  auto a = tensor("a");
  const graph::Graph graph = graph::parse(kChain);
  const RewriteResult result = rewrite::rewrite(graph, {rule_of(tanh(neg(a)), {a})});
  ASSERT_EQ(result.records.size(), 1U);
  EXPECT_EQ(result.records[0].num_nodes, 2U);
  EXPECT_EQ(result.records[0].detail, "rule");
  EXPECT_EQ(result.edits[0].record, 0U);
  EXPECT_EQ(result.edits[0].interior, (std::vector<graph::NodeId>{graph.find("n"), graph.find("t")}));
}

Rule throwing() {
  auto a = tensor("a");
  Rule rule = rule_of(tanh(a), {a}, "throwing");
  rule.require([](const Match&) -> Verdict { throw std::runtime_error("broken"); });
  return rule;
}

TEST(Exceptions, CostTheRuleAndNothingElse) {
  auto a = tensor("a");
  EXPECT_EQ(outcome(kChain, {throwing(), rule_of(neg(a), {a}, "other")}),
            "rewrite other at %n: test::other(%x) -> %n\nerror throwing: broken");
}

TEST(Exceptions, GoOutWhereStrict) {
  EngineOptions options;
  options.strict = true;
  EXPECT_THROW(outcome(kChain, {throwing()}, options), std::runtime_error);
}

TEST(Exceptions, InsideAReplacementToo) {
  auto a = tensor("a");
  Rule rule("rule");
  rule.match(neg(a)).replace([](const Match&) -> Replacement { throw std::runtime_error("cannot build"); });
  EXPECT_EQ(outcome(kChain, {rule}), "error rule: cannot build");
}

Rule pair_rule() {
  auto x = tensor("x"), table = tensor("table");
  Rule rule("pair");
  rule.match(mul(tanh(x), table)).replace_pair({table}, "it is alone", [=](const std::vector<Match>& pair) {
    return Replacement{Expr{"test::pair", {pair[0](x), pair[1](x), pair[0](table)}, {}}, "pair"};
  });
  return rule;
}

std::string pair_graph(const std::string& between, const std::string& second_table, const std::string& result) {
  return "%a: float32[4] = placeholder()\n%b: float32[4] = placeholder()\n%s: float32[4] = placeholder()\n"
         "%u: float32[4] = placeholder()\n%t: float32[4] = torch.tanh(%a)\n%p: float32[4] = operator.mul(%t, %s)\n" +
         between + "%v: float32[4] = torch.tanh(%b)\n%q: float32[4] = operator.mul(%v, " + second_table +
         ")\nreturn (" + result + ")";
}

TEST(Pairs, ShareOneCall) {
  EXPECT_EQ(outcome(pair_graph("", "%s", "%p, %q"), {pair_rule()}),
            "rewrite pair at %q: test::pair(%a, %b, %s) -> %p = output 0, %q = output 1");
}

TEST(Pairs, NeedTheSameSharedValues) {
  EXPECT_EQ(outcome(pair_graph("", "%u", "%p, %q"), {pair_rule()}),
            "declined pair at %p: it is alone\ndeclined pair at %q: it is alone");
}

TEST(Pairs, ANodeThatReadsTheFirstBeforeTheSecondRefuses) {
  EXPECT_EQ(outcome(pair_graph("%o: float32[4] = torch.sin(%p)\n", "%s", "%p, %q, %o"), {pair_rule()}),
            "declined pair at %p: %p is used by %o before %q, where the fused call would make it\n"
            "declined pair at %q: it is alone");
}

TEST(Pairs, AWriteBetweenRefuses) {
  EXPECT_EQ(outcome(pair_graph("%o: float32[4] = .add_(%a, 1.0) mutates\n", "%s", "%p, %q"), {pair_rule()}),
            "declined pair at %p: %a may be modified in place by %o before %q\ndeclined pair at %q: it is alone");
}

TEST(Pairs, AConditionOfBothRefuses) {
  Rule rule = pair_rule();
  rule.require_of_pair([](const Match&, const Match&) { return because("they do not suit each other"); });
  EXPECT_EQ(outcome(pair_graph("", "%s", "%p, %q"), {rule}),
            "declined pair at %p: they do not suit each other\ndeclined pair at %q: it is alone");
}

// A part of a match is no partner of the whole.
TEST(Pairs, AMatchInsideAnotherIsNoNeighbour) {
  auto x = tensor("x"), table = tensor("table");
  auto part = mul(tanh(x), table);
  Rule rule("pair");
  rule.match(either("whole", {neg(part), part}))
      .replace_pair({table}, "it is alone", [=](const std::vector<Match>& pair) {
        return Replacement{Expr{"test::pair", {pair[0](x), pair[1](x), pair[0](table)}, {}}, "pair"};
      });
  EXPECT_EQ(outcome("%a: float32[4] = placeholder()\n%s: float32[4] = placeholder()\n%t: float32[4] = torch.tanh(%a)\n"
                    "%p: float32[4] = operator.mul(%t, %s)\n%n: float32[4] = operator.neg(%p)\nreturn (%n,)",
                    {rule}),
            "declined pair at %n: it is alone");
}

}  // namespace

}  // namespace liger::test
