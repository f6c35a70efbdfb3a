#include "bindings/rewrite_bindings.h"

#include <pybind11/stl.h>

#include <optional>

#include "graph/graph.h"
#include "rewrite/engine.h"
#include "rewrite/rule_table.h"

namespace liger::bindings {

namespace py = pybind11;
using graph::Graph;
using graph::NodeId;
using rewrite::Argument;
using rewrite::Edit;
using rewrite::Expr;
using rewrite::Record;
using rewrite::RewriteResult;

namespace {

// Names instead of ids: Python looks nodes up by name.
struct NodeName {
  std::string name;
};
struct DTypeName {
  std::string name;
};

struct PyExpr {
  std::string op;
  py::list args;
  py::dict kwargs;
};

struct PyEdit {
  std::string rule;
  std::size_t record;
  std::string anchor;
  PyExpr call;
  std::optional<PyExpr> otherwise;
  std::vector<std::pair<int, std::string>> results;
  std::vector<std::string> interior, unused, on_demand;
  std::string on_demand_from;
  std::vector<rewrite::RunCondition> conditions;
};

struct PyRecord {
  std::string rule, kind, node, module_path, source, detail, reason;
  std::size_t nodes;
};

struct PyResult {
  std::vector<PyEdit> edits;
  std::vector<PyRecord> records;
  std::vector<std::pair<std::string, std::string>> errors;
};

PyExpr to_python(const Graph& graph, const Expr& expr);

struct ArgumentToPython {
  const Graph& graph;

  py::object operator()(const graph::None& /*none*/) const { return py::none(); }
  py::object operator()(graph::DType dtype) const { return py::cast(DTypeName{std::string(name_of(dtype))}); }
  py::object operator()(graph::NodeRef node) const { return py::cast(NodeName{graph[node.id].name}); }
  py::object operator()(const std::shared_ptr<const Expr>& expr) const { return py::cast(to_python(graph, *expr)); }
  template <typename Plain>
  py::object operator()(const Plain& value) const {
    return py::cast(value);
  }
};

PyExpr to_python(const Graph& graph, const Expr& expr) {
  const ArgumentToPython convert{graph};
  PyExpr result{expr.op, py::list(), py::dict()};
  for (const Argument& argument : expr.args) result.args.append(std::visit(convert, argument));
  for (const auto& [name, value] : expr.kwargs) result.kwargs[py::str(name)] = std::visit(convert, value);
  return result;
}

std::vector<std::string> names(const Graph& graph, const std::vector<NodeId>& ids) {
  std::vector<std::string> result;
  for (NodeId id : ids) result.push_back(graph[id].name);
  return result;
}

PyEdit to_python(const Graph& graph, const Edit& edit) {
  PyEdit result{edit.rule, edit.record, graph[edit.anchor].name, to_python(graph, edit.call), {}, {}, {}, {}, {},
                {},        {}};
  if (edit.otherwise) result.otherwise = to_python(graph, *edit.otherwise);
  for (const rewrite::Result& output : edit.results)
    result.results.emplace_back(output.output, graph[output.node].name);
  result.interior = names(graph, edit.interior);
  result.unused = names(graph, edit.unused);
  result.conditions = edit.conditions;
  result.on_demand = names(graph, edit.on_demand);
  if (!edit.on_demand.empty()) result.on_demand_from = graph[edit.on_demand_from].name;
  return result;
}

const char* name_of(Record::Kind kind) {
  switch (kind) {
    case Record::Kind::rewritten:
      return "rewritten";
    case Record::Kind::declined:
      return "declined";
    case Record::Kind::near_miss:
      return "near_miss";
  }
  return "";
}

PyRecord to_python(const Graph& graph, const Record& record) {
  const graph::Node& node = graph[record.node];
  return {record.rule, name_of(record.kind), node.name,     node.module_path,
          node.source, record.detail,        record.reason, record.num_nodes};
}

PyResult rewrite_graph(const Graph& graph, std::vector<std::string> disable, bool strict, rewrite::Context context) {
  rewrite::EngineOptions options;
  options.disable = std::move(disable);
  options.strict = strict;
  options.context = std::move(context);
  const RewriteResult result = rewrite::rewrite(graph, rewrite::all_rules(), options);
  PyResult converted;
  for (const Edit& edit : result.edits) converted.edits.push_back(to_python(graph, edit));
  for (const Record& record : result.records) converted.records.push_back(to_python(graph, record));
  converted.errors = result.errors;
  return converted;
}

const char* name_of(const rewrite::RunCondition& condition) {
  switch (condition.kind) {
    case rewrite::RunCondition::Kind::all_nonzero:
      return "all_nonzero";
    case rewrite::RunCondition::Kind::all_zero:
      return "all_zero";
    case rewrite::RunCondition::Kind::constant_along:
      break;
  }
  return "constant_along";
}

std::vector<std::string> rule_names() {
  std::vector<std::string> result;
  for (const rewrite::Rule& rule : rewrite::all_rules()) result.push_back(rule.name());
  return result;
}

void register_values(py::module_& module) {
  py::class_<NodeName>(module, "NodeName").def_readonly("name", &NodeName::name).def("__repr__", [](const NodeName& n) {
    return "%" + n.name;
  });
  py::class_<DTypeName>(module, "DTypeName")
      .def_readonly("name", &DTypeName::name)
      .def("__repr__", [](const DTypeName& d) { return d.name; });
  py::class_<PyExpr>(module, "Expr")
      .def_readonly("op", &PyExpr::op)
      .def_readonly("args", &PyExpr::args)
      .def_readonly("kwargs", &PyExpr::kwargs);
}

}  // namespace

void register_context(py::module_& module) {
  using rewrite::Context;
  py::class_<Context>(module, "Context", "What rules may know beside the graph.")
      .def(py::init<>())
      .def_readwrite("facts", &Context::facts, "of a subgraph: what is known of its placeholders")
      .def_readwrite("is_subgraph", &Context::is_subgraph)
      .def_readwrite("grouped_cuda", &Context::grouped_cuda, "CUDA has attention for fewer key than query heads")
      .def_readwrite("block_attention_device", &Context::block_attention_device,
                     "the type of device that has attention by blocks of a mask; empty: none")
      .def_readwrite("block_attention_queries", &Context::block_attention_queries,
                     "how many queries make it worth while, at least")
      .def_readwrite("logits_on_demand", &Context::logits_on_demand,
                     "logits that only the caller reads may be computed when it does")
      .def_readwrite("why_logits_kept", &Context::why_logits_kept, "for the report, where they are not");
}

void register_rewrite(py::module_& module) {
  register_values(module);
  register_context(module);
  py::class_<PyEdit>(module, "Edit")
      .def_readonly("rule", &PyEdit::rule)
      .def_readonly("record", &PyEdit::record)
      .def_readonly("anchor", &PyEdit::anchor)
      .def_readonly("call", &PyEdit::call)
      .def_readonly("otherwise", &PyEdit::otherwise)
      .def_readonly("results", &PyEdit::results)
      .def_readonly("interior", &PyEdit::interior)
      .def_readonly("unused", &PyEdit::unused)
      .def_readonly("on_demand", &PyEdit::on_demand)
      .def_readonly("on_demand_from", &PyEdit::on_demand_from)
      .def_readonly("conditions", &PyEdit::conditions);
  py::class_<PyRecord>(module, "Record")
      .def_readonly("rule", &PyRecord::rule)
      .def_readonly("kind", &PyRecord::kind)
      .def_readonly("node", &PyRecord::node)
      .def_readonly("module_path", &PyRecord::module_path)
      .def_readonly("source", &PyRecord::source)
      .def_readonly("detail", &PyRecord::detail)
      .def_readonly("reason", &PyRecord::reason)
      .def_readonly("nodes", &PyRecord::nodes);
  py::class_<PyResult>(module, "RewriteResult")
      .def_readonly("edits", &PyResult::edits)
      .def_readonly("records", &PyResult::records)
      .def_readonly("errors", &PyResult::errors);
  py::class_<rewrite::RunCondition>(module, "RunCondition")
      .def_property_readonly("kind", [](const rewrite::RunCondition& condition) { return name_of(condition); })
      .def_readonly("node", &rewrite::RunCondition::node)
      .def_readonly("dim", &rewrite::RunCondition::dim)
      .def_readonly("is_outer", &rewrite::RunCondition::is_outer);
  module.def("rule_names", &rule_names, "Names of the rules, in alphabetical order.");
  module.def("rewrite", &rewrite_graph, py::arg("graph"), py::kw_only(),
             py::arg("disable") = std::vector<std::string>{}, py::arg("strict") = false,
             py::arg("context") = rewrite::Context{},
             "Matches every rule over `graph` and returns the edits and the records of the report.\n\n"
             "Nothing is changed. `disable` names rules to leave out. With `strict` an exception inside a rule is\n"
             "raised; otherwise it is listed in `errors` and that rule rewrites nothing.");
}

}  // namespace liger::bindings
