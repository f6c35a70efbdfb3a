// The stable ABI of libtorch, at the oldest version that has what we call. Include this, never its parts.
#pragma once

#ifndef TORCH_TARGET_VERSION
#define TORCH_TARGET_VERSION 0x020a000000000000  // 2.10
#endif
#if defined(LIGER_DEVICE_CUDA) && !defined(USE_CUDA)
#define USE_CUDA  // declares the stream shim
#endif

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

namespace liger::ops {

using torch::stable::Tensor;
using TorchDtype = torch::headeronly::ScalarType;

// A `str` argument of an op. The library's own conversion to std::string leaks one string per call (torch 2.11).
struct Text {
  std::string value;
};

}  // namespace liger::ops

namespace torch::stable::detail {

template <>
struct ToImpl<liger::ops::Text> {
  static liger::ops::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    liger::ops::Text text{std::string(data, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

}  // namespace torch::stable::detail
