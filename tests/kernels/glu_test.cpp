// The CPU kernels of every instruction set that this machine runs, against the oracle in double.
#include "kernels/glu/glu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/cpu_isa.h"
#include "kernels/glu/glu_ref.h"

namespace liger::kernels {
namespace {

template <typename T>
constexpr double kRelativeTolerance = 1e-6;  // of the gradient's largest terms; a few units in the last place
template <>
constexpr double kRelativeTolerance<BFloat16> = 0x1p-8;  // half a unit in the last place, and float32's error
template <>
constexpr double kRelativeTolerance<Float16> = 0x1.02p-11;

constexpr Activation kActivations[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh};
constexpr float kUntouched = -77.0f;

// [rows, width] values in rows of `stride` elements; what lies between rows must stay as it is.
template <typename T>
struct Matrix {
  std::int64_t rows, width, stride;
  std::vector<T> values;

  Matrix(std::int64_t rows_, std::int64_t width_, std::int64_t gap)
      : rows(rows_), width(width_), stride(width_ + gap), values(rows_ * stride, from_float<T>(kUntouched)) {}

  Matrix& fill(std::mt19937& random, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    for (T& value : values) value = from_float<T>(normal(random));
    return *this;
  }

  void expect_near(const std::vector<double>& truth, const std::string& what) const {
    double largest = 0.0;
    for (const double value : truth) largest = std::max(largest, std::abs(value));
    ASSERT_GT(largest, 0.0) << what;
    for (std::int64_t index = 0; index < rows * stride; ++index) {
      const std::int64_t row = index / stride, column = index % stride;
      const double value = to_float(values[index]);
      if (column >= width) {
        ASSERT_EQ(value, kUntouched) << what << " wrote between rows, at " << row << ", " << column;
        continue;
      }
      const double expected = truth[row * width + column];
      // float32 cancels near the negative tail, where the activation is small beside x: the error is relative to 1.
      const double allowed = kRelativeTolerance<T> * std::max(std::abs(expected), sizeof(T) == 2 ? 1e-3 : 1.0);
      ASSERT_NEAR(value, expected, allowed) << what << " at " << row << ", " << column;
    }
  }
};

template <typename T>
void expect_same(const Matrix<T>& a, const Matrix<T>& b, const std::string& what) {
  for (std::size_t index = 0; index < a.values.size(); ++index)
    ASSERT_EQ(to_float(a.values[index]), to_float(b.values[index])) << what << " at " << index;
}

struct Size {
  std::int64_t rows, width, gap;
};

const Size kSizes[] = {{1, 1, 0},    {3, 1, 2},      {5, 3, 0},   {4, 7, 0},  {4, 7, 5},    {2, 112, 112},
                       {3, 1000, 0}, {37, 1003, 21}, {300, 8, 8}, {9, 24, 8}, {5, 1504, 8}, {3, 4104, 16}};

// Ranges of odd sizes, so that they begin and end within rows and vectors.
void in_odd_ranges(std::int64_t count, std::int64_t grain, RangeBody body, void* state) {
  for (std::int64_t begin = 0; begin < count; begin += grain + 13)
    body(begin, std::min(count, begin + grain + 13), state);
}

LaunchContext threaded() {
  LaunchContext context;
  context.parallel_for = in_odd_ranges;
  context.num_threads = 4;
  return context;
}

template <typename T>
class GluTest : public testing::Test {
 protected:
  template <typename Check>
  void for_cases(Check&& check) {
    for (const Size& size : kSizes) {
      for (const Activation activation : kActivations) {
        check(size, activation,
              "rows " + std::to_string(size.rows) + ", width " + std::to_string(size.width) + ", gap " +
                  std::to_string(size.gap) + ", activation " + std::to_string(static_cast<int>(activation)));
      }
    }
  }
  std::mt19937 random{17};
};

using Dtypes = testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(GluTest, Dtypes, );

TYPED_TEST(GluTest, ForwardIsTheOracles) {
  using T = TypeParam;
  this->for_cases([&](const Size& size, Activation activation, const std::string& name) {
    Matrix<T> gate(size.rows, size.width, size.gap), up(size.rows, size.width, 0), out(size.rows, size.width, size.gap);
    gate.fill(this->random, 2.0f);
    up.fill(this->random, 1.0f);
    const GluArgs args{
        gate.values.data(), up.values.data(), out.values.data(), size.rows,  size.width,
        gate.stride,        up.stride,        out.stride,        activation, DtypeTraits<T>::scalar_type};
    ASSERT_TRUE(glu_forward(args, threaded()).ok());
    std::vector<double> truth;
    glu_forward_ref<double, T>(args, truth);
    out.expect_near(truth, name);
  });
}

TYPED_TEST(GluTest, BackwardIsTheOracles) {
  using T = TypeParam;
  this->for_cases([&](const Size& size, Activation activation, const std::string& name) {
    Matrix<T> dy(size.rows, size.width, 0), gate(size.rows, size.width, size.gap), up(size.rows, size.width, size.gap);
    Matrix<T> grad_gate(size.rows, size.width, size.gap), grad_up(size.rows, size.width, size.gap);
    Matrix<T> out(size.rows, size.width, size.gap), forward_out(size.rows, size.width, size.gap);
    dy.fill(this->random, 1.0f);
    gate.fill(this->random, 2.0f);
    up.fill(this->random, 1.0f);
    const GluBackwardArgs args{dy.values.data(),
                               gate.values.data(),
                               up.values.data(),
                               grad_gate.values.data(),
                               grad_up.values.data(),
                               out.values.data(),
                               size.rows,
                               size.width,
                               dy.stride,
                               gate.stride,
                               up.stride,
                               grad_gate.stride,
                               grad_up.stride,
                               out.stride,
                               activation,
                               DtypeTraits<T>::scalar_type};
    ASSERT_TRUE(glu_backward(args, threaded()).ok());
    std::vector<double> gate_truth, up_truth;
    glu_backward_ref<double, T>(args, gate_truth, up_truth);
    grad_gate.expect_near(gate_truth, name + ", grad_gate");
    grad_up.expect_near(up_truth, name + ", grad_up");
    const GluArgs forward{args.gate,   args.up,   forward_out.values.data(), size.rows,  size.width,
                          gate.stride, up.stride, forward_out.stride,        activation, args.dtype};
    ASSERT_TRUE(glu_forward(forward, {}).ok());
    expect_same(out, forward_out, name + ", out");
  });
}

#ifndef LIGER_DEVICE_CUDA
template <int kLevel>
void expect_level_is_the_oracles() {
  if (kLevel > isa_level()) return;
  std::mt19937 random{23};
  Matrix<float> gate(1, 1001, 0), up(1, 1001, 0), out(1, 1001, 0);
  gate.fill(random, 3.0f);
  up.fill(random, 1.0f);
  for (const Activation activation : kActivations) {
    const GluArgs args{gate.values.data(), up.values.data(),   out.values.data(), 1, 1001, 1001, 1001, 1001,
                       activation,         ScalarType::float32};
    ASSERT_TRUE(cpu::glu_forward<kLevel>(args, {}).ok());
    std::vector<double> truth;
    glu_forward_ref<double, float>(args, truth);
    out.expect_near(truth, "level " + std::to_string(kLevel));
  }
}

TEST(Glu, EveryInstructionSetIsTheOracles) {
  expect_level_is_the_oracles<0>();
#if LIGER_ISA_COUNT > 1
  expect_level_is_the_oracles<1>();
  expect_level_is_the_oracles<2>();
#endif
}
#endif

TEST(Glu, SaturatesWithoutOverflow) {
  const std::vector<float> gate{-1e4f, -200.0f, -90.0f, 0.0f, 90.0f, 200.0f, 1e4f}, ones(7, 1.0f);
  for (const Activation activation : kActivations) {
    std::vector<float> out(7), grad_gate(7), grad_up(7);
    const GluArgs forward{gate.data(), ones.data(), out.data(), 1, 7, 7, 7, 7, activation, ScalarType::float32};
    ASSERT_TRUE(glu_forward(forward, {}).ok());
    EXPECT_EQ(out, (std::vector<float>{0, 0, out[2], 0, 90, 200, 1e4f}));
    EXPECT_NEAR(out[2], 0.0f, 1e-30f);
    const GluBackwardArgs backward{
        ones.data(), gate.data(), ones.data(), grad_gate.data(), grad_up.data(),     nullptr, 1, 7, 7, 7, 7,
        7,           7,           7,           activation,       ScalarType::float32};
    ASSERT_TRUE(glu_backward(backward, {}).ok());
    EXPECT_EQ(grad_gate, (std::vector<float>{0, 0, grad_gate[2], 0.5f, 1, 1, 1}));
    EXPECT_NEAR(grad_gate[2], 0.0f, 1e-30f);
    EXPECT_EQ(grad_up, out);
  }
}

TEST(Glu, NothingToDo) {
  GluArgs forward{};
  GluBackwardArgs backward{};
  EXPECT_TRUE(glu_forward(forward, {}).ok());
  forward.rows = backward.width = 5;
  EXPECT_TRUE(glu_forward(forward, {}).ok());
  EXPECT_TRUE(glu_backward(backward, {}).ok());
}

}  // namespace
}  // namespace liger::kernels
