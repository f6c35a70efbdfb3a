#include "rewrite/mask/mask.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "graph/text.h"

namespace liger::rewrite::mask {

using graph::DType;
using graph::NodeId;
using graph::SymInt;
using graph::TensorMeta;

namespace {

// c where the form is positive - negative + c.
std::optional<std::int64_t> distance_constant(const Linear& form, Axis positive, Axis negative) {
  bool fits = form.terms().size() == 2;
  for (const auto& entry : form.terms()) {
    const Linear::Term& term = entry.second;
    const bool is_variable = term.atom->kind == Atom::Kind::variable;
    fits = fits && is_variable &&
           ((term.atom->variable == positive && term.coefficient == 1) ||
            (term.atom->variable == negative && term.coefficient == -1));
  }
  return fits ? std::optional<std::int64_t>(form.constant()) : std::nullopt;
}

bool mentions(const Linear& form, Axis axis) {
  bool found = false;
  form.substitute([&](const Atom& atom) -> std::optional<Linear> {
    found = found || (atom.kind == Atom::Kind::variable && atom.variable == axis);
    return std::nullopt;
  });
  return found;
}

// The form with query and key exchanged.
std::string exchanged_text(const Linear& form) {
  const auto exchange = [](const Atom& atom) -> std::optional<Linear> {
    if (atom.kind != Atom::Kind::variable || (atom.variable != kQuery && atom.variable != kKey)) return std::nullopt;
    return Linear::variable(atom.variable == kQuery ? kKey : kQuery, atom.range);
  };
  return form.substitute(exchange).text();
}

// Both atoms of a difference `x - y`, where it is one.
struct Pair {
  const Atom* positive = nullptr;
  const Atom* negative = nullptr;
};
std::optional<Pair> difference_of_atoms(const Linear& form, Atom::Kind kind) {
  if (form.constant() != 0 || form.terms().size() != 2) return std::nullopt;
  Pair pair;
  for (const auto& entry : form.terms()) {
    const Linear::Term& term = entry.second;
    if (term.atom->kind != kind) return std::nullopt;
    if (term.coefficient == 1) pair.positive = term.atom.get();
    if (term.coefficient == -1) pair.negative = term.atom.get();
  }
  return pair.positive != nullptr && pair.negative != nullptr ? std::optional<Pair>(pair) : std::nullopt;
}

// The dim of an element's index that is exactly one axis, if the others do not depend on query and key.
std::optional<std::size_t> dim_along(const Atom& element, Axis axis) {
  std::optional<std::size_t> found;
  for (std::size_t dim = 0; dim < element.index.size(); ++dim) {
    const Linear& position = element.index[dim];
    const bool is_axis = position.text() == Linear::variable(axis, SymInt(2)).text();
    if (is_axis && !found) {
      found = dim;
    } else if (mentions(position, kQuery) || mentions(position, kKey)) {
      return std::nullopt;
    }
  }
  return found;
}

// The one tensor whose elements a form contains, which then do not depend on query and key.
std::optional<Source> offset_of(const Linear& form) {
  std::optional<Source> found;
  for (const auto& entry : form.terms()) {
    const Atom& atom = *entry.second.atom;
    if (atom.kind != Atom::Kind::element) continue;
    const Linear element = Linear::element(atom.source, atom.index);
    if (found || mentions(element, kQuery) || mentions(element, kKey)) return std::nullopt;
    found = atom.source;
  }
  return found;
}

Term of_kind(Term::Kind kind, const Condition& condition, std::int64_t size = 0) {
  Term term;
  term.kind = kind;
  term.condition = condition;
  term.size = size;
  return term;
}

Term about(Term::Kind kind, const Condition& condition, const Atom& element, std::size_t dim) {
  Term term = of_kind(kind, condition);
  term.source = element.source;
  term.dim = dim;
  return term;
}

Term classify_order(const Condition& condition) {
  if (distance_constant(condition.form(), kQuery, kKey) == 0) return of_kind(Term::Kind::causal, condition);
  const auto window = distance_constant(condition.form(), kKey, kQuery);
  if (window && *window >= 0) return of_kind(Term::Kind::window, condition, *window + 1);
  return of_kind(Term::Kind::other, condition);
}

Term classify_equality(const Condition& condition) {
  const Linear& form = condition.form();
  if (const auto chunks = difference_of_atoms(form, Atom::Kind::floor)) {
    const Linear& numerator = chunks->positive->index.front();
    const bool same = chunks->positive->divisor == chunks->negative->divisor &&
                      exchanged_text(numerator) == chunks->negative->index.front().text() &&
                      mentions(numerator, kQuery) != mentions(numerator, kKey);
    if (same) {
      Term term = of_kind(Term::Kind::chunk, condition, chunks->positive->divisor);
      term.source = offset_of(numerator);
      return term;
    }
  }
  if (const auto documents = difference_of_atoms(form, Atom::Kind::element)) {
    auto by_key = dim_along(*documents->positive, kKey), by_query = dim_along(*documents->negative, kQuery);
    const Linear positive = Linear::element(documents->positive->source, documents->positive->index);
    if (!by_key || !by_query) {
      by_key = dim_along(*documents->negative, kKey);
      by_query = dim_along(*documents->positive, kQuery);
    }
    const bool same = by_key && by_key == by_query && exchanged_text(positive) == documents->negative->text;
    if (same) return about(Term::Kind::documents, condition, *documents->positive, *by_key);
  }
  return of_kind(Term::Kind::other, condition);
}

Term classify_term(const Condition& condition) {
  switch (condition.kind()) {
    case Condition::Kind::not_negative:
      return classify_order(condition);
    case Condition::Kind::zero:
      return classify_equality(condition);
    case Condition::Kind::not_zero:
      if (condition.form().is_element()) {
        const Atom& element = *condition.form().terms().begin()->second.atom;
        if (const auto dim = dim_along(element, kKey)) return about(Term::Kind::padding, condition, element, *dim);
      }
      break;
    case Condition::Kind::any_of:
      for (const Condition& part : condition.parts()) {
        if (classify_term(part).kind == Term::Kind::causal) return of_kind(Term::Kind::blocks, condition);
      }
      break;
    default:
      break;
  }
  return of_kind(Term::Kind::other, condition);
}

std::string term_text(const Term& term) {
  switch (term.kind) {
    case Term::Kind::causal:
      return "causal";
    case Term::Kind::window:
      return "window of " + std::to_string(term.size);
    case Term::Kind::chunk:
      return "chunks of " + std::to_string(term.size);
    case Term::Kind::padding:
      return "padding %" + term.source->name;
    case Term::Kind::documents:
      return "documents %" + term.source->name;
    case Term::Kind::blocks:
      return "causal or in one block (" + term.condition.text() + ")";
    case Term::Kind::other:
      break;
  }
  return term.condition.text();
}

// Adding the lowest number hides a score as -inf does, as long as no score comes near it: not so in float16.
bool hides(double added, DType dtype) {
  if (std::isinf(added)) return added < 0;
  switch (dtype) {
    case DType::bfloat16:
      return added <= -3.3895313892515355e38;
    case DType::float32:
      return added <= -3.4028234663852886e38;
    case DType::float64:
      return added <= -1.7976931348623157e308;
    default:
      return false;
  }
}

// Numbers that are added to the scores, as the condition that they are 0.
Value attended(const Value& added, DType dtype) {
  return map(added, [&](const Element& leaf) -> Value {
    if (leaf.kind == Element::Kind::integer && leaf.integer.is_constant(0)) return condition(Condition::constant(true));
    const bool is_hidden = leaf.kind == Element::Kind::real && hides(leaf.real, dtype);
    return is_hidden ? condition(Condition::constant(false)) : nullptr;
  });
}

// Positions of a mask's element in terms of the axes, aligned with the last dims of the scores.
std::optional<std::vector<Linear>> axes_of(const TensorMeta& mask, const std::vector<SymInt>& scores) {
  if (mask.rank() > scores.size() || scores.size() > 4) return std::nullopt;
  std::vector<Linear> index;
  for (std::size_t dim = 0; dim < mask.rank(); ++dim) {
    const std::size_t aligned = dim + scores.size() - mask.rank();
    const bool is_single = mask.shape[dim] == SymInt(1);
    if (!is_single && mask.shape[dim] != scores[aligned]) return std::nullopt;
    const auto axis = static_cast<std::int32_t>(aligned + 4 - scores.size());
    index.push_back(is_single ? Linear(0) : Linear::variable(axis, mask.shape[dim]));
  }
  return index;
}

// The same element, with tensors named as those of the calling graph.
std::optional<Linear> as_outer(const Atom& atom) {
  if (atom.kind != Atom::Kind::element) return std::nullopt;
  std::vector<Linear> index;
  for (const Linear& position : atom.index) index.push_back(position.substitute(as_outer));
  Source source = atom.source;
  source.is_outer = true;
  return Linear::element(source, index);
}

}  // namespace

bool Mask::has(Term::Kind kind) const {
  return std::any_of(terms.begin(), terms.end(), [&](const Term& term) { return term.kind == kind; });
}

std::string Mask::text() const {
  std::string text;
  for (const Term& term : terms) text += (text.empty() ? "" : ", ") + term_text(term);
  return text.empty() ? "nothing hidden" : text;
}

std::string_view name_of(Term::Kind kind) {
  constexpr std::array<std::string_view, 7> names = {"causal",    "window", "chunk", "padding",
                                                     "documents", "blocks", "other"};
  return names.at(static_cast<std::size_t>(kind));
}

bool is_whole_from_zero(const Term& term) {
  if (term.kind != Term::Kind::chunk || !term.source) return false;
  const auto zero = [&](const Atom& atom) -> std::optional<Linear> {
    const bool is_offset = atom.kind == Atom::Kind::element && atom.source.node == term.source->node &&
                           atom.source.is_outer == term.source->is_outer;
    return is_offset ? std::optional<Linear>(0) : std::nullopt;
  };
  return term.condition.substitute(zero).is(true);
}

Mask classify(const Condition& condition) {
  Mask mask;
  if (condition.is(true)) return mask;
  const bool is_conjunction = condition.kind() == Condition::Kind::all_of;
  const std::vector<Condition> parts = is_conjunction ? condition.parts() : std::vector<Condition>{condition};
  for (const Condition& part : parts) mask.terms.push_back(classify_term(part));
  if (!mask.has(Term::Kind::causal)) {  // then it is no window, but looks ahead
    for (Term& term : mask.terms) {
      if (term.kind == Term::Kind::window) term = of_kind(Term::Kind::other, term.condition);
    }
  }
  std::stable_sort(mask.terms.begin(), mask.terms.end(), [](const Term& a, const Term& b) { return a.kind < b.kind; });
  return mask;
}

ReadMask read_mask(const graph::CanonicalGraph& view, const Facts& facts, NodeId id, NodeId at,
                   const std::vector<SymInt>& scores) {
  const graph::Node& node = view.graph()[id];
  const auto index = node.tensor ? axes_of(*node.tensor, scores) : std::nullopt;
  if (!index) return {because("the mask %" + node.name + " does not fit the scores"), {}};
  Reader reader(view, facts, at);
  try {
    const Value element = reader.read(id, *index);
    const DType dtype = node.tensor->dtype;
    const Value condition = dtype == DType::boolean ? as_condition(element) : attended(as_number(element), dtype);
    if (condition) return {ok(), classify(condition->condition)};
    const std::string& why = reader.reason();
    if (!why.empty()) return {because("the mask is not understood: " + why), {}};
    return {because("the mask %" + node.name + " is added to the scores, and its values are not only 0 and -inf"), {}};
  } catch (const std::overflow_error& error) {
    return {because("the mask is not understood: " + std::string(error.what())), {}};
  }
}

Facts facts_of(const graph::CanonicalGraph& view, const Facts& facts, const std::vector<std::string>& names) {
  Facts known;
  for (const std::string& name : names) {
    const NodeId id = view.graph().find(name);
    if (id == graph::kNoNode || !view.graph()[id].tensor || view.graph()[id].tensor->requires_grad) continue;
    const TensorMeta& tensor = *view.graph()[id].tensor;
    std::vector<Linear> index;
    for (std::size_t dim = 0; dim < tensor.rank(); ++dim) index.push_back(position(dim, tensor.shape[dim]));
    try {
      const auto end = static_cast<NodeId>(view.graph().nodes.size());
      const Value element = Reader(view, facts, end).read(view.resolve(id), index);
      if (element) known.emplace(name, Fact{substitute(element, as_outer)});
    } catch (const std::overflow_error&) {  // then nothing is known of it
    }
  }
  return known;
}

}  // namespace liger::rewrite::mask
