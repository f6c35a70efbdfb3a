// The CPU kernels of every instruction set that this machine runs, against the oracle in double.
#include "kernels/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/cpu_isa.h"
#include "kernels/rms_norm/rms_norm_ref.h"

namespace liger::kernels {
namespace {

// Of the largest value: half a unit in the last place for the half types, the error of a few operations for float.
template <typename T>
constexpr double kTolerance = 1e-6;
template <>
constexpr double kTolerance<BFloat16> = 0x1.02p-8;
template <>
constexpr double kTolerance<Float16> = 0x1.02p-11;

constexpr float kUntouched = -77.0f;

template <typename T>
std::vector<T> random_values(std::int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(random));
  return values;
}

template <typename T>
void expect_near(const std::vector<T>& values, const std::vector<double>& truth, const std::string& what) {
  ASSERT_GE(values.size(), truth.size()) << what;
  double largest = 0.0;
  for (const double value : truth) largest = std::max(largest, std::abs(value));
  ASSERT_GT(largest, 0.0) << what;
  for (std::size_t index = 0; index < truth.size(); ++index) {
    ASSERT_NEAR(to_float(values[index]), truth[index], kTolerance<T> * largest) << what << " at " << index;
  }
  for (std::size_t index = truth.size(); index < values.size(); ++index) {
    ASSERT_EQ(to_float(values[index]), kUntouched) << what << " wrote past its end, at " << index;
  }
}

struct Case {
  std::int64_t rows, width, gap;  // `gap` elements between the rows of the inputs
  bool residual, weight, round;
  std::string text() const {
    return std::to_string(rows) + " x " + std::to_string(width) + " gap " + std::to_string(gap) +
           (residual ? " residual" : "") + (weight ? " weight" : "") + (round ? " round" : "");
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [rows, width, gap] : {std::tuple{1, 8, 0}, {3, 17, 0}, {5, 64, 3}, {9, 513, 0}, {65, 1030, 5}}) {
    for (int flags = 0; flags < 8; ++flags)
      all.push_back({rows, width, gap, flags % 2 == 1, flags / 2 % 2 == 1, flags > 3});
  }
  return all;
}

// The ranges of a pool of four threads, run one after the other and backwards.
void in_four_ranges(std::int64_t count, std::int64_t grain, RangeBody body, void* state) {
  const std::int64_t size = std::max(grain, (count + 3) / 4);
  for (std::int64_t begin = (count - 1) / size * size; begin >= 0; begin -= size) {
    body(begin, std::min(count, begin + size), state);
  }
}

LaunchContext threads(int count) {
  LaunchContext context;
  context.parallel_for = in_four_ranges;
  context.num_threads = count;
  return context;
}

template <int kLevel>
constexpr bool kBuilt = kLevel < LIGER_ISA_COUNT;

// check(forward, backward) for every instruction set that was built and that this machine runs.
template <int kLevel = 0, typename Check>
void for_each_isa(Check&& check) {
  if constexpr (kBuilt<kLevel>) {
    if (kLevel > isa_level()) return;
    SCOPED_TRACE("instruction set level " + std::to_string(kLevel));
    check(cpu::rms_norm_forward<kLevel>, cpu::rms_norm_backward<kLevel>);
    for_each_isa<kLevel + 1>(check);
  }
}

template <typename Types>
class RmsNormTest : public testing::Test {};

template <typename HiddenType, typename WeightType, typename OutType>
struct Dtypes {
  using Hidden = HiddenType;
  using Weight = WeightType;
  using Out = OutType;
};

using AllDtypes =
    testing::Types<Dtypes<float, float, float>, Dtypes<BFloat16, BFloat16, BFloat16>, Dtypes<Float16, Float16, Float16>,
                   Dtypes<BFloat16, float, BFloat16>, Dtypes<BFloat16, float, float>, Dtypes<Float16, float, float>>;
TYPED_TEST_SUITE(RmsNormTest, AllDtypes, );

// The tensors of a case, and the arguments that name them.
template <typename Types>
struct Problem {
  using Hidden = typename Types::Hidden;
  using Weight = typename Types::Weight;
  using Out = typename Types::Out;

  explicit Problem(const Case& test) : stride(test.width + test.gap) {
    std::mt19937 random(static_cast<unsigned>(test.rows * 1000 + test.width));
    hidden = random_values<Hidden>(test.rows * stride, random);
    residual = random_values<Hidden>(test.rows * stride, random);
    weight = random_values<Weight>(test.width, random);
    grad_out = random_values<Out>(test.rows * stride, random);
    grad_sum = random_values<Hidden>(test.rows * stride, random);
    out.assign(test.rows * test.width + 1, from_float<Out>(kUntouched));
    sum.assign(test.rows * test.width + 1, from_float<Hidden>(kUntouched));
    rstd.assign(test.rows, 0.0f);
    forward.hidden_states = hidden.data();
    forward.residual = test.residual ? residual.data() : nullptr;
    forward.weight = test.weight ? weight.data() : nullptr;
    forward.out = out.data();
    forward.sum = test.residual ? sum.data() : nullptr;
    forward.rstd = rstd.data();
    forward.rows = test.rows;
    forward.width = test.width;
    forward.hidden_stride = forward.residual_stride = stride;
    forward.eps = 1e-5f;
    forward.weight_offset = test.round ? 0.0f : 1.0f;
    forward.round_before_weight = test.round;
    forward.hidden_dtype = DtypeTraits<Hidden>::scalar_type;
    forward.weight_dtype = DtypeTraits<Weight>::scalar_type;
    forward.out_dtype = DtypeTraits<Out>::scalar_type;
  }

  RmsNormBackwardArgs backward(const Case& test, const LaunchContext& context) {
    RmsNormBackwardArgs args{};
    args.grad_out = grad_out.data();
    args.grad_sum = test.residual ? grad_sum.data() : nullptr;
    args.hidden_states = test.residual ? sum.data() : hidden.data();
    args.weight = forward.weight;
    args.rstd = rstd.data();
    grad_hidden.assign(test.rows * test.width + 1, from_float<Hidden>(kUntouched));
    grad_weight.assign(test.width + 1, from_float<Weight>(kUntouched));
    args.grad_hidden_states = grad_hidden.data();
    args.grad_weight = test.weight ? grad_weight.data() : nullptr;
    out_again.assign(out.size(), from_float<Out>(kUntouched));
    args.out = test.gap == 0 ? out_again.data() : nullptr;
    args.rows = test.rows;
    args.width = test.width;
    args.grad_out_stride = args.grad_sum_stride = stride;
    args.hidden_stride = test.residual ? test.width : stride;
    args.weight_offset = forward.weight_offset;
    args.round_before_weight = forward.round_before_weight;
    args.hidden_dtype = forward.hidden_dtype;
    args.weight_dtype = forward.weight_dtype;
    args.out_dtype = forward.out_dtype;
    workspace.assign(rms_norm_backward_workspace(args, context) / 2 + 1, 0.0);
    args.workspace = reinterpret_cast<float*>(workspace.data());
    return args;
  }

  template <typename T>
  std::vector<double> dense(const std::vector<T>& values, const Case& test) const {
    std::vector<double> result;
    for (std::int64_t row = 0; row < test.rows; ++row) {
      for (std::int64_t column = 0; column < test.width; ++column) {
        result.push_back(to_float(values[row * stride + column]));
      }
    }
    return result;
  }

  std::int64_t stride;
  std::vector<Hidden> hidden, residual, grad_sum, sum, grad_hidden;
  std::vector<Weight> weight, grad_weight;
  std::vector<Out> grad_out, out, out_again;
  std::vector<float> rstd;
  std::vector<double> workspace;  // of doubles for their alignment
  RmsNormArgs forward{};
};

// A rounding before the weight may fall on the other side of a tie than the oracle's: one unit of the hidden dtype.
template <typename Types>
constexpr bool kRoundingIsExact = std::is_same_v<typename Types::Hidden, float>;

TYPED_TEST(RmsNormTest, ForwardIsTheOracles) {
  using Hidden = typename TypeParam::Hidden;
  using Weight = typename TypeParam::Weight;
  for_each_isa([](auto* forward, auto*) {
    for (const Case& test : cases()) {
      if (test.round && !kRoundingIsExact<TypeParam>) continue;
      Problem<TypeParam> problem(test);
      ASSERT_TRUE(forward(problem.forward, threads(4)).ok()) << test.text();
      std::vector<double> truth;
      rms_norm_forward_ref<double, Hidden, Weight>(problem.forward, truth);
      expect_near(problem.out, truth, test.text());
    }
  });
}

TYPED_TEST(RmsNormTest, RoundsBeforeTheWeight) {
  using Hidden = typename TypeParam::Hidden;
  using Weight = typename TypeParam::Weight;
  using Out = typename TypeParam::Out;
  for_each_isa([](auto* forward, auto*) {
    for (const Case& test : cases()) {
      if (!test.round) continue;
      Problem<TypeParam> problem(test);
      ASSERT_TRUE(forward(problem.forward, threads(1)).ok()) << test.text();
      std::vector<double> truth;
      rms_norm_forward_ref<double, Hidden, Weight>(problem.forward, truth);
      std::size_t differing = 0;
      for (std::size_t index = 0; index < truth.size(); ++index) {
        const float expected = rounded_to<Out>(static_cast<float>(truth[index]));
        differing += std::abs(to_float(problem.out[index]) - expected) > 1e-6f * std::abs(expected);
      }
      EXPECT_LE(differing, truth.size() / 500) << test.text();
    }
  });
}

// float32 in the forward pass uses more of rstd than the backward pass is given.
template <typename Types>
void expect_same_out(const Problem<Types>& problem, const std::string& name) {
  for (std::size_t index = 0; index < problem.out.size(); ++index) {
    const float again = to_float(problem.out_again[index]), first = to_float(problem.out[index]);
    if constexpr (std::is_same_v<typename Types::Hidden, float>) {
      ASSERT_FLOAT_EQ(again, first) << name << ", element " << index;
    } else {
      ASSERT_EQ(again, first) << name << ", element " << index;
    }
  }
}

TYPED_TEST(RmsNormTest, BackwardIsTheOracles) {
  using Hidden = typename TypeParam::Hidden;
  using Weight = typename TypeParam::Weight;
  for_each_isa([](auto* forward, auto* backward) {
    for (const Case& test : cases()) {
      if (test.round && !kRoundingIsExact<TypeParam>) continue;
      for (const int num_threads : {1, 3}) {
        Problem<TypeParam> problem(test);
        const LaunchContext context = threads(num_threads);
        ASSERT_TRUE(forward(problem.forward, context).ok());
        const RmsNormBackwardArgs args = problem.backward(test, context);
        ASSERT_TRUE(backward(args, context).ok()) << test.text();
        std::vector<double> grad_hidden, grad_weight, grad_sum;
        if (test.residual) grad_sum = problem.dense(problem.grad_sum, test);
        rms_norm_backward_ref<double, Hidden, Weight>(problem.forward, problem.dense(problem.grad_out, test), grad_sum,
                                                      grad_hidden, grad_weight);
        expect_near(problem.grad_hidden, grad_hidden, "grad_hidden_states " + test.text());
        if (test.weight) expect_near(problem.grad_weight, grad_weight, "grad_weight " + test.text());
        if (args.out != nullptr) expect_same_out(problem, test.text());
      }
    }
  });
}

TEST(RmsNorm, RefusesOtherDtypes) {
  const auto refuse = [](auto...) { return Status(); };
  using S = ScalarType;
  EXPECT_FALSE(dispatch_rms_norm_dtypes(S::float32, S::bfloat16, S::float32, true, refuse).ok());
  EXPECT_FALSE(dispatch_rms_norm_dtypes(S::bfloat16, S::bfloat16, S::float32, true, refuse).ok());
  EXPECT_FALSE(dispatch_rms_norm_dtypes(S::bfloat16, S::float16, S::bfloat16, true, refuse).ok());
  EXPECT_TRUE(dispatch_rms_norm_dtypes(S::bfloat16, S::bfloat16, S::float32, false, refuse).ok());
}

}  // namespace
}  // namespace liger::kernels
