#include <pybind11/pybind11.h>

#include "bindings/graph_bindings.h"
#include "bindings/mask_bindings.h"
#include "bindings/rewrite_bindings.h"

PYBIND11_MODULE(_rewriter, module) {
  module.doc() = "Reads FX graphs and finds what the rules rewrite. Knows nothing of torch's C++ side.";
  liger::bindings::register_graph(module);
  liger::bindings::register_mask(module);
  liger::bindings::register_rewrite(module);
}
