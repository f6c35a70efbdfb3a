// The mask algebra: terms, and what it makes of graphs. A property test in tests/integration compares it with torch.
#include "rewrite/mask/mask.h"

#include <gtest/gtest.h>

#include "graph/text.h"

namespace liger::rewrite::mask {
namespace {

Linear axis(std::int32_t id, const graph::SymInt& range = 16) { return Linear::variable(id, range); }
Linear plus(const Linear& a, const Linear& b, std::int64_t factor = 1) { return Linear::sum(a, b, factor).value(); }

TEST(Linear, AddsAndPrints) {
  const Linear form = plus(plus(axis(kKey), axis(kQuery), -2), Linear(7));
  EXPECT_EQ(form.text(), "key - 2*query + 7");
  EXPECT_EQ(plus(form, form, -1).text(), "0");
  EXPECT_EQ(Linear::variable(kQuery, 1).text(), "0");
}

TEST(Linear, KnowsItsBounds) {
  EXPECT_EQ(plus(axis(kKey), axis(kQuery), -1).lower_bound(), -15);
  EXPECT_EQ(plus(axis(kKey), axis(kQuery), -1).upper_bound(), 15);
  const graph::SymInt length = graph::SymInt::symbolic("s0");
  EXPECT_EQ(axis(kKey, length).lower_bound(), 0);
  EXPECT_EQ(axis(kKey, length).upper_bound(), std::nullopt);
  EXPECT_EQ(plus(Linear::size(length), axis(kKey, length), -1).lower_bound(), 1);
  EXPECT_EQ(Linear::size(graph::SymInt::symbolic("s0 - s1")).lower_bound(), std::nullopt);
  EXPECT_EQ(Linear::element({0, "x", false}, {}).lower_bound(), std::nullopt);
}

TEST(Linear, DividesDown) {
  EXPECT_EQ(Linear::floor_of(axis(kKey), 16).text(), "0");
  EXPECT_EQ(Linear::floor_of(axis(kKey), 8).text(), "floor((key) / 8)");
  EXPECT_EQ(Linear::floor_of(plus(axis(kKey), axis(kQuery), 16), 16).text(), "query");
  EXPECT_EQ(Linear::floor_of(plus(Linear(-1), axis(kKey), -1), 16).text(), "-1");
}

TEST(Linear, RefusesToOverflow) {
  const Linear large(INT64_MAX);
  EXPECT_EQ(Linear::sum(large, Linear(1)), std::nullopt);
  EXPECT_EQ(axis(kKey).scaled(INT64_MAX)->scaled(2), std::nullopt);
}

TEST(Condition, IsDecidedByBounds) {
  EXPECT_TRUE(Condition::not_negative(axis(kKey)).is(true));
  EXPECT_TRUE(Condition::not_negative(plus(Linear(-16), axis(kKey))).is(false));
  EXPECT_TRUE(Condition::zero(plus(Linear(16), axis(kKey), -1)).is(false));
  EXPECT_TRUE(Condition::not_zero(plus(Linear(16), axis(kKey), -1)).is(true));
  EXPECT_TRUE(Condition::zero(plus(axis(kKey).scaled(2).value(), Linear(1))).is(false));
}

TEST(Condition, DropsWhatAnotherPartImplies) {
  const Linear distance = plus(axis(kQuery), axis(kKey), -1);
  const Condition causal = Condition::not_negative(distance),
                  loose = Condition::not_negative(plus(distance, Linear(3)));
  EXPECT_EQ(Condition::all_of({loose, causal}).text(), "key <= query");
  EXPECT_EQ(Condition::any_of({causal, loose}).text(), "key <= query + 3");
  EXPECT_TRUE(Condition::all_of({causal, causal.negated()}).is(false));
  EXPECT_TRUE(Condition::any_of({causal, loose.negated()}).text() == "key <= query or query + 4 <= key");
  EXPECT_TRUE(Condition::any_of({causal.negated(), loose}).is(true));
}

// The mask %m of scores of 2 x 4 x 16 x 16 (or of 16 x s0), after lines that make it.
std::string mask_of(const std::string& lines, const graph::SymInt& keys = 16) {
  const graph::Graph graph = graph::parse(
      "%p: int64[2, 16] = placeholder()\n%b: bool[2, 16] = placeholder()\n%f: float32[2, 16] = placeholder()\n"
      "%q: int64[16] = torch.arange(16)\n%qi: int64[16, 1] = .unsqueeze(%q, 1)\n"
      "%n: size(s0) = placeholder()\n%k: int64[s0] = torch.arange(%n)\n" +
      lines + "\nreturn (%m,)\n");
  const graph::CanonicalGraph view(graph);
  const ReadMask read =
      read_mask(view, {}, view.resolve(graph.find("m")), static_cast<int>(graph.nodes.size()), {2, 4, 16, keys});
  return read.understood ? read.mask.text() : read.understood.reason();
}

struct Case {
  std::string lines, expected;
  graph::SymInt keys = 16;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.lines; }
};
class MaskTest : public testing::TestWithParam<Case> {};
TEST_P(MaskTest, IsUnderstood) { EXPECT_EQ(mask_of(GetParam().lines, GetParam().keys), GetParam().expected); }

INSTANTIATE_TEST_SUITE_P(
    Masks, MaskTest,
    testing::Values(
        Case{"%m: bool[16, 16] = operator.le(%q, %qi)", "causal"},
        Case{"%m: bool[16, 16] = operator.ge(%qi, %q)", "causal"},
        Case{"%m: bool[16, s0] = operator.le(%k, %qi)", "causal", graph::SymInt::symbolic("s0")},
        Case{"%m: bool[16, 16] = operator.lt(%q, %qi)", "key + 1 <= query"},
        Case{"%o: bool[16, 16] = torch.ones(16, 16, dtype=bool)\n%m: bool[16, 16] = .tril(%o)", "causal"},
        Case{"%o: bool[16, 16] = torch.ones(16, 16, dtype=bool)\n%t: bool[16, 16] = .triu(%o, 1)\n"
             "%m: bool[16, 16] = operator.invert(%t)",
             "causal"},
        Case{"%m: bool[16, 16] = operator.ge(%q, 0)", "the mask %m does not fit the scores", 17},
        Case{"%m: bool[16] = operator.ge(%q, 0)", "nothing hidden"}, Case{"%m: bool[16] = operator.lt(%q, 0)", "false"},
        // Narrow types and floats are exact only up to a bound.
        Case{"%i: int8[16] = .to(%q, int8)\n%m: bool[16, 16] = operator.le(%i, %qi)", "causal"},
        Case{"%w: int64[16] = operator.mul(%q, 100)\n%i: int8[16] = .to(%w, int8)\n%m: bool[16, 16] = operator.le(%i, "
             "%qi)",
             "%i[key] <= query"},
        Case{"%i: bfloat16[16] = .to(%q, bfloat16)\n%j: bfloat16[16, 1] = .to(%qi, bfloat16)\n"
             "%m: bool[16, 16] = operator.le(%i, %j)",
             "causal"},
        // Elements of inputs.
        Case{"%u: bool[2, 1, 1, 16] = .view(%b, 2, 1, 1, 16)\n%c: bool[16, 16] = operator.le(%q, %qi)\n"
             "%m: bool[2, 1, 16, 16] = operator.and_(%c, %u)",
             "causal, padding %b"},
        Case{"%a: int64[2, 1, 16, 1] = .view(%p, 2, 1, 16, 1)\n%c: int64[2, 1, 1, 16] = .view(%p, 2, 1, 1, 16)\n"
             "%m: bool[2, 1, 16, 16] = operator.eq(%a, %c)",
             "documents %p"},
        Case{"%a: int64[2, 1, 16, 1] = .view(%p, 2, 1, 16, 1)\n%c: int64[2, 1, 1, 16] = .view(%p, 2, 1, 1, 16)\n"
             "%m: bool[2, 1, 16, 16] = operator.le(%a, %c)",
             "%m[batch, 0, query, key]"},
        Case{"%a: float32[2, 1, 1, 16] = .view(%f, 2, 1, 1, 16)\n%m: float32[2, 1, 1, 16] = operator.mul(%a, 0.0)",
             "the mask is not understood: %f is float32[2, 16] by an input"},
        // Added numbers.
        Case{"%z: float32[16, 16] = torch.full((16, 16), -1e9)\n%m: float32[16, 16] = .triu(%z, 1)",
             "the mask %m is added to the scores, and its values are not only 0 and -inf"},
        Case{"%z: float32[16, 16] = torch.full((16, 16), -3.4028234663852886e+38)\n%m: float32[16, 16] = .triu(%z, 1)",
             "causal"}));

// Known wrong turns: what must not be taken for another mask.
TEST(Mask, FloorsOfUnlikeOffsetsAreNoChunks) {
  const Linear key = Linear::floor_of(axis(kKey), 8), query = Linear::floor_of(plus(axis(kQuery), Linear(3)), 8);
  EXPECT_EQ(classify(Condition::zero(plus(key, query, -1))).terms.front().kind, Term::Kind::other);
}

TEST(Mask, ElementsOfTwoTensorsAreNoDocuments) {
  const Linear a = Linear::element({0, "a", false}, {axis(kKey)}), b = Linear::element({1, "b", false}, {axis(kQuery)});
  EXPECT_EQ(classify(Condition::zero(plus(a, b, -1))).terms.front().kind, Term::Kind::other);
}

TEST(Mask, AFactIsReadAtTheBodysPositions) {
  const graph::Graph outer = graph::parse(
      "%q: int64[16] = torch.arange(16)\n%qi: int64[16, 1] = .unsqueeze(%q, 1)\n%ids: int64[16] = placeholder()\n"
      "%a: int64[16, 1] = .unsqueeze(%ids, 1)\n%d: bool[16, 16] = operator.eq(%a, %ids)\n"
      "%c: bool[16, 16] = operator.le(%q, %qi)\n%m: bool[16, 16] = operator.and_(%c, %d)\nreturn (%m,)\n");
  const Facts known = facts_of(graph::CanonicalGraph(outer), {}, {"m"});
  ASSERT_EQ(known.size(), 1U);
  const graph::Graph body = graph::parse("%ids: bool[16, 16] = placeholder()\nreturn (%ids,)\n");
  const graph::CanonicalGraph view(body);
  const ReadMask read = read_mask(view, {{"ids", known.at("m")}}, 0, 1, {2, 4, 16, 16});
  ASSERT_TRUE(read.understood);
  EXPECT_EQ(read.mask.text(), "causal, documents %ids");
  EXPECT_TRUE(read.mask.terms.back().source->is_outer);
}

TEST(Mask, OnlyEarlierWritesMatter) {
  const graph::Graph graph = graph::parse(
      "%q: int64[16] = torch.arange(16)\n%qi: int64[16, 1] = .unsqueeze(%q, 1)\n"
      "%m: bool[16, 16] = operator.le(%q, %qi)\n%x: float32[2] = placeholder()\n%y: float32[2] = torch.sin(%x)\n"
      "%w: bool[16, 16] = .logical_not_(%m) mutates\nreturn (%y,)\n");
  const graph::CanonicalGraph view(graph);
  const auto understood = [&](const char* at) {
    return static_cast<bool>(read_mask(view, {}, graph.find("m"), graph.find(at), {2, 4, 16, 16}).understood);
  };
  EXPECT_TRUE(understood("y"));
  EXPECT_FALSE(understood("output"));
}

}  // namespace
}  // namespace liger::rewrite::mask
