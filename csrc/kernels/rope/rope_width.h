// How many neighbouring channels every row and table of a rotation lets a thread move together.
#pragma once

#include "kernels/common/packed.h"
#include "kernels/rope/rope.h"

namespace liger::kernels {

inline void restrict_to(VectorWidth& width, const RopeLayout& strides) {
  width.multiple(strides.head);
  for (const std::int64_t stride : strides.positions) width.multiple(stride);
}

inline void restrict_to(VectorWidth& width, const RopeTable& table, ScalarType dtype) {
  width.pointer(table.data, size_of(dtype));
  for (const std::int64_t stride : table.strides) width.multiple(stride);
}

inline VectorWidth vector_width(const RopeArgs& args) {
  VectorWidth width(static_cast<int>(kVectorBytes / size_of(args.dtype)));
  width.multiple(args.rotary_dim / 2).multiple(args.head_dim - args.rotary_dim);
  for (const RopeOperand* operand : {&args.query, &args.key}) {
    if (operand->heads == 0) continue;
    width.pointer(operand->in, size_of(args.dtype)).pointer(operand->out, size_of(args.dtype));
    restrict_to(width, operand->in_strides);
    restrict_to(width, operand->out_strides);
  }
  restrict_to(width, args.cos, args.table_dtype);
  restrict_to(width, args.sin, args.table_dtype);
  return width;
}

}  // namespace liger::kernels
