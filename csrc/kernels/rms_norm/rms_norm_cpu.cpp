// RMSNorm on the CPU: one thread owns a row and reads it twice, the second time from its cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/common/cpu_isa.h"
#include "kernels/rms_norm/rms_norm.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kSumBlock = 512;         // columns summed before the sum goes to a double
constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread

// Gradients of float32 rows are computed in double: every bit of float is a result there.
template <typename Hidden>
using Accumulator = std::conditional_t<std::is_same_v<Hidden, float>, double, float>;

// The sum of term(column) over the columns.
template <typename Acc, typename Term>
LIGER_ALWAYS_INLINE double blocked_sum(std::int64_t width, Term&& term) {
  double total = 0.0;
  for (std::int64_t begin = 0; begin < width; begin += kSumBlock) {
    const std::int64_t end = begin + kSumBlock < width ? begin + kSumBlock : width;
    Acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = begin; j < end; ++j) sum += term(j);
    total += static_cast<double>(sum);
  }
  return total;
}

template <typename Hidden>
double sum_of_squares(const Hidden* x, std::int64_t width) {
  return blocked_sum<float>(width, [=](std::int64_t j) { return to_float(x[j]) * to_float(x[j]); });
}

template <typename Hidden>
void add_rows(const Hidden* __restrict hidden, const Hidden* __restrict residual, Hidden* __restrict sum,
              std::int64_t width) {
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) sum[j] = from_float<Hidden>(to_float(hidden[j]) + to_float(residual[j]));
}

template <bool kRound, typename Acc, typename Hidden>
LIGER_ALWAYS_INLINE Acc unit_value(Hidden x, Acc rstd) {
  const Acc unit = Acc(to_float(x)) * rstd;
  return kRound ? Acc(rounded_to<Hidden>(static_cast<float>(unit))) : unit;
}

template <bool kHasWeight, typename Acc, typename Weight>
LIGER_ALWAYS_INLINE Acc scale_of(const Weight* weight, std::int64_t column, Acc offset) {
  return kHasWeight ? offset + Acc(to_float(weight[column])) : Acc(1);
}

// rstd + rest is 1 / rms; float32 results would show what the rounding of rstd to float lost.
template <bool kHasWeight, bool kRound, typename Hidden, typename Weight, typename Out>
void scale_row(const Hidden* __restrict x, const Weight* __restrict weight, Out* __restrict out, std::int64_t width,
               float rstd, float rest, float offset) {
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) {
    float unit = unit_value<kRound>(x[j], rstd);
    if constexpr (std::is_same_v<Hidden, float>) unit = x[j] * rest + unit;
    out[j] = from_float<Out>(unit * scale_of<kHasWeight>(weight, j, offset));
  }
}

template <bool kHasWeight, bool kRound, typename Hidden, typename Weight, typename Out>
void forward_rows(const RmsNormArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* weight = static_cast<const Weight*>(args.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
    if (args.residual != nullptr) {
      auto* sum = static_cast<Hidden*>(args.sum) + row * args.width;
      add_rows(x, static_cast<const Hidden*>(args.residual) + row * args.residual_stride, sum, args.width);
      x = sum;
    }
    const double mean = sum_of_squares(x, args.width) / static_cast<double>(args.width);
    const double exact = 1.0 / std::sqrt(mean + static_cast<double>(args.eps));
    const auto rstd = static_cast<float>(exact);
    const auto rest = static_cast<float>(exact - static_cast<double>(rstd));
    if (args.rstd != nullptr) args.rstd[row] = rstd;
    auto* out = static_cast<Out*>(args.out) + row * args.width;
    scale_row<kHasWeight, kRound>(x, weight, out, args.width, rstd, rest, args.weight_offset);
  }
}

// <grad_out * (offset + weight), x>
template <bool kHasWeight, typename Acc, typename Hidden, typename Weight, typename Out>
double weighted_dot(const Out* grad_out, const Weight* weight, const Hidden* x, std::int64_t width, Acc offset) {
  return blocked_sum<Acc>(width, [=](std::int64_t j) {
    return Acc(to_float(grad_out[j])) * scale_of<kHasWeight>(weight, j, offset) * Acc(to_float(x[j]));
  });
}

template <bool kHasWeight, bool kAddGradSum, typename Acc, typename Hidden, typename Weight, typename Out>
void grad_hidden_row(const Out* __restrict grad_out, const Hidden* __restrict grad_sum, const Hidden* __restrict x,
                     const Weight* __restrict weight, Hidden* __restrict grad_hidden, std::int64_t width, Acc rstd,
                     Acc projection, Acc offset) {
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) {
    const Acc m = Acc(to_float(grad_out[j])) * scale_of<kHasWeight>(weight, j, offset);
    const Acc norm_grad = rstd * m - projection * Acc(to_float(x[j]));
    const Acc grad = kAddGradSum ? norm_grad + Acc(to_float(grad_sum[j])) : norm_grad;
    grad_hidden[j] = from_float<Hidden>(static_cast<float>(grad));
  }
}

// Thousands of rows add up, so the sums are doubles for every dtype.
template <bool kRound, typename Acc, typename Hidden, typename Out>
void add_weight_row(const Out* __restrict grad_out, const Hidden* __restrict x, double* __restrict total,
                    std::int64_t width, Acc rstd) {
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) {
    total[j] += static_cast<double>(Acc(to_float(grad_out[j])) * unit_value<kRound>(x[j], rstd));
  }
}

// The sums of weight gradient of one part of the rows, [width].
inline double* weight_totals(const RmsNormBackwardArgs& args, std::int64_t part) {
  return reinterpret_cast<double*>(args.workspace + part * cpu::rms_norm_backward_part_floats(args.width));
}

template <bool kHasWeight, bool kRound, typename Hidden, typename Weight, typename Out>
void backward_row(const RmsNormBackwardArgs& args, std::int64_t row, double* totals) {
  const auto* grad_out = static_cast<const Out*>(args.grad_out) + row * args.grad_out_stride;
  const auto* x = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
  const auto* weight = static_cast<const Weight*>(args.weight);
  auto* grad_hidden = static_cast<Hidden*>(args.grad_hidden_states) + row * args.width;
  using Acc = Accumulator<Hidden>;
  const auto rstd = Acc(args.rstd[row]), offset = Acc(args.weight_offset);
  const double dot = weighted_dot<kHasWeight>(grad_out, weight, x, args.width, offset);
  const double cube = static_cast<double>(rstd) * static_cast<double>(rstd) * static_cast<double>(rstd);
  const auto projection = static_cast<Acc>(cube * dot / static_cast<double>(args.width));
  const auto run = [&](auto adds, const Hidden* grad_sum) {
    grad_hidden_row<kHasWeight, adds>(grad_out, grad_sum, x, weight, grad_hidden, args.width, rstd, projection, offset);
  };
  if (args.grad_sum != nullptr) {
    run(std::true_type{}, static_cast<const Hidden*>(args.grad_sum) + row * args.grad_sum_stride);
  } else {
    run(std::false_type{}, nullptr);
  }
  if (totals != nullptr) add_weight_row<kRound>(grad_out, x, totals, args.width, rstd);
}

template <bool kHasWeight, bool kRound, typename Hidden, typename Weight, typename Out>
void backward_rows(const RmsNormBackwardArgs& args, std::int64_t begin, std::int64_t end, std::int64_t part) {
  double* totals = args.grad_weight == nullptr ? nullptr : weight_totals(args, part);
  if (totals != nullptr) std::fill(totals, totals + args.width, 0.0);
  for (std::int64_t row = begin; row < end; ++row) {
    backward_row<kHasWeight, kRound, Hidden, Weight, Out>(args, row, totals);
  }
}

// Adds the parts in their order, so that the result depends on the number of parts only.
template <typename Weight>
void reduce_weight_parts(const RmsNormBackwardArgs& args, std::int64_t parts) {
  auto* grad_weight = static_cast<Weight*>(args.grad_weight);
  for (std::int64_t j = 0; j < args.width; ++j) {
    double total = 0.0;
    for (std::int64_t part = 0; part < parts; ++part) total += weight_totals(args, part)[j];
    grad_weight[j] = from_float<Weight>(static_cast<float>(total));
  }
}

template <typename Visitor>
Status with_flags(bool has_weight, bool round, Visitor&& visitor) {
  using Yes = std::true_type;
  using No = std::false_type;
  if (has_weight) return round ? visitor(Yes{}, Yes{}) : visitor(Yes{}, No{});
  return round ? visitor(No{}, Yes{}) : visitor(No{}, No{});
}

}  // namespace LIGER_ISA_NAMESPACE

namespace cpu {

using namespace LIGER_ISA_NAMESPACE;

template <>
Status rms_norm_forward<LIGER_ISA_LEVEL>(const RmsNormArgs& args, const LaunchContext& context) {
  const bool has_weight = args.weight != nullptr;
  return dispatch_rms_norm_dtypes(
      args.hidden_dtype, args.weight_dtype, args.out_dtype, has_weight, [&](auto hidden, auto weight, auto out) {
        return with_flags(has_weight, args.round_before_weight, [&](auto weighted, auto round) {
          const std::int64_t grain = std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, args.width));
          for_ranges(context, args.rows, grain, [&](std::int64_t begin, std::int64_t end) {
            forward_rows<weighted, round, typename decltype(hidden)::type, typename decltype(weight)::type,
                         typename decltype(out)::type>(args, begin, end);
          });
          return Status();
        });
      });
}

template <>
Status rms_norm_backward<LIGER_ISA_LEVEL>(const RmsNormBackwardArgs& args, const LaunchContext& context) {
  const bool has_weight = args.weight != nullptr;
  const std::int64_t parts = rms_norm_backward_parts(args, context);
  return dispatch_rms_norm_dtypes(
      args.hidden_dtype, args.weight_dtype, args.out_dtype, has_weight, [&](auto hidden, auto weight, auto out) {
        using Weight = typename decltype(weight)::type;
        return with_flags(has_weight, args.round_before_weight, [&](auto weighted, auto round) {
          for_ranges(context, parts, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t part = begin; part < end; ++part) {
              backward_rows<weighted, round, typename decltype(hidden)::type, Weight, typename decltype(out)::type>(
                  args, args.rows * part / parts, args.rows * (part + 1) / parts, part);
            }
          });
          if (args.grad_weight != nullptr) reduce_weight_parts<Weight>(args, parts);
          return Status();
        });
      });
}

}  // namespace cpu
}  // namespace liger::kernels
