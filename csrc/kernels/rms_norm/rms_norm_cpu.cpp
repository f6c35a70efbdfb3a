// RMSNorm on the CPU: one thread owns a row and reads it twice, the second time from its cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/row_block.h"
#include "kernels/rms_norm/rms_norm.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kRowBlock = 512;         // columns; their sum goes to a double
constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread

// Gradients of float32 rows are computed in double: every bit of float is a result there.
template <typename Hidden>
using Accumulator = std::conditional_t<std::is_same_v<Hidden, float>, double, float>;

template <typename T>
using Reader = ReadBlock<T, kRowBlock>;
template <typename T>
using Writer = WriteBlock<T, kRowBlock>;

// The sum of term(j) over a block.
template <typename Acc, typename Term>
LIGER_ALWAYS_INLINE double block_sum(std::int64_t count, Term&& term) {
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < count; ++j) sum += term(j);
  return static_cast<double>(sum);
}

template <typename Hidden>
double sum_of_squares(const Hidden* row, std::int64_t width) {
  double total = 0.0;
  for_blocks<kRowBlock>(width, [&](std::int64_t begin, std::int64_t count) {
    const Reader<Hidden> x(row + begin, count);
    total += block_sum<float>(count, [&](std::int64_t j) { return x[j] * x[j]; });
  });
  return total;
}

template <typename Hidden>
void add_rows(const Hidden* __restrict hidden, const Hidden* __restrict residual, Hidden* __restrict sum,
              std::int64_t width) {
  for_blocks<kRowBlock>(width, [=](std::int64_t begin, std::int64_t count) {
    const Reader<Hidden> a(hidden + begin, count), b(residual + begin, count);
    Writer<Hidden> out(sum + begin, count);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) out.set(j, a[j] + b[j]);
    out.finish();
  });
}

// x * rstd of a block, rounded to Hidden where kRound. rstd + rest is 1 / rms; float32 results would show what the
// rounding of rstd to float lost.
template <bool kRound, typename Hidden>
class Units {
 public:
  Units(const Hidden* row, std::int64_t count, float rstd, float rest) : x_(row, count), rstd_(rstd), rest_(rest) {}
  LIGER_ALWAYS_INLINE float operator[](std::int64_t j) const {
    const float unit = x_[j] * rstd_;
    if constexpr (std::is_same_v<Hidden, float>) return x_[j] * rest_ + unit;
    return kRound ? rounded_to<Hidden>(unit) : unit;
  }

 private:
  Reader<Hidden> x_;
  float rstd_;
  float rest_;
};

// float16 is rounded a block at a time, see row_block.h.
template <>
class Units<true, Float16> {
 public:
  Units(const Float16* row, std::int64_t count, float rstd, float) {
    widen(row, values_, count);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) values_[j] *= rstd;
    round_to_float16(values_, count);
  }
  LIGER_ALWAYS_INLINE float operator[](std::int64_t j) const { return values_[j]; }

 private:
  float values_[kRowBlock];
};

// offset + weight of a block, 1 where there is no weight.
template <bool kHasWeight, typename Acc, typename Weight>
class Scales {
 public:
  Scales(const Weight* weight, std::int64_t begin, std::int64_t count, Acc offset)
      : weight_(kHasWeight ? weight + begin : nullptr, kHasWeight ? count : 0), offset_(offset) {}
  LIGER_ALWAYS_INLINE Acc operator[](std::int64_t j) const { return kHasWeight ? offset_ + Acc(weight_[j]) : Acc(1); }

 private:
  Reader<Weight> weight_;
  Acc offset_;
};

template <bool kHasWeight, bool kRound, typename Hidden, typename Weight, typename Out>
void scale_row(const Hidden* __restrict x, const Weight* __restrict weight, Out* __restrict out, std::int64_t width,
               float rstd, float rest, float offset) {
  for_blocks<kRowBlock>(width, [=](std::int64_t begin, std::int64_t count) {
    const Units<kRound, Hidden> units(x + begin, count, rstd, rest);
    const Scales<kHasWeight, float, Weight> scales(weight, begin, count, offset);
    Writer<Out> results(out + begin, count);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) results.set(j, units[j] * scales[j]);
    results.finish();
  });
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
double weighted_dot(const Out* grad_out, const Weight* weight, const Hidden* row, std::int64_t width, Acc offset) {
  double total = 0.0;
  for_blocks<kRowBlock>(width, [&](std::int64_t begin, std::int64_t count) {
    const Reader<Out> dy(grad_out + begin, count);
    const Reader<Hidden> x(row + begin, count);
    const Scales<kHasWeight, Acc, Weight> scales(weight, begin, count, offset);
    total += block_sum<Acc>(count, [&](std::int64_t j) { return Acc(dy[j]) * scales[j] * Acc(x[j]); });
  });
  return total;
}

template <bool kHasWeight, bool kAddGradSum, typename Acc, typename Hidden, typename Weight, typename Out>
void grad_hidden_row(const Out* __restrict grad_out, const Hidden* __restrict grad_sum, const Hidden* __restrict row,
                     const Weight* __restrict weight, Hidden* __restrict grad_hidden, std::int64_t width, Acc rstd,
                     Acc projection, Acc offset) {
  for_blocks<kRowBlock>(width, [=](std::int64_t begin, std::int64_t count) {
    const Reader<Out> dy(grad_out + begin, count);
    const Reader<Hidden> x(row + begin, count), added(kAddGradSum ? grad_sum + begin : row, kAddGradSum ? count : 0);
    const Scales<kHasWeight, Acc, Weight> scales(weight, begin, count, offset);
    Writer<Hidden> results(grad_hidden + begin, count);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) {
      const Acc norm_grad = rstd * (Acc(dy[j]) * scales[j]) - projection * Acc(x[j]);
      results.set(j, static_cast<float>(kAddGradSum ? norm_grad + Acc(added[j]) : norm_grad));
    }
    results.finish();
  });
}

// Thousands of rows add up, so the sums are doubles for every dtype.
template <bool kRound, typename Hidden, typename Out>
void add_weight_row(const Out* __restrict grad_out, const Hidden* __restrict row, double* __restrict total,
                    std::int64_t width, Accumulator<Hidden> rstd) {
  using Acc = Accumulator<Hidden>;
  for_blocks<kRowBlock>(width, [=](std::int64_t begin, std::int64_t count) {
    const Reader<Out> dy(grad_out + begin, count);
    double* sums = total + begin;
    if constexpr (std::is_same_v<Hidden, float>) {
      const Reader<Hidden> x(row + begin, count);
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        const Acc unit = Acc(x[j]) * rstd;
        sums[j] += Acc(dy[j]) * (kRound ? Acc(static_cast<float>(unit)) : unit);
      }
    } else {
      const Units<kRound, Hidden> units(row + begin, count, rstd, 0.0f);
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) sums[j] += static_cast<double>(dy[j] * units[j]);
    }
  });
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
  if (args.out == nullptr) return;
  auto* out = static_cast<Out*>(args.out) + row * args.width;
  scale_row<kHasWeight, kRound>(x, weight, out, args.width, args.rstd[row], 0.0f, args.weight_offset);
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
