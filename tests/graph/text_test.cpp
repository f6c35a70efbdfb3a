#include <limits>
#include <stdexcept>

#include "graph/support.h"

namespace liger::graph {
namespace {

class RoundTrip : public ::testing::TestWithParam<const char*> {};

TEST_P(RoundTrip, KeepsTheLine) {
  const std::string before = "%x: bfloat16[2, 16, 64] grad = placeholder()\n%n: size(s0) = placeholder()\n";
  const std::string text = before + GetParam() + "\nreturn (%x, %n)\n";
  EXPECT_EQ(print(parse(text)), text);
}

INSTANTIATE_TEST_SUITE_P(
    Lines, RoundTrip,
    ::testing::Values("%q: bfloat16[2, 4, 16, 8]{512, 8, 32, 1} = placeholder()",
                      "%g: float32[16] on cuda:0 grad = placeholder()", "%s: float32[] = placeholder()",
                      "%e: float32[0, 4] = placeholder()", "%d: int64[s0, s0*s1, 64] = placeholder()",
                      "%d: int64[s0 + 1, (s0 + s1)//2]{Max(1, s0), 1} = placeholder()", "%k: size(12) = placeholder()",
                      "%k: size(Max(1, s0)) = operator.add(%n, 1)", "%p = placeholder(None)",
                      "%a: float32[2] = attr:model.weight()", "%w: float32[2, 16, 64] grad = .to(%x, dtype=float32)",
                      "%t: float32[2, 16, 64] = operator.pow(%x, 2)  @ model.norm  modeling_llama.py:67",
                      "%t: float32[2, 16, 64] = operator.pow(%x, 2)  @ model.norm",
                      "%t: float32[2, 16, 64] = operator.pow(%x, 2)  @ -  modeling llama.py:67",
                      "%h: bfloat16[2, 16, 8] = operator.getitem(%x, (..., 0:8))",
                      "%h: bfloat16[2] = operator.getitem(%x, (:, ::2, 1:, :-1, %n:, :%n:2, None, True, -1))",
                      "%h: bfloat16[2] = operator.getitem(%x, :)", "%m: bfloat16[2] = module:mlp.dropout(%x)",
                      "%i: bfloat16[2] = operator.iadd(%x, %x) mutates  @ model",
                      "%e: bfloat16[2] = torch.empty(2, device=<cpu>)", "%o: bfloat16[2] = user.f(<a\\>b>, <>)",
                      "%l = f((), (1,), [1], [], ((1, 2), [3, [4]]), x=(%x, [%n]))",
                      "%l = f(1, 1.0, -0.0, 1e-06, 1e+30, inf, -inf, nan, 9223372036854775807, -5)",
                      "%l = f(\"quote \\\" back \\\\ line \\n end\", \"\", \"// no comment\")",
                      "%l = f(bfloat16, bool, other)", "%l = liger::rms_norm(%x, None, 1e-05)",
                      "%l = aten::add.Tensor(%x, 1)", "%l = user.<locals>.f(%x)", "%l: size(-s0) = f()"));

TEST(Print, LeavesOutContiguousStrides) {
  TensorMeta meta;
  meta.dtype = DType::bfloat16;
  meta.shape = {SymInt(2), SymInt::symbolic("s0"), SymInt(64)};
  meta.strides = {SymInt::symbolic("64*s0"), SymInt(64), SymInt(1)};
  EXPECT_EQ(print(meta), "bfloat16[2, s0, 64]");
  meta.strides[0] = SymInt(1024);
  EXPECT_EQ(print(meta), "bfloat16[2, s0, 64]{1024, 64, 1}");
}

TEST(Parse, FillsNodes) {
  const Graph graph = parse(
      "// a comment\n"
      "   # another\n"
      "\n"
      "%x: bfloat16[2, s0]  grad = placeholder()   // and one more\n"
      "  %y :float32 [2,s0] = .to( %x , dtype = float32 ) @ model.norm  norm.py:3 // done\n"
      "%z: size(4) = operator.iadd(%x, 1.5) mutates\n"
      "return (%y,)");
  ASSERT_EQ(graph.nodes.size(), 4U);
  const Node& x = graph[0];
  EXPECT_EQ(x.kind, NodeKind::placeholder);
  EXPECT_EQ(x.target, "");
  EXPECT_EQ(x.tensor->dtype, DType::bfloat16);
  EXPECT_EQ(x.tensor->shape, (std::vector<SymInt>{2, SymInt::symbolic("s0")}));
  EXPECT_EQ(x.tensor->strides, (std::vector<SymInt>{SymInt::symbolic("s0"), 1}));
  EXPECT_TRUE(x.tensor->requires_grad);
  EXPECT_EQ(x.users, (std::vector<NodeId>{1, 2}));
  const Node& y = graph[1];
  EXPECT_EQ(y.kind, NodeKind::call_method);
  EXPECT_EQ(y.target, "to");
  EXPECT_EQ(y.kwargs.at(0).first, "dtype");
  EXPECT_EQ(std::get<DType>(y.kwargs[0].second), DType::float32);
  EXPECT_EQ(y.module_path, "model.norm");
  EXPECT_EQ(y.source, "norm.py:3");
  EXPECT_FALSE(y.tensor->requires_grad);
  const Node& z = graph[2];
  EXPECT_EQ(z.size->value(), 4);
  EXPECT_EQ(std::get<double>(z.args.at(1)), 1.5);
  EXPECT_TRUE(z.mutates);
  EXPECT_EQ(graph[3].kind, NodeKind::output);
  EXPECT_EQ(graph.find("z"), 2);
  EXPECT_EQ(graph.find("nothing"), kNoNode);
}

struct BadCase {
  std::string text, message;
  friend std::ostream& operator<<(std::ostream& out, const BadCase& c) { return out << c.text; }
};

class Bad : public ::testing::TestWithParam<BadCase> {};

TEST_P(Bad, TextSaysWhatWasExpected) {
  try {
    parse("%x: float32[2] = placeholder()\n" + GetParam().text);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(error.what(), "line 2: expected " + GetParam().message);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Messages, Bad,
    ::testing::Values(
        BadCase{"x = f()", "'%' or 'return', found 'x = f()'"}, BadCase{"% = f()", "a node name, found '= f()'"},
        BadCase{"%x = f()", "a new node name, found %x a second time"}, BadCase{"%y f()", "'=', found 'f()'"},
        BadCase{"%y: float33[2] = f()", "a dtype, found 'float33'"},
        BadCase{"%y: [2] = f()", "a dtype or size(...), found '[2] = f()'"},
        BadCase{"%y: float32 = f()", "'[' and a shape, found '= f()'"},
        BadCase{"%y: float32[2 = f()", "',' or ']', found the end of the line"},
        BadCase{"%y: float32[2,, 3] = f()", "a size, found ', 3] = f()'"},
        BadCase{"%y: float32[2, 3]{1} = f()", "2 strides, found 1"},
        BadCase{"%y: size(s0 = f()", "')', found the end of the line"},
        BadCase{"%y = (%x)", "an operation, found '(%x)'"},
        BadCase{"%y = f", "'(' after the operation, found the end of the line"},
        BadCase{"%y = f(%x", "',' or ')', found the end of the line"},
        BadCase{"%y = f(%z)", "a node defined above, found %z"},
        BadCase{"%y = f(%y)", "a node defined above, found %y"}, BadCase{"%y = f(%x,)", "a value, found ')'"},
        BadCase{"%y = f(what)", "a value, found 'what'"}, BadCase{"%y = f(1.2.3)", "a number, found '1.2.3)'"},
        BadCase{"%y = f(a=1, 2)", "a keyword argument after the first one, found '2)'"},
        BadCase{"%y = f((1, 2)", "',' or ')', found the end of the line"},
        BadCase{"%y = f([1)", "',' or ']', found ')'"},
        BadCase{"%y = f(\"text)", "a closing \", found the end of the line"},
        BadCase{"%y = f(<text)", "a closing >, found the end of the line"},
        BadCase{"%y = f(%x) more", "the end of the line, found 'more'"},
        BadCase{"%y = f(%x) @", "a module path, found the end of the line"},
        BadCase{"return (%x", "',' or ')', found the end of the line"}));

TEST(Parse, AllowsNothingAfterReturn) {
  try {
    parse("return\n%x = f()\n");
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "line 2: expected nothing after return");
  }
}

TEST(Parse, LimitsNesting) { EXPECT_THROW(parse("%y = f(" + std::string(100000, '(')), std::invalid_argument); }

}  // namespace
}  // namespace liger::graph
