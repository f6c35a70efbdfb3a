// Tensors that ops make. Where it can, past the dispatcher, which looks an op up by name at every call from the stable
// ABI: that costs the host more than all else that a small op does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "ops/stable.h"

namespace liger::ops {

using Shape = std::vector<std::int64_t>;

inline Shape shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Shape(sizes.begin(), sizes.end());
}

// Uninitialised, on the device of `like`, and of its dtype where none is given.
inline Tensor empty_strided(const Tensor& like, const Shape& shape, const Shape& strides,
                            std::optional<TorchDtype> dtype = std::nullopt) {
  std::int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const auto scalar_type = static_cast<std::int32_t>(dtype.value_or(like.scalar_type()));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<std::int64_t>(shape.size()), shape.data(), strides.data(),
                                                  scalar_type, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

// Of a dense tensor whose dims lie in memory in `order`, outermost first.
inline Shape dense_strides(const Shape& shape, const Shape& order) {
  Shape strides(shape.size());
  std::int64_t stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); ++dim) {
    strides[*dim] = stride;
    stride *= std::max<std::int64_t>(1, shape[*dim]);
  }
  return strides;
}

inline Tensor new_empty(const Tensor& like, const Shape& shape, std::optional<TorchDtype> dtype = std::nullopt) {
  Shape order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  return empty_strided(like, shape, dense_strides(shape, order), dtype);
}

// Do its elements lie next to each other in memory, in whatever order of its dims?
inline bool is_dense(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  Shape order;
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (sizes[dim] != 1) order.push_back(dim);
  }
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return strides[a] < strides[b]; });
  std::int64_t expected = 1;
  for (const std::int64_t dim : order) {
    if (sizes[dim] == 0 || strides[dim] != expected) return false;
    expected *= sizes[dim];
  }
  return true;
}

// As torch.empty_like: with the strides of `like` where that is dense.
inline Tensor new_empty_like(const Tensor& like) {
  if (!is_dense(like)) return torch::stable::empty_like(like);
  const auto strides = like.strides();
  return empty_strided(like, shape_of(like), Shape(strides.begin(), strides.end()));
}

// The tensor itself where it is contiguous.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor new_zeros(const Tensor& like, const Shape& shape, std::optional<TorchDtype> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, {shape.data(), shape.size()}, dtype);
}

}  // namespace liger::ops
