// rope: rotary position embedding of query and key in one launch, and the transposed rotation of their gradients.
#include "kernels/rope/rope.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "ops/device.h"
#include "ops/rotation.h"

namespace liger::ops {

namespace {

using Order = std::vector<std::int64_t>;

struct Rotation {
  RopeNames names;
  Tensor cos;
  Tensor sin;
  bool transpose;

  // Without a key (null) only the query turns.
  void launch(const Tensor& query, Tensor& query_out, const Tensor* key, Tensor* key_out,
              const DeviceScope& scope) const {
    const LeadingDims dims = leading_dims(query);
    const int head = head_dim_of(dims, leading_dims(key == nullptr ? query : *key), leading_dims(cos));
    kernels::RopeArgs args = rotation_of(names, query, query_out, key, key_out, cos, sin, head);
    args.transpose = transpose;
    require_ok(names.op, kernels::rope(args, scope.context()));
  }

  // All last strides are 1.
  void run(const Tensor& query, Tensor& query_out, const Tensor& key, Tensor& key_out, const DeviceScope& scope) const {
    if (count_differing_dims(query, key) <= 1) return launch(query, query_out, &key, &key_out, scope);
    launch(query, query_out, nullptr, nullptr, scope);
    launch(key, key_out, nullptr, nullptr, scope);
  }
};

// Fills both results, whatever the strides.
std::tuple<Tensor, Tensor> rotate(const RopeNames& names, const Tensor& query, KernelResult query_out,
                                  const Tensor& key, KernelResult key_out, const Tensor& cos, const Tensor& sin,
                                  bool transpose, const DeviceScope& scope) {
  const Rotation rotation{names, with_unit_last_stride(cos), with_unit_last_stride(sin), transpose};
  rotation.run(with_unit_last_stride(query), query_out.filled(), with_unit_last_stride(key), key_out.filled(), scope);
  return {query_out.finish(), key_out.finish()};
}

std::tuple<Tensor, Tensor> rope(const Tensor& query, const Tensor& key, const Tensor& cos, const Tensor& sin,
                                bool contiguous_query, bool contiguous_key) {
  const RopeNames names{"rope", "query", "key"};
  check_rotated(names, query, key);
  check_tables(names, cos, sin, query, key);
  const DeviceScope scope(query);
  return rotate(names, query, turned_like(query, contiguous_query), key, turned_like(key, contiguous_key), cos, sin,
                false, scope);
}

bool is_permutation(const Order& order, std::int64_t rank) {
  Order seen(static_cast<std::size_t>(rank), 0);
  for (const std::int64_t dim : order) {
    if (dim < 0 || dim >= rank || seen[dim]++ > 0) return false;
  }
  return static_cast<std::int64_t>(order.size()) == rank;
}

// A dense tensor like `like` whose dims lie in memory in `order`, outermost first; in the order of `like` for none.
Tensor empty_in_order(const Argument& order_argument, const Tensor& like, const Order& order) {
  if (order.empty()) return new_empty_like(like);
  require(is_permutation(order, like.dim()), order_argument, " must be empty or a permutation of the ", like.dim(),
          " dimensions, got ", order);
  const Shape shape = shape_of(like);
  return empty_strided(like, shape, dense_strides(shape, order));
}

std::tuple<Tensor, Tensor> rope_backward(const Tensor& grad_query, const Tensor& grad_key, const Tensor& cos,
                                         const Tensor& sin, const Order& query_order, const Order& key_order) {
  const RopeNames names{"rope_backward", "grad_query", "grad_key"};
  check_rotated(names, grad_query, grad_key);
  check_tables(names, cos, sin, grad_query, grad_key);
  const DeviceScope scope(grad_query);
  KernelResult query_out(empty_in_order({names.op, "query_order"}, grad_query, query_order));
  KernelResult key_out(empty_in_order({names.op, "key_order"}, grad_key, key_order));
  return rotate(names, grad_query, query_out, grad_key, key_out, cos, sin, true, scope);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("rope", TORCH_BOX(&rope));
  m.impl("rope_forward", TORCH_BOX(&rope));
  m.impl("rope_backward", TORCH_BOX(&rope_backward));
}

}  // namespace liger::ops
