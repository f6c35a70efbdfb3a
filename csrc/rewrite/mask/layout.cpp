// The part of the reader that moves positions: views, parts, joins, lookups.
#include <algorithm>

#include "rewrite/mask/reader.h"

namespace liger::rewrite::mask {

using graph::NodeId;
using graph::Op;
using graph::SymInt;
using graph::TensorMeta;

namespace {

bool is_in_range(const Linear& position, const SymInt& size) {
  const auto lower = position.lower_bound();
  const auto distance = Linear::sum(Linear::size(size), position, -1);
  const auto rest = distance ? distance->lower_bound() : std::nullopt;
  return lower && *lower >= 0 && rest && *rest >= 1;
}

struct Dim {
  SymInt size;
  Linear position;
};

// The dims of more than one element, with the positions in them.
std::vector<Dim> long_dims(const std::vector<SymInt>& shape, const std::vector<Linear>* index) {
  std::vector<Dim> dims;
  for (std::size_t dim = 0; dim < shape.size(); ++dim) {
    if (shape[dim] == SymInt(1)) continue;
    dims.push_back({shape[dim], index == nullptr ? Linear() : (*index)[dim]});
  }
  return dims;
}

// Row-major position in all the dims; empty where a size is symbolic.
std::optional<Linear> flat_position(const std::vector<Dim>& dims) {
  std::optional<Linear> flat = Linear(0);
  for (const Dim& dim : dims) {
    if (!dim.size.is_constant()) return std::nullopt;
    const auto scaled = flat->scaled(dim.size.value());
    flat = scaled ? Linear::sum(*scaled, dim.position) : std::nullopt;
    if (!flat) return std::nullopt;
  }
  return flat;
}

// The inverse: each dim's position from the flat one.
bool split_position(Linear flat, std::vector<Dim>& dims) {
  for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) {
    if (!dim->size.is_constant() || dim->size.value() < 1) return false;
    const Linear above = Linear::floor_of(flat, dim->size.value());
    const auto whole = above.scaled(-dim->size.value());
    const auto rest = whole ? Linear::sum(flat, *whole) : std::nullopt;
    if (!rest) return false;
    dim->position = *rest;
    flat = above;
  }
  return true;
}

bool same_sizes(const std::vector<Dim>& a, const std::vector<Dim>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Dim& x, const Dim& y) { return x.size == y.size; });
}

}  // namespace

Value Reader::read_layout(NodeId id, const Index& index) {
  const graph::CanonicalNode& call = view_[id];
  const NodeId input = input_of(id);
  if (call.op == Op::expand) return operand(id, 0, index);
  const auto dim = static_cast<std::size_t>(call.dims[0]);
  Index inner = index;
  if (call.op == Op::permute) {
    for (std::size_t i = 0; i < index.size(); ++i) inner[static_cast<std::size_t>(call.dims[i])] = index[i];
  } else if (call.op == Op::select) {
    inner.insert(inner.begin() + static_cast<std::ptrdiff_t>(dim), Linear::size(call.bounds[0]));
  } else {
    const auto scaled = index[dim].scaled(call.bounds[2].value());
    const auto moved = scaled ? Linear::sum(Linear::size(call.bounds[0]), *scaled) : std::nullopt;
    if (!moved) return nullptr;
    inner[dim] = *moved;
  }
  return read(input, inner);
}

// Dims of one element come and go; other changes of shape go through the flat position.
Value Reader::read_reshape(NodeId id, const Index& index) {
  const NodeId input = input_of(id);
  const std::vector<Dim> from = long_dims(meta(id).shape, &index);
  std::vector<Dim> to = long_dims(meta(input).shape, nullptr);
  if (same_sizes(from, to)) {
    to = from;
  } else {
    const auto flat = flat_position(from);
    if (!flat || flat->has_elements() || !split_position(*flat, to)) return nullptr;
  }
  Index inner;
  auto next = to.begin();
  for (const SymInt& size : meta(input).shape) inner.push_back(size == SymInt(1) ? Linear(0) : (next++)->position);
  return read(input, inner);
}

// Pieces one after another along a dim, of which each position lies in one.
Value Reader::read_pieces(const std::vector<NodeId>& pieces, std::size_t which, std::size_t dim, const Index& index,
                          graph::DType dtype) {
  const TensorMeta& piece = meta(pieces[which]);
  Index inner = index;
  if (piece.shape[dim] == SymInt(1)) inner[dim] = 0;
  Value here = converted(read(pieces[which], inner), piece.dtype, dtype);
  if (which + 1 == pieces.size()) return here;
  const Linear length = Linear::size(piece.shape[dim]);
  const auto after = Linear::sum(index[dim], length, -1);
  if (!after) return nullptr;
  inner = index;
  inner[dim] = *after;
  return choice(Condition::not_negative(*after), read_pieces(pieces, which + 1, dim, inner, dtype), here);
}

Value Reader::read_concat(NodeId id, const Index& index) {
  std::vector<NodeId> pieces;
  for (const graph::Operand& operand : view_[id].operands) pieces.push_back(operand.node);
  return read_pieces(pieces, 0, static_cast<std::size_t>(view_[id].dims[0]), index, meta(id).dtype);
}

// x[i + 1] - x[i] of the input between what is put before and after it.
Value Reader::read_diff(NodeId id, const Index& index) {
  const graph::CanonicalNode& call = view_[id];
  const auto dim = static_cast<std::size_t>(call.dims[0]);
  const graph::DType dtype = meta(id).dtype;
  std::vector<NodeId> pieces;
  for (const std::size_t which : {1U, 0U, 2U}) {
    if (call.operands[which].is_node()) pieces.push_back(call.operands[which].node);
  }
  Index next = index;
  const auto successor = Linear::sum(index[dim], Linear(1));
  if (!successor || dtype == graph::DType::boolean) return nullptr;
  next[dim] = *successor;
  return map(read_pieces(pieces, 0, dim, next, dtype), read_pieces(pieces, 0, dim, index, dtype),
             [&](const Element& after, const Element& before) { return combine(Op::sub, after, before, dtype); });
}

// `pad` lists what is added before and after each dim, the last dim first.
Value Reader::read_pad(NodeId id, const Index& index) {
  const NodeId input = input_of(id);
  const auto* amounts = std::get_if<std::shared_ptr<const graph::List>>(view_[id].attribute("pad"));
  if (amounts == nullptr) return nullptr;
  Index inner = index;
  std::vector<Condition> inside;
  for (std::size_t i = 0; i + 1 < (*amounts)->items.size(); i += 2) {
    const std::size_t dim = index.size() - 1 - i / 2;
    const auto* before = std::get_if<std::int64_t>(&(*amounts)->items[i]);
    const auto position = before == nullptr ? std::nullopt : Linear::sum(index[dim], Linear(*before), -1);
    const auto rest = position ? Linear::sum(Linear::size(meta(input).shape[dim]), *position, -1) : std::nullopt;
    const auto distance = rest ? Linear::sum(*rest, Linear(-1)) : std::nullopt;
    if (!distance) return nullptr;
    inner[dim] = meta(input).shape[dim] == SymInt(1) ? Linear(0) : *position;
    inside.push_back(Condition::not_negative(*position));
    inside.push_back(Condition::not_negative(*distance));
  }
  const Value padding =
      converted(scalar({graph::kNoNode, *view_[id].attribute("value")}), graph::DType::float64, meta(id).dtype);
  return choice(Condition::all_of(inside), read(input, inner), padding);
}

// Positions that are themselves elements: known where they are functions of position that never leave the range.
Value Reader::read_lookup(NodeId id, const Index& index) {
  const graph::CanonicalNode& call = view_[id];
  const NodeId input = input_of(id);
  const bool is_gather = call.op == Op::gather;
  const std::size_t lookups = call.operands.size() - 1;
  const std::size_t looked_up = is_gather ? static_cast<std::size_t>(call.dims[0]) : 0;
  const std::size_t leading = index.size() + (is_gather ? 0 : lookups) - meta(input).rank();
  Index inner = is_gather ? index : Index(index.begin() + static_cast<std::ptrdiff_t>(leading), index.end());
  for (std::size_t which = 0; which < lookups; ++which) {
    const Value position = lookup_position(call.operands[which + 1].node, index, is_gather ? index.size() : leading);
    const std::size_t dim = looked_up + which;
    const bool known =
        position && position->kind == Element::Kind::integer && is_in_range(position->integer, meta(input).shape[dim]);
    if (!known) return nullptr;
    if (is_gather) {
      inner[dim] = position->integer;
    } else {
      inner.insert(inner.begin() + static_cast<std::ptrdiff_t>(dim), position->integer);
    }
  }
  return read(input, inner);
}

// The element of an index tensor that broadcasts to the first `leading` dims of the result.
Value Reader::lookup_position(NodeId id, const Index& index, std::size_t leading) {
  const TensorMeta& tensor = meta(id);
  if (tensor.rank() > leading) return nullptr;
  Index positions;
  for (std::size_t dim = 0; dim < tensor.rank(); ++dim) {
    positions.push_back(tensor.shape[dim] == SymInt(1) ? Linear(0) : index[dim + leading - tensor.rank()]);
  }
  return as_number(read(id, positions));
}

}  // namespace liger::rewrite::mask
