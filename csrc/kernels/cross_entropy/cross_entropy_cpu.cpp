// Cross entropy on the CPU: one thread owns a row and walks it in blocks that stay in its first-level cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/row_block.h"
#include "kernels/common/vec_math.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kBlock = 1024;             // columns
constexpr std::int64_t kGrainElements = 16384;    // least work worth a thread
constexpr float kLowestFloat = -3.402823466e38f;  // where a running maximum starts, so that it stays finite

LIGER_ALWAYS_INLINE std::int64_t row_grain(std::int64_t vocab) { return 1 + kGrainElements / (vocab + 1); }

LIGER_ALWAYS_INLINE std::int64_t class_of(const CrossEntropyTarget& target, std::int64_t row) {
  return target.is_int64 ? static_cast<const std::int64_t*>(target.classes)[row]
                         : static_cast<const std::int32_t*>(target.classes)[row];
}

// The class of a row, or -1 where it is ignored. The caller has checked that classes are in range.
LIGER_ALWAYS_INLINE std::int64_t counted_class(const CrossEntropyTarget& target, std::int64_t row) {
  const std::int64_t label = class_of(target, row);
  return label == target.ignore_index ? -1 : label;
}

template <bool kSoftcap>
LIGER_ALWAYS_INLINE float transform(const LogitMap& map, float logit) {
  const float value = logit * map.scale;
  if constexpr (kSoftcap) return map.softcap > 0.0f ? map.softcap * vec_tanh(value / map.softcap) : value;
  return value;
}

template <bool kSoftcap>
LIGER_ALWAYS_INLINE float slope(const LogitMap& map, float transformed) {
  if constexpr (!kSoftcap) return map.slope_scale;
  const float ratio = map.slope_softcap > 0.0f ? transformed / map.slope_softcap : 0.0f;
  return map.slope_scale * (1.0f - ratio * ratio);
}

template <bool kSoftcap, typename T>
void transform_block(const LogitMap& map, const T* row, std::int64_t count, float* values) {
  const LogitMap local = map;  // no store of the loop can change it
  const ReadBlock<T, kBlock> logits(row, count);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) values[j] = transform<kSoftcap>(local, logits[j]);
}

// Rounds values to T, in place and into `out`.
template <typename T>
void round_block(float* values, std::int64_t count, T* out) {
  WriteBlock<T, kBlock> rounded(out, count);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) rounded.set(j, values[j]);
  rounded.finish();
  const ReadBlock<T, kBlock> read(out, count);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) values[j] = read[j];
}

struct RowStats {
  float max = kLowestFloat;
  double sum = 0.0;    // of exp(u - max)
  double total = 0.0;  // of u
};

template <bool kTotal>
void absorb(RowStats& stats, const float* values, std::int64_t count) {
  float max = stats.max;
#pragma omp simd reduction(max : max)
  for (std::int64_t j = 0; j < count; ++j) max = values[j] > max ? values[j] : max;
  double sum = 0.0, total = 0.0;
#pragma omp simd reduction(+ : sum, total)
  for (std::int64_t j = 0; j < count; ++j) {
    sum += static_cast<double>(vec_exp(values[j] - max));
    if constexpr (kTotal) total += static_cast<double>(values[j]);
  }
  if (max > stats.max) stats.sum *= std::exp(static_cast<double>(stats.max) - static_cast<double>(max));
  stats.max = max;
  stats.sum += sum;
  stats.total += total;
}

template <bool kSoftcap, typename T>
RowStats row_stats(const LogitMap& map, const T* row, T* transformed, std::int64_t vocab, bool wants_total) {
  RowStats stats;
  float values[kBlock];
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, vocab - begin);
    transform_block<kSoftcap>(map, row + begin, count, values);
    if (transformed != nullptr) round_block(values, count, transformed + begin);
    wants_total ? absorb<true>(stats, values, count) : absorb<false>(stats, values, count);
  }
  return stats;
}

inline double lse_of(const RowStats& stats) { return static_cast<double>(stats.max) + std::log(stats.sum); }

inline float loss_of_row(const RowStats& stats, float target_value, double smoothing, std::int64_t vocab) {
  const double lse = lse_of(stats);
  const double likelihood = lse - static_cast<double>(target_value);
  if (smoothing == 0.0) return static_cast<float>(likelihood);
  const double uniform = lse - stats.total / static_cast<double>(vocab);
  return static_cast<float>((1.0 - smoothing) * likelihood + smoothing * uniform);
}

inline RowSoftmax softmax_of(double lse) {
  const auto shift = static_cast<float>(lse);
  return {shift, std::exp(static_cast<double>(shift) - lse), lse};
}

// What makes up the gradient of a row: its loss, a gradient that comes through the transformed logits, or both.
enum class Terms : std::uint8_t { loss, extra, both };

template <bool kSoftcap, Terms kTerms>
LIGER_ALWAYS_INLINE float element_gradient(const LogitMap& map, const RowGradient& row, float offset, float logit,
                                           float extra) {
  const float value = transform<kSoftcap>(map, logit);
  float gradient = kTerms == Terms::loss ? 0.0f : extra;
  if constexpr (kTerms != Terms::extra) gradient += row.weight * vec_exp(value - row.shift) - offset;
  return gradient * slope<kSoftcap>(map, value);
}

// out may be the row or extra.
template <bool kSoftcap, Terms kTerms, typename T>
void write_terms(const LogitMap& shared_map, const RowGradient& shared_row, const T* row, const T* extra, T* out,
                 std::int64_t vocab) {
  const LogitMap map = shared_map;  // no store of the loop can change these
  const RowGradient gradient = shared_row;
  const std::int64_t label = kTerms == Terms::extra ? -1 : gradient.label;
  T at_label{};
  if (label >= 0) {
    const float extra_there = kTerms == Terms::both ? to_float(extra[label]) : 0.0f;
    at_label = from_float<T>(
        element_gradient<kSoftcap, kTerms>(map, gradient, gradient.label_offset, to_float(row[label]), extra_there));
  }
  for_blocks<kBlock>(vocab, [&](std::int64_t begin, std::int64_t count) {
    const ReadBlock<T, kBlock> logits(row + begin, count);
    const ReadBlock<T, kBlock> extras(kTerms == Terms::loss ? row : extra + begin, kTerms == Terms::loss ? 0 : count);
    WriteBlock<T, kBlock> gradients(out + begin, count);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) {
      const float added = kTerms == Terms::loss ? 0.0f : extras[j];
      gradients.set(j, element_gradient<kSoftcap, kTerms>(map, gradient, gradient.offset, logits[j], added));
    }
    gradients.finish();
  });
  if (label >= 0) out[label] = at_label;
}

template <bool kSoftcap, typename T>
void write_gradient(const LogitMap& map, const RowGradient& gradient, const T* row, const T* extra, T* out,
                    std::int64_t vocab) {
  if (extra == nullptr) {
    write_terms<kSoftcap, Terms::loss>(map, gradient, row, extra, out, vocab);
  } else if (gradient.is_zero) {
    write_terms<kSoftcap, Terms::extra>(map, gradient, row, extra, out, vocab);
  } else {
    write_terms<kSoftcap, Terms::both>(map, gradient, row, extra, out, vocab);
  }
}

template <typename T>
const T* row_of(const void* data, std::int64_t row, std::int64_t stride) {
  return static_cast<const T*>(data) + row * stride;
}

template <typename T>
T* row_of(void* data, std::int64_t row, std::int64_t stride) {
  return static_cast<T*>(data) + row * stride;
}

template <typename T>
void write_zeros(T* out, std::int64_t count) {
  std::memset(out, 0, static_cast<std::size_t>(count) * sizeof(T));
}

template <bool kSoftcap, typename T>
void forward_row(const CrossEntropyForwardArgs& args, const LogitMap& map, std::int64_t row) {
  const std::int64_t label = counted_class(args.target, row);
  T* transformed = args.transformed == nullptr ? nullptr : row_of<T>(args.transformed, row, args.transformed_stride);
  if (transformed == nullptr && label < 0 && args.z_loss == 0.0) {
    args.row_loss[row] = 0.0f;
    args.lse[row] = 0.0;
    return;
  }
  const T* logits = row_of<T>(args.logits.data, row, args.logits.row_stride);
  float target_value = label < 0 ? 0.0f : transform<kSoftcap>(map, to_float(logits[label]));
  if (transformed != nullptr) target_value = rounded_to<T>(target_value);
  const RowStats stats = row_stats<kSoftcap>(map, logits, transformed, args.vocab, args.label_smoothing != 0.0);
  args.lse[row] = lse_of(stats);
  args.row_loss[row] = label < 0 ? 0.0f : loss_of_row(stats, target_value, args.label_smoothing, args.vocab);
}

template <bool kSoftcap, typename T>
void backward_row(const CrossEntropyBackwardArgs& args, const LogitMap& map, std::int64_t row) {
  const bool has_loss = args.grad_loss != nullptr;
  const std::int64_t label = has_loss ? counted_class(args.target, row) : -1;
  const double upstream = has_loss ? static_cast<double>(args.grad_loss[row * args.grad_loss_stride]) : 0.0;
  const RowGradient gradient = row_gradient(*args.scales, upstream, args.label_smoothing, has_loss ? args.z_loss : 0.0,
                                            args.vocab, softmax_of(args.lse[row]), label);
  const T* logits = row_of<T>(args.logits.data, row, args.logits.row_stride);
  T* out = row_of<T>(args.grad_logits, row, args.grad_stride);
  const T* extra = nullptr;
  if (args.grad_transformed != nullptr) extra = row_of<T>(args.grad_transformed, row, args.grad_transformed_stride);
  if (extra == nullptr && gradient.is_zero) return write_zeros(out, args.vocab);
  write_gradient<kSoftcap>(map, gradient, logits, extra, out, args.vocab);
}

template <bool kSoftcap, typename T>
void fused_row(const CrossEntropyFusedArgs& args, const LogitMap& map, std::int64_t row) {
  const std::int64_t label = counted_class(args.target, row);
  T* logits = row_of<T>(args.grad_logits, row, args.logits.row_stride);
  if (label < 0 && args.z_loss == 0.0) {
    args.row_loss[row] = 0.0f;
    args.lse[row] = 0.0;
    write_zeros(logits, args.vocab);
    return;
  }
  const float target_value = label < 0 ? 0.0f : transform<kSoftcap>(map, to_float(logits[label]));
  T* none = nullptr;
  const RowStats stats = row_stats<kSoftcap, T>(map, logits, none, args.vocab, args.label_smoothing != 0.0);
  args.lse[row] = lse_of(stats);
  args.row_loss[row] = label < 0 ? 0.0f : loss_of_row(stats, target_value, args.label_smoothing, args.vocab);
  const CrossEntropyScales& scales = *args.scales;
  const RowGradient gradient = row_gradient(scales, scales.grad_unit, args.label_smoothing, args.z_loss, args.vocab,
                                            softmax_of(args.lse[row]), label);
  write_gradient<kSoftcap, T>(map, gradient, logits, none, logits, args.vocab);
}

// Calls visitor(TypeTag<T>, has a softcap).
template <typename Visitor>
void with_logits(const CrossEntropyLogits& logits, Visitor&& visitor) {
  dispatch_dtype(logits.dtype, [&](auto type) {
    logits.softcap > 0.0f ? visitor(type, std::true_type{}) : visitor(type, std::false_type{});
  });
}

template <typename T>
void sum_columns(const ColumnSumArgs& args, std::int64_t begin, std::int64_t count) {
  constexpr std::int64_t kRows = 32;  // summed in float before they go to the doubles
  double totals[kBlock] = {};
  for (std::int64_t first = 0; first < args.rows; first += kRows) {
    float sums[kBlock] = {};
    const std::int64_t last = std::min(first + kRows, args.rows);
    for (std::int64_t row = first; row < last; ++row) {
      const ReadBlock<T, kBlock> values(row_of<T>(args.values, row, args.row_stride) + begin, count);
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) sums[j] += values[j];
    }
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) totals[j] += static_cast<double>(sums[j]);
  }
  float* out = args.sums + begin;
  for (std::int64_t j = 0; j < count; ++j) {
    const double before = args.accumulate ? static_cast<double>(out[j]) : 0.0;
    out[j] = static_cast<float>(before + totals[j]);
  }
}

template <typename From, typename To>
void scale_block(const From* values, float factor, std::int64_t count, To* out) {
  const ReadBlock<From, kBlock> elements(values, count);
  WriteBlock<To, kBlock> scaled(out, count);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) scaled.set(j, elements[j] * factor);
  scaled.finish();
}

}  // namespace LIGER_ISA_NAMESPACE

namespace cpu {

using namespace LIGER_ISA_NAMESPACE;

template <>
Status cross_entropy_forward<LIGER_ISA_LEVEL>(const CrossEntropyForwardArgs& args, const LaunchContext& context) {
  const LogitMap map = logit_map(args.logits);
  with_logits(args.logits, [&](auto type, auto softcap) {
    for_ranges(context, args.rows, row_grain(args.vocab), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        forward_row<softcap.value, typename decltype(type)::type>(args, map, row);
    });
  });
  return {};
}

template <>
Status cross_entropy_backward<LIGER_ISA_LEVEL>(const CrossEntropyBackwardArgs& args, const LaunchContext& context) {
  const LogitMap map = logit_map(args.logits);
  with_logits(args.logits, [&](auto type, auto softcap) {
    for_ranges(context, args.rows, row_grain(args.vocab), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        backward_row<softcap.value, typename decltype(type)::type>(args, map, row);
    });
  });
  return {};
}

template <>
Status cross_entropy_fused<LIGER_ISA_LEVEL>(const CrossEntropyFusedArgs& args, const LaunchContext& context) {
  const LogitMap map = logit_map(args.logits);
  with_logits(args.logits, [&](auto type, auto softcap) {
    for_ranges(context, args.rows, row_grain(args.vocab), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        fused_row<softcap.value, typename decltype(type)::type>(args, map, row);
    });
  });
  return {};
}

template <>
Status column_sum<LIGER_ISA_LEVEL>(const ColumnSumArgs& args, const LaunchContext& context) {
  const std::int64_t blocks = (args.columns + kBlock - 1) / kBlock;
  dispatch_dtype(args.dtype, [&](auto type) {
    for_ranges(context, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t column = block * kBlock;
        sum_columns<typename decltype(type)::type>(args, column, std::min(kBlock, args.columns - column));
      }
    });
  });
  return {};
}

template <>
Status scale_gradient<LIGER_ISA_LEVEL>(const ScaleGradientArgs& args, const LaunchContext& context) {
  const float factor = *args.factor;
  dispatch_scale_dtypes(args, [&](auto from, auto to) {
    const auto* values = static_cast<const typename decltype(from)::type*>(args.values);
    auto* out = static_cast<typename decltype(to)::type*>(args.out);
    for_ranges(context, args.count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
      for_blocks<kBlock>(end - begin, [&](std::int64_t offset, std::int64_t count) {
        scale_block(values + begin + offset, factor, count, out + begin + offset);
      });
    });
  });
  return {};
}

}  // namespace cpu
}  // namespace liger::kernels
