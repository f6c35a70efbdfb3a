// Launchers of cross_entropy.cuh and gradients.cuh.
#include <algorithm>
#include <climits>

#include "kernels/cross_entropy/cross_entropy.cuh"
#include "kernels/cross_entropy/cross_entropy_parts.h"
#include "kernels/cross_entropy/gradients.cuh"

namespace liger::kernels {

namespace {

constexpr int kLargeVocab = 16384;  // from here a row fills a block of 1024 threads
constexpr int kSmallBlock = 256;
constexpr int kLargeBlock = 1024;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// visitor(warp width, threads per row), both compile-time constants.
template <typename Visitor>
void with_block(std::int64_t vocab, Visitor&& visitor) {
  gpu::with_warp_size([&](auto warp) {
    vocab >= kLargeVocab ? visitor(warp, Constant<kLargeBlock>{}) : visitor(warp, Constant<kSmallBlock>{});
  });
}

// Threads per row: tanh needs more registers than a block of 1024 has.
constexpr int narrower(bool wants_registers, int threads) {
  return wants_registers && threads == kLargeBlock ? kLargeBlock / 2 : threads;
}

// visitor(element type, whether there is a softcap)
template <typename Visitor>
void with_logits(const CrossEntropyLogits& logits, Visitor&& visitor) {
  dispatch_dtype(logits.dtype, [&](auto type) {
    logits.softcap > 0.0f ? visitor(type, std::true_type{}) : visitor(type, std::false_type{});
  });
}

// Rows that are read and written together must reach a 16-byte boundary at the same column.
bool aligned_alike(const void* a, std::int64_t stride_a, const void* b, std::int64_t stride_b, ScalarType dtype) {
  const auto difference = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(a)) -
                          static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(b));
  return difference % kVectorBytes == 0 && (stride_a - stride_b) * size_of(dtype) % kVectorBytes == 0;
}

Status check_sizes(std::int64_t rows, std::int64_t vocab) {
  if (rows > INT_MAX) return Status("more rows than a grid can hold");
  // Four vectors of headroom per thread, so that no column index overflows.
  if (vocab > INT_MAX - 4 * 8 * kLargeBlock) return Status("the vocabulary has more than 2^31 entries");
  return {};
}

}  // namespace

Status cross_entropy_scales(const CrossEntropyScalesArgs& args, const LaunchContext& context) {
  if (args.rows > INT_MAX) return Status("more rows than a grid can hold");
  with_block(0, [&](auto warp, auto) {
    gpu::cross_entropy_scales_kernel<warp.value, kLargeBlock><<<1, kLargeBlock, 0, gpu::stream_of(context)>>>(args);
  });
  return gpu::launch_status();
}

Status cross_entropy_forward(const CrossEntropyForwardArgs& args, const LaunchContext& context) {
  if (const Status status = check_sizes(args.rows, args.vocab); !status.ok() || args.rows == 0) return status;
  const CrossEntropyLogits& logits = args.logits;
  const bool writes = args.transformed != nullptr;
  const bool use_vectors =
      !writes || aligned_alike(logits.data, logits.row_stride, args.transformed, args.transformed_stride, logits.dtype);
  const auto multiprocessors = static_cast<std::int64_t>(gpu::multiprocessor_count());
  with_logits(logits, [&](auto type, auto softcap) {
    using T = typename decltype(type)::type;
    with_block(args.vocab, [&](auto warp, auto threads) {
      constexpr int kThreads = narrower(true, threads.value);  // more than one such block per multiprocessor
      const auto grid = static_cast<unsigned>(std::min(args.rows, multiprocessors * (gpu::kForwardThreads / kThreads)));
      constexpr auto plain = gpu::cross_entropy_forward_kernel<T, softcap.value, false, warp.value, kThreads>;
      constexpr auto writing = gpu::cross_entropy_forward_kernel<T, softcap.value, true, warp.value, kThreads>;
      const auto kernel = writes ? writing : plain;
      kernel<<<grid, kThreads, 0, gpu::stream_of(context)>>>(args, logit_map(logits), use_vectors);
    });
  });
  return gpu::launch_status();
}

Status cross_entropy_reduce(const CrossEntropyReduceArgs& args, const LaunchContext& context) {
  if (args.is_per_row && args.rows == 0) return {};
  dispatch_dtype(args.loss_dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (args.is_per_row) {
      const auto grid = static_cast<unsigned>((args.rows + kSmallBlock - 1) / kSmallBlock);
      gpu::cross_entropy_rows_kernel<T, kSmallBlock><<<grid, kSmallBlock, 0, gpu::stream_of(context)>>>(args);
      return;
    }
    with_block(0, [&](auto warp, auto) {
      gpu::cross_entropy_sum_kernel<T, warp.value, kLargeBlock><<<1, kLargeBlock, 0, gpu::stream_of(context)>>>(args);
    });
  });
  return gpu::launch_status();
}

Status cross_entropy_backward(const CrossEntropyBackwardArgs& args, const LaunchContext& context) {
  if (const Status status = check_sizes(args.rows, args.vocab); !status.ok() || args.rows == 0) return status;
  if (const auto status = cross_entropy_backward_in_parts(args, context)) return *status;
  const CrossEntropyLogits& logits = args.logits;
  bool use_vectors = aligned_alike(logits.data, logits.row_stride, args.grad_logits, args.grad_stride, logits.dtype);
  if (args.grad_transformed != nullptr)
    use_vectors = use_vectors && aligned_alike(logits.data, logits.row_stride, args.grad_transformed,
                                               args.grad_transformed_stride, logits.dtype);
  const auto grid = static_cast<unsigned>(args.rows);
  with_logits(logits, [&](auto type, auto softcap) {
    using T = typename decltype(type)::type;
    with_block(args.vocab, [&](auto, auto threads) {
      gpu::cross_entropy_backward_kernel<T, softcap.value, threads.value>
          <<<grid, threads.value, 0, gpu::stream_of(context)>>>(args, logit_map(logits), use_vectors);
    });
  });
  return gpu::launch_status();
}

Status cross_entropy_fused(const CrossEntropyFusedArgs& args, const LaunchContext& context) {
  if (const Status status = check_sizes(args.rows, args.vocab); !status.ok() || args.rows == 0) return status;
  if (const auto status = cross_entropy_fused_in_parts(args, context)) return *status;
  const auto grid = static_cast<unsigned>(args.rows);
  with_logits(args.logits, [&](auto type, auto softcap) {
    using T = typename decltype(type)::type;
    with_block(args.vocab, [&](auto warp, auto threads) {
      constexpr int kThreads = narrower(softcap.value, threads.value);
      gpu::cross_entropy_fused_kernel<T, softcap.value, warp.value, kThreads>
          <<<grid, kThreads, 0, gpu::stream_of(context)>>>(args, logit_map(args.logits), true);
    });
  });
  return gpu::launch_status();
}

Status column_sum(const ColumnSumArgs& args, const LaunchContext& context) {
  constexpr int kColumnLanes = 32, kRowLanes = 8;
  if (args.columns == 0) return {};
  dispatch_dtype(args.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto launch = [&](auto vec) {
      const std::int64_t per_block = kColumnLanes * vec.value;
      const auto grid = static_cast<unsigned>((args.columns + per_block - 1) / per_block);
      gpu::column_sum_kernel<T, vec.value, kColumnLanes, kRowLanes>
          <<<grid, dim3(kColumnLanes, kRowLanes), 0, gpu::stream_of(context)>>>(args);
    };
    constexpr int kVec = kVectorBytes / sizeof(T);
    const int width =
        VectorWidth(kVec).pointer(args.values, sizeof(T)).multiple(args.row_stride).multiple(args.columns).width();
    width == kVec ? launch(Constant<kVec>{}) : launch(Constant<1>{});
  });
  return gpu::launch_status();
}

Status scale_gradient(const ScaleGradientArgs& args, const LaunchContext& context) {
  if (args.count == 0) return {};
  Status status;
  dispatch_scale_dtypes(args, [&](auto from_tag, auto to_tag) {
    using From = typename decltype(from_tag)::type;
    using To = typename decltype(to_tag)::type;
    constexpr int kVec = kVectorBytes / sizeof(To), kThreads = 256;
    const auto launch = [&](auto vec) {
      const std::int64_t threads = args.count / vec.value + args.count % vec.value;
      const std::int64_t blocks = (threads + kThreads - 1) / kThreads;
      if (blocks > INT_MAX) {
        status = Status("more elements than a grid can hold");
        return;
      }
      gpu::scale_gradient_kernel<From, To, vec.value, kThreads>
          <<<static_cast<unsigned>(blocks), kThreads, 0, gpu::stream_of(context)>>>(args);
      status = gpu::launch_status();
    };
    const int width = VectorWidth(kVec).pointer(args.values, sizeof(From)).pointer(args.out, sizeof(To)).width();
    width == kVec ? launch(Constant<kVec>{}) : launch(Constant<1>{});
  });
  return status;
}

}  // namespace liger::kernels
