// Dtypes, sizes, and the graph container.
#include "graph/support.h"

namespace liger::graph {
namespace {

TEST(DType, HasTheNamesOfTorch) {
  EXPECT_EQ(name_of(DType::bfloat16), "bfloat16");
  EXPECT_EQ(dtype_from_name("torch.float16"), DType::float16);
  EXPECT_EQ(dtype_from_name("bool"), DType::boolean);
  EXPECT_EQ(dtype_from_name("float8_e4m3fn"), DType::other);
}

TEST(DType, KnowsItsKind) {
  EXPECT_TRUE(is_floating(DType::float64));
  EXPECT_FALSE(is_floating(DType::complex64));
  EXPECT_TRUE(is_integral(DType::boolean));
  EXPECT_FALSE(is_integral(DType::other));
}

TEST(DType, KnowsLosslessCasts) {
  const std::vector<std::pair<DType, DType>> lossless = {
      {DType::bfloat16, DType::float32}, {DType::float16, DType::float32},  {DType::float32, DType::float64},
      {DType::float32, DType::float32},  {DType::uint8, DType::int16},      {DType::boolean, DType::bfloat16},
      {DType::uint8, DType::bfloat16},   {DType::int8, DType::bfloat16},    {DType::int16, DType::float32},
      {DType::int32, DType::float64},    {DType::float32, DType::complex64}};
  for (const auto& [from, to] : lossless) EXPECT_TRUE(is_lossless_cast(from, to)) << name_of(from) << name_of(to);
  const std::vector<std::pair<DType, DType>> lossy = {
      {DType::float16, DType::bfloat16},  {DType::bfloat16, DType::float16}, {DType::float32, DType::bfloat16},
      {DType::int64, DType::float64},     {DType::int32, DType::float32},    {DType::int8, DType::uint8},
      {DType::float32, DType::int64},     {DType::int64, DType::boolean},    {DType::other, DType::other},
      {DType::complex64, DType::float32}, {DType::int16, DType::float16},    {DType::float64, DType::complex64}};
  for (const auto& [from, to] : lossy) EXPECT_FALSE(is_lossless_cast(from, to)) << name_of(from) << name_of(to);
}

SymInt symbol(const char* text) { return SymInt::symbolic(text); }

TEST(SymInt, EqualsByProofOnly) {
  EXPECT_EQ(SymInt(3), SymInt(3));
  EXPECT_NE(SymInt(3), SymInt(4));
  EXPECT_EQ(symbol("s0"), symbol("s0"));
  EXPECT_NE(symbol("s0"), symbol("s1"));
  EXPECT_NE(symbol("s0"), SymInt(0));
}

TEST(SymInt, AddsInCanonicalText) {
  EXPECT_EQ(symbol("s0") + 1, symbol("s0 + 1"));
  EXPECT_EQ(symbol("s0 + 1") + -1, symbol("s0"));
  EXPECT_EQ(symbol("s0 - 3") + 1, symbol("s0 - 2"));
  EXPECT_EQ(symbol("s0*s1 + 2") + 2, symbol("s0*s1 + 4"));
  EXPECT_EQ(symbol("s0 + s1") + 0, symbol("s0 + s1"));
  EXPECT_EQ(symbol("Max(1, s0 - 1)") + -1, symbol("Max(1, s0 - 1) - 1"));
  EXPECT_EQ(SymInt(3) + 4, SymInt(7));
}

TEST(SymInt, MultipliesInCanonicalText) {
  EXPECT_EQ(SymInt(3) * SymInt(4), SymInt(12));
  EXPECT_EQ(SymInt(64) * symbol("s0"), symbol("64*s0"));
  EXPECT_EQ(symbol("s1") * symbol("2*s0"), symbol("2*s0*s1"));
  EXPECT_EQ(symbol("s0") * symbol("s0"), symbol("s0**2"));
  EXPECT_EQ(symbol("3*s0**2") * symbol("s0*s1"), symbol("3*s0**3*s1"));
  EXPECT_EQ(SymInt(1) * symbol("s0"), symbol("s0"));
  // Sums are not multiplied out: the text equals nothing that sympy writes.
  EXPECT_EQ(symbol("s0 + 1") * SymInt(2), symbol("((s0 + 1)*(2))"));
}

TEST(SymInt, GivesContiguousStrides) {
  EXPECT_EQ(contiguous_strides({2, 3, 4}), (std::vector<SymInt>{12, 4, 1}));
  EXPECT_EQ(contiguous_strides({2, 0, 4}), (std::vector<SymInt>{4, 4, 1}));
  EXPECT_EQ(contiguous_strides({2, symbol("s0"), 4}), (std::vector<SymInt>{symbol("4*s0"), 4, 1}));
  EXPECT_TRUE(contiguous_strides({}).empty());
}

TEST(Graph, KnowsInputsAndUsersOnce) {
  const Graph graph = parse(
      "%x: float32[4] = placeholder()\n%n: size(s0) = placeholder()\n"
      "%y = f([%x, (%n, %x)], %n:%x, key=%x)\n%z = g(%y, %x)\nreturn %z\n");
  EXPECT_EQ(inputs_of(graph[2]), (std::vector<NodeId>{0, 1}));
  EXPECT_EQ(graph[0].users, (std::vector<NodeId>{2, 3}));
  EXPECT_EQ(graph[1].users, (std::vector<NodeId>{2}));
  EXPECT_EQ(inputs_of(graph[2].args[1]), (std::vector<NodeId>{1, 0}));
}

}  // namespace
}  // namespace liger::graph
