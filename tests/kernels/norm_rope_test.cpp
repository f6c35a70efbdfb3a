// The CPU kernels of every instruction set that this machine runs, against the oracle in double.
#include "kernels/norm_rope/norm_rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/cpu_isa.h"
#include "kernels/norm_rope/norm_rope_ref.h"

namespace liger::kernels {
namespace {

constexpr float kUntouched = -77.0f;

template <typename T>
constexpr double kUnit = 0x1p-23;
template <>
constexpr double kUnit<BFloat16> = 0x1p-8;
template <>
constexpr double kUnit<Float16> = 0x1p-11;

// Sizes of one call: positions [1, batch, length]. Rows are `gap` elements longer than they need to be.
struct Case {
  std::int64_t batch, length, query_heads, key_heads, head_dim, rotary_dim, gap;
  bool heads_first;  // [batch, heads, length, head_dim] in memory
  bool weights;

  std::string text() const {
    return "positions " + std::to_string(batch) + "x" + std::to_string(length) + ", heads " +
           std::to_string(query_heads) + "+" + std::to_string(key_heads) + ", head_dim " + std::to_string(head_dim) +
           ", rotary_dim " + std::to_string(rotary_dim);
  }
  std::int64_t rows(std::int64_t heads) const { return batch * length * heads; }
  std::int64_t row_size() const { return head_dim + gap; }
  RopeLayout layout(std::int64_t heads) const {
    const std::int64_t row = row_size();
    if (heads_first) return {{0, heads * length * row, row}, length * row};
    return {{0, length * heads * row, heads * row}, row};
  }
};

const Case kCases[] = {
    {2, 5, 3, 1, 64, 64, 0, false, true},    {2, 5, 3, 1, 64, 64, 0, true, true},
    {1, 1, 33, 8, 128, 128, 0, false, true}, {1, 37, 1, 1, 16, 16, 3, true, false},
    {3, 7, 2, 2, 80, 20, 1, false, true},    {1, 33, 4, 0, 2, 2, 0, true, true},
    {1, 17, 2, 1, 200, 194, 5, true, true},  {2, 3, 1, 2, 512, 512, 0, false, false},
    {2, 3, 1, 2, 10, 0, 0, false, true},
};

template <typename T>
std::vector<T> random_values(std::int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(random));
  return values;
}

// Query or key: what goes in and comes out.
template <typename T, typename Weight>
struct Side {
  std::int64_t heads;
  RopeLayout layout;
  std::vector<T> x, grad_out, out;
  std::vector<Weight> weight, grad_weight;

  Side(const Case& sizes, std::int64_t count, std::mt19937& random) : heads(count), layout(sizes.layout(count)) {
    const std::int64_t elements = sizes.rows(heads) * sizes.row_size();
    x = random_values<T>(elements, random);
    grad_out = random_values<T>(elements, random);
    out.assign(elements, from_float<T>(kUntouched));
    if (sizes.weights) weight = random_values<Weight>(sizes.head_dim, random);
    grad_weight.resize(weight.size());
  }

  RopeOperand operand(bool backward) {
    return {backward ? grad_out.data() : x.data(), out.data(), heads, layout, layout};
  }
  NormRopeOperand norm(bool backward) {
    if (weight.empty()) return {nullptr, x.data(), layout, nullptr};
    return {weight.data(), x.data(), layout, backward ? grad_weight.data() : nullptr};
  }
};

template <typename T, typename Table, typename Weight>
class Problem {
 public:
  Problem(const Case& sizes, bool backward)
      : sizes_(sizes),
        backward_(backward),
        query_(sizes, sizes.query_heads, random_),
        key_(sizes, sizes.key_heads, random_),
        cos_(random_values<Table>(sizes.batch * sizes.length * sizes.rotary_dim, random_)),
        sin_(random_values<Table>(sizes.batch * sizes.length * sizes.rotary_dim, random_)) {
    RopeArgs& rope = args_.rope;
    rope.query = query_.operand(backward);
    rope.key = key_.operand(backward);
    rope.cos = {cos_.data(), {0, sizes.length * sizes.rotary_dim, sizes.rotary_dim}};
    rope.sin = {sin_.data(), {0, sizes.length * sizes.rotary_dim, sizes.rotary_dim}};
    rope.positions[0] = 1;
    rope.positions[1] = sizes.batch;
    rope.positions[2] = sizes.length;
    rope.head_dim = sizes.head_dim;
    rope.rotary_dim = sizes.rotary_dim;
    rope.dtype = DtypeTraits<T>::scalar_type;
    rope.table_dtype = DtypeTraits<Table>::scalar_type;
    rope.transpose = backward;
    args_.query = query_.norm(backward);
    args_.key = key_.norm(backward);
    args_.eps = 1e-3f;
    args_.weight_offset = 1.0f;
    args_.weight_dtype = DtypeTraits<Weight>::scalar_type;
  }

  template <int kLevel>
  void check(const LaunchContext& context) {
    std::vector<double> workspace(norm_rope_backward_workspace(args_, context) / 2);
    const bool sums = backward_ && sizes_.weights;
    args_.workspace = sums ? reinterpret_cast<float*>(workspace.data()) : nullptr;
    const Status status =
        backward_ ? cpu::norm_rope_backward<kLevel>(args_, context) : cpu::norm_rope_forward<kLevel>(args_, context);
    ASSERT_TRUE(status.ok());
    const std::string where =
        sizes_.text() + (backward_ ? ", backward" : ", forward") + ", level " + std::to_string(kLevel);
    check_side(query_, args_.query, where + ", query");
    check_side(key_, args_.key, where + ", key");
  }

 private:
  void check_side(const Side<T, Weight>& side, const NormRopeOperand& norm, const std::string& where) const {
    std::vector<double> expected(side.out.size(), kUntouched), grad_weight(sizes_.head_dim, 0.0);
    for (std::int64_t position = 0; position < sizes_.batch * sizes_.length; ++position) {
      const std::int64_t batch = position / sizes_.length, index = position % sizes_.length;
      const std::int64_t table = position * sizes_.rotary_dim;
      for (std::int64_t head = 0; head < side.heads; ++head) {
        const std::int64_t row =
            batch * side.layout.positions[1] + index * side.layout.positions[2] + head * side.layout.head;
        const NormRopeHead<double, T, Table, Weight> ref{args_, norm, side.x.data() + row, cos_.data() + table,
                                                         sin_.data() + table};
        const std::vector<double> values =
            backward_ ? ref.backward(wide(side.grad_out, row), grad_weight) : ref.forward();
        std::copy(values.begin(), values.end(), expected.begin() + row);
      }
    }
    expect_near(side.out, expected, where);
    if (backward_ && sizes_.weights) expect_near(side.grad_weight, grad_weight, where + ", weight");
  }

  std::vector<double> wide(const std::vector<T>& values, std::int64_t row) const {
    std::vector<double> head(sizes_.head_dim);
    for (std::int64_t i = 0; i < sizes_.head_dim; ++i) head[i] = to_float(values[row + i]);
    return head;
  }

  // Half a unit in the last place, and the error of float32 before it, which is relative to what cancels.
  template <typename Element>
  static void expect_near(const std::vector<Element>& actual, const std::vector<double>& expected,
                          const std::string& where) {
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double rounding = 0.51 * 2 * kUnit<Element> * std::abs(expected[i]);
      const double allowed = expected[i] == kUntouched ? 0.0 : rounding + 2e-5;
      ASSERT_NEAR(to_float(actual[i]), expected[i], allowed) << where << ", element " << i;
    }
  }

  std::mt19937 random_{11};
  Case sizes_;
  bool backward_;
  Side<T, Weight> query_, key_;
  std::vector<Table> cos_, sin_;
  NormRopeArgs args_;
};

template <int kLevel, typename T, typename Table, typename Weight>
void check_level(const LaunchContext& context) {
  if (kLevel > isa_level()) return;
  for (const Case& sizes : kCases) {
    for (const bool backward : {false, true}) {
      Problem<T, Table, Weight>(sizes, backward).template check<kLevel>(context);
    }
  }
}

template <typename T, typename Table, typename Weight>
void check_levels(const LaunchContext& context = {}) {
  check_level<0, T, Table, Weight>(context);
#if LIGER_ISA_COUNT > 1
  check_level<1, T, Table, Weight>(context);
  check_level<2, T, Table, Weight>(context);
#endif
}

TEST(NormRope, Float32) { check_levels<float, float, float>(); }
TEST(NormRope, BFloat16) { check_levels<BFloat16, BFloat16, BFloat16>(); }
TEST(NormRope, Float16) { check_levels<Float16, Float16, Float16>(); }
TEST(NormRope, BFloat16WithFloat32Tables) { check_levels<BFloat16, float, BFloat16>(); }
TEST(NormRope, BFloat16WithFloat32Weights) { check_levels<BFloat16, BFloat16, float>(); }
TEST(NormRope, Float16WithFloat32TablesAndWeights) { check_levels<Float16, float, float>(); }

TEST(NormRope, InRangesOfAnyLength) {
  LaunchContext context;
  context.num_threads = 4;
  context.parallel_for = [](std::int64_t count, std::int64_t, RangeBody body, void* state) {
    for (std::int64_t begin = 0; begin < count; begin += 7) body(begin, std::min(begin + 7, count), state);
  };
  check_levels<float, float, float>(context);
}

TEST(NormRope, RefusesOtherHeadsAndWeights) {
  NormRopeArgs args;
  args.rope.head_dim = 7;
  EXPECT_STREQ(norm_rope_forward(args, {}).message(), "head_dim must be even and at most 512");
  args.rope.head_dim = 8;
  args.weight_dtype = ScalarType::float16;
  EXPECT_STREQ(norm_rope_backward(args, {}).message(), "weights must be float32 or have the dtype of query");
}

}  // namespace
}  // namespace liger::kernels
