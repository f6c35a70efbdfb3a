// The terms that the mask algebra computes with: integers that are linear in positions and sizes, and conditions on
// them. Everything is immutable and simplified when it is made; equal terms have equal text.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace liger::rewrite::mask {

class Linear;

// Variables: the four axes of attention scores, and the running positions of scans.
enum Axis : std::int32_t { kBatch, kHead, kQuery, kKey, kFirstBound };

// A tensor of the graph whose elements stay symbols.
struct Source {
  graph::NodeId node = graph::kNoNode;
  std::string name;
  bool is_outer = false;  // a node of the graph that calls this one as a subgraph
};

// What a linear form is linear in. `text` identifies it.
struct Atom {
  enum class Kind : std::uint8_t { variable, size, element, floor };

  Kind kind = Kind::variable;
  std::string text;
  std::int32_t variable = 0;  // of Kind::variable, which runs over [0, range)
  graph::SymInt range;        // of Kind::variable
  Source source;              // of Kind::element
  std::vector<Linear> index;  // of Kind::element; Kind::floor: {numerator}
  std::int64_t divisor = 1;   // of Kind::floor
};

// constant + sum of coefficient * atom, over the integers.
class Linear {
 public:
  struct Term {
    std::shared_ptr<const Atom> atom;
    std::int64_t coefficient = 1;
  };

  Linear(std::int64_t constant = 0) : constant_(constant) {}  // NOLINT(google-explicit-constructor): numbers are forms
  static Linear variable(std::int32_t id, const graph::SymInt& range);  // 0 where the range is 1
  static Linear size(const graph::SymInt& size);
  static Linear element(Source source, std::vector<Linear> index);
  // Rounded down; the divisor is positive.
  static Linear floor_of(const Linear& numerator, std::int64_t divisor);

  std::int64_t constant() const { return constant_; }
  const std::map<std::string, Term>& terms() const { return terms_; }
  bool is_constant() const { return terms_.empty(); }
  bool is_constant(std::int64_t value) const { return is_constant() && constant_ == value; }
  bool has_elements() const;  // elements of tensors, at any depth
  bool is_element() const;    // one element of a tensor, and nothing else
  // What has positive (or negative) signs, as a sum of positive things: the form is side(1) - side(-1).
  Linear side(int sign) const;
  std::string text() const;

  // This, with `value` for a variable.
  Linear substitute(const std::function<std::optional<Linear>(const Atom&)>& value) const;

  // Empty where a coefficient would overflow.
  static std::optional<Linear> sum(const Linear& a, const Linear& b, std::int64_t factor = 1);  // a + factor * b
  std::optional<Linear> scaled(std::int64_t factor) const { return sum(Linear(0), *this, factor); }

  // Bounds that hold for all values of variables and all sizes; empty where none is known.
  std::optional<std::int64_t> lower_bound() const;
  std::optional<std::int64_t> upper_bound() const;

 private:
  std::int64_t constant_ = 0;
  std::map<std::string, Term> terms_;
};

class Condition {
 public:
  enum class Kind : std::uint8_t { constant, not_negative, zero, not_zero, all_of, any_of };

  static Condition constant(bool value);
  static Condition not_negative(const Linear& form);  // form >= 0
  static Condition zero(const Linear& form);          // form == 0
  static Condition not_zero(const Linear& form);
  static Condition all_of(const std::vector<Condition>& parts);
  static Condition any_of(const std::vector<Condition>& parts);
  Condition negated() const;

  Kind kind() const { return kind_; }
  bool is(bool value) const { return kind_ == Kind::constant && value_ == value; }
  const Linear& form() const { return form_; }                    // of not_negative, zero, not_zero
  const std::vector<Condition>& parts() const { return parts_; }  // of all_of, any_of
  std::string text() const;

  // Proven; false where it is not known.
  bool implies(const Condition& other) const;
  Condition substitute(const std::function<std::optional<Linear>(const Atom&)>& value) const;

 private:
  Condition() = default;
  static Condition comparison(Kind kind, Linear form);
  static Condition combination(Kind kind, const std::vector<Condition>& parts);
  std::string comparison_text() const;

  Kind kind_ = Kind::constant;
  bool value_ = true;
  Linear form_;
  std::vector<Condition> parts_;
};

}  // namespace liger::rewrite::mask
