// What an FX node calls: its name in the text form, and whether the call may write into its arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
#include <unordered_map>

namespace liger::bindings {

struct TargetInfo {
  std::string name;      // "torch.rsqrt", "operator.add", "aten::add.Tensor", "liger::rms_norm", "package.function"
  bool mutates = false;  // by its schema, or because nothing is known of it
  bool is_higher_order = false;
};

// Names of the targets of one graph; each object is looked at once.
class TargetNames {
 public:
  const TargetInfo& of_function(pybind11::handle target);

 private:
  std::unordered_map<PyObject*, TargetInfo> known_;
};

// Modules of torch.nn that are known to write nothing; any other call_module may.
bool is_pure_module(pybind11::handle module);

// "L['self'].model.layers[0].input_layernorm" -> "model.layers.0.input_layernorm"
std::string clean_module_path(std::string_view path);
// The last frame of a stack trace as "file.py:12"; empty where there is none.
std::string source_line(std::string_view stack_trace);

}  // namespace liger::bindings
