// Parts of a tensor: getitem, narrow, select, and the items of chunk, split and unbind.
#include <algorithm>

#include "graph/reading.h"

namespace liger::graph {
namespace {

struct Bounds {
  SymInt start, stop;
  std::int64_t step = 1;
};

// One entry of `x[...]` that does something, with the input dim it applies to.
struct Part {
  std::int64_t dim = 0;
  const Slice* slice = nullptr;  // or
  std::int64_t index = 0;        // one index
};

struct Index {
  bool new_dims = false;              // None
  std::vector<Part> parts;            // slices that are not full, and single indices
  std::vector<const Value*> tensors;  // index tensors, on the leading dims
};

std::optional<SymInt> size_of(const Graph& graph, const Value& value) {
  if (const auto literal = integer_of(graph, value)) return SymInt(*literal);
  const auto* ref = std::get_if<NodeRef>(&value);
  if (ref == nullptr || !graph[ref->id].size) return std::nullopt;
  return graph[ref->id].size;
}

// `None` gives the default; anything that is no size gives nothing.
std::optional<SymInt> bound_of(const Graph& graph, const Value& value, const SymInt& missing) {
  return std::holds_alternative<None>(value) ? missing : size_of(graph, value);
}

std::int64_t clamp_bound(std::int64_t bound, std::int64_t size) {
  return std::clamp<std::int64_t>(bound < 0 ? bound + size : bound, 0, size);
}

std::optional<Bounds> constant_bounds(const SymInt& start, const SymInt& stop, std::int64_t step, std::int64_t size) {
  if (!start.is_constant() || !stop.is_constant()) return std::nullopt;
  const std::int64_t first = clamp_bound(start.value(), size);
  const std::int64_t last = std::max(first, clamp_bound(stop.value(), size));
  return Bounds{SymInt(first), SymInt(last), step};
}

// Of a dim of symbolic size, bounds are known where the length that torch found proves that nothing was clamped.
std::optional<Bounds> symbolic_bounds(SymInt start, SymInt stop, const SymInt& size, const SymInt& length) {
  if (start.is_constant() && start.value() < 0) start = size + start.value();
  if (stop.is_constant() && stop.value() < 0) stop = size + stop.value();
  if (start.is_constant()) {
    if (stop + -start.value() != length) return std::nullopt;
    const bool may_be_empty = length.is_constant() ? length.value() <= 0 : stop.is_constant();
    if (may_be_empty) return std::nullopt;
    return Bounds{std::move(start), std::move(stop)};
  }
  // x[-k:], with k elements left.
  const bool is_tail = stop == size && length.is_constant() && length.value() > 0 && start == size + -length.value();
  return is_tail ? std::optional<Bounds>(Bounds{std::move(start), std::move(stop)}) : std::nullopt;
}

bool is_full(const Graph& graph, const Slice& slice, const SymInt& size) {
  const auto start = bound_of(graph, slice.start, 0), stop = bound_of(graph, slice.stop, size);
  const auto step = bound_of(graph, slice.step, 1);
  if (!start || !stop || !step || *step != SymInt(1)) return false;
  if (*start == SymInt(0) && *stop == size) return true;
  if (!size.is_constant()) return false;
  const auto bounds = constant_bounds(*start, *stop, 1, size.value());
  return bounds && bounds->start == SymInt(0) && bounds->stop == size;
}

std::optional<Bounds> bounds_of(const Graph& graph, const Slice& slice, const SymInt& size, const SymInt& length) {
  const auto start = bound_of(graph, slice.start, 0), stop = bound_of(graph, slice.stop, size);
  const auto step = bound_of(graph, slice.step, 1);
  if (!start || !stop || !step || !step->is_constant() || step->value() < 1) return std::nullopt;
  if (size.is_constant()) return constant_bounds(*start, *stop, step->value(), size.value());
  return step->value() == 1 ? symbolic_bounds(*start, *stop, size, length) : std::nullopt;
}

// How many dims of the input an entry takes.
bool takes_dim(const Value& item) {
  return !std::holds_alternative<None>(item) && !std::holds_alternative<Ellipsis>(item);
}

class IndexReader {
 public:
  IndexReader(const Graph& graph, const TensorMeta& input) : graph_(graph), input_(input) {}

  bool read(const std::vector<const Value*>& items) {
    const auto taken = std::count_if(items.begin(), items.end(), [](const Value* item) { return takes_dim(*item); });
    const auto rank = static_cast<std::int64_t>(input_.rank());
    if (taken > rank) return false;
    for (const Value* item : items) {
      if (std::holds_alternative<Ellipsis>(*item)) {
        if (has_ellipsis_) return false;
        has_ellipsis_ = true;
        dim_ += rank - taken;
      } else if (std::holds_alternative<None>(*item)) {
        index.new_dims = true;
      } else if (!read_entry(*item)) {
        return false;
      }
    }
    return true;
  }

  Index index;

 private:
  bool read_entry(const Value& item) {
    if (const auto* slice = std::get_if<std::shared_ptr<const Slice>>(&item)) {
      const SymInt& size = input_.shape[static_cast<std::size_t>(dim_)];
      if (!is_full(graph_, **slice, size)) index.parts.push_back({dim_, slice->get(), 0});
    } else if (const TensorMeta* tensor = tensor_of(graph_, item)) {
      // A mask of booleans takes as many dims as it has.
      const bool leads = dim_ == static_cast<std::int64_t>(index.tensors.size()) && !has_ellipsis_;
      if (!leads || !is_integral(tensor->dtype) || tensor->dtype == DType::boolean || tensor->dtype == DType::uint8) {
        return false;
      }
      index.tensors.push_back(&item);
    } else if (const auto single = integer_of(graph_, item)) {
      index.parts.push_back({dim_, nullptr, *single});
    } else {
      return false;
    }
    ++dim_;
    return true;
  }

  const Graph& graph_;
  const TensorMeta& input_;
  std::int64_t dim_ = 0;
  bool has_ellipsis_ = false;
};

bool push_select(Reading& reading, std::size_t input, std::int64_t dim, std::int64_t index) {
  const TensorMeta* tensor = reading.tensor_at(input);
  if (tensor == nullptr || reading.result().rank() + 1 != tensor->rank()) return false;
  const SymInt& size = tensor->shape[static_cast<std::size_t>(dim)];
  const SymInt position = index < 0 ? size + index : SymInt(index);
  if (size.is_constant() && (position.value() < 0 || position.value() >= size.value())) return false;
  reading.out.op = Op::select;
  reading.out.dims = {dim};
  reading.out.bounds = {position};
  return reading.push(input);
}

// `input` is sliced to `bounds`; the whole of it is an identity.
bool push_slice(Reading& reading, const Value& input, std::int64_t dim, const Bounds& bounds) {
  const TensorMeta* tensor = tensor_of(reading.graph, input);
  const TensorMeta& result = reading.result();
  if (tensor == nullptr || result.rank() != tensor->rank() || result.dtype != tensor->dtype) return false;
  const auto index = static_cast<std::size_t>(dim);
  const bool is_whole = bounds.start == SymInt(0) && bounds.stop == tensor->shape[index] && bounds.step == 1;
  if (is_whole && reading.identity_of(input)) return true;
  if (bounds.start.is_constant() && bounds.stop.is_constant()) {
    const std::int64_t length = (bounds.stop.value() - bounds.start.value() + bounds.step - 1) / bounds.step;
    if (result.shape[index] != SymInt(length)) return false;
  }
  reading.out.op = Op::slice;
  reading.out.dims = {dim};
  reading.out.bounds = {bounds.start, bounds.stop, SymInt(bounds.step)};
  return reading.push_value(&input);
}

bool push_index(Reading& reading, const std::vector<const Value*>& tensors) {
  reading.out.op = Op::index;
  if (!reading.push(0)) return false;
  return std::all_of(tensors.begin(), tensors.end(), [&](const Value* tensor) { return reading.push_value(tensor); });
}

// Several things at once (a slice of two dims, a slice and a new dim) are no single canonical op.
bool read_tensor_item(Reading& reading, const TensorMeta& input) {
  const Value& argument = *reading.argument(1);
  const auto* list = std::get_if<std::shared_ptr<const List>>(&argument);
  if (list != nullptr && !(*list)->is_tuple) return false;
  IndexReader reader(reading.graph, input);
  if (!reader.read(items_of(argument))) return false;
  const Index& index = reader.index;
  if (!index.tensors.empty()) {
    return !index.new_dims && index.parts.empty() && push_index(reading, index.tensors);
  }
  if (index.parts.empty()) {
    if (!index.new_dims && reading.identity(0)) return true;
    reading.out.op = Op::reshape;
    return reading.push(0);
  }
  if (index.parts.size() != 1 || index.new_dims) return false;
  const Part& part = index.parts[0];
  if (part.slice == nullptr) return push_select(reading, 0, part.dim, part.index);
  const auto dim = static_cast<std::size_t>(part.dim);
  if (reading.result().rank() != input.rank()) return false;
  const auto bounds = bounds_of(reading.graph, *part.slice, input.shape[dim], reading.result().shape[dim]);
  return bounds && push_slice(reading, *reading.argument(0), part.dim, *bounds);
}

// The sizes of all pieces of a chunk or split along a dim of known size.
std::vector<std::int64_t> piece_sizes(const Reading& call, bool is_chunk, std::int64_t size) {
  std::vector<std::int64_t> sizes;
  if (call.argument(1) == nullptr) return sizes;
  if (std::holds_alternative<std::shared_ptr<const List>>(*call.argument(1))) {
    for (const Value* item : items_of(*call.argument(1))) {
      const auto piece = integer_of(call.graph, *item);
      if (is_chunk || !piece || *piece < 0) return {};
      sizes.push_back(*piece);
    }
    return sizes;
  }
  const auto count = call.integer(1);
  if (!count || *count < 1) return sizes;
  const std::int64_t piece = is_chunk ? (size + *count - 1) / *count : *count;
  for (std::int64_t start = 0; piece > 0 && start < size; start += piece) {
    sizes.push_back(std::min(piece, size - start));
  }
  return sizes;
}

bool read_piece(Reading& reading, const Reading& call, bool is_chunk, std::int64_t item) {
  const TensorMeta* input = call.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : call.dim_or(2, input->rank(), 0);
  if (!dim || !input->shape[static_cast<std::size_t>(*dim)].is_constant()) return false;
  const std::int64_t size = input->shape[static_cast<std::size_t>(*dim)].value();
  const auto sizes = piece_sizes(call, is_chunk, size);
  const auto count = static_cast<std::int64_t>(sizes.size());
  if (item < 0) item += count;
  if (item < 0 || item >= count) return false;
  std::int64_t start = 0;
  for (std::int64_t i = 0; i < item; ++i) start += sizes[static_cast<std::size_t>(i)];
  const std::int64_t stop = start + sizes[static_cast<std::size_t>(item)];
  return stop <= size && push_slice(reading, *call.argument(0), *dim, {SymInt(start), SymInt(stop)});
}

bool read_unbound(Reading& reading, const Reading& call, std::int64_t item) {
  const TensorMeta* input = call.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : call.dim_or(1, input->rank(), 0);
  if (!dim || item < 0) return false;
  reading.out.op = Op::select;
  reading.out.dims = {*dim};
  reading.out.bounds = {SymInt(item)};
  return reading.push_value(call.argument(0));
}

bool read_split_item(Reading&) { return false; }   // marks chunk and split: their items are slices
bool read_unbind_item(Reading&) { return false; }  // marks unbind: its items are selected

bool read_tuple_item(Reading& reading, const Node& base) {
  const auto item = reading.integer(1);
  if (!item) return false;
  CanonicalNode scratch;
  Reading call = reading.of(base, scratch);
  const Signature* signature = find_signature(base);
  if (signature != nullptr && call.bind(*signature)) {
    const Reader marker = signature->spelling->reader;
    if (marker == read_split_item) {
      return read_piece(reading, call, signature->parameters[1][0] == "chunks", *item);
    }
    if (marker == read_unbind_item) return read_unbound(reading, call, *item);
  }
  if (*item < 0) return false;
  reading.out.op = Op::tuple_item;
  reading.out.dims = {*item};
  return reading.push(0);
}

bool read_getitem(Reading& reading) {
  const Node* base = reading.node_at(0);
  if (base == nullptr || reading.argument(1) == nullptr) return false;
  if (base->tensor) return read_tensor_item(reading, *base->tensor);
  const bool is_call = base->kind == NodeKind::call_function || base->kind == NodeKind::call_method ||
                       base->kind == NodeKind::call_module;
  return is_call && !base->size && read_tuple_item(reading, *base);
}

// input, dim, start, length
bool read_narrow(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : reading.dim(1, input->rank());
  auto start = reading.integer(2);
  const auto length = reading.integer(3);
  if (!dim || !start || !length || *length < 0) return false;
  const SymInt& size = input->shape[static_cast<std::size_t>(*dim)];
  if (*start < 0 && size.is_constant()) *start += size.value();
  if (*start < 0) return false;
  return push_slice(reading, *reading.argument(0), *dim, {SymInt(*start), SymInt(*start + *length)});
}

bool read_select(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : reading.dim(1, input->rank());
  const auto index = reading.integer(2);
  return dim && index && push_select(reading, 0, *dim, *index);
}

// input, indices: what vmap makes of x[i, j]
bool read_aten_index(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr || reading.argument(1) == nullptr) return false;
  IndexReader reader(reading.graph, *input);
  if (!reader.read(items_of(*reading.argument(1))) || reader.index.tensors.empty()) return false;
  return !reader.index.new_dims && reader.index.parts.empty() && push_index(reading, reader.index.tensors);
}

// input, in_dim, level
bool read_batch(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : reading.dim(1, input->rank());
  const auto level = reading.integer(2);
  if (!dim || !level || reading.result().rank() + 1 != input->rank()) return false;
  reading.out.dims = {*dim, *level};
  return reading.push(0) && reading.done();
}

// input, level, batch_size, out_dim
bool read_unbatch(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto level = reading.integer(1);
  const auto dim = reading.dim(3, reading.result().rank());
  if (input == nullptr || !dim || !level || reading.result().rank() != input->rank() + 1) return false;
  reading.out.dims = {*dim, *level};
  return reading.push(0) && reading.done();
}

constexpr Spelling kSpellings[] = {
    {"operator.getitem .__getitem__", "input index", read_getitem, Op::slice, Aliasing::first},
    {"aten::index aten::index.Tensor", "input indices", read_aten_index, Op::index},
    {"torch._functorch.predispatch._add_batch_dim", "input in_dim level", read_batch, Op::batch, Aliasing::first},
    {"torch._functorch.predispatch._remove_batch_dim", "input level batch_size out_dim", read_unbatch, Op::unbatch,
     Aliasing::first},
    {"torch.narrow .narrow", "input dim start length", read_narrow, Op::slice, Aliasing::first},
    {"torch.select .select", "input dim index", read_select, Op::select, Aliasing::first},
    {"torch.chunk .chunk", "input chunks dim", read_split_item, Op::opaque, Aliasing::first, false},
    {"torch.split .split torch.functional.split torch.split_with_sizes .split_with_sizes",
     "input/tensor split_size/split_size_or_sections dim", read_split_item, Op::opaque, Aliasing::first, false},
    {"torch.unbind .unbind", "input dim", read_unbind_item, Op::opaque, Aliasing::first, false},
};

}  // namespace

SpellingTable slice_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
