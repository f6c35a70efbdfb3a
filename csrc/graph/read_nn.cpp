// Matrix products and the functions of torch.nn: activations, norms, attention, losses, lookups.
#include <algorithm>
#include <array>

#include "graph/reading.h"

namespace liger::graph {
namespace {

void add_attribute(Reading& reading, std::string_view name, Value value) {
  reading.out.attributes.push_back({name, std::move(value)});
}

// A float argument: a literal as double, a scalar node as it is.
bool add_real(Reading& reading, std::string_view name, std::size_t parameter, Value missing) {
  const Value* value = reading.argument(parameter);
  if (value == nullptr) {
    add_attribute(reading, name, std::move(missing));
  } else if (const auto literal = number_of(*value)) {
    add_attribute(reading, name, *literal);
  } else if (std::holds_alternative<NodeRef>(*value) && !tensor_of(reading.graph, *value)) {
    add_attribute(reading, name, NodeRef{reading.resolve(std::get<NodeRef>(*value).id)});
  } else {
    const bool both_none = std::holds_alternative<None>(*value) && std::holds_alternative<None>(missing);
    if (both_none) add_attribute(reading, name, None{});
    return both_none;
  }
  return true;
}

bool add_integer(Reading& reading, std::string_view name, std::size_t parameter, std::int64_t missing) {
  const auto value = reading.argument(parameter) == nullptr ? missing : reading.integer(parameter);
  if (value) add_attribute(reading, name, *value);
  return value.has_value();
}

bool add_boolean(Reading& reading, std::string_view name, std::size_t parameter, bool missing) {
  const auto value = reading.boolean(parameter, missing);
  if (value) add_attribute(reading, name, *value);
  return value.has_value();
}

bool is_false_or_missing(const Reading& reading, std::size_t parameter) {
  return reading.boolean(parameter, false) == false;
}

bool read_matmul(Reading& reading) { return reading.push_tensor(0) && reading.push_tensor(1) && reading.done(); }

bool read_linear(Reading& reading) {
  return reading.push_tensor(0) && reading.push_tensor(1) && reading.push_optional_tensor(2) && reading.done();
}

// input, inplace
bool read_activation(Reading& reading) {
  return is_false_or_missing(reading, 1) && reading.push_tensor(0) && reading.done();
}

bool read_gelu(Reading& reading) {
  const Value* given = reading.argument(1);
  const auto* approximate = given == nullptr ? nullptr : std::get_if<std::string>(given);
  if (given != nullptr && (approximate == nullptr || (*approximate != "none" && *approximate != "tanh"))) return false;
  add_attribute(reading, "approximate", approximate == nullptr ? std::string("none") : *approximate);
  return reading.push_tensor(0) && reading.done();
}

// input, p, training, inplace
bool push_dropout(Reading& reading, std::optional<bool> training) {
  if (!training || !is_false_or_missing(reading, 3) || reading.tensor_at(0) == nullptr) return false;
  const Value* p = reading.argument(1);
  const bool keeps_all = p != nullptr && number_of(*p) == 0.0;
  if (keeps_all || !*training) return reading.identity(0);
  return reading.push(0) && add_real(reading, "p", 1, 0.5) && reading.done();
}

bool read_functional_dropout(Reading& reading) { return push_dropout(reading, reading.boolean(2, true)); }
// torch.dropout(input, p, train): all three are required.
bool read_dropout(Reading& reading) {
  return reading.is_given(1) && reading.is_given(2) && push_dropout(reading, reading.boolean(2, true));
}

// The last dims of the input, if `shape` is theirs.
bool read_normalized_dims(Reading& reading, std::size_t parameter) {
  const TensorMeta* input = reading.tensor_at(0);
  if (input == nullptr || reading.argument(parameter) == nullptr) return false;
  const auto sizes = items_of(*reading.argument(parameter));
  if (sizes.empty() || sizes.size() > input->rank()) return false;
  const std::size_t first = input->rank() - sizes.size();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto size = integer_of(reading.graph, *sizes[i]);
    if (!size || input->shape[first + i] != SymInt(*size)) return false;
    reading.out.dims.push_back(static_cast<std::int64_t>(first + i));
  }
  return true;
}

// input, normalized_shape, weight, bias, eps
bool read_layer_norm(Reading& reading) {
  return read_normalized_dims(reading, 1) && reading.push_tensor(0) && reading.push_optional_tensor(2) &&
         reading.push_optional_tensor(3) && add_real(reading, "eps", 4, 1e-5) && reading.done();
}

// input, normalized_shape, weight, eps
bool read_rms_norm(Reading& reading) {
  return read_normalized_dims(reading, 1) && reading.push_tensor(0) && reading.push_optional_tensor(2) &&
         add_real(reading, "eps", 3, None{}) && reading.done();
}

// query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
bool read_attention(Reading& reading) {
  for (std::size_t i = 0; i < 3; ++i) {
    if (!reading.push_tensor(i)) return false;
  }
  return reading.push_optional_tensor(3) && add_real(reading, "dropout_p", 4, 0.0) &&
         add_boolean(reading, "is_causal", 5, false) && add_real(reading, "scale", 6, None{}) &&
         add_boolean(reading, "enable_gqa", 7, false) && reading.done();
}

// Class indices; floating targets are probabilities, another function.
bool push_classified(Reading& reading, const std::string& reduction) {
  const TensorMeta* target = reading.tensor_at(1);
  const bool known = reduction == "mean" || reduction == "sum" || reduction == "none";
  if (!known || target == nullptr || !is_integral(target->dtype) || target->dtype == DType::boolean) return false;
  if (!reading.push_tensor(0) || !reading.push_tensor(1) || !reading.push_optional_tensor(2)) return false;
  add_attribute(reading, "reduction", reduction);
  return true;
}

std::string reduction_at(const Reading& reading, std::size_t parameter) {
  const Value* value = reading.argument(parameter);
  if (value == nullptr) return "mean";
  const auto* name = std::get_if<std::string>(value);
  return name == nullptr ? "" : *name;
}

// input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
bool push_loss(Reading& reading) {
  if (reading.is_given(3) || reading.is_given(5)) return false;
  return push_classified(reading, reduction_at(reading, 6)) && add_integer(reading, "ignore_index", 4, -100);
}

bool read_cross_entropy(Reading& reading) {
  return push_loss(reading) && add_real(reading, "label_smoothing", 7, 0.0) && reading.done();
}

bool read_nll_loss(Reading& reading) { return push_loss(reading) && reading.done(); }

// input, target, weight, reduction as a number, ignore_index, label_smoothing
bool read_cross_entropy_loss(Reading& reading) {
  constexpr std::array<const char*, 3> reductions = {"none", "mean", "sum"};
  const auto code = reading.argument(3) == nullptr ? 1 : reading.integer(3);
  if (!code || *code < 0 || *code > 2) return false;
  return push_classified(reading, reductions[static_cast<std::size_t>(*code)]) &&
         add_integer(reading, "ignore_index", 4, -100) && add_real(reading, "label_smoothing", 5, 0.0) &&
         reading.done();
}

// padding_idx, scale_grad_by_freq and sparse change the gradient only.
bool push_embedding(Reading& reading, std::size_t indices, std::size_t weight, std::size_t padding_idx,
                    std::size_t scale_grad_by_freq) {
  const Value* padding = reading.argument(padding_idx);
  const auto literal = padding == nullptr ? std::nullopt : integer_of(reading.graph, *padding);
  if (reading.is_given(padding_idx) && !literal) return false;
  add_attribute(reading, "padding_idx", literal ? Value(*literal) : Value(None{}));
  return reading.push_tensor(indices) && reading.push_tensor(weight) &&
         add_boolean(reading, "scale_grad_by_freq", scale_grad_by_freq, false) &&
         add_boolean(reading, "sparse", scale_grad_by_freq + 1, false) && reading.done();
}

// input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse; norm_type belongs to max_norm
bool read_functional_embedding(Reading& reading) { return !reading.is_given(3) && push_embedding(reading, 0, 1, 2, 5); }
// weight, input, padding_idx, scale_grad_by_freq, sparse
bool read_embedding(Reading& reading) { return push_embedding(reading, 1, 0, 2, 3); }

// input, dim, index, sparse_grad
bool read_gather(Reading& reading) {
  const TensorMeta* input = reading.tensor_at(0);
  const auto dim = input == nullptr ? std::nullopt : reading.dim(1, input->rank());
  if (!dim || !is_false_or_missing(reading, 3)) return false;
  reading.out.dims = {*dim};
  return reading.push(0) && reading.push_tensor(2) && reading.done();
}

bool push_pad(Reading& reading, std::size_t value) {
  if (reading.argument(1) == nullptr) return false;
  bool is_zero = true;
  for (const Value* amount : items_of(*reading.argument(1))) {
    const auto literal = integer_of(reading.graph, *amount);
    if (!literal) return false;
    is_zero = is_zero && *literal == 0;
  }
  if (is_zero && reading.identity(0)) return true;
  add_attribute(reading, "pad", *reading.argument(1));
  add_attribute(reading, "value", reading.is_given(value) ? *reading.argument(value) : Value(std::int64_t{0}));
  return number_of(reading.out.attributes.back().value) && reading.push_tensor(0) && reading.done();
}

// input, pad, mode, value
bool read_functional_pad(Reading& reading) {
  const Value* given = reading.argument(2);
  const auto* mode = given == nullptr ? nullptr : std::get_if<std::string>(given);
  return (given == nullptr || (mode != nullptr && *mode == "constant")) && push_pad(reading, 3);
}
bool read_pad(Reading& reading) { return push_pad(reading, 2); }

constexpr Spelling kSpellings[] = {
    {"operator.matmul torch.matmul .matmul .__matmul__", "input other", read_matmul, Op::matmul},
    {"torch.mm .mm torch.bmm .bmm", "input mat2", read_matmul, Op::matmul},
    {"F.linear", "input weight bias", read_linear, Op::linear},
    {"F.silu", "input inplace", read_activation, Op::silu},
    {"F.relu torch.relu .relu", "input inplace", read_activation, Op::relu},
    {"F.gelu", "input * approximate", read_gelu, Op::gelu},
    {"F.dropout", "input p training inplace", read_functional_dropout, Op::dropout, Aliasing::first},
    {"torch.dropout", "input p train", read_dropout, Op::dropout, Aliasing::first},
    {"F.layer_norm", "input normalized_shape weight bias eps", read_layer_norm, Op::layer_norm},
    {"torch.layer_norm", "input normalized_shape weight bias eps cudnn_enable", read_layer_norm, Op::layer_norm},
    {"F.rms_norm torch.rms_norm", "input normalized_shape weight eps", read_rms_norm, Op::rms_norm},
    {"F.scaled_dot_product_attention", "query key value attn_mask dropout_p is_causal * scale enable_gqa",
     read_attention, Op::attention},
    {"F.cross_entropy", "input target weight size_average ignore_index reduce reduction label_smoothing",
     read_cross_entropy, Op::cross_entropy},
    {"torch._C._nn.cross_entropy_loss", "self/input target weight reduction ignore_index label_smoothing",
     read_cross_entropy_loss, Op::cross_entropy},
    {"torch.nn.functional.nll_loss", "input target weight size_average ignore_index reduce reduction", read_nll_loss,
     Op::nll_loss},
    {"F.embedding", "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse", read_functional_embedding,
     Op::embedding},
    {"torch.embedding", "weight input/indices padding_idx scale_grad_by_freq sparse", read_embedding, Op::embedding},
    {"torch.gather .gather", "input dim index * sparse_grad", read_gather, Op::gather},
    {"F.pad", "input pad mode value", read_functional_pad, Op::pad, Aliasing::first},
    {"torch.constant_pad_nd", "input pad value", read_pad, Op::pad, Aliasing::first},
};

}  // namespace

SpellingTable nn_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
