// The CPU kernels of every instruction set that this machine runs, against the plain loops.
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "kernels/common/cpu_isa.h"
#include "kernels/cross_entropy/cross_entropy_ref.h"

namespace liger::kernels {
namespace {

struct Case {
  std::int64_t rows;
  std::int64_t vocab;
  double label_smoothing;
  double logit_scale;
  double softcap;
  double z_loss;
  bool is_mean;
};

const Case kCases[] = {
    {1, 1, 0.0, 1.0, 0.0, 0.0, true},     {3, 7, 0.1, 1.0, 0.0, 0.0, false},     {5, 257, 0.0, 0.5, 0.0, 0.0, true},
    {4, 1025, 0.2, 1.0, 6.0, 1e-2, true}, {2, 50257, 0.0, 1.0, 0.0, 1e-3, true}, {6, 2048, 0.1, 2.0, 9.0, 0.0, false},
};

template <typename T>
struct Tensors {
  ref::CrossEntropyProblem problem;
  std::vector<T> logits;
  std::vector<float> row_loss;
  std::vector<double> lse;
  CrossEntropyScales scales;

  explicit Tensors(const Case& c) : row_loss(c.rows), lse(c.rows) {
    std::mt19937 random(17);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::uniform_int_distribution<std::int64_t> label(0, c.vocab - 1);
    problem = {c.rows, c.vocab, {}, {}, -100, c.is_mean, c.label_smoothing, c.logit_scale, c.softcap, c.z_loss};
    for (std::int64_t i = 0; i < c.rows * c.vocab; ++i) {
      logits.push_back(from_float<T>(normal(random)));
      problem.logits.push_back(to_float(logits.back()));
    }
    for (std::int64_t row = 0; row < c.rows; ++row) problem.classes.push_back(row == 1 ? -100 : label(random));
    CrossEntropyScalesArgs args;
    args.rows = c.rows;
    args.target = target();
    args.is_mean = c.is_mean;
    args.z_loss = c.z_loss;
    args.scales = &scales;
    EXPECT_TRUE(cross_entropy_scales(args, {}).ok());
  }

  CrossEntropyTarget target() const { return {problem.classes.data(), true, -100}; }

  template <typename Args>
  Args common() {
    Args args;
    args.rows = problem.rows;
    args.vocab = problem.vocab;
    args.logits = {logits.data(),
                   DtypeTraits<T>::scalar_type,
                   problem.vocab,
                   static_cast<float>(problem.logit_scale),
                   static_cast<float>(problem.softcap),
                   false};
    args.target = target();
    args.label_smoothing = problem.label_smoothing;
    args.z_loss = problem.z_loss;
    args.lse = lse.data();
    return args;
  }
};

template <typename T>
constexpr double kRounding = std::is_same_v<T, float> ? 0.0 : (std::is_same_v<T, BFloat16> ? 1.0 / 256 : 1.0 / 2048);

template <typename T>
void expect_rows(const Tensors<T>& tensors, const ref::CrossEntropyResult& expected) {
  for (std::int64_t row = 0; row < tensors.problem.rows; ++row) {
    EXPECT_NEAR(tensors.row_loss[row], expected.row_loss[row], 4e-6 * (1.0 + expected.row_loss[row])) << "row " << row;
    const bool is_skipped = tensors.problem.classes[row] == -100 && tensors.problem.z_loss == 0.0;
    EXPECT_NEAR(tensors.lse[row], is_skipped ? 0.0 : expected.lse[row], 1e-5) << "row " << row;
  }
}

template <typename T>
void expect_gradient(const std::vector<T>& actual, const ref::CrossEntropyResult& expected, double scale) {
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double value = expected.grad_logits[i];
    ASSERT_NEAR(static_cast<double>(to_float(actual[i])) * scale, value,
                std::fabs(value) * (kRounding<T> + 4e-6) + 1e-7)
        << "element " << i;
  }
}

template <int kLevel, typename T>
void check_level(const Case& c) {
  if (kLevel > isa_level()) GTEST_SKIP() << "this machine has no such instructions";
  Tensors<T> tensors(c);
  const auto expected = ref::cross_entropy_ref(tensors.problem);

  auto forward = tensors.template common<CrossEntropyForwardArgs>();
  forward.row_loss = tensors.row_loss.data();
  ASSERT_TRUE(cpu::cross_entropy_forward<kLevel>(forward, {}).ok());
  expect_rows(tensors, expected);

  float loss = 0.0f;
  CrossEntropyReduceArgs reduce;
  reduce.rows = c.rows;
  reduce.row_loss = tensors.row_loss.data();
  reduce.lse = tensors.lse.data();
  reduce.z_loss = c.z_loss;
  reduce.scales = &tensors.scales;
  reduce.loss = &loss;
  ASSERT_TRUE(cross_entropy_reduce(reduce, {}).ok());
  EXPECT_NEAR(loss, expected.loss, 4e-6 * (1.0 + std::fabs(expected.loss)));

  const float one = 1.0f;
  std::vector<T> gradient(tensors.logits.size());
  auto backward = tensors.template common<CrossEntropyBackwardArgs>();
  backward.grad_loss = &one;
  backward.scales = &tensors.scales;
  backward.grad_logits = gradient.data();
  backward.grad_stride = c.vocab;
  ASSERT_TRUE(cpu::cross_entropy_backward<kLevel>(backward, {}).ok());
  expect_gradient(gradient, expected, 1.0);

  auto fused = tensors.template common<CrossEntropyFusedArgs>();
  fused.row_loss = tensors.row_loss.data();
  fused.scales = &tensors.scales;
  fused.grad_logits = tensors.logits.data();
  ASSERT_TRUE(cpu::cross_entropy_fused<kLevel>(fused, {}).ok());
  expect_rows(tensors, expected);
  expect_gradient(tensors.logits, expected, 1.0 / tensors.scales.grad_unit);
}

template <typename T>
class CrossEntropy : public ::testing::Test {};
using Dtypes = ::testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(CrossEntropy, Dtypes);

TYPED_TEST(CrossEntropy, BaselineMatchesThePlainLoops) {
  for (const Case& c : kCases) check_level<0, TypeParam>(c);
}

#if LIGER_ISA_COUNT > 1
TYPED_TEST(CrossEntropy, Avx2MatchesThePlainLoops) {
  for (const Case& c : kCases) check_level<1, TypeParam>(c);
}

TYPED_TEST(CrossEntropy, Avx512MatchesThePlainLoops) {
  for (const Case& c : kCases) check_level<2, TypeParam>(c);
}
#endif

TEST(CrossEntropyScales, TheUnitIsThePowerOfTwoAtOrBelowTheCount) {
  CrossEntropyScalesArgs args;
  args.is_mean = true;
  for (const std::int64_t counted : {1, 2, 3, 4, 1000, 4096}) {
    const double ratio = make_scales(args, counted).grad_unit / static_cast<double>(counted);
    EXPECT_GT(ratio, 0.5);
    EXPECT_LE(ratio, 1.0);
  }
  EXPECT_EQ(make_scales(args, 0).grad_unit, 1.0);
}

TEST(CrossEntropyForward, ABlockOfMinusInfinityIsNoNaN) {
  std::vector<float> logits(3000, -std::numeric_limits<float>::infinity());
  logits[2999] = 2.0f;
  const std::int64_t label = 2999;
  float row_loss = -1.0f;
  double lse = 0.0;
  CrossEntropyForwardArgs args;
  args.rows = 1;
  args.vocab = 3000;
  args.logits.data = logits.data();
  args.target.classes = &label;
  args.row_loss = &row_loss;
  args.lse = &lse;
  ASSERT_TRUE(cross_entropy_forward(args, {}).ok());
  EXPECT_EQ(row_loss, 0.0f);
  EXPECT_EQ(lse, 2.0);
}

TEST(ScaleGradient, RoundsOnceFromEitherDtype) {
  constexpr std::int64_t kCount = 20011;
  const float factor = 0.3f;
  std::vector<float> wide(kCount);
  std::vector<BFloat16> narrow(kCount), out(kCount);
  for (std::int64_t i = 0; i < kCount; ++i) {
    wide[i] = std::sin(static_cast<float>(i));
    narrow[i] = from_float<BFloat16>(wide[i]);
  }
  for (const bool is_wide : {false, true}) {
    ScaleGradientArgs args{kCount, narrow.data(), ScalarType::bfloat16, &factor, out.data(), ScalarType::bfloat16};
    if (is_wide) args.values = wide.data(), args.dtype = ScalarType::float32;
    ASSERT_TRUE(scale_gradient(args, {}).ok());
    for (std::int64_t i = 0; i < kCount; ++i) {
      const double exact = static_cast<double>(is_wide ? wide[i] : to_float(narrow[i])) * factor;
      EXPECT_EQ(out[i].bits, from_float<BFloat16>(static_cast<float>(exact)).bits) << i;
    }
  }
}

TEST(ColumnSum, AddsRowsToWhatIsThere) {
  constexpr std::int64_t kRows = 70, kColumns = 1030, kStride = 1040;
  std::vector<BFloat16> values(kRows * kStride);
  std::vector<float> sums(kColumns, 5.0f);
  for (std::int64_t row = 0; row < kRows; ++row) {
    for (std::int64_t j = 0; j < kStride; ++j) values[row * kStride + j] = from_float<BFloat16>(0.5f * (j % 7));
  }
  for (const bool accumulate : {false, true}) {
    const float before = accumulate ? sums[3] : 0.0f;
    ASSERT_TRUE(
        column_sum({kRows, kColumns, values.data(), ScalarType::bfloat16, kStride, accumulate, sums.data()}, {}).ok());
    EXPECT_EQ(sums[3], before + kRows * 1.5f);
    EXPECT_EQ(sums[kColumns - 1], (accumulate ? 2 : 1) * kRows * 0.5f * ((kColumns - 1) % 7));
  }
}

}  // namespace
}  // namespace liger::kernels
