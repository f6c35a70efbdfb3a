#include <algorithm>
#include <numeric>

#include "rewrite/mask/term.h"

namespace liger::rewrite::mask {

namespace {

std::int64_t common_divisor(const Linear& form) {
  std::int64_t divisor = 0;
  for (const auto& entry : form.terms()) divisor = std::gcd(divisor, entry.second.coefficient);
  return divisor;
}

Linear divided(const Linear& form, std::int64_t divisor) { return Linear::floor_of(form, divisor); }

// The same form with a positive first coefficient: f = 0 and -f = 0 are one condition.
Linear with_positive_lead(const Linear& form) {
  if (form.terms().begin()->second.coefficient > 0) return form;
  return form.scaled(-1).value_or(form);
}

bool is_always_at_least(const std::optional<Linear>& form, std::int64_t value) {
  if (!form) return false;
  const auto bound = form->lower_bound();
  return bound && *bound >= value;
}

}  // namespace

Condition Condition::constant(bool value) {
  Condition condition;
  condition.value_ = value;
  return condition;
}

Condition Condition::comparison(Kind kind, Linear form) {
  Condition condition;
  condition.kind_ = kind;
  condition.form_ = std::move(form);
  return condition;
}

// g * f + c >= 0 is f + floor(c / g) >= 0 over the integers; elements stay as they are, since torch's integers wrap.
Condition Condition::not_negative(const Linear& form) {
  if (is_always_at_least(form, 0)) return constant(true);
  if (is_always_at_least(form.scaled(-1), 1)) return constant(false);
  const std::int64_t divisor = common_divisor(form);
  return comparison(Kind::not_negative, divisor > 1 && !form.has_elements() ? divided(form, divisor) : form);
}

Condition Condition::zero(const Linear& form) {
  if (form.is_constant()) return constant(form.constant() == 0);
  if (is_always_at_least(form, 1) || is_always_at_least(form.scaled(-1), 1)) return constant(false);
  if (is_always_at_least(form, 0) && is_always_at_least(form.scaled(-1), 0)) return constant(true);
  const std::int64_t divisor = common_divisor(form);
  if (divisor < 2 || form.has_elements()) return comparison(Kind::zero, with_positive_lead(form));
  if (form.constant() % divisor != 0) return constant(false);
  return comparison(Kind::zero, with_positive_lead(divided(form, divisor)));
}

Condition Condition::not_zero(const Linear& form) { return zero(form).negated(); }

Condition Condition::negated() const {
  switch (kind_) {
    case Kind::constant:
      return constant(!value_);
    case Kind::not_negative: {
      const auto complement = Linear::sum(Linear(-1), form_, -1);
      return complement ? not_negative(*complement) : throw std::overflow_error("a mask's constant overflows");
    }
    case Kind::zero:
      return comparison(Kind::not_zero, form_);
    case Kind::not_zero:
      return comparison(Kind::zero, form_);
    default:
      break;
  }
  std::vector<Condition> parts;
  for (const Condition& part : parts_) parts.push_back(part.negated());
  return kind_ == Kind::all_of ? any_of(parts) : all_of(parts);
}

Condition Condition::all_of(const std::vector<Condition>& parts) { return combination(Kind::all_of, parts); }
Condition Condition::any_of(const std::vector<Condition>& parts) { return combination(Kind::any_of, parts); }

// Parts that another one makes superfluous go; a part and its opposite decide the whole.
Condition Condition::combination(Kind kind, const std::vector<Condition>& parts) {
  const bool is_all = kind == Kind::all_of;
  std::vector<Condition> kept;
  const auto makes_superfluous = [&](const Condition& by, const Condition& part) {
    return is_all ? by.implies(part) : part.implies(by);
  };
  const std::function<bool(const Condition&)> add = [&](const Condition& part) {
    if (part.kind_ == kind) return std::all_of(part.parts_.begin(), part.parts_.end(), add);
    if (part.kind_ == Kind::constant) return part.value_ == is_all;
    const auto covers = [&](const Condition& other) { return makes_superfluous(other, part); };
    if (std::any_of(kept.begin(), kept.end(), covers)) return true;
    const Condition opposite = part.negated();
    const auto decides = [&](const Condition& other) {
      return is_all ? other.implies(opposite) : opposite.implies(other);
    };
    if (std::any_of(kept.begin(), kept.end(), decides)) return false;
    const auto covered = [&](const Condition& other) { return makes_superfluous(part, other); };
    kept.erase(std::remove_if(kept.begin(), kept.end(), covered), kept.end());
    kept.push_back(part);
    return true;
  };
  if (!std::all_of(parts.begin(), parts.end(), add)) return constant(!is_all);
  if (kept.empty()) return constant(is_all);
  if (kept.size() == 1) return kept.front();
  std::sort(kept.begin(), kept.end(), [](const Condition& a, const Condition& b) { return a.text() < b.text(); });
  Condition condition;
  condition.kind_ = kind;
  condition.parts_ = std::move(kept);
  return condition;
}

bool Condition::implies(const Condition& other) const {
  if (other.is(true) || is(false)) return true;
  const auto holds_of = [](const std::vector<Condition>& parts, bool all, const auto& test) {
    return all ? std::all_of(parts.begin(), parts.end(), test) : std::any_of(parts.begin(), parts.end(), test);
  };
  if (other.kind_ == Kind::all_of) {
    return holds_of(other.parts_, true, [&](const Condition& part) { return implies(part); });
  }
  if (kind_ == Kind::any_of) {
    return holds_of(parts_, true, [&](const Condition& part) { return part.implies(other); });
  }
  if (other.kind_ == Kind::any_of &&
      holds_of(other.parts_, false, [&](const Condition& part) { return implies(part); })) {
    return true;
  }
  if (kind_ == Kind::all_of) {
    return holds_of(parts_, false, [&](const Condition& part) { return part.implies(other); });
  }
  if (kind_ == other.kind_ && kind_ != Kind::constant && form_.text() == other.form_.text()) return true;
  if (other.kind_ != Kind::not_negative) return false;
  const bool weaker = kind_ == Kind::not_negative || kind_ == Kind::zero;
  if (weaker && is_always_at_least(Linear::sum(other.form_, form_, -1), 0)) return true;
  return kind_ == Kind::zero && is_always_at_least(Linear::sum(other.form_, form_), 0);
}

Condition Condition::substitute(const std::function<std::optional<Linear>(const Atom&)>& value) const {
  switch (kind_) {
    case Kind::constant:
      return *this;
    case Kind::not_negative:
      return not_negative(form_.substitute(value));
    case Kind::zero:
      return zero(form_.substitute(value));
    case Kind::not_zero:
      return not_zero(form_.substitute(value));
    default:
      break;
  }
  std::vector<Condition> parts;
  for (const Condition& part : parts_) parts.push_back(part.substitute(value));
  return combination(kind_, parts);
}

// "key <= query", "query <= key + 7", "%attention_mask[batch, key]"
std::string Condition::comparison_text() const {
  const Linear small = form_.side(-1), large = form_.side(1);
  const bool is_element = kind_ != Kind::not_negative && small.is_constant(0) && large.is_element();
  if (is_element) return (kind_ == Kind::zero ? "not " : "") + large.text();
  const char* sign = kind_ == Kind::zero ? " == " : kind_ == Kind::not_zero ? " != " : " <= ";
  return small.text() + sign + large.text();
}

std::string Condition::text() const {
  if (kind_ == Kind::constant) return value_ ? "true" : "false";
  if (kind_ != Kind::all_of && kind_ != Kind::any_of) return comparison_text();
  std::string text;
  for (const Condition& part : parts_) {
    const bool is_nested = part.kind_ == Kind::all_of || part.kind_ == Kind::any_of;
    if (!text.empty()) text += kind_ == Kind::all_of ? " and " : " or ";
    text += is_nested ? "(" + part.text() + ")" : part.text();
  }
  return text;
}

}  // namespace liger::rewrite::mask
