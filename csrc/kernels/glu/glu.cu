// Launchers of glu.cuh.
#include <climits>

#include "kernels/glu/glu.cuh"

namespace liger::kernels {

namespace {

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

gpu::GluWalk make_walk(std::int64_t rows, std::int64_t width, int vector_width) {
  gpu::GluWalk walk;
  walk.vectors_per_row = width / vector_width;
  walk.vectors = rows * walk.vectors_per_row;
  walk.row_step = gpu::kGluThreads / walk.vectors_per_row;
  walk.vector_step = gpu::kGluThreads % walk.vectors_per_row;
  walk.tail = static_cast<int>(width % vector_width);
  return walk;
}

// A single row may end within a vector, and its strides are never taken.
VectorWidth width_limit(int limit, std::int64_t rows, std::int64_t width, std::initializer_list<std::int64_t> strides) {
  VectorWidth vector_width(width < limit ? 1 : limit);
  if (rows == 1) return vector_width;
  vector_width.multiple(width);
  for (const std::int64_t stride : strides) vector_width.multiple(stride);
  return vector_width;
}

// launch(vector width, vectors per thread, walk, blocks): 16-byte vectors, of which a thread has kCount in flight per
// tensor, or single elements, of which it has twice as many.
template <typename T, int kCount, typename Launch>
Status with_walk(std::int64_t rows, std::int64_t width, int vector_width, Launch&& launch) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  const bool use_vectors = vector_width == kVec;
  const gpu::GluWalk walk = make_walk(rows, width, use_vectors ? kVec : 1);
  const std::int64_t per_block = gpu::kGluThreads * (use_vectors ? kCount : 2 * kCount);
  const std::int64_t blocks = (walk.vectors + per_block - 1) / per_block;
  if (blocks > INT_MAX) return Status("more elements than a grid can hold");
  const auto grid = static_cast<unsigned>(blocks);
  use_vectors ? launch(Constant<kVec>{}, Constant<kCount>{}, walk, grid)
              : launch(Constant<1>{}, Constant<2 * kCount>{}, walk, grid);
  return gpu::launch_status();
}

template <typename T>
Status launch_forward(const GluArgs& args, const LaunchContext& context) {
  const int vector_width =
      width_limit(kVectorBytes / sizeof(T), args.rows, args.width, {args.gate_stride, args.up_stride, args.out_stride})
          .pointer(args.gate, sizeof(T))
          .pointer(args.up, sizeof(T))
          .pointer(args.out, sizeof(T))
          .width();
  return dispatch_activation(args.activation, [&](auto activation) {
    return with_walk<T, 4>(args.rows, args.width, vector_width, [&](auto vec, auto count, const auto& walk, auto grid) {
      gpu::glu_forward_kernel<T, activation.value, vec.value, count.value>
          <<<grid, gpu::kGluThreads, 0, gpu::stream_of(context)>>>(args, walk);
    });
  });
}

template <typename T>
Status launch_backward(const GluBackwardArgs& args, const LaunchContext& context) {
  const int vector_width = width_limit(kVectorBytes / sizeof(T), args.rows, args.width,
                                       {args.grad_out_stride, args.gate_stride, args.up_stride, args.grad_gate_stride,
                                        args.grad_up_stride, args.out_stride})
                               .pointer(args.grad_out, sizeof(T))
                               .pointer(args.gate, sizeof(T))
                               .pointer(args.up, sizeof(T))
                               .pointer(args.grad_gate, sizeof(T))
                               .pointer(args.grad_up, sizeof(T))
                               .pointer(args.out, sizeof(T))
                               .width();
  return dispatch_activation(args.activation, [&](auto activation) {
    return with_walk<T, 2>(args.rows, args.width, vector_width, [&](auto vec, auto count, const auto& walk, auto grid) {
      gpu::glu_backward_kernel<T, activation.value, vec.value, count.value>
          <<<grid, gpu::kGluThreads, 0, gpu::stream_of(context)>>>(args, walk);
    });
  });
}

}  // namespace

Status glu_forward(const GluArgs& args, const LaunchContext& context) {
  if (args.rows == 0 || args.width == 0) return {};
  return dispatch_dtype(args.dtype, [&](auto type) {
    return launch_forward<typename decltype(type)::type>(with_merged_rows(args), context);
  });
}

Status glu_backward(const GluBackwardArgs& args, const LaunchContext& context) {
  if (args.rows == 0 || args.width == 0) return {};
  return dispatch_dtype(args.dtype, [&](auto type) {
    return launch_backward<typename decltype(type)::type>(with_merged_rows(args), context);
  });
}

}  // namespace liger::kernels
