// Python's view of the rewriter: rewrite(), its edits and its records.
#pragma once

#include <pybind11/pybind11.h>

namespace liger::bindings {

void register_rewrite(pybind11::module_& module);

}  // namespace liger::bindings
