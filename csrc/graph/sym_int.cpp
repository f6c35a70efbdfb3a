#include "graph/sym_int.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <optional>
#include <string_view>

namespace liger::graph {
namespace {

bool is_digits(std::string_view text) {
  return !text.empty() && text.size() < 18 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

bool is_identifier(std::string_view text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) != 0) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

// coefficient * product of symbol^power: the only expressions that products are formed of.
struct Monomial {
  std::int64_t coefficient = 1;
  std::map<std::string, std::int64_t> powers;

  bool multiply(const SymInt& factor);
  SymInt value() const;
};

bool Monomial::multiply(const SymInt& factor) {
  if (factor.is_constant()) return !__builtin_mul_overflow(coefficient, factor.value(), &coefficient);
  std::string_view rest = factor.expression();
  std::string last;
  while (!rest.empty()) {
    const bool is_power = !last.empty() && rest[0] == '*';  // the second star of "s0**2"
    if (is_power) rest.remove_prefix(1);
    const std::size_t star = rest.find('*');
    const std::string_view part = rest.substr(0, star);
    rest = star == std::string_view::npos ? std::string_view{} : rest.substr(star + 1);
    if (is_power) {
      if (!is_digits(part)) return false;
      powers[last] += std::atoll(std::string(part).c_str()) - 1;
      last.clear();
    } else if (is_identifier(part)) {
      last = std::string(part);
      powers[last] += 1;
    } else if (is_digits(part)) {
      if (__builtin_mul_overflow(coefficient, std::atoll(std::string(part).c_str()), &coefficient)) return false;
      last.clear();
    } else {
      return false;
    }
  }
  return true;
}

SymInt Monomial::value() const {
  if (powers.empty() || coefficient == 0) return SymInt(coefficient);
  std::string text = coefficient == 1 ? "" : std::to_string(coefficient);
  for (const auto& [symbol, power] : powers) {
    if (!text.empty()) text += '*';
    text += symbol;
    if (power != 1) text += "**" + std::to_string(power);
  }
  return SymInt::symbolic(std::move(text));
}

// Splits "E + 3" or "E - 3" into E and the constant. The digits end the text, so the sign is at the top level.
std::pair<std::string, std::int64_t> split_constant(const std::string& expression) {
  const std::size_t space = expression.rfind(' ');
  if (space == std::string::npos || space < 3) return {expression, 0};
  const std::string_view digits = std::string_view(expression).substr(space + 1);
  const char sign = expression[space - 1];
  if (!is_digits(digits) || (sign != '+' && sign != '-') || expression[space - 2] != ' ') return {expression, 0};
  const std::int64_t magnitude = std::atoll(std::string(digits).c_str());
  return {expression.substr(0, space - 2), sign == '+' ? magnitude : -magnitude};
}

}  // namespace

std::pair<SymInt, std::int64_t> SymInt::split() const {
  if (is_constant()) return {SymInt(0), value_};
  auto [rest, constant] = split_constant(expression_);
  return {symbolic(std::move(rest)), constant};
}

SymInt operator+(const SymInt& a, std::int64_t constant) {
  if (a.is_constant()) return SymInt(a.value_ + constant);
  auto [rest, sum] = split_constant(a.expression_);
  sum += constant;
  if (sum > 0) rest += " + " + std::to_string(sum);
  if (sum < 0) rest += " - " + std::to_string(-sum);
  return SymInt::symbolic(std::move(rest));
}

SymInt operator*(const SymInt& a, const SymInt& b) {
  Monomial product;
  if (product.multiply(a) && product.multiply(b)) return product.value();
  return SymInt::symbolic("((" + a.str() + ")*(" + b.str() + "))");
}

std::vector<SymInt> contiguous_strides(const std::vector<SymInt>& shape) {
  std::vector<SymInt> strides(shape.size(), SymInt(1));
  for (std::size_t i = shape.size(); i-- > 1;) {
    const bool empty = shape[i].is_constant() && shape[i].value() == 0;
    strides[i - 1] = empty ? strides[i] : strides[i] * shape[i];
  }
  return strides;
}

}  // namespace liger::graph
