// What the ops that turn query and key have in common: their argument checks, how tensors of any layout become what the
// kernels walk, and results whose channels do not lie side by side.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/rope/rope.h"
#include "ops/check.h"

namespace liger::ops {

inline constexpr int kLeadingDims = 3;  // of a tensor of the largest rank
inline constexpr int kNoDim = -1;

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

inline LeadingDims leading_dims(const Tensor& tensor) {
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

inline std::int64_t last_size(const Tensor& tensor) { return tensor.sizes().back(); }

// Are neighbouring channels neighbours in memory, as the kernel needs?
inline bool has_unit_last_stride(const Tensor& tensor) {
  return last_size(tensor) <= 1 || tensor.stride(tensor.dim() - 1) == 1;
}

inline Tensor with_unit_last_stride(const Tensor& tensor) {
  return has_unit_last_stride(tensor) ? tensor : as_contiguous(tensor);
}

inline void check_rotated(const RopeNames& names, const Tensor& query, const Tensor& key) {
  const Argument query_argument{names.op, names.query}, key_argument{names.op, names.key};
  kernel_dtype(query_argument, query);
  require(query.dim() >= 2 && query.dim() <= 4, query_argument, " must have 2 to 4 dimensions, got shape ",
          ShapeOf{query});
  require_same_device(key_argument, key, query_argument, query);
  require_dtype(key_argument, key, query.scalar_type());
  require(key.dim() == query.dim() && last_size(key) == last_size(query), key_argument, " must have the rank and last ",
          "dimension of ", names.query, " ", ShapeOf{query}, ", got shape ", ShapeOf{key});
}

inline void check_broadcasts(const RopeNames& names, const Tensor& cos, const char* rotated_name,
                             const Tensor& rotated) {
  const auto sizes = cos.sizes(), rotated_sizes = rotated.sizes();
  bool broadcasts = sizes.size() == rotated_sizes.size();
  for (std::size_t dim = 0; broadcasts && dim + 1 < sizes.size(); ++dim) {
    broadcasts = sizes[dim] == 1 || sizes[dim] == rotated_sizes[dim];
  }
  require(broadcasts, Argument{names.op, "cos"}, " must have the rank of ", rotated_name, " ", ShapeOf{rotated},
          " and leading dimensions equal to its or 1, got shape ", ShapeOf{cos});
}

inline void check_tables(const RopeNames& names, const Tensor& cos, const Tensor& sin, const Tensor& query,
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
inline int head_dim_of(const LeadingDims& query, const LeadingDims& key, const LeadingDims& table) {
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
inline void copy_positions(const std::array<std::int64_t, kLeadingDims>& from, int head,
                           std::int64_t (&to)[kernels::kRopePositionDims]) {
  int slot = kernels::kRopePositionDims;
  for (int dim = kLeadingDims - 1; dim >= 0; --dim) {
    if (dim != head) to[--slot] = from[dim];
  }
}

inline kernels::RopeLayout layout_of(const LeadingDims& dims, int head) {
  kernels::RopeLayout layout{};
  copy_positions(dims.strides, head, layout.positions);
  layout.head = head == kNoDim ? 0 : dims.strides[head];
  return layout;
}

inline kernels::RopeOperand operand_of(const Tensor& in, Tensor& out, int head) {
  kernels::RopeOperand operand;
  const LeadingDims dims = leading_dims(in);
  operand.in = in.const_data_ptr();
  operand.out = out.mutable_data_ptr();
  operand.heads = head == kNoDim ? 1 : dims.sizes[head];
  operand.in_strides = layout_of(dims, head);
  operand.out_strides = layout_of(leading_dims(out), head);
  return operand;
}

inline kernels::RopeTable table_of(const Tensor& table, int head) {
  kernels::RopeTable result;
  result.data = table.const_data_ptr();
  copy_positions(leading_dims(table).strides, head, result.strides);
  return result;
}

// Everything that a call of a rotation says beside the operands' data: all last strides are 1, and query and key differ
// in one leading dim at most.
inline kernels::RopeArgs rotation_of(const RopeNames& names, const Tensor& query, Tensor& query_out, const Tensor* key,
                                     Tensor* key_out, const Tensor& cos, const Tensor& sin, int head) {
  kernels::RopeArgs args;
  args.query = operand_of(query, query_out, head);
  if (key != nullptr) args.key = operand_of(*key, *key_out, head);
  args.cos = table_of(cos, head);
  args.sin = table_of(sin, head);
  args.positions[0] = 1;
  copy_positions(leading_dims(query).sizes, head, args.positions);
  args.head_dim = last_size(query);
  args.rotary_dim = last_size(cos);
  args.dtype = kernel_dtype({names.op, names.query}, query);
  args.table_dtype = kernel_dtype({names.op, "cos"}, cos);
  return args;
}

// The leading dims in which two tensors of a rank have different sizes.
inline int count_differing_dims(const Tensor& a, const Tensor& b) {
  const auto a_sizes = leading_dims(a).sizes, b_sizes = leading_dims(b).sizes;
  int differing = 0;
  for (int dim = 0; dim < kLeadingDims; ++dim) differing += a_sizes[dim] != b_sizes[dim];
  return differing;
}

// A result, and the tensor that a kernel fills in its place where its channels do not lie side by side.
class KernelResult {
 public:
  explicit KernelResult(Tensor result)
      : result_(std::move(result)),
        filled_(has_unit_last_stride(result_) ? result_ : new_empty(result_, shape_of(result_))) {}

  Tensor& filled() { return filled_; }
  // Once the kernel was launched.
  Tensor finish() {
    if (!has_unit_last_stride(result_)) torch::stable::copy_(result_, filled_);
    return result_;
  }

 private:
  Tensor result_;
  Tensor filled_;
};

// What a rotation of `in` goes to.
inline KernelResult turned_like(const Tensor& in, bool contiguous) {
  return KernelResult(contiguous ? new_empty(in, shape_of(in)) : new_empty_like(in));
}

}  // namespace liger::ops
