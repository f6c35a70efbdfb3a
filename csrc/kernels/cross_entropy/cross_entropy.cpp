// The CPU's entry points: picks the instruction set, and does what is not worth vectorising.
#include "kernels/cross_entropy/cross_entropy.h"

#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

namespace {

template <typename Class>
std::int64_t count_targets(const CrossEntropyTarget& target, std::int64_t rows) {
  const auto* classes = static_cast<const Class*>(target.classes);
  std::int64_t counted = 0;
  for (std::int64_t row = 0; row < rows; ++row) counted += classes[row] != target.ignore_index;
  return counted;
}

template <typename T>
void write_rows(const CrossEntropyReduceArgs& args) {
  auto* loss = static_cast<T*>(args.loss);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const double square = args.z_loss == 0.0 ? 0.0 : args.z_loss * args.lse[row] * args.lse[row];
    loss[row] = from_float<T>(static_cast<float>(static_cast<double>(args.row_loss[row]) + square));
  }
}

template <typename T>
void write_total(const CrossEntropyReduceArgs& args) {
  double loss = 0.0, squares = 0.0;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    loss += static_cast<double>(args.row_loss[row]);
    if (args.z_loss != 0.0) squares += args.lse[row] * args.lse[row];
  }
  *static_cast<T*>(args.loss) = from_float<T>(total_loss(args, loss, squares));
}

}  // namespace

Status cross_entropy_scales(const CrossEntropyScalesArgs& args, const LaunchContext&) {
  const bool wide = args.target.is_int64;
  *args.scales = make_scales(args, wide ? count_targets<std::int64_t>(args.target, args.rows)
                                        : count_targets<std::int32_t>(args.target, args.rows));
  if (args.inverse_grad_unit != nullptr) *args.inverse_grad_unit = static_cast<float>(1.0 / args.scales->grad_unit);
  return {};
}

Status cross_entropy_reduce(const CrossEntropyReduceArgs& args, const LaunchContext&) {
  dispatch_dtype(args.loss_dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    args.is_per_row ? write_rows<T>(args) : write_total<T>(args);
  });
  return {};
}

Status cross_entropy_forward(const CrossEntropyForwardArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::cross_entropy_forward<level>(args, context); });
}

Status cross_entropy_backward(const CrossEntropyBackwardArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::cross_entropy_backward<level>(args, context); });
}

Status cross_entropy_fused(const CrossEntropyFusedArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::cross_entropy_fused<level>(args, context); });
}

Status column_sum(const ColumnSumArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::column_sum<level>(args, context); });
}

Status scale_gradient(const ScaleGradientArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::scale_gradient<level>(args, context); });
}

}  // namespace liger::kernels
