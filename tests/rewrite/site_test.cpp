// What is checked for every rule: who else reads, who writes, regions, order.
#include <gtest/gtest.h>

#include "rewrite/support.h"

namespace liger::test {

namespace {

using namespace rewrite;  // NOLINT(google-build-using-namespace): the vocabulary of rules

// tanh(neg(x) + y) * z, where the sum may be an output.
std::string run(const std::string& body, bool sum_is_output = false) {
  auto a = tensor("a"), b = tensor("b"), c = tensor("c");
  auto sum = add(neg(widened(a)), b);
  if (sum_is_output) sum = sum.as_output(1);
  Rule rule("rule");
  rule.match(mul(tanh(sum), c)).replace([=](const Match& m) {
    return Replacement{Expr{"test::rule", {m(a), m(b), m(c)}, {}}, "rule", sum_is_output ? 0 : kOnlyResult};
  });
  return outcome(
      "%x: bfloat16[4] = placeholder()\n%y: float32[4] = placeholder()\n%z: float32[4] = placeholder()\n" + body,
      {rule});
}

const char* const kWide = "%w: float32[4] = .float(%x)\n";
const char* const kNeg = "%n: float32[4] = operator.neg(%w)\n";
const char* const kSum = "%a: float32[4] = operator.add(%n, %y)\n";
const char* const kTanh = "%t: float32[4] = torch.tanh(%a)\n";
const char* const kRoot = "%r: float32[4] = operator.mul(%t, %z)\n";

std::string body(const std::string& before_sum, const std::string& before_root, const std::string& after) {
  return std::string(kWide) + kNeg + before_sum + kSum + kTanh + before_root + kRoot + after;
}

const char* const kRewritten = "rewrite rule at %r: test::rule(%x, %y, %z) -> %r";

TEST(Escapes, NoneIsFine) { EXPECT_EQ(run(body("", "", "return (%r,)")), kRewritten); }

TEST(Escapes, NamesTheUser) {
  EXPECT_EQ(run(body("", "", "%u: float32[4] = torch.sin(%n)\nreturn (%r, %u)")),
            "declined rule at %r: %n is also used by %u");
}

TEST(Escapes, NamesTheGraphsOutput) {
  EXPECT_EQ(run(body("", "", "return (%r, %t)")), "declined rule at %r: %t is also returned by the graph");
}

TEST(Escapes, ADeclaredOutputComesFromTheCall) {
  EXPECT_EQ(run(body("", "", "return (%r, %a)"), true),
            "rewrite rule at %r: test::rule(%x, %y, %z) -> %r = output 0, %a = output 1");
}

TEST(Escapes, ADeclaredOutputMayLeaveBehindAnIdentity) {
  const std::string text = std::string(kWide) + kNeg + kSum +
                           "%i: float32[4] = torch.clone(%a)\n%t: float32[4] = torch.tanh(%i)\n" + kRoot +
                           "return (%r, %i)";
  EXPECT_EQ(run(text, true),
            "rewrite rule at %r: test::rule(%x, %y, %z) -> %r = output 0, %a = output 1, %i = output 1");
}

TEST(Escapes, ACastOfAnInputMayStay) { EXPECT_EQ(run(body("", "", "return (%r, %w)")), kRewritten); }

TEST(Escapes, ThroughAChainOfIdentities) {
  const std::string chain = "%i: float32[4] = torch.clone(%n)\n%j: float32[4] = .contiguous(%i)\n";
  const std::string sum = "%a: float32[4] = operator.add(%j, %y)\n";
  EXPECT_EQ(run(kWide + std::string(kNeg) + chain + sum + kTanh + kRoot + "return (%r,)"), kRewritten);
  EXPECT_EQ(run(kWide + std::string(kNeg) + chain + sum + kTanh + kRoot + "return (%r, %i)"),
            "declined rule at %r: %i is also returned by the graph");
}

TEST(Order, AnOutputMayNotBeReadBeforeTheCall) {
  EXPECT_EQ(run(body("", "%u: float32[4] = torch.sin(%a)\n", "return (%r, %u)"), true),
            "declined rule at %r: %a is used by %u before %r, where the fused call would make it");
}

TEST(Writes, ToAnInputBetweenUseAndCall) {
  EXPECT_EQ(run(body("", "%u: float32[4] = .add_(%y, 1.0) mutates\n", "return (%r,)")),
            "declined rule at %r: %y may be modified in place by %u before %r");
}

TEST(Writes, ToAViewOfAnInput) {
  EXPECT_EQ(run("%v: float32[2, 2] = .view(%y, 2, 2)\n" +
                body("", "%u: float32[2, 2] = .zero_(%v) mutates\n", "return (%r,)")),
            "declined rule at %r: %y may be modified in place by %u before %r");
}

TEST(Writes, ByOut) {
  EXPECT_EQ(run(body("", "%u: float32[4] = torch.sin(%z, out=%y)\n", "return (%r,)")),
            "declined rule at %r: %y may be modified in place by %u before %r");
}

TEST(Writes, ByAssignment) {
  EXPECT_EQ(run(body("", "%u = operator.setitem(%y, 0:2, 0.0) mutates\n", "return (%r,)")),
            "declined rule at %r: %y may be modified in place by %u before %r");
}

TEST(Writes, ByAnUnknownModule) {
  EXPECT_EQ(run(body("", "%u: float32[4] = module:mystery(%y) mutates\n", "return (%r,)")),
            "declined rule at %r: %y may be modified in place by %u before %r");
}

// The call cannot read %x any more; the up-cast that was made before the write is still what it was.
TEST(Writes, ToWhatWasCastLeavesTheCast) {
  EXPECT_EQ(run(body("", "%u: bfloat16[4] = .add_(%x, 1.0) mutates\n", "return (%r,)")),
            "rewrite rule at %r: test::rule(%w, %y, %z) -> %r");
}

TEST(Writes, BeforeTheFirstUseAreHarmless) {
  EXPECT_EQ(run("%u: float32[4] = .add_(%z, 1.0) mutates\n" + body("", "", "return (%r,)")), kRewritten);
}

TEST(Writes, ToAnInputThatIsReadOnlyByTheRootAreHarmless) {
  EXPECT_EQ(run(body("", "%u: float32[4] = .add_(%z, 1.0) mutates\n", "return (%r,)")), kRewritten);
}

TEST(Writes, AfterTheCallAreHarmless) {
  EXPECT_EQ(run(body("", "", "%u: float32[4] = .add_(%y, 1.0) mutates\nreturn (%r,)")), kRewritten);
}

TEST(Writes, ToAnInteriorValue) {
  EXPECT_EQ(run(body("", "%u: float32[4] = .add_(%a, 1.0) mutates\n", "return (%r,)"), true),
            "declined rule at %r: %a may be modified in place by %u before %r");
}

TEST(Writes, ToAnotherTensorAreHarmless) {
  EXPECT_EQ(
      run("%o: float32[4] = placeholder()\n" + body("", "%u: float32[4] = .add_(%o, 1.0) mutates\n", "return (%r,)")),
      kRewritten);
}

const char* const kEnter = R"(%e = torch.amp.autocast_mode._enter_autocast("cpu", bfloat16, True, False)
)";

TEST(Regions, AutocastInsideRefuses) {
  EXPECT_EQ(run(body(kEnter, "", "%l = torch.amp.autocast_mode._exit_autocast(%e)\nreturn (%r,)")),
            "declined rule at %r: %n and %r are in different autocast regions");
}

TEST(Regions, AutocastAroundIsFine) {
  EXPECT_EQ(run(kEnter + body("", "", "%l = torch.amp.autocast_mode._exit_autocast(%e)\nreturn (%r,)")), kRewritten);
}

TEST(Regions, GradModeInsideRefuses) {
  EXPECT_EQ(
      run(body("%g = torch._C._set_grad_enabled(False)\n", "", "%h = torch._C._set_grad_enabled(True)\nreturn (%r,)")),
      "declined rule at %r: gradients are switched on or off between %n and %r");
}

TEST(Regions, ASwitchThatIsOverIsFine) {
  EXPECT_EQ(
      run(body("%g = torch._C._set_grad_enabled(False)\n%h = torch._C._set_grad_enabled(True)\n", "", "return (%r,)")),
      kRewritten);
}

}  // namespace

}  // namespace liger::test
