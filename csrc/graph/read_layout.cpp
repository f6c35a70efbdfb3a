// Shape and order of elements: reshape, permute, expand, and joining tensors.
#include <algorithm>
#include <numeric>

#include "graph/reading.h"

namespace liger::graph {
namespace {

// Known numbers of elements that differ would mean that this is no reshape after all.
bool same_element_count(const TensorMeta& a, const TensorMeta& b) {
  std::int64_t count[2] = {1, 1};
  const TensorMeta* metas[2] = {&a, &b};
  for (int i = 0; i < 2; ++i) {
    for (const SymInt& size : metas[i]->shape) {
      if (!size.is_constant()) return true;
      count[i] *= size.value();
    }
  }
  return count[0] == count[1];
}

// All these functions keep the elements in row-major order, so the node's shape says everything.
bool read_reshape(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr || input->dtype != reading.result().dtype) return false;
  if (!same_element_count(*input, reading.result())) return false;
  return reading.identity(0) || (reading.push(0) && reading.done());
}

// `view(dtype)` reads the bits as another type.
bool read_view(Reading& reading) {
  std::vector<const Value*> sizes;
  if (!reading.variadic(1, sizes) || sizes.empty()) return false;
  for (const Value* size : sizes) {
    if (!std::holds_alternative<std::int64_t>(*size) && !std::holds_alternative<NodeRef>(*size)) return false;
  }
  return read_reshape(reading);
}

bool push_permutation(Reading& reading, std::vector<std::int64_t> permutation) {
  const bool moves = !std::is_sorted(permutation.begin(), permutation.end());
  if (!moves && reading.identity(0)) return true;
  reading.out.dims = std::move(permutation);
  return reading.push_tensor(0) && reading.result().rank() == reading.out.dims.size() && reading.done();
}

std::vector<std::int64_t> unpermuted(std::size_t rank) {
  std::vector<std::int64_t> permutation(rank);
  std::iota(permutation.begin(), permutation.end(), 0);
  return permutation;
}

bool push_transposed(Reading& reading, std::int64_t first, std::int64_t second) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr) return false;
  const auto a = normalized_dim(first, input->rank()), b = normalized_dim(second, input->rank());
  if (!a || !b) return false;
  auto permutation = unpermuted(input->rank());
  std::swap(permutation[static_cast<std::size_t>(*a)], permutation[static_cast<std::size_t>(*b)]);
  return push_permutation(reading, std::move(permutation));
}

bool read_transpose(Reading& reading) {
  const auto first = reading.integer(1), second = reading.integer(2);
  return first && second && push_transposed(reading, *first, *second);
}

// Matrices only: on vectors `t` does nothing.
bool read_t(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr) return false;
  return input->rank() == 2 ? push_transposed(reading, 0, 1) : reading.identity(0);
}

bool read_permute(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  std::vector<const Value*> items;
  if (input == nullptr || !reading.variadic(1, items) || items.size() != input->rank()) return false;
  std::vector<std::int64_t> permutation;
  for (const Value* item : items) {
    const auto literal = integer_of(reading.graph, *item);
    const auto dim = literal ? normalized_dim(*literal, input->rank()) : std::nullopt;
    if (!dim || std::find(permutation.begin(), permutation.end(), *dim) != permutation.end()) return false;
    permutation.push_back(*dim);
  }
  return push_permutation(reading, std::move(permutation));
}

bool read_movedim(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr) return false;
  const auto source = reading.dim(1, input->rank()), destination = reading.dim(2, input->rank());
  if (!source || !destination) return false;
  auto permutation = unpermuted(input->rank());
  permutation.erase(permutation.begin() + *source);
  permutation.insert(permutation.begin() + *destination, *source);
  return push_permutation(reading, std::move(permutation));
}

// x.T, x.mT; on real tensors x.H and x.mH are the same.
bool read_attribute(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const Value* argument = reading.argument(1);
  const auto* name = argument == nullptr ? nullptr : std::get_if<std::string>(argument);
  if (input == nullptr || name == nullptr || reading.argument(2) != nullptr) return false;
  const bool is_real = is_floating(input->dtype) || is_integral(input->dtype);
  const bool conjugates = *name == "H" || *name == "mH";
  if (conjugates ? !is_real : *name != "T" && *name != "mT") return false;
  if (*name == "T") {
    auto permutation = unpermuted(input->rank());
    std::reverse(permutation.begin(), permutation.end());
    return push_permutation(reading, std::move(permutation));
  }
  if (*name == "H" && input->rank() != 2) return false;
  return push_transposed(reading, -2, -1);
}

bool read_expand(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr || input->dtype != reading.result().dtype || input->rank() > reading.result().rank()) {
    return false;
  }
  return reading.identity(0) || (reading.push(0) && reading.done());
}

// Only repeating everything once is understood.
bool read_repeat(Reading& reading) {
  std::vector<const Value*> repeats;
  if (!reading.variadic(1, repeats)) return false;
  const bool once = std::all_of(repeats.begin(), repeats.end(), [](const Value* repeat) {
    const auto* literal = std::get_if<std::int64_t>(repeat);
    return literal != nullptr && *literal == 1;
  });
  return once && reading.identity(0);
}

bool has_no_elements(const TensorMeta& tensor) {
  return std::any_of(tensor.shape.begin(), tensor.shape.end(),
                     [](const SymInt& size) { return size.is_constant() && size.value() == 0; });
}

bool push_all(Reading& reading, const std::vector<const Value*>& tensors) {
  for (const Value* tensor : tensors) {
    if (tensor_of(reading.graph, *tensor) == nullptr || !reading.push_value(tensor)) return false;
  }
  return !tensors.empty();
}

// Tensors without elements add nothing (torch even accepts a 1-D one of another rank); the last one left is the result.
bool read_concat(Reading& reading) {
  const std::size_t rank = reading.result().rank();
  const auto dim = reading.dim_or(1, rank, 0);
  if (!dim || !reading.is_given(0)) return false;
  std::vector<const Value*> tensors;
  for (const Value* item : items_of(*reading.argument(0))) {
    const TensorMeta* tensor = tensor_of(reading.graph, *item);
    if (tensor == nullptr) return false;
    if (!has_no_elements(*tensor)) tensors.push_back(item);
  }
  if (tensors.size() == 1 && reading.identity_of(*tensors[0])) return true;
  reading.out.dims = {*dim};
  return push_all(reading, tensors) && reading.done();
}

bool read_stack(Reading& reading) {
  const auto dim = reading.dim_or(1, reading.result().rank(), 0);
  if (!dim || !reading.is_given(0)) return false;
  reading.out.dims = {*dim};
  return push_all(reading, items_of(*reading.argument(0))) && reading.done();
}

constexpr Spelling kSpellings[] = {
    {".view", "input size/shape...", read_view, Op::reshape, Aliasing::first},
    {".reshape", "input shape...", read_view, Op::reshape, Aliasing::first},
    {"torch.reshape", "input shape", read_reshape, Op::reshape, Aliasing::first},
    {".view_as .reshape_as", "input other", read_reshape, Op::reshape, Aliasing::first},
    {"torch.flatten .flatten", "input start_dim end_dim", read_reshape, Op::reshape, Aliasing::first},
    {"torch.ravel .ravel", "input", read_reshape, Op::reshape, Aliasing::first},
    {"torch.unflatten", "input dim sizes", read_reshape, Op::reshape, Aliasing::first},
    {".unflatten", "input dim sizes", read_reshape, Op::reshape, Aliasing::first},
    {"torch.squeeze .squeeze torch.unsqueeze .unsqueeze", "input dim/axis", read_reshape, Op::reshape, Aliasing::first},
    {"torch.transpose .transpose torch.swapaxes .swapaxes torch.swapdims .swapdims", "input dim0/axis0 dim1/axis1",
     read_transpose, Op::permute, Aliasing::first},
    {".permute", "input dims...", read_permute, Op::permute, Aliasing::first},
    {"torch.permute", "input dims", read_permute, Op::permute, Aliasing::first},
    {"torch.movedim .movedim torch.moveaxis .moveaxis", "input source destination", read_movedim, Op::permute,
     Aliasing::first},
    {"torch.t .t", "input", read_t, Op::permute, Aliasing::first},
    {"builtins.getattr", "input name default", read_attribute, Op::permute, Aliasing::first},
    {".expand", "input size... * implicit", read_expand, Op::expand, Aliasing::first},
    {".expand_as", "input other", read_expand, Op::expand, Aliasing::first},
    {"torch.broadcast_to .broadcast_to", "input size/shape", read_expand, Op::expand, Aliasing::first},
    {".repeat", "input repeats/sizes...", read_repeat, Op::identity},
    {"torch.cat torch.concat torch.concatenate", "tensors dim/axis", read_concat, Op::concat},
    {"torch.stack", "tensors dim", read_stack, Op::stack},
};

}  // namespace

SpellingTable layout_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
