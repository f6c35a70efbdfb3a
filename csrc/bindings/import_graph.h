// FX graph -> Graph, in one walk over the nodes through Python's C interface.
#pragma once

#include <pybind11/pybind11.h>

#include "graph/graph.h"

namespace liger::bindings {

// Raises only where the argument has no `graph.nodes`.
graph::Graph import_graph(const pybind11::object& graph_module);

}  // namespace liger::bindings
