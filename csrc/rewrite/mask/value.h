// What one element of a tensor is, as a function of its position: a number, a condition, or one of two by a condition.
#pragma once

#include <functional>
#include <memory>

#include "graph/canonical.h"
#include "graph/dtype.h"
#include "rewrite/mask/term.h"

namespace liger::rewrite::mask {

struct Element;
using Value = std::shared_ptr<const Element>;  // null: not understood

struct Element {
  enum class Kind : std::uint8_t { integer, real, condition, choice };

  Kind kind = Kind::integer;
  Linear integer;                                   // exact also where the dtype is a float
  double real = 0;                                  // a constant that is no integer: -inf, a dtype's lowest number
  Condition condition = Condition::constant(true);  // of Kind::condition, and what Kind::choice chooses by
  Value chosen, other;                              // of Kind::choice
};

Value integer(Linear form);
Value number(double value);  // an integer where it is one
Value condition(Condition condition);
// `chosen` where the condition holds. Two conditions make a condition, and equal values need no choice.
Value choice(const Condition& by, const Value& chosen, const Value& other);

std::string text(const Value& value);
Value substitute(const Value& value, const std::function<std::optional<Linear>(const Atom&)>& replacement);

// Applies a function to the leaves of choices; null where it gives null.
Value map(const Value& value, const std::function<Value(const Element&)>& function);
Value map(const Value& a, const Value& b, const std::function<Value(const Element&, const Element&)>& function);

Value as_number(const Value& value);     // conditions become 1 and 0
Value as_condition(const Value& value);  // not zero
// The value in another dtype; null where it might not be the same number there.
Value converted(const Value& value, graph::DType from, graph::DType to);
// A canonical op on two leaves (the second is unused by neg and abs), and a comparison of two.
Value combine(graph::Op op, const Element& a, const Element& b, graph::DType dtype);
Value compare(graph::Op op, const Element& a, const Element& b);
// Whether a dtype holds every value of the form exactly, integers by wrapping where elements are involved.
bool fits(const Linear& form, graph::DType dtype);

}  // namespace liger::rewrite::mask
