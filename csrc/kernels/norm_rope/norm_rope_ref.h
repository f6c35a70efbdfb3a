// The oracle: norm and rotation of heads in plain loops, in the accumulator type that the test chooses.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/norm_rope/norm_rope.h"

namespace liger::kernels {

// One head of query or key: the rows that a pass reads, and its norm and rotation.
template <typename Acc, typename T, typename Table, typename Weight>
struct NormRopeHead {
  const NormRopeArgs& args;
  const NormRopeOperand& norm;
  const T* x;
  const Table* cos;
  const Table* sin;

  std::int64_t width() const { return args.rope.head_dim; }
  std::int64_t half() const { return args.rope.rotary_dim / 2; }
  Acc value(std::int64_t i) const { return Acc(to_float(x[i])); }
  Acc scale(std::int64_t i) const {
    if (norm.weight == nullptr) return Acc(1);
    return Acc(args.weight_offset) + Acc(to_float(static_cast<const Weight*>(norm.weight)[i]));
  }
  Acc rstd() const {
    Acc sum = 0;
    for (std::int64_t i = 0; i < width(); ++i) sum += value(i) * value(i);
    return Acc(1) / std::sqrt(sum / Acc(width()) + Acc(args.eps));
  }

  // cos and sin as a matrix, row `i`: what it takes from channel `j`.
  Acc turn(std::int64_t i, std::int64_t j) const {
    if (i == j) return i < 2 * half() ? Acc(to_float(cos[i])) : Acc(1);
    if (i < half() && j == i + half()) return -Acc(to_float(sin[i]));
    if (i < 2 * half() && j == i - half()) return Acc(to_float(sin[i]));
    return Acc(0);
  }

  std::vector<Acc> forward() const {
    std::vector<Acc> out(width(), Acc(0));
    const Acc r = rstd();
    for (std::int64_t i = 0; i < width(); ++i) {
      for (std::int64_t j = 0; j < width(); ++j) out[i] += turn(i, j) * (value(j) * r * scale(j));
    }
    return out;
  }

  std::vector<Acc> backward(const std::vector<Acc>& grad_out, std::vector<Acc>& grad_weight) const {
    std::vector<Acc> grad(width(), Acc(0));
    for (std::int64_t i = 0; i < width(); ++i) {
      for (std::int64_t j = 0; j < width(); ++j) grad[j] += turn(i, j) * grad_out[i];
    }
    const Acc r = rstd();
    Acc dot = 0;
    for (std::int64_t i = 0; i < width(); ++i) {
      grad_weight[i] += grad[i] * value(i) * r;
      dot += grad[i] * scale(i) * value(i);
    }
    for (std::int64_t i = 0; i < width(); ++i) {
      grad[i] = r * grad[i] * scale(i) - r * r * r / Acc(width()) * dot * value(i);
    }
    return grad;
  }
};

}  // namespace liger::kernels
