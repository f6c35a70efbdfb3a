// A size or stride: a known integer or a symbolic expression. Equality is proof, never a hint.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger::graph {

class SymInt {
 public:
  SymInt(std::int64_t value = 0) : value_(value) {}  // NOLINT(google-explicit-constructor): literals are sizes
  static SymInt symbolic(std::string expression) {
    SymInt size;
    size.expression_ = std::move(expression);
    return size;
  }

  bool is_constant() const { return expression_.empty(); }
  std::int64_t value() const { return value_; }                  // only where is_constant()
  const std::string& expression() const { return expression_; }  // sympy's canonical text, "s0*s1"
  std::string str() const { return is_constant() ? std::to_string(value_) : expression_; }

  // "s0 + 3" is {"s0", 3}; a constant is {0, constant}.
  std::pair<SymInt, std::int64_t> split() const;

  // Equal constants, or the same canonical expression. Two different expressions may still be equal at run time;
  // a proof is what counts, so they compare unequal.
  friend bool operator==(const SymInt& a, const SymInt& b) {
    return a.expression_ == b.expression_ && (!a.is_constant() || a.value_ == b.value_);
  }
  friend bool operator!=(const SymInt& a, const SymInt& b) { return !(a == b); }

  // Arithmetic in sympy's canonical text: "s0 + 1" + -1 is "s0", 64 * "s0*s1" is "64*s0*s1". What does not simplify
  // gets a text that sympy never writes, so it equals nothing that was read from a graph.
  friend SymInt operator+(const SymInt& a, std::int64_t constant);
  friend SymInt operator*(const SymInt& a, const SymInt& b);

 private:
  std::int64_t value_ = 0;
  std::string expression_;
};

// Row-major strides in elements, with torch's convention that an empty dim counts as one.
std::vector<SymInt> contiguous_strides(const std::vector<SymInt>& shape);

}  // namespace liger::graph
