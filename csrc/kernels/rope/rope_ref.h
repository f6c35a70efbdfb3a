// The oracle: RoPE in plain loops, in the accumulator type that the test chooses.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/dtype.h"
#include "kernels/rope/rope.h"

namespace liger::kernels {

template <typename Acc, typename Element>
Acc rope_value(const void* data, std::int64_t index) {
  return Acc(to_float(static_cast<const Element*>(data)[index]));
}

// Channel `channel` of one row at `row` of operand.in, with the tables at offsets `cos` and `sin`.
template <typename Acc, typename T, typename Table>
Acc rope_channel_ref(const RopeArgs& args, const RopeOperand& operand, std::int64_t row, std::int64_t cos,
                     std::int64_t sin, std::int64_t channel) {
  const Acc x = rope_value<Acc, T>(operand.in, row + channel);
  if (channel >= args.rotary_dim) return x;
  const std::int64_t half = args.rotary_dim / 2;
  const bool is_first = channel < half;
  const std::int64_t partner = is_first ? channel + half : channel - half;
  const Acc y = rope_value<Acc, T>(operand.in, row + partner);
  const Acc c = rope_value<Acc, Table>(args.cos.data, cos + channel);
  const Acc s = rope_value<Acc, Table>(args.sin.data, sin + (args.transpose ? partner : channel));
  const bool subtracts = is_first != args.transpose;
  return subtracts ? x * c - y * s : x * c + y * s;
}

// out: [positions, heads, head_dim], dense
template <typename Acc, typename T, typename Table>
void rope_ref(const RopeArgs& args, const RopeOperand& operand, std::vector<Acc>& out) {
  out.clear();
  for (std::int64_t i = 0; i < args.positions[0]; ++i) {
    for (std::int64_t j = 0; j < args.positions[1]; ++j) {
      for (std::int64_t k = 0; k < args.positions[2]; ++k) {
        const auto offset = [&](const std::int64_t* strides) {
          return i * strides[0] + j * strides[1] + k * strides[2];
        };
        const std::int64_t cos = offset(args.cos.strides), sin = offset(args.sin.strides);
        for (std::int64_t head = 0; head < operand.heads; ++head) {
          const std::int64_t row = offset(operand.in_strides.positions) + head * operand.in_strides.head;
          for (std::int64_t channel = 0; channel < args.head_dim; ++channel) {
            out.push_back(rope_channel_ref<Acc, T, Table>(args, operand, row, cos, sin, channel));
          }
        }
      }
    }
  }
}

}  // namespace liger::kernels
