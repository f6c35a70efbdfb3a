// Operands and results of matrix products.
#pragma once

#include <cstdint>

namespace liger::kernels {

// In bfloat16, with neighbouring elements in a row.
struct ProductMatrix {
  const void* data = nullptr;
  std::int64_t row_stride = 0;
};

}  // namespace liger::kernels
