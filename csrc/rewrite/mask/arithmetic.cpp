#include <cmath>

#include "rewrite/mask/value.h"

namespace liger::rewrite::mask {

namespace {

using graph::DType;
using graph::Op;

std::optional<double> constant_of(const Element& element) {
  if (element.kind == Element::Kind::real) return element.real;
  const bool is_constant = element.kind == Element::Kind::integer && element.integer.is_constant();
  return is_constant ? std::optional<double>(static_cast<double>(element.integer.constant())) : std::nullopt;
}

Value combine_constants(Op op, double a, double b) {
  const auto known = [](double value) { return std::isnan(value) ? nullptr : number(value); };
  switch (op) {
    case Op::add:
      return known(a + b);
    case Op::sub:
      return known(a - b);
    case Op::mul:
      return known(a * b);
    case Op::neg:
      return known(-a);
    case Op::abs:
      return known(std::fabs(a));
    case Op::minimum:
      return known(std::fmin(a, b));
    case Op::maximum:
      return known(std::fmax(a, b));
    default:
      return nullptr;
  }
}

std::optional<Linear> product(const Linear& a, const Linear& b) {
  if (b.is_constant()) return a.scaled(b.constant());
  return a.is_constant() ? b.scaled(a.constant()) : std::nullopt;
}

// a where a >= b, else b; torch's integers wrap, so elements are not ordered after arithmetic.
Value larger(const Linear& a, const Linear& b, const Linear& if_larger, const Linear& otherwise) {
  const auto difference = Linear::sum(a, b, -1);
  if (!difference || difference->has_elements()) return nullptr;
  return choice(Condition::not_negative(*difference), integer(if_larger), integer(otherwise));
}

std::optional<Linear> combine_forms(Op op, const Linear& a, const Linear& b, DType dtype) {
  switch (op) {
    case Op::add:
      return Linear::sum(a, b);
    case Op::sub:
      return Linear::sum(a, b, -1);
    case Op::mul:
      return product(a, b);
    case Op::neg:
      return a.scaled(-1);
    case Op::floor_div:
      if (!graph::is_integral(dtype) || !b.is_constant() || b.constant() < 1) return std::nullopt;
      return Linear::floor_of(a, b.constant());
    default:
      return std::nullopt;
  }
}

// small <= large; an element may be compared as it is, but not after arithmetic that may have wrapped.
Value ordered(const Linear& small, const Linear& large, std::int64_t distance) {
  const bool small_wraps = small.has_elements() && !small.is_element();
  const bool large_wraps = large.has_elements() && !large.is_element();
  if (small_wraps || large_wraps || (small.has_elements() && large.has_elements())) return nullptr;
  const auto difference = Linear::sum(large, small, -1);
  const auto form = difference ? Linear::sum(*difference, Linear(distance), -1) : std::nullopt;
  return form ? condition(Condition::not_negative(*form)) : nullptr;
}

template <typename T>
bool compare_constants(Op op, T a, T b) {
  switch (op) {
    case Op::eq:
      return a == b;
    case Op::ne:
      return a != b;
    case Op::lt:
      return a < b;
    case Op::le:
      return a <= b;
    case Op::gt:
      return a > b;
    default:
      return a >= b;
  }
}

}  // namespace

Value combine(Op op, const Element& a, const Element& b, DType dtype) {
  const auto left = constant_of(a), right = constant_of(b);
  const bool has_real = a.kind == Element::Kind::real || b.kind == Element::Kind::real;
  if (has_real) return left && right && !graph::is_integral(dtype) ? combine_constants(op, *left, *right) : nullptr;
  if (op == Op::abs || op == Op::minimum || op == Op::maximum) {
    const Linear opposite = a.integer.scaled(-1).value_or(a.integer);
    if (op == Op::abs) return larger(a.integer, Linear(0), a.integer, opposite);
    const bool is_maximum = op == Op::maximum;
    return larger(a.integer, b.integer, is_maximum ? a.integer : b.integer, is_maximum ? b.integer : a.integer);
  }
  const auto form = combine_forms(op, a.integer, b.integer, dtype);
  return form && fits(*form, dtype) ? integer(*form) : nullptr;
}

Value compare(Op op, const Element& a, const Element& b) {
  if (a.kind == Element::Kind::real || b.kind == Element::Kind::real) {
    const auto left = constant_of(a), right = constant_of(b);
    return left && right ? condition(Condition::constant(compare_constants(op, *left, *right))) : nullptr;
  }
  switch (op) {
    case Op::lt:
      return ordered(a.integer, b.integer, 1);
    case Op::le:
      return ordered(a.integer, b.integer, 0);
    case Op::gt:
      return ordered(b.integer, a.integer, 1);
    case Op::ge:
      return ordered(b.integer, a.integer, 0);
    default:
      break;
  }
  const auto difference = Linear::sum(a.integer, b.integer, -1);
  if (!difference) return nullptr;
  return condition(op == Op::eq ? Condition::zero(*difference) : Condition::not_zero(*difference));
}

}  // namespace liger::rewrite::mask
