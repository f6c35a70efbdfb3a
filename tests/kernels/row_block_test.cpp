// The float16 conversions of every instruction set that this machine runs, against the portable ones of dtype.h, which
// common_test.cpp holds against the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/cpu_isa.h"
#include "kernels/levels/row_block_level.h"

namespace liger::kernels {
namespace {

// test(std::integral_constant<int, level>{}) for the levels that this machine runs.
template <typename Test>
void at_every_level(Test&& test) {
  test(std::integral_constant<int, 0>{});
#if LIGER_ISA_COUNT > 1
  if (isa_level() >= 1) test(std::integral_constant<int, 1>{});
  if (isa_level() >= 2) test(std::integral_constant<int, 2>{});
#endif
}

// The same bits, any NaN for a NaN.
void expect_same(float value, float expected) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(value));
  } else {
    ASSERT_EQ(bits_of(value), bits_of(expected)) << expected;
  }
}

std::vector<Float16> every_float16() {
  std::vector<Float16> halves(0x10000);
  for (unsigned bits = 0; bits < 0x10000u; ++bits) halves[bits].bits = static_cast<std::uint16_t>(bits);
  return halves;
}

// Floats of every exponent, and around every boundary between two float16 values.
std::vector<float> many_floats() {
  std::vector<float> floats;
  for (std::uint64_t bits = 0; bits < 0x100000000u; bits += 1021) {
    floats.push_back(float_from_bits(static_cast<std::uint32_t>(bits)));
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (unsigned bits = 0; bits < 0x7c00u; ++bits) {
    const float low = to_float(Float16{static_cast<std::uint16_t>(bits)});
    const float high = bits == 0x7bffu ? 65536.0f : to_float(Float16{static_cast<std::uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    for (const float value : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, kInfinity)}) {
      floats.push_back(value);
      floats.push_back(-value);
    }
  }
  return floats;
}

TEST(RowBlock, EveryFloat16IsWidened) {
  const std::vector<Float16> halves = every_float16();
  at_every_level([&](auto level) {
    std::vector<float> floats(halves.size());
    widen_at_level<level>(halves.data(), floats.data(), static_cast<std::int64_t>(halves.size()));
    for (std::size_t j = 0; j < halves.size(); ++j) expect_same(floats[j], to_float(halves[j]));
  });
}

TEST(RowBlock, FloatsAreRoundedToNearestEven) {
  const std::vector<float> floats = many_floats();
  at_every_level([&](auto level) {
    std::vector<Float16> halves(floats.size());
    narrow_at_level<level>(floats.data(), halves.data(), static_cast<std::int64_t>(floats.size()));
    for (std::size_t j = 0; j < floats.size(); ++j) expect_same(to_float(halves[j]), rounded_to<Float16>(floats[j]));
  });
}

TEST(RowBlock, OnlyTheGivenElementsAreTouched) {
  at_every_level([&](auto level) {
    for (std::int64_t count = 0; count <= 40; ++count) {
      std::vector<float> floats(42, 7.0f);
      std::vector<Float16> halves(42, from_float<Float16>(7.0f));
      const std::vector<Float16> source(static_cast<std::size_t>(count), from_float<Float16>(1.5f));
      const std::vector<float> wide_source(static_cast<std::size_t>(count), 1.5f);
      widen_at_level<level>(source.data(), floats.data() + 1, count);
      narrow_at_level<level>(wide_source.data(), halves.data() + 1, count);
      EXPECT_EQ(std::count(floats.begin(), floats.end(), 1.5f), count);
      EXPECT_EQ(std::count(floats.begin(), floats.end(), 7.0f), 42 - count);
      EXPECT_EQ(floats[0], 7.0f);
      for (std::int64_t j = 0; j < 42; ++j) expect_same(to_float(halves[j]), floats[j]);
    }
  });
}

}  // namespace
}  // namespace liger::kernels
