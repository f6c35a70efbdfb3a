// RMSNorm backward on the GPU, see rms_norm.h for the formula: one pass over the rows gives grad_hidden_states and, per
// block, float32 partial sums of the weight gradient; a second, small kernel adds the partials in a fixed order.
// With bfloat16 4 bytes in and 2 out per element, 2 more in with a gradient of the residual sum, and 2 more out where
// the output of the forward pass is wanted again.
// A thread keeps the same columns for all its rows, so it sums their weight gradients in registers.
#pragma once

#include "kernels/common/column_sum.cuh"
#include "kernels/rms_norm/rms_norm.cuh"

namespace liger::kernels::gpu {

// The first kernel's grid: as many blocks as a multiprocessor holds at once, each with many rows. Fewer for wide rows,
// whose blocks are larger and whose partials cost more to write and add.
inline std::int64_t backward_blocks(std::int64_t rows, std::int64_t width) {
  const int per_multiprocessor = width <= 2048 ? 4 : width <= 4096 ? 2 : 1;
  const std::int64_t blocks = static_cast<std::int64_t>(multiprocessor_count()) * per_multiprocessor;
  return rows < blocks ? rows : blocks;
}

// Where a thread has one vector of a row, registers for 1024 threads.
constexpr int blocks_per_multiprocessor(int group, int items) { return items == 1 && group >= 256 ? 1024 / group : 1; }

template <typename Weight, int kVec>
__device__ inline float weighted(float grad, const Packed<Weight, kVec>& weight, int e,
                                 const RmsNormBackwardArgs& args) {
  return args.weight == nullptr ? grad : grad * (args.weight_offset + gpu::to_float(weight.values[e]));
}

// What a thread holds of a row.
template <typename Hidden, typename Out, int kVec, int kItems>
struct BackwardRow {
  Packed<Hidden, kVec> x[kItems];
  Packed<Out, kVec> grad_out[kItems];
  Packed<Hidden, kVec> grad_sum[kItems];

  __device__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      gpu::stay_packed(x[i]);
      gpu::stay_packed(grad_out[i]);
      gpu::stay_packed(grad_sum[i]);
    }
  }
};

// kPrefetch loads the next row before it works on the current one, and keeps the weight in registers: for narrow rows.
// Without it more threads fit, which hides more of wide ones.
template <typename Hidden, typename Weight, typename Out, int kVec, int kGroup, int kItems, bool kPrefetch, int kWarp>
__global__ void __launch_bounds__(RowGroups<kGroup>::kThreads, blocks_per_multiprocessor(kGroup, kItems))
    rms_norm_backward_kernel(const RmsNormBackwardArgs args) {
  using Groups = RowGroups<kGroup>;
  using Row = BackwardRow<Hidden, Out, kVec, kItems>;
  constexpr int kColumns = kGroup * kItems * kVec;
  __shared__ Accumulator<Hidden> shared[2][Groups::kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * Groups::kRows;
  const auto column = [&](int item) { return (lane + item * kGroup) * kVec; };
  const auto load_row = [&](std::int64_t row, Row& values) {
    const auto* x = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
    const auto* grad_out = static_cast<const Out*>(args.grad_out) + row * args.grad_out_stride;
    const auto* grad_sum = static_cast<const Hidden*>(args.grad_sum) + row * args.grad_sum_stride;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      values.x[i] = {};
      values.grad_out[i] = {};
      values.grad_sum[i] = {};
      if (row >= args.rows || column(i) >= args.width) continue;
      values.x[i] = load<Hidden, kVec>(x + column(i));
      values.grad_out[i] = load<Out, kVec>(grad_out + column(i));
      if (args.grad_sum != nullptr) values.grad_sum[i] = load<Hidden, kVec>(grad_sum + column(i));
    }
  };

  const auto load_weight = [&](int item) {
    Packed<Weight, kVec> w = {};
    if (args.weight == nullptr || column(item) >= args.width) return w;
    return load<Weight, kVec>(static_cast<const Weight*>(args.weight) + column(item));
  };
  Packed<Weight, kVec> kept_weight[kPrefetch ? kItems : 1] = {};
  const auto weight_of = [&](int item) {
    if constexpr (kPrefetch) {
      return kept_weight[item];
    } else {
      return load_weight(item);
    }
  };
  Accumulator<Weight> grad_weight[kItems][kVec];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if constexpr (kPrefetch) kept_weight[i] = load_weight(i);
#pragma unroll
    for (int e = 0; e < kVec; ++e) grad_weight[i][e] = 0;
  }

  Row row_values, next_values;
  std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * Groups::kRows;
  load_row(first + group, row_values);
  // The bound is the same for the whole block, so that every lane takes part in the reductions.
  for (int buffer = 0; first < args.rows; first += step, buffer ^= 1) {
    const std::int64_t row = first + group;
    if constexpr (kPrefetch) load_row(row + step, next_values);
    const float rstd = row < args.rows ? args.rstd[row] : 0.0f;
    row_values.stay_packed();
    Accumulator<Hidden> dot = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const auto w = weight_of(i);
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        dot += weighted(gpu::to_float(row_values.grad_out[i].values[e]), w, e, args) *
               gpu::to_float(row_values.x[i].values[e]);
      }
    }
    // Two buffers in turn: the barrier inside the next reduction comes before the reuse of this one.
    dot = row_reduce<kWarp, kGroup>(dot, shared[buffer]);
    const float projection = rstd * rstd * rstd * static_cast<float>(dot / args.width);
    row_values.stay_packed();

    auto* grad_hidden = static_cast<Hidden*>(args.grad_hidden_states) + row * args.width;
    auto* out = static_cast<Out*>(args.out) + row * args.width;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (row >= args.rows || column(i) >= args.width) continue;
      const auto w = weight_of(i);
      Packed<Hidden, kVec> result;
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        const Hidden x = row_values.x[i].values[e];
        const float grad = gpu::to_float(row_values.grad_out[i].values[e]);
        const float norm_grad = rstd * weighted(grad, w, e, args) - projection * gpu::to_float(x);
        result.values[e] = from_float<Hidden>(norm_grad + gpu::to_float(row_values.grad_sum[i].values[e]));
        grad_weight[i][e] += static_cast<Accumulator<Weight>>(grad) * unit_value(x, rstd, args.round_before_weight);
      }
      store(grad_hidden + column(i), result);
      if (args.out != nullptr) store(out + column(i), scale<Out>(row_values.x[i], w, args, rstd));
    }
    if constexpr (kPrefetch) {
      row_values = next_values;
    } else {
      load_row(row + step, row_values);
    }
  }

  if (args.grad_weight == nullptr) return;
  float* partial = args.workspace + static_cast<std::int64_t>(blockIdx.x) * args.width;
  if constexpr (Groups::kRows == 1) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        if (column(i) < args.width) partial[column(i) + e] = static_cast<float>(grad_weight[i][e]);
      }
    }
  } else {
    __shared__ Accumulator<Weight> group_sums[Groups::kRows][kColumns];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int e = 0; e < kVec; ++e) group_sums[group][column(i) + e] = grad_weight[i][e];
    }
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < args.width; j += Groups::kThreads) {
      Accumulator<Weight> total = 0;
      for (int g = 0; g < Groups::kRows; ++g) total += group_sums[g][j];
      partial[j] = static_cast<float>(total);
    }
  }
}

// Any width: a block owns a row, reads it twice, and sums the weight gradient in its part of the workspace.
template <typename Hidden, typename Weight, typename Out, int kVec, int kWarp>
__global__ void __launch_bounds__(kNormThreads) rms_norm_backward_wide_kernel(const RmsNormBackwardArgs args) {
  __shared__ Accumulator<Hidden> shared[2][kNormThreads / kWarp];
  constexpr std::int64_t kStep = static_cast<std::int64_t>(kNormThreads) * kVec;
  const std::int64_t first_column = static_cast<std::int64_t>(threadIdx.x) * kVec;
  const auto* weight = static_cast<const Weight*>(args.weight);
  float* partial = args.workspace + static_cast<std::int64_t>(blockIdx.x) * args.width;
  int buffer = 0;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x, buffer ^= 1) {
    const auto* x = static_cast<const Hidden*>(args.hidden_states) + row * args.hidden_stride;
    const auto* grad_out = static_cast<const Out*>(args.grad_out) + row * args.grad_out_stride;
    const auto* grad_sum = static_cast<const Hidden*>(args.grad_sum) + row * args.grad_sum_stride;
    auto* grad_hidden = static_cast<Hidden*>(args.grad_hidden_states) + row * args.width;
    auto* out = static_cast<Out*>(args.out) + row * args.width;
    const float rstd = args.rstd[row];
    const auto load_weight = [&](std::int64_t column) {
      Packed<Weight, kVec> w = {};
      if (weight != nullptr) w = load<Weight, kVec>(weight + column);
      return w;
    };
    Accumulator<Hidden> dot = 0;
    for (std::int64_t column = first_column; column < args.width; column += kStep) {
      const auto values = load<Hidden, kVec>(x + column);
      const auto grads = load<Out, kVec>(grad_out + column);
      const auto w = load_weight(column);
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        dot += weighted(gpu::to_float(grads.values[e]), w, e, args) * gpu::to_float(values.values[e]);
      }
    }
    dot = block_reduce<kWarp, kNormThreads>(dot, shared[buffer]);
    const float projection = rstd * rstd * rstd * static_cast<float>(dot / args.width);
    const bool is_first = row == static_cast<std::int64_t>(blockIdx.x);
    for (std::int64_t column = first_column; column < args.width; column += kStep) {
      const auto values = load<Hidden, kVec>(x + column);
      const auto grads = load<Out, kVec>(grad_out + column);
      const auto w = load_weight(column);
      Packed<Hidden, kVec> added = {}, result;
      if (args.grad_sum != nullptr) added = load<Hidden, kVec>(grad_sum + column);
#pragma unroll
      for (int e = 0; e < kVec; ++e) {
        const float grad = gpu::to_float(grads.values[e]);
        const float norm_grad = rstd * weighted(grad, w, e, args) - projection * gpu::to_float(values.values[e]);
        result.values[e] = from_float<Hidden>(norm_grad + gpu::to_float(added.values[e]));
        if (args.grad_weight == nullptr) continue;
        const float term = grad * unit_value(values.values[e], rstd, args.round_before_weight);
        partial[column + e] = is_first ? term : partial[column + e] + term;
      }
      store(grad_hidden + column, result);
      if (args.out != nullptr) store(out + column, scale<Out>(values, w, args, rstd));
    }
  }
}

template <typename Hidden, typename Weight, typename Out>
class RmsNormBackward {
 public:
  RmsNormBackward(const RmsNormBackwardArgs& args, const LaunchContext& context)
      : args_(args), stream_(stream_of(context)) {}

  Status launch() const {
    if (vector_width() != kFull) return args_.width <= 256 ? rows<1, 32, 8, true>() : wide<1>();
    const std::int64_t vectors = args_.width / kFull;
    if (vectors <= 8 * 2) return rows<kFull, 8, 2, true>();
    if (vectors <= 32 * 2) return rows<kFull, 32, 2, true>();
    if (vectors <= 128) return rows<kFull, 128, 1, false>();
    if (vectors <= 256) return rows<kFull, 256, 1, false>();
    if (vectors <= 512) return rows<kFull, 512, 1, false>();
    if (vectors <= 512 * 2) return rows<kFull, 512, 2, false>();
    if (vectors <= 512 * 4) return rows<kFull, 512, 4, false>();
    return wide<kFull>();
  }

 private:
  static constexpr int kFull = kVectorBytes / static_cast<int>(sizeof(Hidden));

  int vector_width() const {
    VectorWidth width(kFull);
    width.pointer(args_.grad_out, sizeof(Out)).multiple(args_.grad_out_stride).multiple(args_.width);
    width.pointer(args_.hidden_states, sizeof(Hidden)).multiple(args_.hidden_stride);
    width.pointer(args_.weight, sizeof(Weight)).pointer(args_.grad_hidden_states, sizeof(Hidden));
    width.pointer(args_.out, sizeof(Out));
    if (args_.grad_sum != nullptr) width.pointer(args_.grad_sum, sizeof(Hidden)).multiple(args_.grad_sum_stride);
    return width.width();
  }

  template <int kVec, int kGroup, int kItems, bool kPrefetch>
  Status rows() const {
    using Groups = RowGroups<kGroup>;
    const unsigned needed = grid_for(args_.rows, Groups::kRows);
    const auto limit = static_cast<unsigned>(backward_blocks(args_.rows, args_.width));
    const unsigned blocks = needed < limit ? needed : limit;
    const Status status = with_warp_size([&](auto warp) {
      rms_norm_backward_kernel<Hidden, Weight, Out, kVec, kGroup, kItems, kPrefetch, warp>
          <<<blocks, Groups::kThreads, 0, stream_>>>(args_);
      return launch_status();
    });
    return status.ok() ? add_partials(blocks) : status;
  }

  template <int kVec>
  Status wide() const {
    const auto blocks = static_cast<unsigned>(backward_blocks(args_.rows, args_.width));
    const Status status = with_warp_size([&](auto warp) {
      rms_norm_backward_wide_kernel<Hidden, Weight, Out, kVec, warp><<<blocks, kNormThreads, 0, stream_>>>(args_);
      return launch_status();
    });
    return status.ok() ? add_partials(blocks) : status;
  }

  Status add_partials(unsigned count) const {
    return add_columns<Weight>({args_.workspace, count, args_.grad_weight}, {}, args_.width, stream_);
  }

  const RmsNormBackwardArgs& args_;
  Stream stream_;
};

}  // namespace liger::kernels::gpu
