#include "bindings/mask_bindings.h"

#include <pybind11/stl.h>

#include "rewrite/mask/mask.h"

namespace liger::bindings {

namespace py = pybind11;
namespace mask = rewrite::mask;
using graph::Graph;

namespace {

mask::Facts facts_of(const Graph& graph, const std::vector<std::string>& names, const mask::Facts& facts) {
  return mask::facts_of(graph::CanonicalGraph(graph), facts, names);
}

// The terms of a mask, or the reason why it is not understood.
py::object read_mask(const Graph& graph, const std::string& name, const std::vector<std::int64_t>& scores) {
  const graph::NodeId id = graph.find(name);
  if (id == graph::kNoNode) throw py::value_error("read_mask: the graph has no node " + name);
  const graph::CanonicalGraph view(graph);
  const auto end = static_cast<graph::NodeId>(graph.nodes.size());
  const std::vector<graph::SymInt> shape(scores.begin(), scores.end());
  const mask::ReadMask read = mask::read_mask(view, {}, view.resolve(id), end, shape);
  if (!read.understood) return py::str(read.understood.reason());
  return py::cast(read.mask.terms);
}

}  // namespace

void register_mask(py::module_& module) {
  py::class_<mask::Fact>(module, "Fact").def("__str__", [](const mask::Fact& fact) {
    return mask::text(fact.element);
  });
  py::class_<mask::Term>(module, "MaskTerm")
      .def_property_readonly("kind", [](const mask::Term& term) { return std::string(name_of(term.kind)); })
      .def_property_readonly("condition", [](const mask::Term& term) { return term.condition.text(); })
      .def_property_readonly("source",
                             [](const mask::Term& term) { return term.source ? term.source->name : std::string(); })
      .def_property_readonly("is_whole_from_zero", &mask::is_whole_from_zero)
      .def_readonly("size", &mask::Term::size)
      .def_readonly("dim", &mask::Term::dim);
  module.def("facts_of", &facts_of, py::arg("graph"), py::arg("names"), py::kw_only(), py::arg("facts") = mask::Facts{},
             "Node name -> Fact, for those of the named tensors that are functions of position and of integers.");
  module.def(
      "read_mask", &read_mask, py::arg("graph"), py::arg("node"), py::arg("scores"),
      "The terms that all must hold for a query to attend to a key, by the mask `node` of scores of that shape;\n"
      "or a sentence that says what is not understood.");
}

}  // namespace liger::bindings
