// The oracle: RMSNorm in plain loops, in the accumulator type that the test chooses.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/common/dtype.h"
#include "kernels/rms_norm/rms_norm.h"

namespace liger::kernels {

template <typename Acc, typename Hidden, typename Weight>
struct RmsNormRef {
  const RmsNormArgs& args;

  Acc hidden(std::int64_t row, std::int64_t column) const {
    const auto* values = static_cast<const Hidden*>(args.hidden_states);
    const float value = to_float(values[row * args.hidden_stride + column]);
    if (args.residual == nullptr) return value;
    const auto* residual = static_cast<const Hidden*>(args.residual);
    return rounded_to<Hidden>(value + to_float(residual[row * args.residual_stride + column]));
  }
  Acc scale(std::int64_t column) const {
    if (args.weight == nullptr) return Acc(1);
    return Acc(args.weight_offset) + Acc(to_float(static_cast<const Weight*>(args.weight)[column]));
  }
  Acc rstd(std::int64_t row) const {
    Acc sum = 0;
    for (std::int64_t column = 0; column < args.width; ++column) sum += hidden(row, column) * hidden(row, column);
    return Acc(1) / std::sqrt(sum / Acc(args.width) + Acc(args.eps));
  }
  Acc unit(std::int64_t row, std::int64_t column, Acc inverse) const {
    const Acc value = hidden(row, column) * inverse;
    return args.round_before_weight ? Acc(rounded_to<Hidden>(static_cast<float>(value))) : value;
  }
};

// out: [rows, width]
template <typename Acc, typename Hidden, typename Weight>
void rms_norm_forward_ref(const RmsNormArgs& args, std::vector<Acc>& out) {
  const RmsNormRef<Acc, Hidden, Weight> ref{args};
  out.assign(args.rows * args.width, Acc(0));
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const Acc rstd = ref.rstd(row);
    for (std::int64_t column = 0; column < args.width; ++column) {
      out[row * args.width + column] = ref.unit(row, column, rstd) * ref.scale(column);
    }
  }
}

// grad_out: [rows, width]; grad_sum the same or empty; grad_hidden: [rows, width]; grad_weight: [width]
template <typename Acc, typename Hidden, typename Weight>
void rms_norm_backward_ref(const RmsNormArgs& args, const std::vector<Acc>& grad_out, const std::vector<Acc>& grad_sum,
                           std::vector<Acc>& grad_hidden, std::vector<Acc>& grad_weight) {
  const RmsNormRef<Acc, Hidden, Weight> ref{args};
  grad_hidden.assign(args.rows * args.width, Acc(0));
  grad_weight.assign(args.width, Acc(0));
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const Acc rstd = ref.rstd(row);
    const Acc* dy = grad_out.data() + row * args.width;
    Acc dot = 0;
    for (std::int64_t column = 0; column < args.width; ++column) {
      dot += dy[column] * ref.scale(column) * ref.hidden(row, column);
      grad_weight[column] += dy[column] * ref.unit(row, column, rstd);
    }
    for (std::int64_t column = 0; column < args.width; ++column) {
      const std::int64_t index = row * args.width + column;
      grad_hidden[index] =
          rstd * dy[column] * ref.scale(column) - rstd * rstd * rstd / Acc(args.width) * dot * ref.hidden(row, column);
      if (!grad_sum.empty()) grad_hidden[index] += grad_sum[index];
    }
  }
}

}  // namespace liger::kernels
