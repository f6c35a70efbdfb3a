// The CPU kernels of every instruction set that this machine runs, against the oracle in double.
#include "kernels/rope/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/cpu_isa.h"
#include "kernels/rope/rope_ref.h"

namespace liger::kernels {
namespace {

constexpr float kUntouched = -77.0f;

template <typename T>
constexpr double kTolerance = 4e-7;  // a few units in the last place
template <>
constexpr double kTolerance<BFloat16> = 0x1.01p-8;  // half a unit in the last place, and float32's error
template <>
constexpr double kTolerance<Float16> = 0x1.01p-11;

// Sizes of one call. Rows are `gap` elements longer than they need to be.
struct Case {
  std::int64_t positions[kRopePositionDims];
  std::int64_t query_heads, key_heads, head_dim, rotary_dim, gap;
  bool heads_first;   // [positions[0], heads, positions[1:], head_dim] in memory
  bool shared_table;  // by all positions[0]

  std::string text() const {
    return "positions " + std::to_string(positions[0]) + "x" + std::to_string(positions[1]) + "x" +
           std::to_string(positions[2]) + ", heads " + std::to_string(query_heads) + "+" + std::to_string(key_heads) +
           ", head_dim " + std::to_string(head_dim) + ", rotary_dim " + std::to_string(rotary_dim);
  }
  std::int64_t rows() const { return positions[0] * positions[1] * positions[2]; }
  std::int64_t row_size() const { return head_dim + gap; }

  RopeLayout layout(std::int64_t heads) const {
    if (heads_first) {
      const std::int64_t inner = positions[1] * positions[2] * row_size();
      return {{heads * inner, positions[2] * row_size(), row_size()}, inner};
    }
    const std::int64_t position = heads * row_size();
    return {{positions[1] * positions[2] * position, positions[2] * position, position}, row_size()};
  }
};

const Case kCases[] = {
    {{2, 1, 5}, 3, 1, 64, 64, 0, false, false},    {{2, 1, 5}, 3, 1, 64, 64, 0, true, true},
    {{1, 1, 1}, 33, 8, 128, 128, 0, false, false}, {{1, 3, 37}, 1, 1, 16, 16, 3, true, false},
    {{3, 2, 7}, 2, 2, 80, 20, 1, false, true},     {{1, 1, 33}, 4, 0, 2, 2, 0, true, false},
    {{1, 1, 17}, 2, 1, 200, 194, 5, true, false},  {{2, 1, 3}, 1, 2, 9, 0, 0, false, false},
    {{1, 2, 3}, 2, 1, 300, 266, 0, false, false},
};

template <typename T>
std::vector<T> random_values(std::int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(random));
  return values;
}

template <typename T, typename Table>
class Problem {
 public:
  explicit Problem(const Case& sizes, bool transpose) : sizes_(sizes) {
    std::mt19937 random(11);
    query_ = random_values<T>(sizes.rows() * sizes.query_heads * sizes.row_size(), random);
    key_ = random_values<T>(sizes.rows() * sizes.key_heads * sizes.row_size(), random);
    const std::int64_t table_stride = sizes.rotary_dim + sizes.gap;
    cos_ = random_values<Table>(sizes.rows() * table_stride, random);
    sin_ = random_values<Table>(sizes.rows() * table_stride, random);
    query_out_.assign(query_.size(), from_float<T>(kUntouched));
    key_out_.assign(key_.size(), from_float<T>(kUntouched));
    args_.query = operand(query_, query_out_, sizes.query_heads);
    args_.key = operand(key_, key_out_, sizes.key_heads);
    args_.cos = table(cos_, table_stride);
    args_.sin = table(sin_, table_stride);
    std::copy(std::begin(sizes.positions), std::end(sizes.positions), args_.positions);
    args_.head_dim = sizes.head_dim;
    args_.rotary_dim = sizes.rotary_dim;
    args_.dtype = DtypeTraits<T>::scalar_type;
    args_.table_dtype = DtypeTraits<Table>::scalar_type;
    args_.transpose = transpose;
  }

  template <int kLevel>
  void check(const LaunchContext& context) {
    ASSERT_TRUE(cpu::rope<kLevel>(args_, context).ok());
    const std::string where = sizes_.text() + ", level " + std::to_string(kLevel);
    expect_near(args_.query, query_out_, where + ", query");
    expect_near(args_.key, key_out_, where + ", key");
  }

 private:
  RopeOperand operand(const std::vector<T>& in, std::vector<T>& out, std::int64_t heads) const {
    return {in.data(), out.data(), heads, sizes_.layout(heads), sizes_.layout(heads)};
  }

  RopeTable table(const std::vector<Table>& values, std::int64_t stride) const {
    const std::int64_t outer = sizes_.positions[1] * sizes_.positions[2] * stride;
    return {values.data(), {sizes_.shared_table ? 0 : outer, sizes_.positions[2] * stride, stride}};
  }

  void expect_near(const RopeOperand& operand, const std::vector<T>& out, const std::string& where) const {
    std::vector<double> truth;
    rope_ref<double, T, Table>(args_, operand, truth);
    std::vector<double> expected(out.size(), kUntouched);
    scatter(operand, truth, expected);
    for (std::size_t index = 0; index < out.size(); ++index) {
      const double allowed = expected[index] == kUntouched ? 0.0 : kTolerance<T> * (std::abs(expected[index]) + kScale);
      ASSERT_NEAR(to_float(out[index]), expected[index], allowed) << where << ", element " << index;
    }
  }

  // From [positions, heads, head_dim] to where the operand's rows stand.
  void scatter(const RopeOperand& operand, const std::vector<double>& dense, std::vector<double>& rows) const {
    const RopeLayout& strides = operand.out_strides;
    std::size_t index = 0;
    for (std::int64_t i = 0; i < sizes_.positions[0]; ++i)
      for (std::int64_t j = 0; j < sizes_.positions[1]; ++j)
        for (std::int64_t k = 0; k < sizes_.positions[2]; ++k)
          for (std::int64_t head = 0; head < operand.heads; ++head)
            for (std::int64_t channel = 0; channel < sizes_.head_dim; ++channel)
              rows[i * strides.positions[0] + j * strides.positions[1] + k * strides.positions[2] +
                   head * strides.head + channel] = dense[index++];
  }

  // float32 cancels in the difference of two products, so its error is relative to those.
  static constexpr double kScale = sizeof(T) == 2 ? 1e-3 : 8.0;

  Case sizes_;
  std::vector<T> query_, key_, query_out_, key_out_;
  std::vector<Table> cos_, sin_;
  RopeArgs args_;
};

template <int kLevel, typename T, typename Table>
void check_level(const LaunchContext& context) {
  if (kLevel > isa_level()) return;
  for (const Case& sizes : kCases) {
    for (const bool transpose : {false, true}) Problem<T, Table>(sizes, transpose).template check<kLevel>(context);
  }
}

template <typename T, typename Table>
void check_levels(const LaunchContext& context = {}) {
  check_level<0, T, Table>(context);
#if LIGER_ISA_COUNT > 1
  check_level<1, T, Table>(context);
  check_level<2, T, Table>(context);
#endif
}

TEST(Rope, Float32) { check_levels<float, float>(); }
TEST(Rope, BFloat16) { check_levels<BFloat16, BFloat16>(); }
TEST(Rope, Float16) { check_levels<Float16, Float16>(); }
TEST(Rope, BFloat16WithFloat32Tables) { check_levels<BFloat16, float>(); }
TEST(Rope, Float16WithFloat32Tables) { check_levels<Float16, float>(); }

TEST(Rope, InRangesOfAnyLength) {
  LaunchContext context;
  context.num_threads = 4;
  context.parallel_for = [](std::int64_t count, std::int64_t, RangeBody body, void* state) {
    for (std::int64_t begin = 0; begin < count; begin += 7) body(begin, std::min(begin + 7, count), state);
  };
  check_levels<float, float>(context);
}

TEST(Rope, RefusesOtherTables) {
  RopeArgs args;
  args.positions[0] = args.positions[1] = args.positions[2] = 1;
  args.query.heads = 1;
  args.head_dim = args.rotary_dim = 2;
  args.table_dtype = ScalarType::bfloat16;
  EXPECT_STREQ(rope(args, {}).message(), "cos and sin must be float32 or have the dtype of query");
}

}  // namespace
}  // namespace liger::kernels
