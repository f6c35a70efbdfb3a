// rope: rotary position embedding of query and key in one launch, and the transposed rotation of their gradients.
#include "kernels/rope/rope.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "ops/check.h"
#include "ops/device.h"

namespace liger::ops {

namespace {

constexpr int kLeadingDims = 3;  // of a tensor of the largest rank
constexpr int kNoDim = -1;

using Order = std::vector<std::int64_t>;

// The names of what is rotated: the op has a forward and a backward form.
struct RopeNames {
  const char* op;
  const char* query;
  const char* key;
};

// Everything but the last dim, preceded by dims of size 1. A dim of size 1 has stride 0.
struct LeadingDims {
  std::array<std::int64_t, kLeadingDims> sizes{1, 1, 1};
  std::array<std::int64_t, kLeadingDims> strides{};
};

LeadingDims leading_dims(const Tensor& tensor) {
  LeadingDims dims;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const std::int64_t rank = static_cast<std::int64_t>(sizes.size()), missing = kLeadingDims + 1 - rank;
  for (std::int64_t dim = 0; dim + 1 < rank; ++dim) {
    dims.sizes[dim + missing] = sizes[dim];
    dims.strides[dim + missing] = sizes[dim] == 1 ? 0 : strides[dim];
  }
  return dims;
}

std::int64_t last_size(const Tensor& tensor) { return tensor.sizes().back(); }

// Are neighbouring channels neighbours in memory, as the kernel needs?
bool has_unit_last_stride(const Tensor& tensor) {
  return last_size(tensor) <= 1 || tensor.stride(tensor.dim() - 1) == 1;
}

Tensor with_unit_last_stride(const Tensor& tensor) {
  return has_unit_last_stride(tensor) ? tensor : as_contiguous(tensor);
}

void check_rotated(const RopeNames& names, const Tensor& query, const Tensor& key) {
  const Argument query_argument{names.op, names.query}, key_argument{names.op, names.key};
  kernel_dtype(query_argument, query);
  require(query.dim() >= 2 && query.dim() <= 4, query_argument, " must have 2 to 4 dimensions, got shape ",
          ShapeOf{query});
  require_same_device(key_argument, key, query_argument, query);
  require_dtype(key_argument, key, query.scalar_type());
  require(key.dim() == query.dim() && last_size(key) == last_size(query), key_argument, " must have the rank and last ",
          "dimension of ", names.query, " ", ShapeOf{query}, ", got shape ", ShapeOf{key});
}

void check_broadcasts(const RopeNames& names, const Tensor& cos, const char* rotated_name, const Tensor& rotated) {
  const auto sizes = cos.sizes(), rotated_sizes = rotated.sizes();
  bool broadcasts = sizes.size() == rotated_sizes.size();
  for (std::size_t dim = 0; broadcasts && dim + 1 < sizes.size(); ++dim) {
    broadcasts = sizes[dim] == 1 || sizes[dim] == rotated_sizes[dim];
  }
  require(broadcasts, Argument{names.op, "cos"}, " must have the rank of ", rotated_name, " ", ShapeOf{rotated},
          " and leading dimensions equal to its or 1, got shape ", ShapeOf{cos});
}

void check_tables(const RopeNames& names, const Tensor& cos, const Tensor& sin, const Tensor& query,
                  const Tensor& key) {
  const Argument query_argument{names.op, names.query}, cos_argument{names.op, "cos"}, sin_argument{names.op, "sin"};
  require_same_device(cos_argument, cos, query_argument, query);
  require_same_device(sin_argument, sin, query_argument, query);
  const TorchDtype dtype = cos.scalar_type(), rotated = query.scalar_type();
  const char* choice = rotated == TorchDtype::Float ? "" : " or the dtype of ";
  require(dtype == TorchDtype::Float || dtype == rotated, cos_argument, " must be float32", choice,
          *choice == 0 ? "" : names.query, ", got ", dtype);
  require_dtype(sin_argument, sin, dtype);
  check_broadcasts(names, cos, names.query, query);
  check_broadcasts(names, cos, names.key, key);
  require(last_size(cos) % 2 == 0 && last_size(cos) <= last_size(query), cos_argument,
          " must have an even last dimension of at most ", last_size(query), ", the last one of ", names.query,
          ", got shape ", ShapeOf{cos});
  require_shape(sin_argument, sin, shape_of(cos));
}

// The dim that the kernel walks with one read of the tables: where query and key differ, or else where the tables
// broadcast, the innermost in memory.
int head_dim_of(const LeadingDims& query, const LeadingDims& key, const LeadingDims& table) {
  int found = kNoDim;
  for (int dim = 0; dim < kLeadingDims; ++dim) {
    if (query.sizes[dim] != key.sizes[dim]) return dim;
    if (table.sizes[dim] != 1) continue;
    const bool is_first = found == kNoDim || query.sizes[found] == 1;
    if (is_first || (query.sizes[dim] > 1 && query.strides[dim] < query.strides[found])) found = dim;
  }
  return found;
}

// Dims other than `head` become positions, the last of them innermost; `to` keeps its values for dims there are not.
void copy_positions(const std::array<std::int64_t, kLeadingDims>& from, int head,
                    std::int64_t (&to)[kernels::kRopePositionDims]) {
  int slot = kernels::kRopePositionDims;
  for (int dim = kLeadingDims - 1; dim >= 0; --dim) {
    if (dim != head) to[--slot] = from[dim];
  }
}

kernels::RopeLayout layout_of(const LeadingDims& dims, int head) {
  kernels::RopeLayout layout{};
  copy_positions(dims.strides, head, layout.positions);
  layout.head = head == kNoDim ? 0 : dims.strides[head];
  return layout;
}

kernels::RopeOperand operand_of(const Tensor& in, Tensor& out, int head) {
  kernels::RopeOperand operand;
  const LeadingDims dims = leading_dims(in);
  operand.in = in.const_data_ptr();
  operand.out = out.mutable_data_ptr();
  operand.heads = head == kNoDim ? 1 : dims.sizes[head];
  operand.in_strides = layout_of(dims, head);
  operand.out_strides = layout_of(leading_dims(out), head);
  return operand;
}

kernels::RopeTable table_of(const Tensor& table, int head) {
  kernels::RopeTable result;
  result.data = table.const_data_ptr();
  copy_positions(leading_dims(table).strides, head, result.strides);
  return result;
}

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
    kernels::RopeArgs args;
    args.query = operand_of(query, query_out, head);
    if (key != nullptr) args.key = operand_of(*key, *key_out, head);
    args.cos = table_of(cos, head);
    args.sin = table_of(sin, head);
    args.positions[0] = 1;
    copy_positions(dims.sizes, head, args.positions);
    args.head_dim = last_size(query);
    args.rotary_dim = last_size(cos);
    args.dtype = kernel_dtype({names.op, names.query}, query);
    args.table_dtype = kernel_dtype({names.op, "cos"}, cos);
    args.transpose = transpose;
    require_ok(names.op, kernels::rope(args, scope.context()));
  }

  // All last strides are 1.
  void run(const Tensor& query, Tensor& query_out, const Tensor& key, Tensor& key_out, const DeviceScope& scope) const {
    const auto query_sizes = leading_dims(query).sizes, key_sizes = leading_dims(key).sizes;
    int differing = 0;
    for (int dim = 0; dim < kLeadingDims; ++dim) differing += query_sizes[dim] != key_sizes[dim];
    if (differing <= 1) return launch(query, query_out, &key, &key_out, scope);
    launch(query, query_out, nullptr, nullptr, scope);
    launch(key, key_out, nullptr, nullptr, scope);
  }
};

// Fills query_out and key_out, whatever the strides.
void rotate(const RopeNames& names, const Tensor& query, Tensor& query_out, const Tensor& key, Tensor& key_out,
            const Tensor& cos, const Tensor& sin, bool transpose, const DeviceScope& scope) {
  const bool direct_query = has_unit_last_stride(query_out), direct_key = has_unit_last_stride(key_out);
  Tensor turned_query = direct_query ? query_out : new_empty(query, shape_of(query));
  Tensor turned_key = direct_key ? key_out : new_empty(key, shape_of(key));
  const Rotation rotation{names, with_unit_last_stride(cos), with_unit_last_stride(sin), transpose};
  rotation.run(with_unit_last_stride(query), turned_query, with_unit_last_stride(key), turned_key, scope);
  if (!direct_query) torch::stable::copy_(query_out, turned_query);
  if (!direct_key) torch::stable::copy_(key_out, turned_key);
}

std::tuple<Tensor, Tensor> rope(const Tensor& query, const Tensor& key, const Tensor& cos, const Tensor& sin,
                                bool contiguous_query, bool contiguous_key) {
  const RopeNames names{"rope", "query", "key"};
  check_rotated(names, query, key);
  check_tables(names, cos, sin, query, key);
  const DeviceScope scope(query);
  Tensor query_out = contiguous_query ? new_empty(query, shape_of(query)) : new_empty_like(query);
  Tensor key_out = contiguous_key ? new_empty(key, shape_of(key)) : new_empty_like(key);
  rotate(names, query, query_out, key, key_out, cos, sin, false, scope);
  return {query_out, key_out};
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
  Tensor query_out = empty_in_order({names.op, "query_order"}, grad_query, query_order);
  Tensor key_out = empty_in_order({names.op, "key_order"}, grad_key, key_order);
  rotate(names, grad_query, query_out, grad_key, key_out, cos, sin, true, scope);
  return {query_out, key_out};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("rope", TORCH_BOX(&rope));
  m.impl("rope_forward", TORCH_BOX(&rope));
  m.impl("rope_backward", TORCH_BOX(&rope_backward));
}

}  // namespace liger::ops
