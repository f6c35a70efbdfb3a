#include "bindings/graph_bindings.h"

#include <pybind11/stl.h>

#include "bindings/import_graph.h"
#include "graph/canonical.h"
#include "graph/text.h"

namespace liger::bindings {

namespace py = pybind11;
using graph::Graph;
using graph::Node;

namespace {

std::string text_of(const Graph& graph) { return graph::print(graph); }

std::vector<std::string> node_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) names.push_back(node.name);
  return names;
}

// Node name -> what the rules see of it, "pow(%x, 2)".
py::dict canonical_text(const Graph& graph) {
  const graph::CanonicalGraph canonical(graph);
  py::dict result;
  for (const Node& node : graph.nodes) result[py::str(node.name)] = graph::print(canonical, node.id);
  return result;
}

}  // namespace

void register_graph(py::module_& module) {
  py::class_<Graph>(module, "Graph", "A graph as the rules see it; str() is its text form.")
      .def("__str__", &text_of)
      .def("__len__", [](const Graph& graph) { return graph.nodes.size(); })
      .def_property_readonly("node_names", &node_names, "Names of the nodes, in program order.");
  module.def(
      "import_graph", &import_graph, py::arg("graph_module"), py::arg("with_locations") = true,
      "Reads the nodes of a torch.fx.GraphModule: targets, arguments, `example_value`, and, `with_locations`, module\n"
      "path and source line.\n\n"
      "What it cannot read becomes opaque; it raises only where `graph_module` has no FX graph.");
  module.def("location_of", &location_of, py::arg("meta"), "Module path and source line of an FX node by its `meta`.");
  module.def("parse_graph", &graph::parse, py::arg("text"),
             "Reads the text form. Raises ValueError with the line number and what was expected.");
  module.def("print_graph", &text_of, py::arg("graph"), "The text form, as str(graph).");
  module.def("canonical_graph", &canonical_text, py::arg("graph"),
             "Node name -> canonical op as text, such as \"pow(%x, 2)\"; for debugging rules.");
}

}  // namespace liger::bindings
