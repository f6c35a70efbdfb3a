#pragma once

#include <pybind11/pybind11.h>

namespace liger::bindings {

void register_mask(pybind11::module_& module);

}  // namespace liger::bindings
