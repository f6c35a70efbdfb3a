// Python's view of a graph: import_graph(), parse_graph(), print_graph() and the class Graph.
#pragma once

#include <pybind11/pybind11.h>

namespace liger::bindings {

void register_graph(pybind11::module_& module);

}  // namespace liger::bindings
