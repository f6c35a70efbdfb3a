// Gated MLP: y = activation(gate) * up, where gate and up are projections, or the two halves of one projection.
#include "shared.h"

namespace liger::rewrite {

namespace {

// A matrix product, or what an adapter, bias, reshape or slice makes of one.
bool is_projection(const CanonicalGraph& view, NodeId id, int depth = 8) {
  const graph::CanonicalNode& node = view[id];
  const auto operand_is = [&](const Operand& operand) {
    return operand.is_node() && depth > 0 && is_projection(view, operand.node, depth - 1);
  };
  const auto is_scale = [&](const Operand& operand) {
    return !operand.is_node() || view[operand.node].op == Op::input || view[operand.node].op == Op::item;
  };
  switch (node.op) {
    case Op::linear:
    case Op::matmul:
      return true;
    case Op::mul:  // by a number or a vector (an adapter's scale), not by another activation
      if (!std::any_of(node.operands.begin(), node.operands.end(), is_scale)) return false;
      [[fallthrough]];
    case Op::add:
    case Op::dropout:
      return std::any_of(node.operands.begin(), node.operands.end(), operand_is) && node.operands.size() <= 2;
    case Op::identity:
    case Op::reshape:
    case Op::slice:
    case Op::permute:
    case Op::cast:
      return operand_is(node.operands.front());
    default:
      return false;
  }
}

Verdict projected(const Candidate& candidate) {
  return is_projection(candidate.view, candidate.id) ? ok() : because("it is not a linear projection");
}

}  // namespace

Rule glu() {
  auto packed = tensor("projection to gate and up").where(projected);
  auto first = slice_last(packed, Part::first_half), second = slice_last(packed, Part::second_half);
  auto gate_alone = tensor("gate").where(projected), up_alone = tensor("up").where(projected);
  auto gate = either("gate", {first, second, gate_alone}), up = either("up", {second, first, up_alone});

  auto silu_gate = either("silu", {silu(gate), mul(gate, sigmoid(gate))});
  auto tanh_gelu = gelu(gate, "tanh"), erf_gelu = gelu(gate, "none");
  auto activation = either("activation of the gate", {silu_gate, tanh_gelu, erf_gelu});
  auto y = mul(activation, up);

  const auto is_packed = [=](const Match& m) { return m.has(packed); };
  const auto halves_differ = [=](const Match& m) -> Verdict {
    if (m.has(packed) && (m.has(gate_alone) || m.has(up_alone))) {
      return because("only one of gate and up is a half of %" + m[packed].name);
    }
    return m.id(gate) != m.id(up) ? ok() : because("gate and up are the same value");
  };
  const auto alike = [=](const Match& m) -> Verdict {
    if (Verdict verdict = require_kernel_dtype(m[gate]); !verdict) return verdict;
    if (Verdict verdict = require_same_dtype(m[gate], m[up]); !verdict) return verdict;
    if (Verdict verdict = require_same_dtype(m[gate], m.root_node()); !verdict) return verdict;
    return require_same_shape(m[gate], m[up]);
  };

  return Rule("glu")
      .match(y)
      .near_miss_once(activation)
      .require(halves_differ)
      .require(alike)
      .replace([=](const Match& m) {
        const std::string name = m.has(silu_gate) ? "silu" : m.has(tanh_gelu) ? "gelu_tanh" : "gelu";
        Expr call{"liger::glu", {m(gate), m(up)}, {}};
        if (is_packed(m)) {
          call = Expr{"liger::glu_packed", {m(packed)}, {}};
          call.kwarg("activation", name).kwarg("gate_first", m.has(first) && m.id(gate) == m.id(first));
        } else {
          call.kwarg("activation", name);
        }
        return Replacement{call, name + " glu" + (is_packed(m) ? ", packed, " : ", ") + brief(*m.root_node().tensor)};
      });
}

}  // namespace liger::rewrite
