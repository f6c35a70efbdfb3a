// RMSNorm forward on the GPU, see rms_norm.h for the formula. float32 inside; sums over float32 elements in float64.
// A group of threads owns a row: 8 or 32 lanes of a warp for narrow rows (many rows per block), a block for wide ones.
// The row stays in registers between the two passes, so global memory is read once: with bfloat16 2 bytes in and 2 out
// per element, 4 and 4 with the residual addition. Rows too wide or not aligned for that are read twice.
#pragma once

#include <type_traits>

#include "kernels/common/gpu.h"
#include "kernels/common/reduce.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace liger::kernels::gpu {

inline constexpr int kNormThreads = 256;  // of a block whose rows are narrower

// What sums over elements are kept in. Summed up in float32, float32 elements would lose to eager's summation tree.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, float>, double, float>;

// kGroup threads own a row; a block of kThreads has kThreads / kGroup rows.
template <int kGroup>
struct RowGroups {
  static constexpr int kThreads = kGroup <= 32 ? kNormThreads : kGroup;
  static constexpr int kRows = kThreads / kGroup;
};

// The sum over a row's group. `shared` has a value for each warp and is used only where the group is the block.
template <int kWarp, int kGroup, typename T>
__device__ inline T row_reduce(T value, T* shared) {
  if constexpr (kGroup <= 32) {
    return warp_reduce<kWarp, kGroup>(value);
  } else {
    return block_reduce<kWarp, kGroup>(value, shared);
  }
}

template <typename Hidden>
__device__ inline float unit_value(Hidden x, float rstd, bool round) {
  const float unit = gpu::to_float(x) * rstd;
  return round ? rounded_to<Hidden>(unit) : unit;
}

template <typename T>
__device__ inline float inverse_rms(T sum_of_squares, std::int64_t width, float eps) {
  return static_cast<float>(T(1) / sqrt(sum_of_squares / static_cast<T>(width) + eps));
}

template <typename T, int kVec>
__device__ inline void add_rounded(Packed<T, kVec>& x, const Packed<T, kVec>& residual) {
#pragma unroll
  for (int e = 0; e < kVec; ++e)
    x.values[e] = from_float<T>(gpu::to_float(x.values[e]) + gpu::to_float(residual.values[e]));
}

template <typename T, int kVec>
__device__ inline float sum_of_squares(const Packed<T, kVec>& x) {
  float sum = 0.0f;
#pragma unroll
  for (int e = 0; e < kVec; ++e) sum += gpu::to_float(x.values[e]) * gpu::to_float(x.values[e]);
  return sum;
}

// Args: of the forward or the backward pass.
template <typename Out, typename Hidden, typename Weight, int kVec, typename Args>
__device__ inline Packed<Out, kVec> scale(const Packed<Hidden, kVec>& x, const Packed<Weight, kVec>& weight,
                                          const Args& args, float rstd) {
  Packed<Out, kVec> out;
#pragma unroll
  for (int e = 0; e < kVec; ++e) {
    const float factor = args.weight == nullptr ? 1.0f : args.weight_offset + gpu::to_float(weight.values[e]);
    out.values[e] = from_float<Out>(unit_value(x.values[e], rstd, args.round_before_weight) * factor);
  }
  return out;
}

// The row of width <= kGroup * kItems * kVec stays in registers.
template <typename Hidden, typename Weight, typename Out, int kVec, int kGroup, int kItems, int kWarp>
__global__ void __launch_bounds__(RowGroups<kGroup>::kThreads) rms_norm_forward_kernel(const RmsNormArgs args) {
  using Groups = RowGroups<kGroup>;
  __shared__ Accumulator<Hidden> shared[Groups::kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * Groups::kRows;
  const auto* weight = static_cast<const Weight*>(args.weight);
  // The bound is the same for the whole block, so that every lane takes part in the reductions.
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * Groups::kRows; first < args.rows; first += step) {
    const std::int64_t row = first + group;
    const auto* hidden = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
    const auto inside = [&](int item) { return row < args.rows && (lane + item * kGroup) * kVec < args.width; };
    const auto column = [&](int item) { return (lane + item * kGroup) * kVec; };

    Packed<Hidden, kVec> x[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      x[i] = {};
      if (inside(i)) x[i] = load<Hidden, kVec>(hidden + column(i));
    }
    if (args.residual != nullptr) {
      const auto* residual = static_cast<const Hidden*>(args.residual) + row * args.residual_stride;
      auto* sum = static_cast<Hidden*>(args.sum) + row * args.width;
      Packed<Hidden, kVec> r[kItems];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (inside(i)) r[i] = load<Hidden, kVec>(residual + column(i));
      }
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (!inside(i)) continue;
        add_rounded(x[i], r[i]);
        store(sum + column(i), x[i]);
      }
    }

    Accumulator<Hidden> squares = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) squares += sum_of_squares(x[i]);
    const float rstd = inverse_rms(row_reduce<kWarp, kGroup>(squares, shared), args.width, args.eps);
    if (lane == 0 && row < args.rows && args.rstd != nullptr) args.rstd[row] = rstd;

    auto* out = static_cast<Out*>(args.out) + row * args.width;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!inside(i)) continue;
      Packed<Weight, kVec> w = {};
      if (weight != nullptr) w = load<Weight, kVec>(weight + column(i));
      store(out + column(i), scale<Out>(x[i], w, args, rstd));
    }
    if constexpr (kGroup > 32) __syncthreads();  // `shared` is read above and written in the next round
  }
}

// Any width: a block owns a row and reads it twice.
template <typename Hidden, typename Weight, typename Out, int kVec, int kWarp>
__global__ void __launch_bounds__(kNormThreads) rms_norm_forward_wide_kernel(const RmsNormArgs args) {
  __shared__ Accumulator<Hidden> shared[kNormThreads / kWarp];
  constexpr std::int64_t kStep = static_cast<std::int64_t>(kNormThreads) * kVec;
  const std::int64_t first_column = static_cast<std::int64_t>(threadIdx.x) * kVec;
  const auto* weight = static_cast<const Weight*>(args.weight);
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const auto* x = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
    Accumulator<Hidden> squares = 0;
    if (args.residual != nullptr) {
      const auto* residual = static_cast<const Hidden*>(args.residual) + row * args.residual_stride;
      auto* sum = static_cast<Hidden*>(args.sum) + row * args.width;
      for (std::int64_t column = first_column; column < args.width; column += kStep) {
        auto value = load<Hidden, kVec>(x + column);
        add_rounded(value, load<Hidden, kVec>(residual + column));
        store(sum + column, value);
        squares += sum_of_squares(value);
      }
      x = sum;  // every thread reads back only what it wrote itself
    } else {
      for (std::int64_t column = first_column; column < args.width; column += kStep) {
        squares += sum_of_squares(load<Hidden, kVec>(x + column));
      }
    }
    const float rstd = inverse_rms(block_reduce<kWarp, kNormThreads>(squares, shared), args.width, args.eps);
    if (threadIdx.x == 0 && args.rstd != nullptr) args.rstd[row] = rstd;
    auto* out = static_cast<Out*>(args.out) + row * args.width;
    for (std::int64_t column = first_column; column < args.width; column += kStep) {
      Packed<Weight, kVec> w = {};
      if (weight != nullptr) w = load<Weight, kVec>(weight + column);
      store(out + column, scale<Out>(load<Hidden, kVec>(x + column), w, args, rstd));
    }
    __syncthreads();  // `shared` is read above and written in the next round
  }
}

// Blocks for `rows`, within the limit of a grid.
inline unsigned grid_for(std::int64_t rows, int rows_per_block) {
  constexpr std::int64_t kLimit = (std::int64_t{1} << 31) - 1;
  const std::int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  return static_cast<unsigned>(blocks < kLimit ? blocks : kLimit);
}

template <typename Hidden, typename Weight, typename Out>
class RmsNormForward {
 public:
  RmsNormForward(const RmsNormArgs& args, const LaunchContext& context) : args_(args), stream_(stream_of(context)) {}

  // The full vector width keeps up to 2 vectors per thread; other alignments have a path for narrow rows only.
  Status launch() const {
    const int vec = vector_width();
    if (vec != kFull) return args_.width <= 256 ? rows<1, 32, 8>() : wide<1>();
    const std::int64_t vectors = args_.width / kFull;
    if (vectors <= 8 * 2) return rows<kFull, 8, 2>();
    if (vectors <= 32 * 2) return rows<kFull, 32, 2>();
    if (vectors <= 128 * 2) return rows<kFull, 128, 2>();
    if (vectors <= 256 * 2) return rows<kFull, 256, 2>();
    if (vectors <= 512 * 2) return rows<kFull, 512, 2>();
    if (vectors <= 1024 * 2) return rows<kFull, 1024, 2>();
    return wide<kFull>();
  }

 private:
  static constexpr int kFull = kVectorBytes / static_cast<int>(sizeof(Hidden));

  int vector_width() const {
    VectorWidth width(kFull);
    width.pointer(args_.hidden_states, sizeof(Hidden)).multiple(args_.hidden_stride).multiple(args_.width);
    width.pointer(args_.weight, sizeof(Weight)).pointer(args_.out, sizeof(Out));
    if (args_.residual != nullptr) {
      width.pointer(args_.residual, sizeof(Hidden)).multiple(args_.residual_stride).pointer(args_.sum, sizeof(Hidden));
    }
    return width.width();
  }

  template <int kVec, int kGroup, int kItems>
  Status rows() const {
    return with_warp_size([&](auto warp) {
      using Groups = RowGroups<kGroup>;
      rms_norm_forward_kernel<Hidden, Weight, Out, kVec, kGroup, kItems, warp>
          <<<grid_for(args_.rows, Groups::kRows), Groups::kThreads, 0, stream_>>>(args_);
      return launch_status();
    });
  }

  template <int kVec>
  Status wide() const {
    return with_warp_size([&](auto warp) {
      rms_norm_forward_wide_kernel<Hidden, Weight, Out, kVec, warp>
          <<<grid_for(args_.rows, 1), kNormThreads, 0, stream_>>>(args_);
      return launch_status();
    });
  }

  const RmsNormArgs& args_;
  Stream stream_;
};

}  // namespace liger::kernels::gpu
