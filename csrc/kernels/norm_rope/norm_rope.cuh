// Norm and rotation of heads on the GPU, see norm_rope.h for the formula. float32 inside; sums over float32 elements in
// float64.
// A block works on query or on key. Its x is the lane of a head, y the head lane, z the position. The lanes of a head
// hold all of it: each a vector of channels and their partners half a rotation away, so that a head is read once,
// summed over its lanes and turned in registers. The channels that do not turn are paired in the same way. A thread
// keeps its channels for all its heads, and with them what they are scaled by and, in the backward pass, the sums of
// their weight gradients. With bfloat16 2 bytes in and 2 out per element, 4 in and 2 out in the backward pass, which
// computes the root mean square once more from what it reads anyway.
#pragma once

#include "kernels/norm_rope/norm_rope.h"
#include "kernels/rms_norm/rms_norm.cuh"
#include "kernels/rope/rope.cuh"

namespace liger::kernels::gpu {

inline constexpr int kHeadThreads = 256;  // of a block
inline constexpr int kHeadBlocks = 2;     // at least, on a multiprocessor

// How the blocks are shared out: the first `query_blocks` work on the query.
struct NormRopeGrid {
  unsigned positions;
  unsigned query_blocks;
};

// What a block works on. Copies: a reference to one of two arguments would have both copied to local memory.
struct HeadWork {
  RopeOperand operand;
  NormRopeOperand norm;
  unsigned block;   // among those of its operand
  unsigned blocks;  // of its operand
};

__device__ inline HeadWork work_of(const NormRopeArgs& args, const NormRopeGrid& grid) {
  if (blockIdx.x < grid.query_blocks) return {args.rope.query, args.query, blockIdx.x, grid.query_blocks};
  return {args.rope.key, args.key, blockIdx.x - grid.query_blocks, gridDim.x - grid.query_blocks};
}

// Where pair `index` of the vectors of a head lies, counted through those that turn and then the others.
template <int kVec>
struct PairPlace {
  int first, second;  // channels
  bool inside, turns;

  __device__ PairPlace(const RopeArgs& args, int index) {
    const int rotary = static_cast<int>(args.rotary_dim), rest = static_cast<int>(args.head_dim) - rotary;
    turns = index * kVec < rotary / 2;
    first = turns ? index * kVec : rotary + index * kVec - rotary / 2;
    second = first + (turns ? rotary : rest) / 2;
    inside = index * kVec < (rotary + rest) / 2;
  }
};

template <typename T, int kVec>
__device__ inline void stay_packed(ChannelPair<T, kVec>& pair) {
  stay_packed(pair.first);
  stay_packed(pair.second);
}

// A thread's part of the scale of a head: weight_offset + weight, 1 where there is no weight. Kept in the dtype of the
// weight, which takes fewer registers.
template <typename Weight, int kVec, int kItems>
class HeadScale {
 public:
  __device__ HeadScale(const NormRopeArgs& args, const void* weight)
      : offset_(weight == nullptr ? 1.0f : args.weight_offset) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const PairPlace<kVec> place(args.rope, static_cast<int>(threadIdx.x + i * blockDim.x));
      pairs_[i] = {};
      if (weight == nullptr || !place.inside) continue;
      pairs_[i].first = load<Weight, kVec>(static_cast<const Weight*>(weight) + place.first);
      pairs_[i].second = load<Weight, kVec>(static_cast<const Weight*>(weight) + place.second);
    }
  }
  // The compiler would keep what they are converted to from head to head, in twice the registers.
  __device__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < kItems; ++i) gpu::stay_packed(pairs_[i]);
  }
  __device__ float first(int i, int e) const { return offset_ + gpu::to_float(pairs_[i].first.values[e]); }
  __device__ float second(int i, int e) const { return offset_ + gpu::to_float(pairs_[i].second.values[e]); }

 private:
  ChannelPair<Weight, kVec> pairs_[kItems];
  float offset_;
};

// A thread's part of a head.
template <typename T, int kVec, int kItems>
struct HeadPart {
  ChannelPair<T, kVec> pairs[kItems];

  // Zeros where `row` is null and outside of the head.
  __device__ void load_from(const RopeArgs& args, const T* row) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const PairPlace<kVec> place(args, static_cast<int>(threadIdx.x + i * blockDim.x));
      pairs[i] = {};
      if (row == nullptr || !place.inside) continue;
      pairs[i].first = load_streaming(reinterpret_cast<const Packed<T, kVec>*>(row + place.first));
      pairs[i].second = load_streaming(reinterpret_cast<const Packed<T, kVec>*>(row + place.second));
    }
  }

  __device__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < kItems; ++i) gpu::stay_packed(pairs[i]);
  }

  __device__ Accumulator<T> sum_of_squares() const {
    Accumulator<T> sum = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) sum += gpu::sum_of_squares(pairs[i].first) + gpu::sum_of_squares(pairs[i].second);
    return sum;
  }
};

template <typename T, int kVec>
__device__ inline void store_pair(T* row, const PairPlace<kVec>& place, const ChannelPair<T, kVec>& pair) {
  store(row + place.first, pair.first);
  store(row + place.second, pair.second);
}

// A thread's part of the rotation of one position, and the rows of the position's heads.
template <typename T, typename Table, int kVec, int kItems>
struct HeadPosition {
  Rotation<Table, kVec> rotations[kItems];
  std::int64_t position[kRopePositionDims];

  __device__ HeadPosition(const RopeArgs& args, unsigned index) {
    position_of(args, index, position);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const PairPlace<kVec> place(args, static_cast<int>(threadIdx.x + i * blockDim.x));
      rotations[i] = {};
      if (place.turns) rotations[i] = load_rotation<Table, kVec>(args, position, place.first);
    }
  }

  __device__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      gpu::stay_packed(rotations[i].cos_first);
      gpu::stay_packed(rotations[i].cos_second);
      gpu::stay_packed(rotations[i].sin_first);
      gpu::stay_packed(rotations[i].sin_second);
    }
  }

  __device__ const T* row(const void* data, const RopeLayout& strides, std::int64_t head) const {
    return static_cast<const T*>(data) + offset_of(position, strides.positions) + head * strides.head;
  }
  __device__ T* out_row(const RopeOperand& operand, std::int64_t head) const {
    const RopeLayout& strides = operand.out_strides;
    return static_cast<T*>(operand.out) + offset_of(position, strides.positions) + head * strides.head;
  }
};

// visit(position, whether it is one, head) for all that the thread works on: `kUnroll` heads from `head` on, blockDim.y
// apart. As often for every thread of the block, so that every lane takes part in the sums.
template <typename T, typename Table, int kVec, int kItems, int kUnroll, typename Visitor>
__device__ inline void for_heads(const NormRopeArgs& args, const NormRopeGrid& grid, const HeadWork& work,
                                 Visitor&& visit) {
  const std::int64_t step = static_cast<std::int64_t>(work.blocks) * blockDim.z;
  for (std::int64_t tile = static_cast<std::int64_t>(work.block) * blockDim.z; tile < grid.positions; tile += step) {
    const std::int64_t index = tile + threadIdx.z;
    const bool is_inside = index < grid.positions;
    HeadPosition<T, Table, kVec, kItems> position(args.rope, is_inside ? static_cast<unsigned>(index) : 0);
#pragma unroll 1
    for (std::int64_t first = 0; first < work.operand.heads; first += kUnroll * blockDim.y) {
      visit(position, is_inside, first + threadIdx.y);
    }
  }
}

template <typename T, typename Table, typename Weight, int kVec, int kItems, int kWarp>
__global__ void __launch_bounds__(kHeadThreads, kHeadBlocks)
    norm_rope_forward_kernel(const NormRopeArgs args, const NormRopeGrid grid) {
  constexpr int kUnroll = kItems == 1 ? 4 : 1;
  const HeadWork work = work_of(args, grid);
  const RopeOperand operand = work.operand;
  const HeadScale<Weight, kVec, kItems> scale(args, work.norm.weight);
  for_heads<T, Table, kVec, kItems, kUnroll>(
      args, grid, work, [&](const auto& position, bool is_inside, std::int64_t head) {
        HeadPart<T, kVec, kItems> x[kUnroll];
        const auto is_row = [&](int row) { return is_inside && head + row * blockDim.y < operand.heads; };
#pragma unroll
        for (int row = 0; row < kUnroll; ++row) {
          const T* in = position.row(operand.in, operand.in_strides, head + row * blockDim.y);
          x[row].load_from(args.rope, is_row(row) ? in : nullptr);
        }
#pragma unroll
        for (int row = 0; row < kUnroll; ++row) {
          x[row].stay_packed();
          const auto squares = group_sum<kWarp>(x[row].sum_of_squares(), static_cast<int>(blockDim.x));
          const float rstd = inverse_rms(squares, args.rope.head_dim, args.eps);
          x[row].stay_packed();
          if (!is_row(row)) continue;
          T* out = position.out_row(operand, head + row * blockDim.y);
#pragma unroll
          for (int i = 0; i < kItems; ++i) {
            const PairPlace<kVec> place(args.rope, static_cast<int>(threadIdx.x + i * blockDim.x));
            if (!place.inside) continue;
            ChannelPair<T, kVec> result;
#pragma unroll
            for (int e = 0; e < kVec; ++e) {
              float a = gpu::to_float(x[row].pairs[i].first.values[e]) * rstd * scale.first(i, e);
              float b = gpu::to_float(x[row].pairs[i].second.values[e]) * rstd * scale.second(i, e);
              if (place.turns) turn(position.rotations[i], e, a, b);
              result.first.values[e] = from_float<T>(a);
              result.second.values[e] = from_float<T>(b);
            }
            store_pair(out, place, result);
          }
        }
      });
}

}  // namespace liger::kernels::gpu
