// FX graph -> Graph, in one walk over the nodes through Python's C interface.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "graph/graph.h"

namespace liger::bindings {

// Raises only where the argument has no `graph.nodes`. Locations are a third of the work and only reports need them.
graph::Graph import_graph(const pybind11::object& graph_module, bool with_locations = true);
// Module path and source line of a node with this `meta`.
std::pair<std::string, std::string> location_of(const pybind11::dict& meta);

}  // namespace liger::bindings
