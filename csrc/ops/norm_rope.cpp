// norm_rope: RMSNorm of every head of query and key and the rotation of what it gives, in one launch. The formula is in
// kernels/norm_rope/norm_rope.h.
#include "kernels/norm_rope/norm_rope.h"

#include <tuple>

#include "ops/device.h"
#include "ops/rotation.h"

namespace liger::ops {

namespace {

using kernels::NormRopeArgs;
using OptionalTensor = std::optional<Tensor>;

// A call's inputs as the kernel takes them, once they are checked.
struct Inputs {
  RopeNames names;
  Tensor query, key;
  OptionalTensor query_weight, key_weight;
  Tensor cos, sin;
  double eps, weight_offset;

  TorchDtype weight_dtype() const {
    return query_weight ? query_weight->scalar_type() : (key_weight ? *key_weight : query).scalar_type();
  }
};

void check_heads(const RopeNames& names, const Tensor& query, const Tensor& key) {
  const std::int64_t head_dim = last_size(query);
  require(head_dim % 2 == 0 && head_dim <= kernels::kNormRopeWidest, Argument{names.op, names.query},
          " must have an even last dimension of at most ", kernels::kNormRopeWidest, ", got shape ", ShapeOf{query});
  require(count_differing_dims(query, key) <= 1, Argument{names.op, names.key}, " must have the shape of ", names.query,
          " ", ShapeOf{query}, " but for one dimension, got shape ", ShapeOf{key});
}

void check_weight(const Argument& argument, const OptionalTensor& weight, const Tensor& query,
                  const OptionalTensor& other) {
  if (!weight) return;
  require_same_device(argument, *weight, {argument.op, "query"}, query);
  require_shape(argument, *weight, {last_size(query)});
  const TorchDtype dtype = weight->scalar_type();
  require(dtype == TorchDtype::Float || dtype == query.scalar_type(), argument, " must be ", query.scalar_type(),
          query.scalar_type() == TorchDtype::Float ? "" : " or float32", ", got ", dtype);
  if (other) require_dtype(argument, *weight, other->scalar_type());
}

OptionalTensor dense(const OptionalTensor& weight) {
  return weight ? OptionalTensor(as_contiguous(*weight)) : std::nullopt;
}

// Refuses what the kernel does not take.
void check(const Inputs& in) {
  check_rotated(in.names, in.query, in.key);
  check_heads(in.names, in.query, in.key);
  check_tables(in.names, in.cos, in.sin, in.query, in.key);
  check_weight({in.names.op, "query_weight"}, in.query_weight, in.query, std::nullopt);
  check_weight({in.names.op, "key_weight"}, in.key_weight, in.query, in.query_weight);
}

// The same values where the kernel can read them.
Inputs readable(Inputs in) {
  in.query = with_unit_last_stride(in.query);
  in.key = with_unit_last_stride(in.key);
  in.query_weight = dense(in.query_weight);
  in.key_weight = dense(in.key_weight);
  in.cos = with_unit_last_stride(in.cos);
  in.sin = with_unit_last_stride(in.sin);
  return in;
}

const void* data_of(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// `query` and `key` are what turns: of `in`, or the gradients of results.
NormRopeArgs arguments_of(const Inputs& in, const Tensor& query, const Tensor& key, KernelResult& query_out,
                          KernelResult& key_out) {
  const int head = head_dim_of(leading_dims(in.query), leading_dims(in.key), leading_dims(in.cos));
  NormRopeArgs args;
  args.rope = rotation_of(in.names, query, query_out.filled(), &key, &key_out.filled(), in.cos, in.sin, head);
  args.query.weight = data_of(in.query_weight);
  args.key.weight = data_of(in.key_weight);
  args.query.hidden = in.query.const_data_ptr();
  args.query.hidden_strides = layout_of(leading_dims(in.query), head);
  args.key.hidden = in.key.const_data_ptr();
  args.key.hidden_strides = layout_of(leading_dims(in.key), head);
  args.eps = static_cast<float>(in.eps);
  args.weight_offset = static_cast<float>(in.weight_offset);
  args.weight_dtype = kernel_dtype({in.names.op, "query_weight"}, in.weight_dtype());
  return args;
}

std::tuple<Tensor, Tensor> norm_rope(const Tensor& query, const Tensor& key, const OptionalTensor& query_weight,
                                     const OptionalTensor& key_weight, const Tensor& cos, const Tensor& sin, double eps,
                                     double weight_offset, bool contiguous_query, bool contiguous_key) {
  const Inputs given{{"norm_rope", "query", "key"}, query, key, query_weight, key_weight, cos, sin, eps, weight_offset};
  check(given);
  const DeviceScope scope(query);
  const Inputs in = readable(given);
  KernelResult query_out = turned_like(query, contiguous_query), key_out = turned_like(key, contiguous_key);
  const NormRopeArgs args = arguments_of(in, in.query, in.key, query_out, key_out);
  require_ok("norm_rope", kernels::norm_rope_forward(args, scope.context()));
  return {query_out.finish(), key_out.finish()};
}

// A gradient of a weight; empty where it is not wanted.
Tensor new_weight_grad(const char* op, const Inputs& in, const OptionalTensor& weight, bool wanted) {
  require(weight || !wanted, "liger::", op, ": the gradient of a weight is wanted, but the weight is None");
  const Shape shape{wanted ? last_size(in.query) : 0};
  return new_empty(in.query, shape, weight ? weight->scalar_type() : in.weight_dtype());
}

void check_gradient(const Argument& argument, const Tensor& gradient, const Argument& of_argument, const Tensor& of) {
  require_same_device(argument, gradient, of_argument, of);
  require_dtype(argument, gradient, of.scalar_type());
  require_shape(argument, gradient, shape_of(of));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_rope_backward(
    const Tensor& grad_query_out, const Tensor& grad_key_out, const Tensor& query, const Tensor& key,
    const OptionalTensor& query_weight, const OptionalTensor& key_weight, const Tensor& cos, const Tensor& sin,
    double eps, double weight_offset, bool needs_query_weight_grad, bool needs_key_weight_grad) {
  const char* op = "norm_rope_backward";
  const Inputs given{{op, "query", "key"}, query, key, query_weight, key_weight, cos, sin, eps, weight_offset};
  check(given);
  check_gradient({op, "grad_query_out"}, grad_query_out, {op, "query"}, query);
  check_gradient({op, "grad_key_out"}, grad_key_out, {op, "key"}, key);
  const DeviceScope scope(query);
  const Inputs in = readable(given);
  const Tensor query_grads = with_unit_last_stride(grad_query_out), key_grads = with_unit_last_stride(grad_key_out);
  KernelResult grad_query = turned_like(query, false), grad_key = turned_like(key, false);
  Tensor grad_query_weight = new_weight_grad(op, in, query_weight, needs_query_weight_grad);
  Tensor grad_key_weight = new_weight_grad(op, in, key_weight, needs_key_weight_grad);

  NormRopeArgs args = arguments_of(in, query_grads, key_grads, grad_query, grad_key);
  args.rope.transpose = true;
  args.query.grad_weight = needs_query_weight_grad ? grad_query_weight.mutable_data_ptr() : nullptr;
  args.key.grad_weight = needs_key_weight_grad ? grad_key_weight.mutable_data_ptr() : nullptr;
  const bool sums = needs_query_weight_grad || needs_key_weight_grad;
  const std::int64_t floats = sums ? kernels::norm_rope_backward_workspace(args, scope.context()) : 0;
  const Tensor workspace = new_empty(query, Shape{floats}, TorchDtype::Float);
  args.workspace = sums ? static_cast<float*>(workspace.mutable_data_ptr()) : nullptr;
  require_ok(op, kernels::norm_rope_backward(args, scope.context()));
  return {grad_query.finish(), grad_key.finish(), grad_query_weight, grad_key_weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("norm_rope", TORCH_BOX(&norm_rope));
  m.impl("norm_rope_forward", TORCH_BOX(&norm_rope));
  m.impl("norm_rope_backward", TORCH_BOX(&norm_rope_backward));
}

}  // namespace liger::ops
