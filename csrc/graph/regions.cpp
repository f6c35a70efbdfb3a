// Which nodes run under the same autocast bracket (and other global state), and under the same grad mode.
#include <array>

#include "graph/reading.h"

namespace liger::graph {
namespace {

enum class Marker { none, set_grad, enter, exit, barrier };

struct MarkerName {
  std::string_view target;
  Marker marker;
};

// A barrier starts a region that nothing ends.
constexpr std::array<MarkerName, 23> kMarkers = {{
    {"torch._C._set_grad_enabled", Marker::set_grad},
    {"torch.amp.autocast_mode._enter_autocast", Marker::enter},
    {"torch.amp.autocast_mode._exit_autocast", Marker::exit},
    {"torch.autograd.grad_mode._enter_inference_mode", Marker::enter},
    {"torch.autograd.grad_mode._exit_inference_mode", Marker::exit},
    {"torch._functorch.predispatch._vmap_increment_nesting", Marker::enter},
    {"torch._functorch.predispatch._vmap_decrement_nesting", Marker::exit},
    {"torch._C._functorch._vmap_increment_nesting", Marker::enter},
    {"torch._C._functorch._vmap_decrement_nesting", Marker::exit},
    {"torch._C._functorch._grad_increment_nesting", Marker::enter},
    {"torch._C._functorch._grad_decrement_nesting", Marker::exit},
    {"torch._C._functorch._jvp_increment_nesting", Marker::enter},
    {"torch._C._functorch._jvp_decrement_nesting", Marker::exit},
    {"torch._C._autograd._saved_tensors_hooks_disable", Marker::barrier},
    {"torch._C._autograd._saved_tensors_hooks_enable", Marker::barrier},
    {"torch._C._autograd._push_saved_tensors_default_hooks", Marker::barrier},
    {"torch._C._autograd._pop_saved_tensors_default_hooks", Marker::barrier},
    {"torch._C._set_fwd_grad_enabled", Marker::barrier},
    {"torch._C._set_deterministic_algorithms", Marker::barrier},
    {"torch.set_default_dtype", Marker::barrier},
    {"torch.cuda.set_stream", Marker::barrier},
    {"torch.accelerator.set_stream", Marker::barrier},
    {"torch._C._set_autograd_fallback_mode", Marker::barrier},
}};

Marker marker_of(const Node& node) {
  // All markers are functions of torch; the test keeps most nodes from the comparisons below.
  if (node.kind != NodeKind::call_function || node.target.size() < 20 || node.target[0] != 't') return Marker::none;
  for (const MarkerName& name : kMarkers) {
    if (name.target == node.target) return name.marker;
  }
  return Marker::none;
}

const bool* literal_grad_mode(const Node& node) {
  return node.args.size() == 1 ? std::get_if<bool>(&node.args[0]) : nullptr;
}

// What the graph starts with is not in it. A first marker that enables gradients suggests that they were off; assuming
// so keeps what is before and after it apart.
bool initial_grad_mode(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (marker_of(node) != Marker::set_grad) continue;
    const bool* mode = literal_grad_mode(node);
    return mode == nullptr || !*mode;
  }
  return true;
}

}  // namespace

Regions find_regions(const Graph& graph) {
  Regions regions;
  std::vector<std::int32_t> open = {0};
  std::int32_t count = 0;
  bool grad_enabled = initial_grad_mode(graph);
  for (const Node& node : graph.nodes) {
    const Marker marker = marker_of(node);
    if (marker == Marker::set_grad) {
      const bool* mode = literal_grad_mode(node);
      if (mode == nullptr) open.back() = ++count;
      grad_enabled = mode == nullptr || *mode;
    }
    if (marker == Marker::enter) open.push_back(++count);
    if (marker == Marker::exit && open.size() > 1) open.pop_back();
    if (marker == Marker::barrier) open.back() = ++count;
    regions.autocast.push_back(open.back());
    regions.grad_enabled.push_back(grad_enabled);
  }
  return regions;
}

}  // namespace liger::graph
