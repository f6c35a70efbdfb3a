#include "rewrite/mask/reader.h"

#include <algorithm>

#include "graph/text.h"

namespace liger::rewrite::mask {

using graph::DType;
using graph::NodeId;
using graph::Op;
using graph::Operand;
using graph::SymInt;
using graph::TensorMeta;

namespace {

constexpr std::size_t kMaxSteps = 20000;

// The position in an operand that broadcasts to the result; empty where the shapes do not tell.
std::optional<std::vector<Linear>> broadcast(const TensorMeta& operand, const TensorMeta& result,
                                             const std::vector<Linear>& index) {
  std::vector<Linear> positions;
  if (operand.rank() > result.rank()) return std::nullopt;
  for (std::size_t dim = 0; dim < operand.rank(); ++dim) {
    const std::size_t aligned = dim + result.rank() - operand.rank();
    const bool is_single = operand.shape[dim] == SymInt(1);
    if (!is_single && operand.shape[dim] != result.shape[aligned]) return std::nullopt;
    positions.push_back(is_single ? Linear(0) : index[aligned]);
  }
  return positions;
}

DType promoted(DType a, DType b) {
  if (a == b || graph::is_lossless_cast(b, a)) return a;
  return graph::is_lossless_cast(a, b) ? b : DType::other;
}

}  // namespace

Linear position(std::size_t dim, const SymInt& range) {
  return Linear::variable(-1 - static_cast<std::int32_t>(dim), range);
}

Value Reader::fail(NodeId id, const std::string& why) {
  if (reason_.empty()) reason_ = "%" + node(id).name + " " + why;
  return nullptr;
}

bool Reader::is_written(NodeId id) const {
  const NodeId root = view_.storage_root(id);
  const auto writes = [&](const graph::CanonicalGraph::Mutation& mutation) {
    const auto& roots = mutation.storage_roots;
    return mutation.node < at_ && std::find(roots.begin(), roots.end(), root) != roots.end();
  };
  return std::any_of(view_.mutations().begin(), view_.mutations().end(), writes);
}

Value Reader::read(NodeId id, const Index& index) {
  if (!node(id).tensor) return fail(id, "is no tensor");
  if (index.size() != meta(id).rank()) return fail(id, "has an unexpected rank");
  if (is_written(id)) return fail(id, "is written to in place");
  if (++steps_ > kMaxSteps) return fail(id, "depends on too much");
  const Value value = read_operation(id, index);
  return value ? value : symbol(id, index);
}

// Null: not as a function of position.
Value Reader::read_operation(NodeId id, const Index& index) {
  switch (view_[id].op) {
    case Op::input:
      return read_input(id, index);
    case Op::identity:
      return read(input_of(id), index);
    case Op::cast:
      return operand_in(id, 0, index, meta(id).dtype);
    case Op::full:
      return converted(scalar(view_[id].operands[0]), DType::float64, meta(id).dtype);
    case Op::arange:
      return read_arange(id, index);
    case Op::permute:
    case Op::expand:
    case Op::slice:
    case Op::select:
      return read_layout(id, index);
    case Op::reshape:
      return read_reshape(id, index);
    case Op::concat:
      return read_concat(id, index);
    case Op::pad:
      return read_pad(id, index);
    case Op::index:
    case Op::gather:
      return read_lookup(id, index);
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::neg:
    case Op::abs:
    case Op::minimum:
    case Op::maximum:
    case Op::floor_div:
      return read_arithmetic(id, index);
    case Op::eq:
    case Op::ne:
    case Op::lt:
    case Op::le:
    case Op::gt:
    case Op::ge:
      return read_comparison(id, index);
    case Op::logical_and:
    case Op::logical_or:
    case Op::logical_not:
      return read_logic(id, index);
    case Op::where:
      return read_where(id, index);
    case Op::tril:
    case Op::triu:
      return read_triangle(id, index);
    case Op::cumsum:
      return read_scan(id, index);
    case Op::diff:
      return read_diff(id, index);
    case Op::batch:
    case Op::unbatch:
      return read_batched(id, index);
    default:
      return nullptr;
  }
}

// An integer or boolean may stay what it is, whatever it was made of; a float must be understood.
Value Reader::symbol(NodeId id, const Index& index) {
  const TensorMeta& tensor = meta(id);
  if (!graph::is_integral(tensor.dtype)) {
    return fail(id, "is " + graph::print(tensor) + " by " + (view_[id].op == Op::input ? "an input" : node(id).target));
  }
  reason_.clear();
  Index positions = index;
  // A tensor inside vmap has dims that its shape does not show.
  if (view_[id].op != Op::input) {
    for (const auto& [level, hidden] : levels_) positions.push_back(hidden);
  }
  const Linear element = Linear::element({id, node(id).name, false}, positions);
  return tensor.dtype == DType::boolean ? condition(Condition::not_zero(element)) : integer(element);
}

Value Reader::read_input(NodeId id, const Index& index) {
  const auto fact = facts_.find(node(id).name);
  if (fact == facts_.end()) return nullptr;
  return substitute(fact->second.element, [&](const Atom& atom) -> std::optional<Linear> {
    if (atom.kind != Atom::Kind::variable || atom.variable >= 0) return std::nullopt;
    return index[static_cast<std::size_t>(-1 - atom.variable)];
  });
}

Value Reader::scalar(const Operand& operand) {
  if (operand.is_node()) {
    const auto& size = node(operand.node).size;
    return size ? integer(Linear::size(*size)) : nullptr;
  }
  if (const auto* flag = std::get_if<bool>(&operand.literal)) return integer(*flag ? 1 : 0);
  if (const auto* whole = std::get_if<std::int64_t>(&operand.literal)) return integer(*whole);
  const auto* real = std::get_if<double>(&operand.literal);
  return real == nullptr ? nullptr : number(*real);
}

Value Reader::operand(NodeId id, std::size_t which, const Index& index) {
  const Operand& operand = view_[id].operands[which];
  if (!operand.is_node() || !node(operand.node).tensor) return scalar(operand);
  const auto positions = broadcast(meta(operand.node), meta(id), index);
  return positions ? read(operand.node, *positions) : nullptr;
}

// Numbers take the dtype of the tensor that they meet.
Value Reader::operand_in(NodeId id, std::size_t which, const Index& index, DType dtype) {
  const Operand& operand = view_[id].operands[which];
  const Value value = this->operand(id, which, index);
  const bool is_tensor = operand.is_node() && node(operand.node).tensor;
  return converted(value, is_tensor ? meta(operand.node).dtype : DType::float64, dtype);
}

Value Reader::read_arithmetic(NodeId id, const Index& index) {
  const DType dtype = meta(id).dtype;
  if (dtype == DType::boolean) return nullptr;
  const Op op = view_[id].op;
  const Value a = operand_in(id, 0, index, dtype);
  const Value b = view_[id].operands.size() > 1 ? operand_in(id, 1, index, dtype) : integer(0);
  return map(a, b, [&](const Element& left, const Element& right) -> Value { return combine(op, left, right, dtype); });
}

Value Reader::read_comparison(NodeId id, const Index& index) {
  const auto dtype_of = [&](std::size_t which) {
    const Operand& operand = view_[id].operands[which];
    return operand.is_node() && node(operand.node).tensor ? meta(operand.node).dtype : DType::other;
  };
  const DType left = dtype_of(0), right = dtype_of(1);
  const DType dtype = left == DType::other ? right : right == DType::other ? left : promoted(left, right);
  if (dtype == DType::other) return nullptr;
  const Value a = as_number(operand_in(id, 0, index, dtype)), b = as_number(operand_in(id, 1, index, dtype));
  return map(a, b, [&](const Element& x, const Element& y) { return compare(view_[id].op, x, y); });
}

Value Reader::read_logic(NodeId id, const Index& index) {
  std::vector<Condition> parts;
  for (std::size_t which = 0; which < view_[id].operands.size(); ++which) {
    const Value value = as_condition(operand(id, which, index));
    if (!value) return nullptr;
    parts.push_back(value->condition);
  }
  if (view_[id].op == Op::logical_not) return condition(parts.front().negated());
  return condition(view_[id].op == Op::logical_and ? Condition::all_of(parts) : Condition::any_of(parts));
}

Value Reader::read_where(NodeId id, const Index& index) {
  const DType dtype = meta(id).dtype;
  const Value by = as_condition(operand(id, 0, index));
  const Value chosen = operand_in(id, 1, index, dtype), other = operand_in(id, 2, index, dtype);
  return by ? choice(by->condition, chosen, other) : nullptr;
}

Value Reader::read_arange(NodeId id, const Index& index) {
  const Value start = scalar(view_[id].operands[0]), step = scalar(view_[id].operands[2]);
  const bool known = start && step && start->kind == Element::Kind::integer && step->kind == Element::Kind::integer;
  if (!known || !step->integer.is_constant()) return nullptr;
  const auto scaled = index[0].scaled(step->integer.constant());
  const auto form = scaled ? Linear::sum(start->integer, *scaled) : std::nullopt;
  return form && fits(*form, meta(id).dtype) ? integer(*form) : nullptr;
}

// The first row of an upper or lower triangle keeps what is on its side of the diagonal.
Value Reader::read_triangle(NodeId id, const Index& index) {
  const std::size_t rank = index.size();
  if (rank < 2) return nullptr;
  const std::int64_t sign = view_[id].op == Op::triu ? 1 : -1;
  const auto offset = Linear::sum(index[rank - 1], index[rank - 2], -1);
  const auto above = offset ? Linear::sum(*offset, Linear(view_[id].bounds[0].value()), -1) : std::nullopt;
  const auto form = above ? above->scaled(sign) : std::nullopt;
  const Value inside = read(input_of(id), index);
  const Value zero = converted(integer(0), DType::int64, meta(id).dtype);
  return form ? choice(Condition::not_negative(*form), inside, zero) : nullptr;
}

// The sum of a constant is known; any other running sum is a symbol.
Value Reader::read_scan(NodeId id, const Index& index) {
  const auto dim = static_cast<std::size_t>(view_[id].dims[0]);
  if (!graph::is_integral(meta(id).dtype)) return nullptr;
  Index running = index;
  running[dim] = Linear::variable(kFirstBound + static_cast<std::int32_t>(steps_ % kMaxSteps), meta(id).shape[dim]);
  if (meta(id).shape[dim] == SymInt(1)) running[dim] = 0;
  const Value summand = as_number(read(input_of(id), running));
  if (!summand || summand->kind != Element::Kind::integer || !summand->integer.is_constant()) return nullptr;
  const auto count = Linear::sum(index[dim], Linear(1));
  const auto sum = count ? count->scaled(summand->integer.constant()) : std::nullopt;
  return sum && fits(*sum, meta(id).dtype) ? integer(*sum) : nullptr;
}

// vmap: a dim leaves the shape, with a level as its name, and returns elsewhere.
Value Reader::read_batched(NodeId id, const Index& index) {
  const auto dim = static_cast<std::ptrdiff_t>(view_[id].dims[0]);
  const std::int64_t level = view_[id].dims[1];
  Index inner = index;
  if (view_[id].op == Op::batch) {
    const auto hidden = levels_.find(level);
    if (hidden == levels_.end()) return fail(id, "is used outside of its vmap");
    inner.insert(inner.begin() + dim, hidden->second);
    return read(input_of(id), inner);
  }
  const auto outer = levels_;
  levels_[level] = index[static_cast<std::size_t>(dim)];
  inner.erase(inner.begin() + dim);
  Value value = read(input_of(id), inner);
  levels_ = outer;
  return value;
}

}  // namespace liger::rewrite::mask
