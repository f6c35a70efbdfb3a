// The backward pass of norm_rope.cuh: one pass over the heads gives the gradients of query and key and, per block,
// float32 partial sums of a weight gradient, which column_sum.cuh adds in a fixed order.
#pragma once

#include "kernels/norm_rope/norm_rope.cuh"

namespace liger::kernels::gpu {

// What reached a channel of a normalised head and its partner, turned back.
struct PairGradient {
  float first, second;

  template <typename Position, typename T, int kVec>
  __device__ PairGradient(const Position& position, bool turns, const ChannelPair<T, kVec>& grad_out, int i, int e)
      : first(gpu::to_float(grad_out.first.values[e])), second(gpu::to_float(grad_out.second.values[e])) {
    if (turns) turn(position.rotations[i], e, first, second);
  }
};

// A thread's part of <gradient * scale, x> of a head.
template <typename T, int kVec, int kItems, typename Position, typename Scale>
__device__ inline Accumulator<T> gradient_along(const RopeArgs& args, const Position& position, const Scale& scale,
                                                const HeadPart<T, kVec, kItems>& grad_out,
                                                const HeadPart<T, kVec, kItems>& x) {
  Accumulator<T> along = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const PairPlace<kVec> place(args, static_cast<int>(threadIdx.x + i * blockDim.x));
#pragma unroll
    for (int e = 0; e < kVec; ++e) {
      const PairGradient grad(position, place.turns, grad_out.pairs[i], i, e);
      const float a = grad.first * scale.first(i, e), b = grad.second * scale.second(i, e);
      along += static_cast<Accumulator<T>>(a) * gpu::to_float(x.pairs[i].first.values[e]);
      along += static_cast<Accumulator<T>>(b) * gpu::to_float(x.pairs[i].second.values[e]);
    }
  }
  return along;
}

// A thread's sums of the gradients of the weights of its channels.
template <typename T, int kVec, int kItems>
struct WeightSums {
  static constexpr int kChannels = 2 * kVec * kItems;
  using Sum = Accumulator<T>;

  Sum first[kItems][kVec] = {};
  Sum second[kItems][kVec] = {};

  // Adds those of the block's rows, in their order, to partial: [head_dim].
  __device__ void write(const RopeArgs& args, float* partial) const {
    __shared__ Sum sums[kHeadThreads * kChannels];
    const auto rows = static_cast<int>(blockDim.y * blockDim.z), width = static_cast<int>(args.head_dim);
    Sum* row = sums + static_cast<int>(threadIdx.y + threadIdx.z * blockDim.y) * width;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const PairPlace<kVec> place(args, static_cast<int>(threadIdx.x + i * blockDim.x));
      if (!place.inside) continue;
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        row[place.first + e] = first[i][e];
        row[place.second + e] = second[i][e];
      }
    }
    __syncthreads();
    const auto thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
    for (int channel = thread; channel < width; channel += kHeadThreads) {
      Sum total = 0;
      for (int other = 0; other < rows; ++other) total += sums[other * width + channel];
      partial[channel] = static_cast<float>(total);
    }
  }
};

template <typename T, typename Table, typename Weight, int kVec, int kItems, int kWarp>
__global__ void __launch_bounds__(kHeadThreads, kItems == 1 ? kHeadBlocks : 1)
    norm_rope_backward_kernel(const NormRopeArgs args, const NormRopeGrid grid) {
  constexpr int kUnroll = sizeof(Table) == 2 && sizeof(Weight) == 2 && kItems == 1 ? 2 : 1;  // what registers allow
  using Part = HeadPart<T, kVec, kItems>;
  const HeadWork work = work_of(args, grid);
  const RopeOperand& operand = work.operand;
  HeadScale<Weight, kVec, kItems> scale(args, work.norm.weight);
  WeightSums<T, kVec, kItems> weight_sums;
  for_heads<T, Table, kVec, kItems, kUnroll>(args, grid, work, [&](auto& position, bool is_inside, std::int64_t head) {
    Part x[kUnroll], grad_out[kUnroll];
    const auto is_row = [&](int row) { return is_inside && head + row * blockDim.y < operand.heads; };
#pragma unroll
    for (int row = 0; row < kUnroll; ++row) {
      const std::int64_t index = head + row * blockDim.y;
      const T* hidden = position.row(work.norm.hidden, work.norm.hidden_strides, index);
      const T* grads = position.row(operand.in, operand.in_strides, index);
      x[row].load_from(args.rope, is_row(row) ? hidden : nullptr);
      grad_out[row].load_from(args.rope, is_row(row) ? grads : nullptr);
    }
#pragma unroll
    for (int row = 0; row < kUnroll; ++row) {
      x[row].stay_packed();
      position.stay_packed();
      scale.stay_packed();
      const auto lanes = static_cast<int>(blockDim.x);
      const auto squares = group_sum<kWarp>(x[row].sum_of_squares(), lanes);
      const auto along = group_sum<kWarp>(gradient_along(args.rope, position, scale, grad_out[row], x[row]), lanes);
      const float rstd = inverse_rms(squares, args.rope.head_dim, args.eps);
      const float projection = rstd * rstd * rstd * static_cast<float>(along / args.rope.head_dim);
      // The gradients are turned back once more: they would take twice the registers of what they are made from.
      x[row].stay_packed();
      grad_out[row].stay_packed();
      position.stay_packed();
      if (!is_row(row)) continue;
      T* out = position.out_row(operand, head + row * blockDim.y);
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const PairPlace<kVec> place(args.rope, static_cast<int>(threadIdx.x + i * blockDim.x));
        if (!place.inside) continue;
        ChannelPair<T, kVec> result;
#pragma unroll
        for (int e = 0; e < kVec; ++e) {
          const float a = gpu::to_float(x[row].pairs[i].first.values[e]);
          const float b = gpu::to_float(x[row].pairs[i].second.values[e]);
          const PairGradient grad(position, place.turns, grad_out[row].pairs[i], i, e);
          result.first.values[e] = from_float<T>(rstd * (grad.first * scale.first(i, e)) - projection * a);
          result.second.values[e] = from_float<T>(rstd * (grad.second * scale.second(i, e)) - projection * b);
          weight_sums.first[i][e] += static_cast<Accumulator<T>>(grad.first) * (a * rstd);
          weight_sums.second[i][e] += static_cast<Accumulator<T>>(grad.second) * (b * rstd);
        }
        store_pair(out, place, result);
      }
    }
  });
  if (work.norm.grad_weight == nullptr) return;
  weight_sums.write(args.rope, args.workspace + static_cast<std::int64_t>(blockIdx.x) * args.rope.head_dim);
}

}  // namespace liger::kernels::gpu
