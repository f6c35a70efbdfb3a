#include "rewrite/mask/value.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace liger::rewrite::mask {

namespace {

using graph::DType;

constexpr double kExactInDouble = 9007199254740992.0;  // 2^53
constexpr std::int64_t kPlausible = std::int64_t{1} << 40;

// A variable that a condition leaves one value, 0: where it holds, the variable may be replaced.
std::optional<std::int32_t> variable_at_zero(const Condition& condition) {
  const bool is_comparison =
      condition.kind() == Condition::Kind::not_negative || condition.kind() == Condition::Kind::zero;
  if (!is_comparison || condition.form().constant() != 0 || condition.form().terms().size() != 1) return std::nullopt;
  const Linear::Term& term = condition.form().terms().begin()->second;
  const bool bounds_above = condition.kind() == Condition::Kind::zero || term.coefficient < 0;
  if (term.atom->kind != Atom::Kind::variable || !bounds_above) return std::nullopt;
  return term.atom->variable;
}

// `chosen` is what `other` gives anyway, in the one place where the condition holds.
bool is_superfluous(const Condition& by, const Value& chosen, const Value& other) {
  const auto variable = variable_at_zero(by);
  if (!variable) return false;
  const auto at_zero = [&](const Atom& atom) -> std::optional<Linear> {
    const bool is_it = atom.kind == Atom::Kind::variable && atom.variable == *variable;
    return is_it ? std::optional<Linear>(Linear(0)) : std::nullopt;
  };
  return text(substitute(chosen, at_zero)) == text(substitute(other, at_zero));
}

std::string exact_text(double value) {  // to_string would make equal text of different numbers
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.17g", value);
  return text.data();
}

struct Format {
  int precision = 0;  // bits, the implicit one included
  double largest = 0;
};

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return {53, 1.7976931348623157e308};
    case DType::float32:
      return {24, 3.4028234663852886e38};
    case DType::float16:
      return {11, 65504.0};
    case DType::bfloat16:
      return {8, 3.3895313892515355e38};
    default:
      return {};
  }
}

// The number in a float dtype: itself where it is representable, infinite where it is too large, else not known.
Value rounded(double value, DType dtype) {
  const Format format = format_of(dtype);
  if (format.precision == 0) return nullptr;
  if (std::isinf(value)) return number(value);
  if (std::fabs(value) >= format.largest * (1 + std::ldexp(1.0, -format.precision))) {
    return number(std::copysign(HUGE_VAL, value));
  }
  int exponent = 0;
  const double digits = std::ldexp(std::frexp(value, &exponent), format.precision);
  return std::trunc(digits) == digits && std::fabs(value) <= format.largest ? number(value) : nullptr;
}

std::int64_t largest_integer(DType dtype) {
  switch (dtype) {
    case DType::int64:
      return kPlausible;
    case DType::int32:
      return (std::int64_t{1} << 31) - 1;
    case DType::int16:
      return (std::int64_t{1} << 15) - 1;
    case DType::int8:
      return 127;
    case DType::uint8:
      return 255;
    default:
      return std::int64_t{1} << format_of(dtype).precision;  // up to here all integers are representable
  }
}

}  // namespace

Value integer(Linear form) {
  Element element;
  element.integer = std::move(form);
  return std::make_shared<const Element>(std::move(element));
}

Value number(double value) {
  if (std::trunc(value) == value && std::fabs(value) <= kExactInDouble)
    return integer(static_cast<std::int64_t>(value));
  Element element;
  element.kind = Element::Kind::real;
  element.real = value;
  return std::make_shared<const Element>(std::move(element));
}

Value condition(Condition condition) {
  Element element;
  element.kind = Element::Kind::condition;
  element.condition = std::move(condition);
  return std::make_shared<const Element>(std::move(element));
}

Value choice(const Condition& by, const Value& chosen, const Value& other) {
  if (!chosen || !other) return nullptr;
  if (by.is(true)) return chosen;
  if (by.is(false)) return other;
  if (chosen->kind == Element::Kind::condition && other->kind == Element::Kind::condition) {
    return condition(Condition::any_of(
        {Condition::all_of({by, chosen->condition}), Condition::all_of({by.negated(), other->condition})}));
  }
  if (text(chosen) == text(other) || is_superfluous(by, chosen, other)) return other;
  if (is_superfluous(by.negated(), other, chosen)) return chosen;
  Element element;
  element.kind = Element::Kind::choice;
  element.condition = by;
  element.chosen = chosen;
  element.other = other;
  return std::make_shared<const Element>(std::move(element));
}

std::string text(const Value& value) {
  switch (value->kind) {
    case Element::Kind::integer:
      return value->integer.text();
    case Element::Kind::real:
      return exact_text(value->real);
    case Element::Kind::condition:
      return value->condition.text();
    case Element::Kind::choice:
      break;
  }
  return "(" + text(value->chosen) + " if " + value->condition.text() + " else " + text(value->other) + ")";
}

Value substitute(const Value& value, const std::function<std::optional<Linear>(const Atom&)>& replacement) {
  switch (value->kind) {
    case Element::Kind::integer:
      return integer(value->integer.substitute(replacement));
    case Element::Kind::real:
      return value;
    case Element::Kind::condition:
      return condition(value->condition.substitute(replacement));
    case Element::Kind::choice:
      break;
  }
  return choice(value->condition.substitute(replacement), substitute(value->chosen, replacement),
                substitute(value->other, replacement));
}

Value map(const Value& value, const std::function<Value(const Element&)>& function) {
  if (!value || value->kind != Element::Kind::choice) return value ? function(*value) : nullptr;
  return choice(value->condition, map(value->chosen, function), map(value->other, function));
}

Value map(const Value& a, const Value& b, const std::function<Value(const Element&, const Element&)>& function) {
  return map(a,
             [&](const Element& left) { return map(b, [&](const Element& right) { return function(left, right); }); });
}

Value as_number(const Value& value) {
  return map(value, [](const Element& leaf) {
    if (leaf.kind == Element::Kind::condition) return choice(leaf.condition, integer(1), integer(0));
    return std::make_shared<const Element>(leaf);
  });
}

Value as_condition(const Value& value) {
  return map(value, [](const Element& leaf) {
    if (leaf.kind == Element::Kind::integer) return condition(Condition::not_zero(leaf.integer));
    if (leaf.kind == Element::Kind::real) return condition(Condition::constant(leaf.real != 0));
    return std::make_shared<const Element>(leaf);
  });
}

bool fits(const Linear& form, DType dtype) {
  if (form.has_elements()) return graph::is_integral(dtype);
  const std::int64_t range = largest_integer(dtype);
  if (dtype == DType::int64) {
    const auto is_plausible = [&](std::int64_t value) { return value <= range && value >= -range; };
    bool all = is_plausible(form.constant());
    for (const auto& entry : form.terms()) all = all && is_plausible(entry.second.coefficient);
    return all;
  }
  const auto lower = form.lower_bound(), upper = form.upper_bound();
  return lower && upper && *lower >= (dtype == DType::uint8 ? 0 : -range) && *upper <= range;
}

Value converted(const Value& value, DType from, DType to) {
  if (from == to || !value) return value;
  if (to == DType::boolean) return as_condition(value);
  const bool widens = graph::is_integral(from) && to == DType::int64;
  return map(as_number(value), [&](const Element& leaf) -> Value {
    const bool is_constant = leaf.kind == Element::Kind::real || leaf.integer.is_constant();
    if (is_constant && graph::is_floating(to)) {
      return rounded(leaf.kind == Element::Kind::real ? leaf.real : static_cast<double>(leaf.integer.constant()), to);
    }
    if (leaf.kind == Element::Kind::real) return nullptr;
    const bool keeps = leaf.integer.has_elements() ? widens && leaf.integer.is_element() : fits(leaf.integer, to);
    return keeps ? std::make_shared<const Element>(leaf) : nullptr;
  });
}

}  // namespace liger::rewrite::mask
