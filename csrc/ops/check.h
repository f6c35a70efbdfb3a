// Argument checks whose messages name the argument, what was expected and what came, and the views of tensors as rows
// that the kernels take.
#pragma once

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"
#include "ops/stable.h"
#include "ops/tensors.h"

namespace liger::ops {

inline std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (std::size_t dim = 0; dim < shape.size(); ++dim) {
    if (dim > 0) text += ", ";
    text += std::to_string(shape[dim]);
  }
  return text + "]";
}

inline std::string text_of(TorchDtype dtype) {
  switch (dtype) {
    case TorchDtype::Float:
      return "float32";
    case TorchDtype::Double:
      return "float64";
    case TorchDtype::Half:
      return "float16";
    case TorchDtype::BFloat16:
      return "bfloat16";
    case TorchDtype::Long:
      return "int64";
    case TorchDtype::Int:
      return "int32";
    default:
      return torch::headeronly::toString(dtype);
  }
}

// The names of an op and of one of its arguments, for messages.
struct Argument {
  const char* op;
  const char* name;
};

// Messages are built without streams: a stream formats numbers through the locale of the C++ library, and a process
// that holds two copies of that library crashes there.
inline std::string text_of(const char* text) { return text; }
inline std::string text_of(const std::string& text) { return text; }
inline std::string text_of(std::int64_t value) { return std::to_string(value); }
inline std::string text_of(int value) { return std::to_string(value); }
inline std::string text_of(const Argument& argument) {
  return std::string("liger::") + argument.op + ": " + argument.name;
}
inline std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

// Parts of messages that cost nothing until one is made.
struct ShapeOf {
  const Tensor& tensor;
};
struct DeviceOf {
  const Tensor& tensor;
};
inline std::string text_of(const ShapeOf& shape) { return text_of(shape_of(shape.tensor)); }
inline std::string text_of(const DeviceOf& device) {
  if (device.tensor.is_cpu()) return "cpu";
  const std::string type = device.tensor.is_cuda() ? "cuda" : "device";
  return type + ":" + std::to_string(device.tensor.get_device_index());
}
inline std::string text_of(std::optional<TorchDtype> dtype) { return dtype ? text_of(*dtype) : "None"; }

// Throws an error made of `parts` unless `condition` holds. The parts become text only then: a check that passes is
// part of every call.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw std::runtime_error((text_of(parts) + ...));
}

inline void require_ok(const char* op, const kernels::Status& status) {
  require(status.ok(), "liger::", op, ": the kernel failed: ", status.ok() ? "" : status.message());
}

inline kernels::ScalarType kernel_dtype(const Argument& argument, TorchDtype dtype) {
  switch (dtype) {
    case TorchDtype::Float:
      return kernels::ScalarType::float32;
    case TorchDtype::BFloat16:
      return kernels::ScalarType::bfloat16;
    case TorchDtype::Half:
      return kernels::ScalarType::float16;
    default:
      require(false, argument, " must be float32, bfloat16 or float16, got ", dtype);
      return kernels::ScalarType::float32;
  }
}

inline kernels::ScalarType kernel_dtype(const Argument& argument, const Tensor& tensor) {
  return kernel_dtype(argument, tensor.scalar_type());
}

inline void require_dtype(const Argument& argument, const Tensor& tensor, TorchDtype expected) {
  const auto actual = tensor.scalar_type();
  require(actual == expected, argument, " must be ", expected, ", got ", actual);
}

inline void require_shape(const Argument& argument, const Tensor& tensor, const Shape& expected) {
  const auto actual = tensor.sizes();
  const bool equal = std::equal(actual.begin(), actual.end(), expected.begin(), expected.end());
  require(equal, argument, " must have shape ", expected, ", got ", ShapeOf{tensor});
}

inline void require_min_rank(const Argument& argument, const Tensor& tensor, std::int64_t rank) {
  require(tensor.dim() >= rank, argument, " must have at least ", rank, " dimension(s), got shape ", ShapeOf{tensor});
}

inline void require_same_device(const Argument& argument, const Tensor& tensor, const Argument& first_argument,
                                const Tensor& first) {
  const bool same = tensor.is_cpu() == first.is_cpu() && tensor.is_cuda() == first.is_cuda() &&
                    tensor.get_device_index() == first.get_device_index();
  require(same, argument, " must be on the device of ", first_argument.name, " (", DeviceOf{first}, "), got ",
          DeviceOf{tensor});
}

// A tensor seen as [rows, width] with one stride between rows and neighbouring elements in a row. Holds the tensor: a
// layout that cannot be seen so is copied.
struct RowView {
  Tensor tensor;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t stride = 0;  // elements from one row to the next

  template <typename T = void>
  const T* data() const {
    return static_cast<const T*>(tensor.const_data_ptr());
  }
};

// The stride between rows where all leading dims walk memory evenly; nothing where they do not.
inline std::optional<std::int64_t> row_stride(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const std::int64_t last = tensor.dim() - 1;
  if (sizes[last] > 1 && strides[last] != 1) return std::nullopt;
  std::optional<std::int64_t> stride;  // of the rows seen so far, from the innermost dim
  std::int64_t expected = 0;
  for (std::int64_t dim = last - 1; dim >= 0; --dim) {
    if (sizes[dim] == 1) continue;
    if (stride && strides[dim] != expected) return std::nullopt;
    if (!stride) stride = strides[dim];
    expected = strides[dim] * sizes[dim];
  }
  return stride.value_or(sizes[last]);
}

inline RowView row_view(const Tensor& tensor) {
  const std::int64_t width = tensor.size(tensor.dim() - 1);
  const std::int64_t rows = width == 0 ? 0 : tensor.numel() / width;
  if (rows == 0) return {tensor, rows, width, width};
  if (const auto stride = row_stride(tensor)) return {tensor, rows, width, *stride};
  return {as_contiguous(tensor), rows, width, width};
}

}  // namespace liger::ops
