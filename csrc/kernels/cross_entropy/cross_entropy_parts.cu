#include <climits>
#include <type_traits>

#include "kernels/cross_entropy/cross_entropy_parts.cuh"
#include "kernels/cross_entropy/cross_entropy_parts.h"

namespace liger::kernels {

namespace {

constexpr std::int64_t kFewestClasses = 16384;  // below, a row is no work for several blocks

// Of a row: how many blocks share it, and how many vectors a thread then has at most.
struct Parts {
  int blocks;
  int items;
};

std::optional<Parts> parts_of(std::int64_t rows, std::int64_t vocab, const CrossEntropyLogits& logits) {
  constexpr int kVec = kVectorBytes / 2;
  const bool is_plain = !logits.is_transformed || (logits.scale == 1.0f && logits.softcap == 0.0f);
  const int width = VectorWidth(kVec).pointer(logits.data, 2).multiple(logits.row_stride).multiple(vocab).width();
  if (size_of(logits.dtype) != 2 || !is_plain || vocab < kFewestClasses || width != kVec) return std::nullopt;
  const std::int64_t vectors = vocab / kVec;
  int blocks = 1;
  while (blocks < gpu::kMostClusterBlocks && vectors > std::int64_t{8} * blocks * gpu::kPartThreads) blocks *= 2;
  const std::int64_t threads = static_cast<std::int64_t>(blocks) * gpu::kPartThreads;
  const std::int64_t items = (vectors + threads - 1) / threads;
  if (items > 16 || rows > INT_MAX / blocks) return std::nullopt;
  return Parts{blocks, static_cast<int>(items)};
}

// visitor(16-bit element type, vectors per thread, whether there is a softcap), the last two compile-time constants.
template <typename Visitor>
std::optional<Status> with_items(const CrossEntropyLogits& logits, int items, Visitor&& visitor) {
  std::optional<Status> status;
  const auto visit = [&](auto type, auto count) {
    status = logits.softcap > 0.0f ? visitor(type, count, std::true_type{}) : visitor(type, count, std::false_type{});
  };
  dispatch_dtype(logits.dtype, [&](auto type) {
    if constexpr (sizeof(typename decltype(type)::type) == 2) {
      if (items <= 8) {
        visit(type, std::integral_constant<int, 8>{});
      } else if (items <= 12) {
        visit(type, std::integral_constant<int, 12>{});
      } else {
        visit(type, std::integral_constant<int, 16>{});
      }
    }
  });
  return status;
}

}  // namespace

std::optional<Status> cross_entropy_fused_in_parts(const CrossEntropyFusedArgs& args, const LaunchContext& context) {
  const auto parts = parts_of(args.rows, args.vocab, args.logits);
  if (!parts) return std::nullopt;
  return with_items(args.logits, parts->items, [&](auto type, auto items, auto softcap) -> std::optional<Status> {
    using T = typename decltype(type)::type;
    constexpr auto kernel = gpu::cross_entropy_parts_fused_kernel<T, items.value, softcap.value>;
    if (!gpu::runs_in_clusters(kernel)) return std::nullopt;
    const auto blocks = static_cast<unsigned>(args.rows * parts->blocks),
               cluster = static_cast<unsigned>(parts->blocks);
    const gpu::Error error =
        gpu::launch_in_clusters(kernel, blocks, gpu::kPartThreads, cluster, gpu::stream_of(context), args);
    return error == gpu::kSuccess ? gpu::launch_status() : Status(gpu::message_of(error));
  });
}

std::optional<Status> cross_entropy_backward_in_parts(const CrossEntropyBackwardArgs& args,
                                                      const LaunchContext& context) {
  const auto parts = parts_of(args.rows, args.vocab, args.logits);
  const bool out_is_aligned = VectorWidth(8).pointer(args.grad_logits, 2).multiple(args.grad_stride).width() == 8;
  if (!parts || !out_is_aligned || args.grad_loss == nullptr || args.grad_transformed != nullptr) return std::nullopt;
  return with_items(args.logits, parts->items, [&](auto type, auto items, auto softcap) -> std::optional<Status> {
    const auto blocks = static_cast<unsigned>(args.rows * parts->blocks);
    gpu::cross_entropy_parts_backward_kernel<typename decltype(type)::type, items.value, softcap.value>
        <<<blocks, gpu::kPartThreads, 0, gpu::stream_of(context)>>>(args, parts->blocks);
    return gpu::launch_status();
  });
}

}  // namespace liger::kernels
