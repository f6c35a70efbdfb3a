// RoPE on the GPU, see rope.h for the formula. float32 inside.
// A thread owns a vector of channels and its partner half a rotation away at one position. It reads cos and sin once
// and turns several heads with them, kRopeUnroll of them in flight. The block's x is the vector, y the head lane, z the
// position. With bfloat16 2 bytes in and 2 out per element; the tables are read once per position and head tile.
#pragma once

#include "kernels/common/gpu.h"
#include "kernels/rope/rope.h"

namespace liger::kernels::gpu {

inline constexpr int kRopeThreads = 256;  // of a block, at most
inline constexpr int kRopeBlocks = 2;     // at least, on a multiprocessor: what the registers allow
inline constexpr int kRopeUnroll = 4;

// How the grid covers the heads of a position, those of the query before those of the key.
struct RopeGrid {
  unsigned positions;            // all
  std::int64_t heads_per_block;  // a block along y of the grid has that many
};

// Where the rows of one position start.
template <typename T>
struct RopeRows {
  const T* in;
  T* out;
  std::int64_t in_stride;  // from head to head
  std::int64_t out_stride;
};

template <typename T, int kVec>
struct ChannelPair {
  Packed<T, kVec> first;
  Packed<T, kVec> second;
};

// out.first = x.first * cos_first + x.second * sin_first; out.second = x.second * cos_second + x.first * sin_second.
// Kept in the dtype of the tables, as they take most of the registers.
template <typename Table, int kVec>
struct Rotation {
  Packed<Table, kVec> cos_first;
  Packed<Table, kVec> cos_second;
  Packed<Table, kVec> sin_first;
  Packed<Table, kVec> sin_second;
};

__device__ inline std::int64_t offset_of(const std::int64_t (&position)[kRopePositionDims],
                                         const std::int64_t (&strides)[kRopePositionDims]) {
  return position[0] * strides[0] + position[1] * strides[1] + position[2] * strides[2];
}

// Of a flat index of a position. 32-bit divisions are several times cheaper than 64-bit ones.
__device__ inline void position_of(const RopeArgs& args, unsigned index, std::int64_t (&position)[kRopePositionDims]) {
  const auto inner = static_cast<unsigned>(args.positions[2]), middle = static_cast<unsigned>(args.positions[1]);
  const unsigned outer = index / inner;
  position[2] = index - outer * inner;
  position[1] = outer % middle;
  position[0] = outer / middle;
}

template <typename T>
__device__ inline RopeRows<T> rows_of(const RopeOperand& operand, const std::int64_t (&position)[kRopePositionDims]) {
  return {static_cast<const T*>(operand.in) + offset_of(position, operand.in_strides.positions),
          static_cast<T*>(operand.out) + offset_of(position, operand.out_strides.positions), operand.in_strides.head,
          operand.out_strides.head};
}

template <typename Table, int kVec>
__device__ inline Packed<Table, kVec> load_signed(const Table* table, float sign) {
  auto factors = load<Table, kVec>(table);
#pragma unroll
  for (int e = 0; e < kVec; ++e) factors.values[e] = from_float<Table>(sign * gpu::to_float(factors.values[e]));
  return factors;
}

template <typename Table, int kVec>
__device__ inline Rotation<Table, kVec> load_rotation(const RopeArgs& args,
                                                      const std::int64_t (&position)[kRopePositionDims],
                                                      std::int64_t channel) {
  const std::int64_t half = args.rotary_dim / 2;
  const auto* cos = static_cast<const Table*>(args.cos.data) + offset_of(position, args.cos.strides) + channel;
  const auto* sin = static_cast<const Table*>(args.sin.data) + offset_of(position, args.sin.strides) + channel;
  const float sign = args.transpose ? 1.0f : -1.0f;
  return {load<Table, kVec>(cos), load<Table, kVec>(cos + half),
          load_signed<Table, kVec>(args.transpose ? sin + half : sin, sign),
          load_signed<Table, kVec>(args.transpose ? sin : sin + half, -sign)};
}

// Turns channel e of a vector and its partner.
template <typename Table, int kVec>
__device__ inline void turn(const Rotation<Table, kVec>& rotation, int e, float& a, float& b) {
  const float cos_a = gpu::to_float(rotation.cos_first.values[e]), sin_b = gpu::to_float(rotation.sin_first.values[e]);
  const float cos_b = gpu::to_float(rotation.cos_second.values[e]),
              sin_a = gpu::to_float(rotation.sin_second.values[e]);
  const float turned_a = a * cos_a + b * sin_b;
  b = b * cos_b + a * sin_a;
  a = turned_a;
}

template <typename T, typename Table, int kVec>
__device__ inline ChannelPair<T, kVec> turned(const ChannelPair<T, kVec>& x, const Rotation<Table, kVec>& rotation) {
  ChannelPair<T, kVec> out;
#pragma unroll
  for (int e = 0; e < kVec; ++e) {
    float a = gpu::to_float(x.first.values[e]), b = gpu::to_float(x.second.values[e]);
    turn(rotation, e, a, b);
    out.first.values[e] = from_float<T>(a);
    out.second.values[e] = from_float<T>(b);
  }
  return out;
}

// visitor(in row, out row) of a head, counted through the query's heads and then the key's.
template <typename T, typename Visitor>
__device__ inline void with_row(const RopeRows<T>& query, const RopeRows<T>& key, std::int64_t query_heads,
                                std::int64_t head, Visitor&& visitor) {
  const bool is_query = head < query_heads;
  const std::int64_t index = is_query ? head : head - query_heads;
  visitor((is_query ? query.in : key.in) + index * (is_query ? query.in_stride : key.in_stride),
          (is_query ? query.out : key.out) + index * (is_query ? query.out_stride : key.out_stride));
}

// Turns channels [channel, channel + kVec) and their partners in the heads first, first + step, ... below end.
template <typename T, typename Table, int kVec>
__device__ inline void turn_heads(const RopeArgs& args, const std::int64_t (&position)[kRopePositionDims],
                                  std::int64_t channel, std::int64_t first, std::int64_t end, int step) {
  const std::int64_t half = args.rotary_dim / 2;
  const auto query = rows_of<T>(args.query, position), key = rows_of<T>(args.key, position);
  const auto rotation = load_rotation<Table, kVec>(args, position, channel);
  for (std::int64_t begin = first; begin < end; begin += kRopeUnroll * step) {
    ChannelPair<T, kVec> x[kRopeUnroll];
#pragma unroll
    for (int i = 0; i < kRopeUnroll; ++i) {
      if (begin + i * step >= end) continue;
      with_row(query, key, args.query.heads, begin + i * step, [&](const T* in, T*) {
        x[i].first = load_streaming(reinterpret_cast<const Packed<T, kVec>*>(in + channel));
        x[i].second = load_streaming(reinterpret_cast<const Packed<T, kVec>*>(in + channel + half));
      });
    }
#pragma unroll
    for (int i = 0; i < kRopeUnroll; ++i) {
      if (begin + i * step >= end) continue;
      with_row(query, key, args.query.heads, begin + i * step, [&](const T*, T* out) {
        const auto y = turned(x[i], rotation);
        store(out + channel, y.first);
        store(out + channel + half, y.second);
      });
    }
  }
}

// Copies channels [channel, channel + kVec), which do not turn.
template <typename T, int kVec>
__device__ inline void copy_heads(const RopeArgs& args, const std::int64_t (&position)[kRopePositionDims],
                                  std::int64_t channel, std::int64_t first, std::int64_t end, int step) {
  const auto query = rows_of<T>(args.query, position), key = rows_of<T>(args.key, position);
  for (std::int64_t head = first; head < end; head += step) {
    with_row(query, key, args.query.heads, head,
             [&](const T* in, T* out) { store(out + channel, load<T, kVec>(in + channel)); });
  }
}

template <typename T, typename Table, int kVec>
__global__ void __launch_bounds__(kRopeThreads, kRopeBlocks) rope_kernel(const RopeArgs args, const RopeGrid grid) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.z + threadIdx.z;
  if (index >= grid.positions) return;
  std::int64_t position[kRopePositionDims];
  position_of(args, static_cast<unsigned>(index), position);
  const std::int64_t heads = args.query.heads + args.key.heads;
  const std::int64_t block_first = blockIdx.y * grid.heads_per_block;
  const std::int64_t block_end = block_first + grid.heads_per_block;
  const std::int64_t first = block_first + threadIdx.y;
  const std::int64_t end = block_end < heads ? block_end : heads;
  const auto step = static_cast<int>(blockDim.y);
  const std::int64_t turning = args.rotary_dim / 2 / kVec;
  const std::int64_t vectors = turning + (args.head_dim - args.rotary_dim) / kVec;
  for (std::int64_t vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
    if (vector < turning) {
      turn_heads<T, Table, kVec>(args, position, vector * kVec, first, end, step);
    } else {
      copy_heads<T, kVec>(args, position, args.rotary_dim + (vector - turning) * kVec, first, end, step);
    }
  }
}

}  // namespace liger::kernels::gpu
