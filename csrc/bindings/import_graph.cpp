#include "bindings/import_graph.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <tuple>

#include "bindings/import_targets.h"
#include "graph/canonical.h"

namespace liger::bindings {

namespace py = pybind11;
using graph::DType;
using graph::Graph;
using graph::Node;
using graph::NodeId;
using graph::NodeKind;
using graph::SymInt;
using graph::TensorMeta;
using graph::Value;

namespace {

// An attribute as a new reference; empty, with the exception cleared, where there is none.
py::object attribute(py::handle object, py::handle name) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name.ptr());
  if (value == nullptr) PyErr_Clear();
  return py::reinterpret_steal<py::object>(value);
}

// What a Python property reads, without a call into Python where the field behind it has that name.
py::object property(py::handle object, py::handle field, py::handle name) {
  py::object value = attribute(object, field);
  return value ? value : attribute(object, name);
}

// Borrowed; null where the dict lacks the key.
py::handle item(py::handle dict, py::handle key) {
  PyObject* value = PyDict_GetItemWithError(dict.ptr(), key.ptr());
  if (value == nullptr) PyErr_Clear();
  return value;
}

std::string_view text_view(py::handle text) {
  if (!text || !PyUnicode_Check(text.ptr())) return {};
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) PyErr_Clear();
  return data == nullptr ? std::string_view() : std::string_view(data, static_cast<std::size_t>(size));
}

std::string text_of(py::handle text) { return std::string(text_view(text)); }

// str(object), or its type where that fails.
std::string description(py::handle object) {
  const auto text = py::reinterpret_steal<py::object>(PyObject_Str(object.ptr()));
  if (text) return text_of(text);
  PyErr_Clear();
  return Py_TYPE(object.ptr())->tp_name;
}

// The one object that Python's own code has for a name: dicts find it without comparing texts.
struct Name : py::object {
  explicit Name(const char* text) : py::object(py::reinterpret_steal<py::object>(PyUnicode_InternFromString(text))) {}
};

// Names and types that the walk compares with, looked up once per import.
struct Names {
  Name args{"args"}, args_field{"_args"}, device{"device"}, dtype{"dtype"}, example_value{"example_value"},
      expr{"expr"}, fake_device{"fake_device"}, kwargs{"kwargs"}, kwargs_field{"_kwargs"}, layout{"layout"},
      meta{"meta"}, name{"name"}, node{"node"}, nn_module_stack{"nn_module_stack"}, op{"op"},
      requires_grad{"requires_grad"}, shape{"shape"}, stack_trace{"stack_trace"}, stride{"stride"}, target{"target"};
};

struct Types {
  py::object torch = py::module_::import("torch");
  py::object node = py::module_::import("torch.fx").attr("Node");
  py::object fake_tensor = py::module_::import("torch._subclasses.fake_tensor").attr("FakeTensor");
  py::object parameter = torch.attr("nn").attr("Parameter");
  py::object tensor = torch.attr("Tensor"), sym_int = torch.attr("SymInt"), dtype = torch.attr("dtype"),
             device = torch.attr("device"), memory_format = torch.attr("memory_format"), layout = torch.attr("layout");
  py::object strided = torch.attr("strided");

  static bool is(py::handle object, const py::object& type) {
    return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type.ptr();
  }
};

// While this lives, reading a tensor's attributes does not look for a __torch_function__ of its class. Of the classes
// that are read, none has one that does anything.
class WithoutTorchFunction {
 public:
  WithoutTorchFunction() : guard_(py::module_::import("torch").attr("_C").attr("DisableTorchFunctionSubclass")()) {
    guard_.attr("__enter__")();
  }
  ~WithoutTorchFunction() {
    const py::error_scope pending;  // of the import, which may be failing
    if (PyObject* done = PyObject_CallMethod(guard_.ptr(), "__exit__", "OOO", Py_None, Py_None, Py_None)) {
      Py_DECREF(done);
    } else {
      PyErr_Clear();
    }
  }
  WithoutTorchFunction(const WithoutTorchFunction&) = delete;
  WithoutTorchFunction& operator=(const WithoutTorchFunction&) = delete;

 private:
  py::object guard_;
};

// The innermost entry of {key: (path, class)}.
std::string module_path(py::handle stack) {
  if (!PyDict_Check(stack.ptr())) return "";
  PyObject *key = nullptr, *entry = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(stack.ptr(), &position, &key, &entry) != 0;) {
  }
  if (entry == nullptr || !PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) < 1) return "";
  return clean_module_path(text_view(PyTuple_GET_ITEM(entry, 0)));
}

// Module path and source line; either handle may be null.
std::pair<std::string, std::string> location(py::handle module_stack, py::handle stack_trace) {
  return {module_stack ? module_path(module_stack) : "", stack_trace ? source_line(text_view(stack_trace)) : ""};
}

class Importer {
 public:
  Importer(const py::object& graph_module, bool with_locations)
      : graph_module_(graph_module), with_locations_(with_locations) {}

  Graph import() {
    // A copy: FX's iterator starts anew after its end, and pybind11's loop asks once more there.
    const py::list fx_nodes(graph_module_.attr("graph").attr("nodes"));
    graph_.nodes.reserve(fx_nodes.size());
    ids_.reserve(fx_nodes.size());
    for (py::handle fx_node : fx_nodes) {
      const NodeId id = graph_.append(read_node(fx_node));
      ids_.emplace(fx_node.ptr(), id);
    }
    return std::move(graph_);
  }

 private:
  Node read_node(py::handle fx_node) {
    Node node;
    node.name = text_of(attribute(fx_node, names_.name));
    node.kind = kind_of(text_view(attribute(fx_node, names_.op)));
    read_arguments(fx_node, node);
    const py::object meta = attribute(fx_node, names_.meta);
    if (meta && PyDict_Check(meta.ptr())) read_meta(meta, node);
    read_target(attribute(fx_node, names_.target), node);
    return node;
  }

  static NodeKind kind_of(std::string_view op) {
    if (op == "placeholder") return NodeKind::placeholder;
    if (op == "get_attr") return NodeKind::get_attr;
    if (op == "call_method") return NodeKind::call_method;
    if (op == "call_module") return NodeKind::call_module;
    return op == "output" ? NodeKind::output : NodeKind::call_function;
  }

  void read_target(const py::object& target, Node& node) {
    if (node.kind == NodeKind::placeholder || !target) return;
    if (node.kind != NodeKind::call_function) {
      node.target = text_of(target);
      if (node.kind == NodeKind::call_module) node.mutates = !is_pure(node.target);
      return;
    }
    const TargetInfo& info = targets_.of_function(target);
    node.target = info.name;
    node.mutates = info.is_higher_order ? bodies_mutate(node) : info.mutates;
  }

  bool is_pure(const std::string& path) const {
    try {
      return is_pure_module(graph_module_.attr("get_submodule")(path));
    } catch (const py::error_already_set&) {
      return false;
    }
  }

  // Of the subgraphs that a higher-order op is given; one that is given none, or none that can be read, may write.
  bool bodies_mutate(const Node& call) const {
    bool found = false;
    for (NodeId input : graph::inputs_of(call)) {
      if (graph_[input].kind != NodeKind::get_attr || graph_[input].tensor) continue;
      if (body_mutates(graph_[input].target)) return true;
      found = true;
    }
    return !found;
  }

  bool body_mutates(const std::string& path) const {
    try {
      const Graph body = import_graph(graph_module_.attr("get_submodule")(path), false);
      const graph::CanonicalGraph canonical(body);
      const auto is_outside = [&](NodeId root) {
        return body[root].kind == NodeKind::placeholder || body[root].kind == NodeKind::get_attr;
      };
      return std::any_of(canonical.mutations().begin(), canonical.mutations().end(), [&](const auto& mutation) {
        return std::any_of(mutation.storage_roots.begin(), mutation.storage_roots.end(), is_outside);
      });
    } catch (const py::error_already_set&) {
      return true;
    }
  }

  void read_arguments(py::handle fx_node, Node& node) {
    const py::object args = property(fx_node, names_.args_field, names_.args);
    const py::object kwargs = property(fx_node, names_.kwargs_field, names_.kwargs);
    if (args && PyTuple_Check(args.ptr())) {
      const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(args.ptr()));
      node.args.reserve(count);
      for (std::size_t i = 0; i < count; ++i) {
        node.args.push_back(value(PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(i))));
      }
    }
    if (!kwargs || !PyDict_Check(kwargs.ptr())) return;
    for (auto [key, argument] : py::reinterpret_borrow<py::dict>(kwargs)) {
      node.kwargs.emplace_back(text_of(key), value(argument));
    }
  }

  Value value(py::handle object) {
    PyObject* const pointer = object.ptr();
    if (object.is_none()) return graph::None{};
    if (Types::is(object, types_.node)) {
      const auto known = ids_.find(pointer);
      return known == ids_.end() ? Value(graph::Opaque{"unknown node"}) : Value(graph::NodeRef{known->second});
    }
    if (PyBool_Check(pointer)) return pointer == Py_True;
    if (PyLong_CheckExact(pointer)) return integer(object);
    if (PyFloat_CheckExact(pointer)) return PyFloat_AS_DOUBLE(pointer);
    if (PyUnicode_Check(pointer)) return text_of(object);
    if (pointer == Py_Ellipsis) return graph::Ellipsis{};
    if (PyTuple_Check(pointer) || PyList_Check(pointer)) return list(object);
    if (PySlice_Check(pointer)) return slice(reinterpret_cast<PySliceObject*>(pointer));
    if (PyDict_Check(pointer)) return dictionary(object);
    if (Types::is(object, types_.dtype)) return dtype(object);
    return opaque(object);
  }

  static Value integer(py::handle object) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    return overflow == 0 ? Value(static_cast<std::int64_t>(number)) : Value(graph::Opaque{description(object)});
  }

  Value list(py::handle object) {
    auto list = std::make_shared<graph::List>();
    list->is_tuple = PyTuple_Check(object.ptr());
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(object.ptr());
    list->items.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) list->items.push_back(value(PySequence_Fast_GET_ITEM(object.ptr(), i)));
    return Value(std::shared_ptr<const graph::List>(std::move(list)));
  }

  Value slice(PySliceObject* object) {
    auto slice = std::make_shared<graph::Slice>();
    slice->start = value(object->start);
    slice->stop = value(object->stop);
    slice->step = value(object->step);
    return Value(std::shared_ptr<const graph::Slice>(std::move(slice)));
  }

  // No function that rules know takes one; a list of pairs keeps the nodes inside visible.
  Value dictionary(py::handle object) {
    auto list = std::make_shared<graph::List>();
    list->is_tuple = false;
    for (auto [key, entry] : py::reinterpret_borrow<py::dict>(object)) {
      auto pair = std::make_shared<graph::List>();
      pair->items = {value(key), value(entry)};
      list->items.emplace_back(std::shared_ptr<const graph::List>(std::move(pair)));
    }
    return Value(std::shared_ptr<const graph::List>(std::move(list)));
  }

  // Only these are printed: the text of anything else may be long or differ from run to run.
  Value opaque(py::handle object) const {
    const bool is_plain =
        Types::is(object, types_.device) || Types::is(object, types_.memory_format) || Types::is(object, types_.layout);
    return graph::Opaque{is_plain ? description(object) : std::string(Py_TYPE(object.ptr())->tp_name)};
  }

  DType dtype(py::handle object) {
    const auto [known, is_new] = dtypes_.emplace(object.ptr(), DType::other);
    if (is_new) known->second = graph::dtype_from_name(description(object));
    return known->second;
  }

  void read_meta(py::handle meta, Node& node) {
    if (const py::handle example = item(meta, names_.example_value)) read_example(example, node);
    if (!with_locations_) return;
    std::tie(node.module_path, node.source) =
        location(item(meta, names_.nn_module_stack), item(meta, names_.stack_trace));
  }

  void read_example(py::handle example, Node& node) {
    // Subclasses may mean anything by shape and dtype.
    if (Types::is(example, types_.fake_tensor) || Types::is(example, types_.tensor) ||
        Types::is(example, types_.parameter)) {
      node.tensor = tensor(example);
    } else if (PyLong_CheckExact(example.ptr()) || Types::is(example, types_.sym_int)) {
      node.size = size(example);
    }
  }

  // Empty where something cannot be read, and for sparse tensors.
  std::optional<TensorMeta> tensor(py::handle example) {
    TensorMeta meta;
    const py::object dtype_object = attribute(example, names_.dtype);
    const py::object device = property(example, names_.fake_device, names_.device);
    const py::object grad = attribute(example, names_.requires_grad), layout = attribute(example, names_.layout);
    if (!dtype_object || !device || !grad || !layout || !layout.is(types_.strided)) return std::nullopt;
    meta.dtype = dtype(dtype_object);
    meta.device = device_name(device);
    meta.requires_grad = grad.ptr() == Py_True;
    const auto strides =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(example.ptr(), names_.stride.ptr()));
    if (!strides) PyErr_Clear();
    if (!sizes(attribute(example, names_.shape), meta.shape) || !sizes(strides, meta.strides)) return std::nullopt;
    return meta;
  }

  bool sizes(const py::object& tuple, std::vector<SymInt>& result) {
    if (!tuple || !PyTuple_Check(tuple.ptr())) return false;
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple.ptr());
    result.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      const auto dim = size(PyTuple_GET_ITEM(tuple.ptr(), i));
      if (!dim) return false;
      result.push_back(*dim);
    }
    return true;
  }

  // The expression, never the value that it was traced with.
  std::optional<SymInt> size(py::handle object) {
    if (PyLong_CheckExact(object.ptr())) {
      const Value number = integer(object);
      const auto* constant = std::get_if<std::int64_t>(&number);
      return constant == nullptr ? std::nullopt : std::optional<SymInt>(*constant);
    }
    const py::object node = attribute(object, names_.node);
    const py::object expression = node ? attribute(node, names_.expr) : py::object();
    return expression ? std::optional<SymInt>(symbolic(expression)) : std::nullopt;
  }

  // sympy prints slowly and shares expressions, so each is printed once.
  SymInt symbolic(const py::object& expression) {
    const auto [known, is_new] = expressions_.emplace(expression.ptr(), SymInt());
    if (!is_new) return known->second;
    keep_alive_.push_back(expression);
    const std::string text = description(expression);
    std::int64_t constant = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), constant);
    const bool is_constant = error == std::errc() && end == text.data() + text.size();
    return known->second = is_constant ? SymInt(constant) : SymInt::symbolic(text);
  }

  // Tensors have objects of their own for the same device.
  const std::string& device_name(const py::object& device) {
    const int is_same = last_device_ ? PyObject_RichCompareBool(last_device_.ptr(), device.ptr(), Py_EQ) : 0;
    if (is_same < 0) PyErr_Clear();
    if (is_same != 1) {
      last_device_ = device;
      last_device_name_ = description(device);
    }
    return last_device_name_;
  }

  const py::object& graph_module_;
  bool with_locations_;
  Graph graph_;
  Names names_;
  Types types_;
  TargetNames targets_;
  std::unordered_map<PyObject*, NodeId> ids_;
  std::unordered_map<PyObject*, DType> dtypes_;
  std::unordered_map<PyObject*, SymInt> expressions_;
  std::vector<py::object> keep_alive_;
  py::object last_device_;
  std::string last_device_name_;
};

}  // namespace

Graph import_graph(const py::object& graph_module, bool with_locations) {
  const WithoutTorchFunction plain_reads;
  return Importer(graph_module, with_locations).import();
}

std::pair<std::string, std::string> location_of(const py::dict& meta) {
  return location(item(meta, py::str("nn_module_stack")), item(meta, py::str("stack_trace")));
}

}  // namespace liger::bindings
