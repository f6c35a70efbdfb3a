#include "bindings/import_targets.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace liger::bindings {

namespace py = pybind11;

namespace {

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

std::string text_attribute(py::handle object, const char* name) {
  const py::object value = py::getattr(object, name, py::none());
  return py::isinstance<py::str>(value) ? value.cast<std::string>() : std::string();
}

// The parser reads a target up to its parenthesis.
std::string printable(std::string name) {
  for (char& c : name) {
    const bool fits =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == ':' || c == '<' || c == '>';
    if (!fits) c = '_';
  }
  return name;
}

std::string type_name(py::handle object) { return text_attribute(py::type::handle_of(object), "__name__"); }

// Where a function is found by its users, which is not always where it is defined.
std::string public_module(const std::string& module) {
  if (module == "_operator") return "operator";
  if (module == "torch.functional") return "torch";
  return module;
}

std::string function_name(py::handle target) {
  std::string name = text_attribute(target, "__name__");
  if (name.empty()) return "object." + type_name(target);
  const std::string module = text_attribute(target, "__module__");
  if (type_name(target) == "method_descriptor") return "torch.Tensor." + name;
  constexpr std::string_view special = "special_";
  if (module == "torch._C._special" && starts_with(name, special))
    return "torch.special." + name.substr(special.size());
  // Functions of classes and closures keep their path; builtins have C++ names there.
  if (PyFunction_Check(target.ptr())) name = text_attribute(target, "__qualname__");
  return module.empty() ? name : public_module(module) + "." + name;
}

bool is_known_library(std::string_view name) {
  constexpr std::array<std::string_view, 5> libraries = {"torch.", "operator.", "builtins.", "math.", "einops."};
  return std::any_of(libraries.begin(), libraries.end(),
                     [&](std::string_view prefix) { return starts_with(name, prefix); });
}

// "aten::add.Tensor", "liger::rms_norm"
TargetInfo op_overload(py::handle target) {
  return {printable(target.attr("name")().cast<std::string>()), target.attr("_schema").attr("is_mutable").cast<bool>(),
          false};
}

TargetInfo op_packet(py::handle target) {
  TargetInfo info{printable(text_attribute(target, "_qualified_op_name")), false, false};
  for (py::handle overload : target.attr("overloads")()) {
    const bool writes_out = overload.cast<std::string>().find("out") != std::string::npos;
    const py::object schema = target.attr(overload).attr("_schema");
    info.mutates = info.mutates || (!writes_out && schema.attr("is_mutable").cast<bool>());
  }
  return info;
}

TargetInfo read_target(py::handle target) {
  const std::string type = type_name(target);
  if (type == "OpOverload") return op_overload(target);
  if (type == "OpOverloadPacket") return op_packet(target);
  if (text_attribute(target, "__module__") == "torch.ops.higher_order") {
    return {printable("torch.ops.higher_order." + text_attribute(target, "__name__")), false, true};
  }
  TargetInfo info{printable(function_name(target)), false, false};
  info.mutates = !is_known_library(info.name);
  return info;
}

}  // namespace

const TargetInfo& TargetNames::of_function(py::handle target) {
  const auto known = known_.find(target.ptr());
  if (known != known_.end()) return known->second;
  TargetInfo info{"object.unknown", true, false};
  try {
    info = read_target(target);
  } catch (const py::error_already_set&) {
  } catch (const py::cast_error&) {
  }
  return known_.emplace(target.ptr(), std::move(info)).first->second;
}

bool is_pure_module(py::handle module) {
  constexpr std::array<std::string_view, 17> pure = {
      "Linear",  "Embedding", "LayerNorm", "RMSNorm", "SiLU",      "GELU",       "ReLU",     "Sigmoid",         "Tanh",
      "Dropout", "Identity",  "Softmax",   "Flatten", "Unflatten", "LogSoftmax", "Bilinear", "CrossEntropyLoss"};
  const py::handle type = py::type::handle_of(module);
  if (!starts_with(text_attribute(type, "__module__"), "torch.nn.modules.")) return false;
  if (std::find(pure.begin(), pure.end(), text_attribute(type, "__name__")) == pure.end()) return false;
  const py::object inplace = py::getattr(module, "inplace", py::bool_(false));
  return inplace.is(py::bool_(false)) && py::getattr(module, "max_norm", py::none()).is_none();
}

std::string clean_module_path(std::string_view path) {
  std::string clean;
  bool in_root = starts_with(path, "L[") || starts_with(path, "G[");
  for (std::size_t i = 0; i < path.size(); ++i) {
    const char c = path[i];
    if (in_root) {
      in_root = c != ']';
    } else if (c == '[' || c == '.') {
      if (!clean.empty() && clean.back() != '.') clean += '.';
    } else if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '<' || c == '>') {
      clean += c;
    }
  }
  constexpr std::string_view dictionary = "_modules.";
  for (std::size_t at = clean.find(dictionary); at != std::string::npos; at = clean.find(dictionary, at)) {
    const bool whole = at == 0 || clean[at - 1] == '.';
    whole ? static_cast<void>(clean.erase(at, dictionary.size())) : static_cast<void>(++at);
  }
  return clean;
}

std::string source_line(std::string_view stack_trace) {
  constexpr std::string_view file_mark = "File \"", line_mark = "\", line ";
  const std::size_t file = stack_trace.rfind(file_mark);
  if (file == std::string_view::npos) return "";
  const std::string_view frame = stack_trace.substr(file + file_mark.size());
  const std::size_t line = frame.find(line_mark);
  if (line == std::string_view::npos) return "";
  const std::string_view path = frame.substr(0, line);
  std::size_t end = line + line_mark.size();
  while (end < frame.size() && std::isdigit(static_cast<unsigned char>(frame[end])) != 0) ++end;
  const std::string_view number = frame.substr(line + line_mark.size(), end - line - line_mark.size());
  // npos + 1 is 0: a path without a slash.
  return std::string(path.substr(path.rfind('/') + 1)) + ":" + std::string(number);
}

}  // namespace liger::bindings
