// Gated linear units with the products before them, and their gradients with the product before those, in bfloat16:
//   gate = hidden_states @ gate_weight^T,  up = hidden_states @ up_weight^T,  out = act(gate) * up
//   grad_out = grad @ down_weight, then grad_gate, grad_up and out as in glu.h
// A product's result is rounded before it is used, as if it had been in memory.
#pragma once

#include "kernels/common/product_matrix.h"
#include "kernels/glu/glu.h"

namespace liger::kernels {

struct GluProductArgs {
  std::int64_t rows = 0;
  std::int64_t hidden_size = 0;
  std::int64_t width = 0;
  ProductMatrix hidden;       // [rows, hidden_size]
  ProductMatrix gate_weight;  // [width, hidden_size], as its neighbour
  ProductMatrix up_weight;
  ProductMatrix gate;  // these three [rows, width], written
  ProductMatrix up;
  ProductMatrix out;
  Activation activation = Activation::silu;
};

struct GluProductBackwardArgs {
  std::int64_t rows = 0;
  std::int64_t hidden_size = 0;
  std::int64_t width = 0;
  ProductMatrix grad;         // [rows, hidden_size]
  ProductMatrix down_weight;  // [hidden_size, width]
  ProductMatrix gate;         // these two [rows, width]
  ProductMatrix up;
  ProductMatrix grad_gate;  // these three [rows, width], written; the first two may be gate and up
  ProductMatrix grad_up;
  ProductMatrix out;
  Activation activation = Activation::silu;
};

// Whether the current device and the arguments are for these: Hopper, and 16-byte-aligned rows.
bool supports_glu_product(const GluProductArgs& args);
bool supports_glu_product(const GluProductBackwardArgs& args);

Status glu_product(const GluProductArgs& args, const LaunchContext& context);
Status glu_product_backward(const GluProductBackwardArgs& args, const LaunchContext& context);

}  // namespace liger::kernels
