// What Hopper's copy engine is told of a matrix.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <optional>

#include "kernels/common/product_matrix.h"

namespace liger::kernels::hopper {

// A matrix [rows, columns] whose address and stride are multiples of 16 bytes, of which boxes of `box_rows` rows and 64
// columns, or 32, are copied, in the swizzle of as many bytes as those columns take. Its elements are bfloat16.
struct MatrixOfTiles {
  ProductMatrix matrix;
  std::int64_t rows;
  std::int64_t columns;
  unsigned box_rows;
  unsigned box_columns = 64;

  bool is_aligned() const {
    return reinterpret_cast<std::uintptr_t>(matrix.data) % 16 == 0 && matrix.row_stride * kElementBytes % 16 == 0;
  }
  static constexpr std::int64_t kElementBytes = 2;

  // Nothing where the driver refuses.
  std::optional<CUtensorMap> map() const {
    using Encode = decltype(&cuTensorMapEncodeTiled);
    static const Encode encode = [] {
      void* function = nullptr;
      cudaDriverEntryPointQueryResult found;
      const cudaError_t error =
          cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
      return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function)
                                                                          : nullptr;
    }();
    if (encode == nullptr) return std::nullopt;
    const cuuint64_t extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t stride = static_cast<cuuint64_t>(matrix.row_stride * kElementBytes);
    const cuuint32_t box[2] = {box_columns, box_rows}, steps[2] = {1, 1};
    const auto swizzle = box_columns * kElementBytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
    CUtensorMap result;
    const CUresult status = encode(&result, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix.data),
                                   extents, &stride, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return status == CUDA_SUCCESS ? std::optional<CUtensorMap>(result) : std::nullopt;
  }
};

}  // namespace liger::kernels::hopper
