// Reductions over dims, and what normalises or accumulates along one.
#include <algorithm>

#include "graph/reading.h"

namespace liger::graph {
namespace {

// A dtype argument converts the input first; only one that changes nothing is understood.
bool keeps_dtype(const Reading& reading, std::size_t parameter) {
  if (!reading.is_given(parameter)) return true;
  const auto* dtype = std::get_if<DType>(reading.argument(parameter));
  const TensorMeta* input = reading.tensor_at(0);
  return dtype != nullptr && *dtype != DType::other && input != nullptr && *dtype == input->dtype &&
         *dtype == reading.result().dtype;
}

std::vector<std::int64_t> all_dims(std::size_t rank) {
  std::vector<std::int64_t> dims(rank);
  for (std::size_t i = 0; i < rank; ++i) dims[i] = static_cast<std::int64_t>(i);
  return dims;
}

// Ascending and distinct. An empty list means all dims to some functions and none to others: not understood.
bool read_dims(const Reading& reading, const Value& argument, std::size_t rank, std::vector<std::int64_t>& dims) {
  for (const Value* item : items_of(argument)) {
    const auto literal = integer_of(reading.graph, *item);
    const auto dim = literal ? normalized_dim(*literal, rank) : std::nullopt;
    if (!dim) return false;
    dims.push_back(*dim);
  }
  std::sort(dims.begin(), dims.end());
  return !dims.empty() && std::adjacent_find(dims.begin(), dims.end()) == dims.end();
}

// input, dim, keepdim, dtype
bool push_reduction(Reading& reading, bool needs_dim) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto keepdim = reading.boolean(2, false);
  if (input == nullptr || !keepdim || !keeps_dtype(reading, 3)) return false;
  CanonicalNode& out = reading.out;
  if (reading.is_given(1)) {
    if (!read_dims(reading, *reading.argument(1), input->rank(), out.dims)) return false;
  } else if (needs_dim) {
    return false;
  } else {
    out.dims = all_dims(input->rank());
  }
  out.keepdim = *keepdim;
  const std::size_t rank = *keepdim ? input->rank() : input->rank() - out.dims.size();
  return rank == reading.result().rank() && reading.push(0) && reading.done();
}

bool read_reduction(Reading& reading) { return push_reduction(reading, false); }
bool read_logsumexp(Reading& reading) { return push_reduction(reading, true); }

bool push_along_dim(Reading& reading, std::size_t dim_parameter, std::size_t dtype_parameter) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr || !keeps_dtype(reading, dtype_parameter)) return false;
  const auto dim = reading.dim(dim_parameter, input->rank());
  if (!dim) return false;
  reading.out.dims = {*dim};
  return reading.push(0) && reading.done();
}

bool read_along_dim(Reading& reading) { return push_along_dim(reading, 1, 2); }
bool read_functional_softmax(Reading& reading) { return push_along_dim(reading, 1, 3); }

// input, n, dim, prepend, append: the first difference only
bool read_diff(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : reading.dim_or(2, input->rank(), -1);
  const bool is_first = reading.argument(1) == nullptr || reading.integer(1) == 1;
  if (!dim || !is_first) return false;
  reading.out.dims = {*dim};
  return reading.push(0) && reading.push_optional_tensor(3) && reading.push_optional_tensor(4) && reading.done();
}

constexpr Spelling kSpellings[] = {
    {"torch.mean .mean", "input dim/axis keepdim/keepdims * dtype", read_reduction, Op::mean},
    {"torch.sum .sum", "input dim/axis keepdim/keepdims * dtype", read_reduction, Op::sum},
    {"torch.logsumexp .logsumexp torch.special.logsumexp", "input dim/axis keepdim/keepdims", read_logsumexp,
     Op::logsumexp},
    {"torch.softmax .softmax", "input dim/axis dtype", read_along_dim, Op::softmax},
    {"torch.special.softmax", "input dim dtype", read_along_dim, Op::softmax},
    {"F.softmax", "input dim _stacklevel dtype", read_functional_softmax, Op::softmax},
    {"torch.log_softmax .log_softmax", "input dim/axis dtype", read_along_dim, Op::log_softmax},
    {"torch.special.log_softmax", "input dim * dtype", read_along_dim, Op::log_softmax},
    {"F.log_softmax", "input dim _stacklevel dtype", read_functional_softmax, Op::log_softmax},
    {"torch.cumsum .cumsum", "input dim/axis * dtype", read_along_dim, Op::cumsum},
    {"torch.diff .diff", "input n dim prepend append", read_diff, Op::diff},
};

}  // namespace

SpellingTable reduction_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
