// Norm and rotation of heads on the CPU. A thread owns a position and all its heads, so that cos and sin are read and
// converted once. A head stays in the stack between its passes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/row_block.h"
#include "kernels/norm_rope/norm_rope.h"
#include "kernels/rope/rope_positions.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread

// What is computed in. Every bit of float is a result where elements are float32.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, float>;

// A value for each channel of a head.
template <typename T>
using Channels = Wide<T>[kNormRopeWidest];

template <typename T>
using Reader = ReadBlock<T, kNormRopeWidest>;

// A position, and what it multiplies: turned[i] = x[i] * cos[i] + x[partner of i] * sin[i], signs included.
template <typename T>
struct Turn {
  std::int64_t position[kRopePositionDims];
  Channels<T> cos;
  Channels<T> sin;
};

template <typename T, typename Table>
void fill_turn(const RopeArgs& args, std::int64_t index, Turn<T>& turn) {
  position_of(args, index, turn.position);
  const std::int64_t half = args.rotary_dim / 2;
  const auto* cos_row = static_cast<const Table*>(args.cos.data) + offset_of(turn.position, args.cos.strides);
  const auto* sin_row = static_cast<const Table*>(args.sin.data) + offset_of(turn.position, args.sin.strides);
  const Reader<Table> cos(cos_row, args.rotary_dim), sin(sin_row, args.rotary_dim);
  const float sign = args.transpose ? -1.0f : 1.0f;
  const std::int64_t first = args.transpose ? half : 0, second = args.transpose ? 0 : half;
  for (std::int64_t i = 0; i < half; ++i) {
    turn.cos[i] = cos[i];
    turn.cos[half + i] = cos[half + i];
    turn.sin[i] = -sign * sin[first + i];
    turn.sin[half + i] = sign * sin[second + i];
  }
}

template <typename T>
void read_head(const T* row, std::int64_t count, Channels<T>& to) {
  const Reader<T> values(row, count);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) to[i] = values[i];
}

template <typename T>
void write_head(const Channels<T>& from, std::int64_t count, T* row) {
  WriteBlock<T, kNormRopeWidest> values(row, count);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) values.set(i, static_cast<float>(from[i]));
  values.finish();
}

// weight_offset + weight, 1 where there is no weight.
template <typename T, typename Weight>
void read_scale(const NormRopeArgs& args, const NormRopeOperand& norm, Channels<T>& scale) {
  const std::int64_t count = args.rope.head_dim;
  std::fill(scale, scale + count, Wide<T>(1));
  if (norm.weight == nullptr) return;
  const Reader<Weight> weight(static_cast<const Weight*>(norm.weight), count);
  for (std::int64_t i = 0; i < count; ++i) scale[i] = Wide<T>(args.weight_offset) + Wide<T>(weight[i]);
}

template <typename T>
void turn_head(const RopeArgs& args, const Turn<T>& turn, Channels<T>& x) {
  const std::int64_t half = args.rotary_dim / 2;
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const Wide<T> a = x[i], b = x[half + i];
    x[i] = a * turn.cos[i] + b * turn.sin[i];
    x[half + i] = b * turn.cos[half + i] + a * turn.sin[half + i];
  }
}

template <typename T>
double dot(const Channels<T>& a, const Channels<T>& b, std::int64_t count) {
  Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return static_cast<double>(sum);
}

template <typename T>
double inverse_rms(const Channels<T>& x, const NormRopeArgs& args) {
  const auto count = static_cast<double>(args.rope.head_dim);
  return 1.0 / std::sqrt(dot<T>(x, x, args.rope.head_dim) / count + static_cast<double>(args.eps));
}

template <typename T>
const T* row_at(const void* data, const RopeLayout& strides, const Turn<T>& turn, std::int64_t head) {
  return static_cast<const T*>(data) + offset_of(turn.position, strides.positions) + head * strides.head;
}

template <typename T>
T* out_row(const RopeOperand& operand, const Turn<T>& turn, std::int64_t head) {
  const RopeLayout& strides = operand.out_strides;
  return static_cast<T*>(operand.out) + offset_of(turn.position, strides.positions) + head * strides.head;
}

template <typename T>
void forward_heads(const NormRopeArgs& args, const RopeOperand& operand, const Channels<T>& scale,
                   const Turn<T>& turn) {
  const std::int64_t count = args.rope.head_dim;
  Channels<T> x;
  for (std::int64_t head = 0; head < operand.heads; ++head) {
    read_head<T>(row_at<T>(operand.in, operand.in_strides, turn, head), count, x);
    const auto rstd = static_cast<Wide<T>>(inverse_rms<T>(x, args));
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) x[i] *= rstd * scale[i];
    turn_head<T>(args.rope, turn, x);
    write_head<T>(x, count, out_row<T>(operand, turn, head));
  }
}

// The gradient of one head; `grad` comes in as that of the normalised values.
template <typename T>
void backward_head(const NormRopeArgs& args, const Channels<T>& x, const Channels<T>& scale, Channels<T>& grad,
                   double* weight_sums) {
  const std::int64_t count = args.rope.head_dim;
  const double inverse = inverse_rms<T>(x, args);
  const auto rstd = static_cast<Wide<T>>(inverse);
  if (weight_sums != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) weight_sums[i] += static_cast<double>(grad[i] * (x[i] * rstd));
  }
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) grad[i] *= scale[i];
  const double along = dot<T>(grad, x, count) / static_cast<double>(count);
  const auto projection = static_cast<Wide<T>>(inverse * inverse * inverse * along);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) grad[i] = rstd * grad[i] - projection * x[i];
}

template <typename T>
void backward_heads(const NormRopeArgs& args, const RopeOperand& operand, const NormRopeOperand& norm,
                    const Channels<T>& scale, const Turn<T>& turn, double* weight_sums) {
  const std::int64_t count = args.rope.head_dim;
  Channels<T> x, grad;
  for (std::int64_t head = 0; head < operand.heads; ++head) {
    read_head<T>(row_at<T>(operand.in, operand.in_strides, turn, head), count, grad);
    read_head<T>(row_at<T>(norm.hidden, norm.hidden_strides, turn, head), count, x);
    turn_head<T>(args.rope, turn, grad);
    backward_head<T>(args, x, scale, grad, weight_sums);
    write_head<T>(grad, count, out_row<T>(operand, turn, head));
  }
}

// visit(turn, scale of the query, scale of the key) for positions [begin, end).
template <typename T, typename Table, typename Weight, typename Visitor>
void for_positions(const NormRopeArgs& args, std::int64_t begin, std::int64_t end, Visitor&& visit) {
  Channels<T> query_scale, key_scale;
  read_scale<T, Weight>(args, args.query, query_scale);
  read_scale<T, Weight>(args, args.key, key_scale);
  Turn<T> turn;
  for (std::int64_t index = begin; index < end; ++index) {
    fill_turn<T, Table>(args.rope, index, turn);
    visit(turn, query_scale, key_scale);
  }
}

// Sums of the query's weight gradient in one part of the positions, followed by the key's: [2, head_dim].
inline double* part_sums(const NormRopeArgs& args, std::int64_t part) {
  return reinterpret_cast<double*>(args.workspace) + part * 2 * args.rope.head_dim;
}

template <typename T, typename Table, typename Weight>
void backward_part(const NormRopeArgs& args, std::int64_t begin, std::int64_t end, std::int64_t part) {
  double *query_sums = nullptr, *key_sums = nullptr;
  if (args.workspace != nullptr) {
    query_sums = part_sums(args, part);
    key_sums = query_sums + args.rope.head_dim;
    std::fill(query_sums, query_sums + 2 * args.rope.head_dim, 0.0);
  }
  for_positions<T, Table, Weight>(args, begin, end,
                                  [&](const auto& turn, const auto& query_scale, const auto& key_scale) {
                                    backward_heads<T>(args, args.rope.query, args.query, query_scale, turn, query_sums);
                                    backward_heads<T>(args, args.rope.key, args.key, key_scale, turn, key_sums);
                                  });
}

// Adds the parts in their order, so that the result depends on the number of parts only.
template <typename Weight>
void add_parts(const NormRopeArgs& args, void* grad_weight, std::int64_t offset, std::int64_t parts) {
  if (grad_weight == nullptr) return;
  for (std::int64_t i = 0; i < args.rope.head_dim; ++i) {
    double total = 0.0;
    for (std::int64_t part = 0; part < parts; ++part) total += part_sums(args, part)[offset + i];
    static_cast<Weight*>(grad_weight)[i] = from_float<Weight>(static_cast<float>(total));
  }
}

}  // namespace LIGER_ISA_NAMESPACE

namespace cpu {

using namespace LIGER_ISA_NAMESPACE;

template <>
Status norm_rope_forward<LIGER_ISA_LEVEL>(const NormRopeArgs& args, const LaunchContext& context) {
  const std::int64_t elements = (args.rope.query.heads + args.rope.key.heads) * args.rope.head_dim;  // of a position
  const std::int64_t grain = 1 + kGrainElements / std::max<std::int64_t>(1, elements);
  return dispatch_norm_rope_dtypes(args, [&](auto type, auto table, auto weight) {
    using T = typename decltype(type)::type;
    for_ranges(context, count_positions(args.rope), grain, [&](std::int64_t begin, std::int64_t end) {
      for_positions<T, typename decltype(table)::type, typename decltype(weight)::type>(
          args, begin, end, [&](const auto& turn, const auto& query_scale, const auto& key_scale) {
            forward_heads<T>(args, args.rope.query, query_scale, turn);
            forward_heads<T>(args, args.rope.key, key_scale, turn);
          });
    });
    return Status();
  });
}

template <>
Status norm_rope_backward<LIGER_ISA_LEVEL>(const NormRopeArgs& args, const LaunchContext& context) {
  const std::int64_t parts = norm_rope_backward_parts(args, context), positions = count_positions(args.rope);
  return dispatch_norm_rope_dtypes(args, [&](auto type, auto table, auto weight) {
    using Weight = typename decltype(weight)::type;
    for_ranges(context, parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        backward_part<typename decltype(type)::type, typename decltype(table)::type, Weight>(
            args, positions * part / parts, positions * (part + 1) / parts, part);
      }
    });
    add_parts<Weight>(args, args.query.grad_weight, 0, parts);
    add_parts<Weight>(args, args.key.grad_weight, args.rope.head_dim, parts);
    return Status();
  });
}

}  // namespace cpu
}  // namespace liger::kernels
