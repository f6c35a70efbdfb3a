// Conversions between dtypes, the vectorised functions and the choice of a vector width.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/common/dtype.h"
#include "kernels/common/packed.h"
#include "kernels/common/vec_math.h"

namespace liger::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// What the bits of a half type with `exponent_bits` mean, by the definition.
double value_of(unsigned bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double fraction = std::ldexp(static_cast<double>(bits & ((1u << mantissa_bits) - 1)), -mantissa_bits);
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0.0 ? sign * kInfinity : kNaN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

template <typename T>
void every_value_survives(int exponent_bits) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float value = to_float(T{static_cast<std::uint16_t>(bits)});
    const double expected = value_of(bits, exponent_bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(to_float(from_float<T>(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(from_float<T>(value).bits, bits);
  }
}

// Between neighbours the nearer one is taken, in the middle the even one.
template <typename T>
void rounds_to_nearest_even(unsigned last_finite) {
  for (unsigned bits = 0; bits < last_finite; ++bits) {
    const float low = to_float(T{static_cast<std::uint16_t>(bits)});
    const float high = to_float(T{static_cast<std::uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;  // exact in float but for the least bfloat16 values
    if (bits > 0 && middle - low == high - middle) {
      ASSERT_EQ(from_float<T>(middle).bits, bits + bits % 2) << bits;
      ASSERT_EQ(from_float<T>(std::nextafter(middle, 0.0f)).bits, bits) << bits;
      ASSERT_EQ(from_float<T>(std::nextafter(middle, kInfinity)).bits, bits + 1) << bits;
      ASSERT_EQ(from_float<T>(-middle).bits, (bits + bits % 2) | 0x8000u) << bits;
    }
  }
}

TEST(Dtype, Float16) {
  every_value_survives<Float16>(5);
  rounds_to_nearest_even<Float16>(0x7bffu);
  EXPECT_EQ(from_float<Float16>(65519.9f).bits, 0x7bffu);
  EXPECT_EQ(from_float<Float16>(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(from_float<Float16>(-1e30f).bits, 0xfc00u);
}

TEST(Dtype, BFloat16) {
  every_value_survives<BFloat16>(8);
  rounds_to_nearest_even<BFloat16>(0x7f7fu);
  EXPECT_EQ(from_float<BFloat16>(std::numeric_limits<float>::max()).bits, 0x7f80u);
}

template <typename Function, typename Exact>
double largest_error(Function&& function, Exact&& exact, double low, double high, bool relative) {
  double largest = 0.0;
  constexpr int kSteps = 200001;
  for (int step = 0; step <= kSteps; ++step) {
    const auto x = static_cast<float>(low + (high - low) * step / kSteps);
    const double expected = exact(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(function(x)) - expected);
    largest = std::fmax(largest, relative ? error / std::abs(expected) : error);
  }
  return largest;
}

// The functions are always inlined, so they are given as objects.
const auto fast_exp = [](float x) { return vec_exp(x); };
const auto fast_tanh = [](float x) { return vec_tanh(x); };
const auto fast_erf = [](float x) { return vec_erf(x); };
const auto exact_exp = [](double x) { return std::exp(x); };
const auto exact_tanh = [](double x) { return std::tanh(x); };
const auto exact_erf = [](double x) { return std::erf(x); };

TEST(VecMath, Exp) {
  EXPECT_LT(largest_error(fast_exp, exact_exp, -87.3, 88.0, true), 1.5e-7);
  EXPECT_EQ(vec_exp(0.0f), 1.0f);
  EXPECT_EQ(vec_exp(-87.4f), 0.0f);
  EXPECT_EQ(vec_exp(-1e30f), 0.0f);
  EXPECT_EQ(vec_exp(-kInfinity), 0.0f);
  EXPECT_TRUE(std::isnan(vec_exp(kNaN)));
}

TEST(VecMath, Tanh) {
  EXPECT_LT(largest_error(fast_tanh, exact_tanh, -12.0, 12.0, false), 1.5e-7);
  EXPECT_LT(largest_error(fast_tanh, exact_tanh, 1e-5, 0.7, true), 2e-7);
  EXPECT_EQ(vec_tanh(kInfinity), 1.0f);
  EXPECT_EQ(vec_tanh(-kInfinity), -1.0f);
  EXPECT_TRUE(std::isnan(vec_tanh(kNaN)));
}

TEST(VecMath, Erf) {
  EXPECT_LT(largest_error(fast_erf, exact_erf, -6.0, 6.0, false), 1.5e-7);
  EXPECT_LT(largest_error(fast_erf, exact_erf, 1e-5, 1.0, true), 2e-7);
  EXPECT_EQ(vec_erf(kInfinity), 1.0f);
  EXPECT_EQ(vec_erf(-30.0f), -1.0f);
  EXPECT_TRUE(std::isnan(vec_erf(kNaN)));
}

TEST(VectorWidth, IsTheLargestThatEverythingAllows) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<const void*>(address); };
  EXPECT_EQ(VectorWidth(8).pointer(at(64), 2).multiple(64).width(), 8);
  EXPECT_EQ(VectorWidth(8).pointer(at(72), 2).width(), 4);
  EXPECT_EQ(VectorWidth(8).pointer(at(66), 2).width(), 1);
  EXPECT_EQ(VectorWidth(8).pointer(at(80), 4).width(), 8) << "16-byte accesses need no more alignment";
  EXPECT_EQ(VectorWidth(8).multiple(12).width(), 4);
  EXPECT_EQ(VectorWidth(8).multiple(0).width(), 8) << "an expanded dim";
  EXPECT_EQ(VectorWidth(8).pointer(nullptr, 2).width(), 8);
}

}  // namespace
}  // namespace liger::kernels
