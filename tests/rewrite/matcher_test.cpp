// The pieces of the pattern language, one at a time.
#include <gtest/gtest.h>

#include "rewrite/support.h"

namespace liger::test {

namespace {

using namespace rewrite;  // NOLINT(google-build-using-namespace): the vocabulary of rules

TEST(Capture, StandsForAnyTensor) {
  auto a = tensor("a"), b = tensor("b");
  EXPECT_EQ(outcome(with_inputs("%s: float32[4, 8] = operator.sub(%x, %y)\nreturn (%s,)"), operation(Op::sub, {a, b}),
                    {a, b}),
            "rewrite rule at %s: test::rule(%x, %y) -> %s");
}

TEST(Capture, TwiceMeansTheSameValue) {
  auto a = tensor("a");
  auto square = operation(Op::sub, {a, a});
  EXPECT_EQ(outcome(with_inputs("%s: float32[4, 8] = operator.sub(%x, %x)\nreturn (%s,)"), square, {a}),
            "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(outcome(with_inputs("%s: float32[4, 8] = operator.sub(%x, %y)\nreturn (%s,)"), square, {a}), "nothing");
}

TEST(Capture, LooksThroughIdentities) {
  auto a = tensor("a");
  EXPECT_EQ(outcome(with_inputs("%c: float32[4, 8] = .contiguous(%x)\n%d: float32[4, 8] = torch.clone(%c)\n"
                                "%s: float32[4, 8] = operator.sub(%x, %d)\nreturn (%s,)"),
                    operation(Op::sub, {a, a}), {a}),
            "rewrite rule at %s: test::rule(%x) -> %s");
}

TEST(Capture, IsNoNumber) {
  auto a = tensor("a"), b = tensor("b");
  EXPECT_EQ(outcome(with_inputs("%s: float32[4, 8] = operator.add(%x, 1.0)\nreturn (%s,)"), add(a, b), {a, b}),
            "nothing");
}

TEST(Operands, SwapForAddAndMulOnly) {
  auto a = tensor("a");
  const std::string text = "%n: float32[4, 8] = operator.neg(%x)\n%s: float32[4, 8] = operator.";
  EXPECT_EQ(outcome(with_inputs(text + "mul(%y, %n)\nreturn (%s,)"), mul(neg(a), tensor("b")), {a}),
            "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(outcome(with_inputs(text + "truediv(%y, %n)\nreturn (%s,)"), div(neg(a), tensor("b")), {a}), "nothing");
}

// The first operand order fits (tanh is a tensor, too), and fails only when the shared capture comes back.
TEST(Backtracking, RevisitsOperandOrders) {
  auto a = tensor("a"), b = tensor("b");
  const std::string text = with_inputs(
      "%t: float32[4, 8] = torch.tanh(%y)\n%p: float32[4, 8] = operator.mul(%t, %x)\n"
      "%s: float32[4, 8] = operator.sub(%p, %t)\nreturn (%s,)");
  EXPECT_EQ(outcome(text, operation(Op::sub, {mul(a, b), b}), {a, b}), "rewrite rule at %s: test::rule(%x, %t) -> %s");
}

TEST(Backtracking, RevisitsAlternatives) {
  auto a = tensor("a"), n = tensor("n");
  auto choice = either("choice", {neg(n), a});  // neg fits first, but the rest needs the value itself
  const std::string text =
      with_inputs("%m: float32[4, 8] = operator.neg(%x)\n%s: float32[4, 8] = operator.sub(%m, %m)\nreturn (%s,)");
  EXPECT_EQ(outcome(text, operation(Op::sub, {choice, a}), {a}), "rewrite rule at %s: test::rule(%m) -> %s");
}

TEST(Backtracking, ShortensChainsOfCasts) {
  auto a = tensor("a");
  const std::string text =
      "%x: bfloat16[4] = placeholder()\n%w: float32[4] = .float(%x)\n%n: float32[4] = operator.neg(%w)\n"
      "%s: float32[4] = operator.sub(%n, %w)\nreturn (%s,)";
  // widened(a) takes the cast first; then `a` itself would have to be %w.
  EXPECT_EQ(outcome(text, operation(Op::sub, {neg(widened(a)), a}), {a}), "rewrite rule at %s: test::rule(%w) -> %s");
}

TEST(Backtracking, ForgetsBindingsOfFailedAlternatives) {
  auto a = tensor("a"), b = tensor("b");
  auto failing = operation(Op::sub, {neg(a), neg(b)});
  auto fitting = operation(Op::sub, {b, neg(a)});
  const std::string text = with_inputs(
      "%m: float32[4, 8] = operator.neg(%x)\n%n: float32[4, 8] = torch.tanh(%y)\n"
      "%s: float32[4, 8] = operator.sub(%n, %m)\nreturn (%s,)");
  EXPECT_EQ(outcome(text, either("either", {failing, fitting}), {a, b}),
            "rewrite rule at %s: test::rule(%x, %n) -> %s");
}

TEST(Literal, IsExact) {
  auto a = tensor("a");
  const auto with = [&](const std::string& number) {
    return outcome(with_inputs("%s: float32[4, 8] = operator.mul(%x, " + number + ")\nreturn (%s,)"), mul(a, lit(2)),
                   {a});
  };
  EXPECT_EQ(with("2"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("2.0"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("2.0000001"), "nothing");
  EXPECT_EQ(with("True"), "nothing");
}

TEST(Scalar, IsALiteralOrReadFromATensor) {
  auto a = tensor("a"), number = scalar("number");
  EXPECT_EQ(
      outcome(with_inputs("%s: float32[4, 8] = operator.add(%x, 0.5)\nreturn (%s,)"), add(a, number), {a, number}),
      "rewrite rule at %s: test::rule(%x, 0.5) -> %s");
  EXPECT_EQ(outcome(with_inputs("%t: float64[] = placeholder()\n%n = .item(%t)\n"
                                "%s: float32[4, 8] = operator.add(%x, %n)\nreturn (%s,)"),
                    add(a, number), {a, number}),
            "rewrite rule at %s: test::rule(%x, %n) -> %s");
  EXPECT_EQ(outcome(with_inputs("%s: float32[4, 8] = operator.add(%x, %y)\nreturn (%s,)"), add(a, number), {a}),
            "nothing");
}

TEST(Scalar, TwiceMeansTheSameNumber) {
  auto a = tensor("a"), cap = scalar("cap");
  const auto with = [&](const std::string& second) {
    return outcome(with_inputs("%d: float32[4, 8] = operator.truediv(%x, 30.0)\n%t: float32[4, 8] = torch.tanh(%d)\n"
                               "%s: float32[4, 8] = operator.mul(%t, " +
                               second + ")\nreturn (%s,)"),
                   mul(tanh(div(a, cap)), cap), {a, cap});
  };
  EXPECT_EQ(with("30"), "rewrite rule at %s: test::rule(%x, 30.0) -> %s");
  EXPECT_EQ(with("50.0"), "nothing");
}

TEST(Optional, MatchesATensorOrNone) {
  auto a = tensor("a"), w = tensor("w"), bias = optional_tensor("bias");
  const auto with = [&](const std::string& third) {
    return outcome(
        "%x: float32[4, 8] = placeholder()\n%w: float32[4, 8] = placeholder()\n%b: float32[4] = "
        "placeholder()\n%s: float32[4, 4] = torch._C._nn.linear(%x, %w" +
            third + ")\nreturn (%s,)",
        operation(Op::linear, {a, w, bias}), {a, w, bias});
  };
  EXPECT_EQ(with(", %b"), "rewrite rule at %s: test::rule(%x, %w, %b) -> %s");
  EXPECT_EQ(with(", None"), "rewrite rule at %s: test::rule(%x, %w, None) -> %s");
  EXPECT_EQ(with(""), "rewrite rule at %s: test::rule(%x, %w, None) -> %s");
}

TEST(Widened, IsTheSameValueHoweverOftenItIsWritten) {
  auto a = tensor("a");
  auto wide = widened(a);
  const auto with = [&](const std::string& second) {
    return outcome("%x: bfloat16[4] = placeholder()\n%v: float32[4] = .float(%x)\n%w: " + second +
                       "\n%s: float32[4] = operator.sub(%v, %w)\nreturn (%s,)",
                   operation(Op::sub, {wide, wide}), {a});
  };
  EXPECT_EQ(with("float32[4] = .to(%x, float32)"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("bfloat16[4] = .contiguous(%x)"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("float16[4] = .half(%x)"), "nothing");
}

TEST(Widened, IsLossless) {
  auto a = tensor("a");
  const auto with = [&](const std::string& from, const std::string& to) {
    return outcome("%x: " + from + "[4] = placeholder()\n%w: " + to + "[4] = .to(%x, " + to + ")\n%s: " + to +
                       "[4] = operator.neg(%w)\nreturn (%s,)",
                   neg(widened(a)), {a});
  };
  EXPECT_EQ(with("bfloat16", "float32"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("float16", "float32"), "rewrite rule at %s: test::rule(%x) -> %s");
  EXPECT_EQ(with("float32", "bfloat16"), "rewrite rule at %s: test::rule(%w) -> %s");
  EXPECT_EQ(with("float16", "bfloat16"), "rewrite rule at %s: test::rule(%w) -> %s");
  EXPECT_EQ(with("bfloat16", "float64"), "rewrite rule at %s: test::rule(%w) -> %s");  // not what kernels compute in
}

// float32 -> bfloat16 -> float32 is a rounding: the value behind it is another one.
TEST(Widened, StopsAtARounding) {
  auto a = tensor("a");
  EXPECT_EQ(outcome("%x: float32[4] = placeholder()\n%r: bfloat16[4] = .bfloat16(%x)\n%w: float32[4] = .float(%r)\n"
                    "%s: float32[4] = operator.neg(%w)\nreturn (%s,)",
                    neg(widened(a)), {a}),
            "rewrite rule at %s: test::rule(%r) -> %s");
}

TEST(Rounded, TellsWhetherItIsThere) {
  auto a = tensor("a");
  auto result = rounded("rounding", neg(a));
  Rule rule("rule");
  rule.match(result).replace([=](const Match& m) {
    return Replacement{Expr{"test::rule", {m(a), m.has(result)}, {}}, "rule"};
  });
  const std::string text = "%x: float32[4] = placeholder()\n%n: float32[4] = operator.neg(%x)\n";
  EXPECT_EQ(outcome(text + "%r: bfloat16[4] = .bfloat16(%n)\nreturn (%r,)", {rule}),
            "rewrite rule at %r: test::rule(%x, True) -> %r");
  EXPECT_EQ(outcome(text + "return (%n,)", {rule}), "rewrite rule at %n: test::rule(%x, False) -> %n");
}

// Two slices of one value are two values, although the chain that absorbs them starts from the same one.
TEST(Through, ASliceIsAValueOfItsOwn) {
  auto a = tensor("a");
  auto rows = through("rows", neg(a), {Op::slice}, [](const Candidate&) { return ok(); });
  EXPECT_EQ(outcome(with_inputs("%n: float32[4, 8] = operator.neg(%x)\n%p: float32[2, 8] = operator.getitem(%n, 0:2)\n"
                                "%q: float32[2, 8] = operator.getitem(%n, 2:4)\n"
                                "%s: float32[2, 8] = operator.sub(%p, %q)\nreturn (%s,)"),
                    operation(Op::sub, {rows, rows}), {a}),
            "nothing");
}

TEST(Steps, RunOutWithAReason) {
  auto deep = tensor("leaf");
  for (int i = 0; i < 12; ++i) deep = mul(deep, deep);
  std::string text = with_inputs("%n0: float32[4, 8] = operator.mul(%x, %x)\n");
  for (int i = 1; i < 12; ++i) {
    const std::string previous = "%n" + std::to_string(i - 1);
    text += "%n" + std::to_string(i) + ": float32[4, 8] = operator.mul(" + previous + ", " +
            (i == 11 ? "%y" : previous) + ")\n";
  }
  EngineOptions options;
  options.step_budget = 20;
  const std::string lines = outcome(text + "return (%n11,)", {rule_of(deep, {})}, options);
  EXPECT_NE(lines.find("declined rule at %n11: the search gave up after 20 steps"), std::string::npos) << lines;
}

TEST(Describe, PrintsPatterns) {
  auto a = tensor("x"), eps = scalar("eps");
  EXPECT_EQ(describe(mul(widened(a), rsqrt(add(mean_last(pow(a, 2)), eps)))),
            "mul(widened(x), rsqrt(add(mean(pow(x, 2)), eps)))");
  EXPECT_EQ(describe(either("half", {neg(a), mul(a, lit(-1))})), "either(neg(x) | mul(x, -1))");
}

TEST(RootOps, ListsWhatAMatchCanStartWith) {
  auto a = tensor("a");
  EXPECT_EQ(root_ops(either("e", {neg(a), rounded("r", tanh(a))})), (std::vector<Op>{Op::neg, Op::cast, Op::tanh}));
  EXPECT_TRUE(root_ops(a).empty());
}

}  // namespace

}  // namespace liger::test
