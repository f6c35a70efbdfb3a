// Tensors made from numbers, numbers read from tensors, and functions that are opaque but known to make fresh tensors.
#include "graph/reading.h"

namespace liger::graph {
namespace {

// arange(end), arange(start, end), arange(start, end, step): the position of `end` depends on how many there are.
bool read_arange(Reading& reading) {
  const Value start = std::int64_t{0}, step = std::int64_t{1};
  const bool end_only = reading.argument(1) == nullptr;
  const Value* end = reading.argument(end_only ? 0 : 1);
  const Value* first = end_only || reading.argument(0) == nullptr ? &start : reading.argument(0);
  if (end == nullptr || (end_only && reading.node.args.empty())) return false;
  return reading.push_value(first) && reading.push_value(end) &&
         reading.push_value(reading.is_given(2) ? reading.argument(2) : &step) && reading.done();
}

bool push_filled(Reading& reading, const Value* value) {
  const bool is_number = value != nullptr && (number_of(*value) || std::holds_alternative<bool>(*value));
  const auto* ref = value == nullptr ? nullptr : std::get_if<NodeRef>(value);
  const bool is_scalar_node = ref != nullptr && !reading.graph[ref->id].tensor;
  return (is_number || is_scalar_node) && reading.push_value(value) && reading.done();
}

bool read_full(Reading& reading) { return push_filled(reading, reading.argument(1)); }
bool read_new_full(Reading& reading) { return push_filled(reading, reading.argument(2)); }
bool read_scalar(Reading& reading) { return push_filled(reading, reading.argument(0)); }
bool read_zeros(Reading& reading) {
  const Value zero = std::int64_t{0};
  return push_filled(reading, &zero);
}
bool read_ones(Reading& reading) {
  const Value one = std::int64_t{1};
  return push_filled(reading, &one);
}

// input, diagonal
bool read_triangle(Reading& reading) {
  const auto diagonal = reading.argument(1) == nullptr ? 0 : reading.integer(1);
  if (!diagonal) return false;
  reading.out.bounds = {SymInt(*diagonal)};
  return reading.push_tensor(0) && reading.done();
}

bool read_item(Reading& reading) { return reading.push_tensor(0) && reading.done(); }

constexpr std::string_view kFilledLike = "input * dtype layout device requires_grad memory_format pin_memory";

constexpr Spelling kSpellings[] = {
    {"torch.arange", "start end step * dtype layout device requires_grad pin_memory", read_arange, Op::arange},
    {"torch.full", "size fill_value * dtype layout device requires_grad pin_memory", read_full, Op::full},
    {"torch.full_like", "input fill_value * dtype layout device requires_grad memory_format pin_memory", read_full,
     Op::full},
    {".new_full", "input size fill_value * dtype layout device requires_grad pin_memory", read_new_full, Op::full},
    {"torch.zeros", "size... * dtype layout device requires_grad pin_memory", read_zeros, Op::full},
    {"torch.ones", "size... * dtype layout device requires_grad pin_memory", read_ones, Op::full},
    {".new_zeros", "input size... * dtype layout device requires_grad pin_memory", read_zeros, Op::full},
    {".new_ones", "input size... * dtype layout device requires_grad pin_memory", read_ones, Op::full},
    {"torch.zeros_like", kFilledLike, read_zeros, Op::full},
    {"torch.ones_like", kFilledLike, read_ones, Op::full},
    {"torch.tensor", "data * dtype device requires_grad pin_memory", read_scalar, Op::full},
    {"torch.scalar_tensor", "s * dtype layout device requires_grad pin_memory", read_scalar, Op::full},
    {"torch.tril .tril", "input diagonal", read_triangle, Op::tril},
    {"torch.triu .triu", "input diagonal", read_triangle, Op::triu},
    {".item", "input", read_item, Op::item, Aliasing::fresh, false},
    {"torch.empty torch.empty_like .new_empty .new_tensor torch.rand torch.randn torch.rand_like torch.randn_like "
     "torch.randint torch.linspace torch.eye torch.outer "
     "torch.baddbmm torch.addmm torch.addcmul torch.lerp torch.floor torch.ceil torch.round "
     "torch.isnan torch.isinf torch.isfinite .isnan .isinf .isfinite torch.erf .erf torch.expm1 .expm1 torch.exp2 "
     "torch.log2 torch.atan2 torch.fmod torch.remainder operator.mod torch.prod "
     ".prod torch.var .var torch.std .std torch.norm .norm torch.linalg.vector_norm torch.any .any torch.all .all "
     "torch.argmax .argmax torch.argmin .argmin torch.amax .amax torch.amin .amin torch.topk .topk torch.sort .sort "
     "torch.argsort .argsort torch.bincount .bincount torch.histc torch.cumprod torch.roll .roll "
     "torch.flip .flip torch.repeat_interleave .repeat_interleave torch.index_select .index_select "
     "torch.take_along_dim .take_along_dim .index_add .scatter torch.scatter .scatter_add torch.polar F.one_hot "
     "F.softplus F.normalize F.mse_loss F.kl_div F.binary_cross_entropy F.binary_cross_entropy_with_logits F.conv1d "
     "F.conv2d F.glu torch._grouped_mm operator.xor torch.nonzero .nonzero torch.bucketize torch.searchsorted",
     "unread...", nullptr, Op::opaque},
    {".size .dim .numel .stride .ndimension .is_contiguous .tolist .element_size .is_floating_point torch.numel "
     "torch.is_tensor torch.is_floating_point torch.sym_float torch.sym_int torch._C._log_api_usage_once",
     "unread...", nullptr, Op::opaque, Aliasing::fresh, false},
};

}  // namespace

SpellingTable creation_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
