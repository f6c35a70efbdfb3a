// Elementwise ops: one or two operands, comparisons, logic, clamp, where.
#include <cmath>

#include "graph/reading.h"

namespace liger::graph {
namespace {

std::optional<double> number_at(const Reading& reading, std::size_t parameter) {
  const Value* value = reading.argument(parameter);
  return value == nullptr ? std::nullopt : number_of(*value);
}

bool read_unary(Reading& reading) { return reading.push_tensor(0) && reading.done(); }

// `input other`, at least one of them a tensor; the other may be a number or a scalar node.
bool push_pair(Reading& reading, std::size_t left, std::size_t right) {
  if (!reading.is_given(0) || !reading.is_given(1)) return false;
  if (reading.tensor_at(0) == nullptr && reading.tensor_at(1) == nullptr) return false;
  return reading.push(left) && reading.push(right);
}

bool read_binary(Reading& reading) { return push_pair(reading, 0, 1) && reading.done(); }
bool read_reversed(Reading& reading) { return push_pair(reading, 1, 0) && reading.done(); }

bool read_mul(Reading& reading) {
  if (number_at(reading, 1) == 1.0 && reading.identity(0)) return true;
  if (number_at(reading, 0) == 1.0 && reading.identity(1)) return true;
  return read_binary(reading);
}

// input / other; rounded down it is another op, and rounded to zero it is not understood.
bool read_div(Reading& reading) {
  if (reading.is_given(2)) {
    const auto* mode = std::get_if<std::string>(reading.argument(2));
    if (mode == nullptr || *mode != "floor" || !read_binary(reading)) return false;
    reading.out.op = Op::floor_div;
    return true;
  }
  if (number_at(reading, 1) == 1.0 && reading.identity(0)) return true;
  return read_binary(reading);
}

bool is_integral_zero(const Reading& reading, std::size_t parameter) {
  return number_at(reading, parameter) == 0.0 && is_integral(reading.result().dtype);
}

// input + alpha * other. Adding 0 to a float is no identity: it turns -0.0 into 0.0.
bool read_add(Reading& reading) {
  const bool has_alpha = reading.argument(2) != nullptr && number_at(reading, 2) != 1.0;
  if (!has_alpha) {
    if (is_integral_zero(reading, 1) && reading.identity(0)) return true;
    if (is_integral_zero(reading, 0) && reading.identity(1)) return true;
    return read_binary(reading);
  }
  const Value* other = reading.argument(1);
  const auto* factor = std::get_if<std::int64_t>(reading.argument(2));
  const auto* literal = other == nullptr ? nullptr : std::get_if<std::int64_t>(other);
  std::int64_t product = 0;
  if (factor == nullptr || literal == nullptr || __builtin_mul_overflow(*factor, *literal, &product)) return false;
  if (!reading.push_tensor(0)) return false;
  reading.out.operands.push_back({kNoNode, product});
  return reading.done();
}

// x - 0 keeps every float, -0.0 and nan included, as long as the zero is not -0.0.
bool read_sub(Reading& reading) {
  if (reading.argument(2) != nullptr && number_at(reading, 2) != 1.0) return false;
  const auto zero = number_at(reading, 1);
  if (zero == 0.0 && !std::signbit(*zero) && reading.identity(0)) return true;
  return read_binary(reading);
}

bool read_reversed_sub(Reading& reading) {
  if (reading.argument(2) != nullptr && number_at(reading, 2) != 1.0) return false;
  return read_reversed(reading);
}

bool read_pow(Reading& reading) {
  if (number_at(reading, 1) == 1.0 && reading.identity(0)) return true;
  return read_binary(reading);
}

bool read_square(Reading& reading) {
  if (!reading.push_tensor(0)) return false;
  reading.out.operands.push_back({kNoNode, std::int64_t{2}});
  return reading.done();
}

// torch.max(x, y) of two tensors; torch.max(x, dim) is something else.
bool read_extremum(Reading& reading) { return reading.push_tensor(0) && reading.push_tensor(1) && reading.done(); }

bool is_boolean(const Reading& reading, std::size_t parameter) {
  const TensorMeta* tensor = reading.tensor_at(parameter);
  if (tensor != nullptr) return tensor->dtype == DType::boolean;
  const Value* value = reading.argument(parameter);
  return value != nullptr && std::holds_alternative<bool>(*value);
}

bool read_logical(Reading& reading) {
  if (reading.result().dtype != DType::boolean || !is_boolean(reading, 0) || !is_boolean(reading, 1)) return false;
  return read_binary(reading);
}

bool read_logical_not(Reading& reading) {
  if (reading.result().dtype != DType::boolean || !is_boolean(reading, 0)) return false;
  return read_unary(reading);
}

bool read_compare(Reading& reading) { return reading.result().dtype == DType::boolean && read_binary(reading); }

bool read_clamp(Reading& reading) {
  if (!reading.is_given(1) && !reading.is_given(2)) return false;
  return reading.push_tensor(0) && reading.push(1) && reading.push(2) && reading.done();
}

bool read_clamp_max(Reading& reading) {
  return reading.is_given(1) && reading.push_tensor(0) && reading.push_value(nullptr) && reading.push(1) &&
         reading.done();
}

bool push_where(Reading& reading, std::size_t condition, std::size_t chosen, std::size_t other) {
  const TensorMeta* mask = reading.tensor_at(condition);
  if (mask == nullptr || mask->dtype != DType::boolean) return false;
  if (!reading.is_given(chosen) || !reading.is_given(other)) return false;
  return reading.push(condition) && reading.push(chosen) && reading.push(other) && reading.done();
}

bool read_where(Reading& reading) { return push_where(reading, 0, 1, 2); }         // condition, input, other
bool read_where_method(Reading& reading) { return push_where(reading, 1, 0, 2); }  // input, condition, other
bool read_masked_fill(Reading& reading) { return push_where(reading, 1, 2, 0); }   // input, mask, value

constexpr Spelling kSpellings[] = {
    {"operator.add torch.add .add .__add__ .__radd__", "input other * alpha", read_add, Op::add},
    {"operator.sub torch.sub .sub torch.subtract .subtract .__sub__", "input other * alpha", read_sub, Op::sub},
    {"torch.rsub .rsub .__rsub__", "input other * alpha", read_reversed_sub, Op::sub},
    {"operator.mul torch.mul .mul torch.multiply .multiply .__mul__ .__rmul__", "input other", read_mul, Op::mul},
    {"operator.truediv torch.div .div torch.divide .divide torch.true_divide .true_divide .__truediv__",
     "input other * rounding_mode", read_div, Op::div},
    {".__rtruediv__", "input other", read_reversed, Op::div},
    {"operator.floordiv torch.floor_divide .floor_divide .__floordiv__", "input other", read_binary, Op::floor_div},
    {"operator.pow torch.pow .pow .__pow__", "input exponent", read_pow, Op::pow},
    {".__rpow__", "input other", read_reversed, Op::pow},
    {"torch.square .square", "input", read_square, Op::pow},
    {"operator.neg torch.neg .neg torch.negative .negative .__neg__", "input", read_unary, Op::neg},
    {"torch.sqrt .sqrt", "input", read_unary, Op::sqrt},
    {"torch.rsqrt .rsqrt", "input", read_unary, Op::rsqrt},
    {"torch.reciprocal .reciprocal", "input", read_unary, Op::reciprocal},
    {"torch.exp .exp", "input", read_unary, Op::exp},
    {"torch.log .log", "input", read_unary, Op::log},
    {"torch.log1p .log1p torch.special.log1p", "input", read_unary, Op::log1p},
    {"operator.abs torch.abs .abs torch.absolute .absolute .__abs__", "input", read_unary, Op::abs},
    {"torch.tanh .tanh F.tanh", "input", read_unary, Op::tanh},
    {"torch.sigmoid .sigmoid F.sigmoid torch.special.expit", "input", read_unary, Op::sigmoid},
    {"F.logsigmoid F.log_sigmoid", "input", read_unary, Op::log_sigmoid},
    {"torch.sin .sin", "input", read_unary, Op::sin},
    {"torch.cos .cos", "input", read_unary, Op::cos},
    {"torch.maximum .maximum torch.max .max", "input other", read_extremum, Op::maximum},
    {"torch.minimum .minimum torch.min .min", "input other", read_extremum, Op::minimum},
    {"torch.clamp .clamp torch.clip .clip", "input min max", read_clamp, Op::clamp},
    {"torch.clamp_min .clamp_min", "input min", read_clamp, Op::clamp},
    {"torch.clamp_max .clamp_max", "input max", read_clamp_max, Op::clamp},
    {"torch.where", "condition input/self other", read_where, Op::where},
    {".where", "input condition other", read_where_method, Op::where},
    {"torch.masked_fill .masked_fill", "input mask value", read_masked_fill, Op::where},
    {"operator.eq torch.eq .eq .__eq__", "input other", read_compare, Op::eq},
    {"operator.ne torch.ne .ne torch.not_equal .not_equal .__ne__", "input other", read_compare, Op::ne},
    {"operator.lt torch.lt .lt torch.less .less .__lt__", "input other", read_compare, Op::lt},
    {"operator.le torch.le .le torch.less_equal .less_equal .__le__", "input other", read_compare, Op::le},
    {"operator.gt torch.gt .gt torch.greater .greater .__gt__", "input other", read_compare, Op::gt},
    {"operator.ge torch.ge .ge torch.greater_equal .greater_equal .__ge__", "input other", read_compare, Op::ge},
    {"operator.and_ torch.logical_and .logical_and torch.bitwise_and .bitwise_and .__and__ .__rand__", "input other",
     read_logical, Op::logical_and},
    {"operator.or_ torch.logical_or .logical_or torch.bitwise_or .bitwise_or .__or__ .__ror__", "input other",
     read_logical, Op::logical_or},
    {"operator.invert operator.inv torch.logical_not .logical_not torch.bitwise_not .bitwise_not .__invert__", "input",
     read_logical_not, Op::logical_not},
};

}  // namespace

SpellingTable arithmetic_spellings() { return {std::begin(kSpellings), std::end(kSpellings)}; }

}  // namespace liger::graph
