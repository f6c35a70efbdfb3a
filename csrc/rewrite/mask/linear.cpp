#include <algorithm>
#include <cctype>

#include "rewrite/mask/term.h"

namespace liger::rewrite::mask {

namespace {

using graph::SymInt;

std::string variable_text(std::int32_t id) {
  constexpr const char* axes[] = {"batch", "head", "query", "key"};
  if (id >= 0 && id < kFirstBound) return axes[id];
  return (id < 0 ? "p" : "i") + std::to_string(id < 0 ? -id : id);
}

std::string index_text(const std::vector<Linear>& index) {
  std::string text;
  for (const Linear& form : index) text += (text.empty() ? "" : ", ") + form.text();
  return text;
}

// Products of symbols: sizes, which are not negative. Other expressions may be.
bool is_product_of_sizes(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '*'; });
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return a % b < 0 ? quotient - 1 : quotient;
}

// Adds factor * term; false where that overflows.
bool add_term(std::map<std::string, Linear::Term>& terms, const Linear::Term& term, std::int64_t factor) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(term.coefficient, factor, &product) || product == INT64_MIN) return false;
  const auto [place, is_new] = terms.emplace(term.atom->text, Linear::Term{term.atom, product});
  if (!is_new && __builtin_add_overflow(place->second.coefficient, product, &place->second.coefficient)) return false;
  if (place->second.coefficient == 0) terms.erase(place);
  return true;
}

}  // namespace

Linear Linear::variable(std::int32_t id, const SymInt& range) {
  if (range == SymInt(1)) return 0;
  Atom atom;
  atom.text = variable_text(id);
  atom.variable = id;
  atom.range = range;
  Linear form;
  form.terms_.emplace(atom.text, Term{std::make_shared<const Atom>(atom), 1});
  return form;
}

Linear Linear::size(const SymInt& size) {
  const auto [symbols, constant] = size.split();
  Linear form(constant);
  if (symbols.is_constant()) return form;
  Atom atom;
  atom.kind = Atom::Kind::size;
  atom.text = symbols.expression();
  form.terms_.emplace(atom.text, Term{std::make_shared<const Atom>(atom), 1});
  return form;
}

Linear Linear::element(Source source, std::vector<Linear> index) {
  Atom atom;
  atom.kind = Atom::Kind::element;
  atom.text = (source.is_outer ? "outer %" : "%") + source.name + "[" + index_text(index) + "]";
  atom.source = std::move(source);
  atom.index = std::move(index);
  Linear form;
  form.terms_.emplace(atom.text, Term{std::make_shared<const Atom>(atom), 1});
  return form;
}

// floor((d * m + r) / d) = m + floor(r / d), for each coefficient and the constant.
Linear Linear::floor_of(const Linear& numerator, std::int64_t divisor) {
  Linear whole, rest = numerator;
  if (!numerator.has_elements()) {
    whole.constant_ = numerator.constant_ / divisor;
    rest.constant_ = numerator.constant_ % divisor;
    rest.terms_.clear();
    for (const auto& [text, term] : numerator.terms_) {
      const Term parts[2] = {{term.atom, term.coefficient / divisor}, {term.atom, term.coefficient % divisor}};
      if (parts[0].coefficient != 0) whole.terms_.emplace(text, parts[0]);
      if (parts[1].coefficient != 0) rest.terms_.emplace(text, parts[1]);
    }
  }
  const auto lower = rest.lower_bound(), upper = rest.upper_bound();
  if (lower && upper && floor_div(*lower, divisor) == floor_div(*upper, divisor)) {
    whole.constant_ += floor_div(*lower, divisor);
    return whole;
  }
  Atom atom;
  atom.kind = Atom::Kind::floor;
  atom.text = "floor((" + rest.text() + ") / " + std::to_string(divisor) + ")";
  atom.index = {rest};
  atom.divisor = divisor;
  whole.terms_.emplace(atom.text, Term{std::make_shared<const Atom>(atom), 1});
  return whole;
}

bool Linear::has_elements() const {
  return std::any_of(terms_.begin(), terms_.end(), [](const auto& entry) {
    const Atom& atom = *entry.second.atom;
    if (atom.kind == Atom::Kind::element) return true;
    return atom.kind == Atom::Kind::floor && atom.index.front().has_elements();
  });
}

bool Linear::is_element() const {
  if (constant_ != 0 || terms_.size() != 1) return false;
  const Term& term = terms_.begin()->second;
  return term.coefficient == 1 && term.atom->kind == Atom::Kind::element;
}

Linear Linear::side(int sign) const {
  Linear form(constant_ * sign > 0 ? constant_ * sign : 0);
  for (const auto& [text, term] : terms_) {
    if ((term.coefficient > 0) == (sign > 0)) form.terms_.emplace(text, Term{term.atom, term.coefficient * sign});
  }
  return form;
}

std::string Linear::text() const {
  std::string text;
  const auto append = [&](std::int64_t coefficient, const std::string& name) {
    const bool is_negative = coefficient < 0;
    if (text.empty()) {
      text = is_negative ? "-" : "";
    } else {
      text += is_negative ? " - " : " + ";
    }
    const std::int64_t magnitude = is_negative ? -coefficient : coefficient;
    if (name.empty()) {
      text += std::to_string(magnitude);
    } else {
      text += magnitude == 1 ? name : std::to_string(magnitude) + "*" + name;
    }
  };
  for (const bool positive : {true, false}) {
    for (const auto& [name, term] : terms_) {
      if ((term.coefficient > 0) == positive) append(term.coefficient, name);
    }
  }
  if (constant_ != 0 || text.empty()) append(constant_, "");
  return text;
}

std::optional<Linear> Linear::sum(const Linear& a, const Linear& b, std::int64_t factor) {
  Linear form = a;
  std::int64_t product = 0;
  if (__builtin_mul_overflow(b.constant_, factor, &product)) return std::nullopt;
  if (__builtin_add_overflow(form.constant_, product, &form.constant_)) return std::nullopt;
  if (factor == 0) return form;
  for (const auto& entry : b.terms_) {
    if (!add_term(form.terms_, entry.second, factor)) return std::nullopt;
  }
  return form;
}

Linear Linear::substitute(const std::function<std::optional<Linear>(const Atom&)>& value) const {
  Linear form(constant_);
  for (const auto& entry : terms_) {
    const Atom& atom = *entry.second.atom;
    std::optional<Linear> replaced = value(atom);
    if (!replaced && !atom.index.empty()) {
      std::vector<Linear> index;
      for (const Linear& part : atom.index) index.push_back(part.substitute(value));
      replaced = atom.kind == Atom::Kind::floor ? floor_of(index.front(), atom.divisor) : element(atom.source, index);
    }
    Linear same;
    same.terms_.emplace(entry.first, Term{entry.second.atom, 1});
    const auto next = sum(form, replaced ? *replaced : same, entry.second.coefficient);
    if (!next) throw std::overflow_error("a coefficient of the mask's terms overflows");
    form = *next;
  }
  return form;
}

// Variables go to the end of their range that makes the form small; what is left must be constant, or grow with sizes.
std::optional<std::int64_t> Linear::lower_bound() const {
  std::optional<Linear> low = Linear(constant_);
  for (const auto& [text, term] : terms_) {
    const Atom& atom = *term.atom;
    Linear end;
    if (atom.kind == Atom::Kind::variable) {
      if (term.coefficient > 0) continue;
      end = size(atom.range);
      end.constant_ -= 1;
    } else if (atom.kind == Atom::Kind::floor) {
      const Linear& numerator = atom.index.front();
      const auto bound = term.coefficient > 0 ? numerator.lower_bound() : numerator.upper_bound();
      if (!bound) return std::nullopt;
      end = floor_div(*bound, atom.divisor);
    } else {
      end.terms_.emplace(text, Term{term.atom, 1});
    }
    low = sum(*low, end, term.coefficient);
    if (!low) return std::nullopt;
  }
  const bool grows = std::all_of(low->terms_.begin(), low->terms_.end(), [](const auto& entry) {
    const Term& term = entry.second;
    return term.atom->kind == Atom::Kind::size && term.coefficient > 0 && is_product_of_sizes(term.atom->text);
  });
  return grows ? std::optional<std::int64_t>(low->constant_) : std::nullopt;
}

std::optional<std::int64_t> Linear::upper_bound() const {
  const auto negative = scaled(-1);
  const auto lower = negative ? negative->lower_bound() : std::nullopt;
  return lower && *lower != INT64_MIN ? std::optional<std::int64_t>(-*lower) : std::nullopt;
}

}  // namespace liger::rewrite::mask
