// The vocabulary that rules are written in. See pattern_rewrites/rms_norm.cpp for how it reads.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "rewrite/pattern.h"
#include "rewrite/rule.h"

namespace liger::rewrite {

// Captures. The same capture twice means the same value.
Pattern tensor(std::string name);
Pattern optional_tensor(std::string name);  // also matches an absent operand (None)
Pattern scalar(std::string name);           // a number, literal or symbolic; read it with Match::number
Pattern lit(double value);

// Operations.
Pattern operation(Op op, std::vector<Pattern> operands);
inline Pattern add(Pattern a, Pattern b) { return operation(Op::add, {std::move(a), std::move(b)}); }
inline Pattern mul(Pattern a, Pattern b) { return operation(Op::mul, {std::move(a), std::move(b)}); }
inline Pattern div(Pattern a, Pattern b) { return operation(Op::div, {std::move(a), std::move(b)}); }
inline Pattern pow(Pattern a, double exponent) { return operation(Op::pow, {std::move(a), lit(exponent)}); }
inline Pattern neg(Pattern a) { return operation(Op::neg, {std::move(a)}); }
inline Pattern sqrt(Pattern a) { return operation(Op::sqrt, {std::move(a)}); }
inline Pattern rsqrt(Pattern a) { return operation(Op::rsqrt, {std::move(a)}); }
inline Pattern tanh(Pattern a) { return operation(Op::tanh, {std::move(a)}); }
inline Pattern sigmoid(Pattern a) { return operation(Op::sigmoid, {std::move(a)}); }
inline Pattern silu(Pattern a) { return operation(Op::silu, {std::move(a)}); }
Pattern recip(const Pattern& a);  // reciprocal(a) or 1 / a
Pattern mean_last(Pattern a);     // mean over the last dim, which is kept with size 1
Pattern concat_last(std::vector<Pattern> parts);
Pattern gelu(Pattern a, const std::string& approximate);  // "none" or "tanh"

enum class Part { first_half, second_half, leading, trailing };
Pattern slice_last(Pattern a, Part part);  // a contiguous part of the last dim: [0, n/2), [n/2, n), [0, r), [r, n)

// One of several spellings; the most specific first.
Pattern either(std::string name, std::vector<Pattern> alternatives);

// Casts are part of the pattern.
Pattern widened(Pattern inner);                    // `inner` behind any number of lossless up-casts
Pattern rounded(std::string name, Pattern inner);  // `inner`, with or without one cast to a narrower float; Match::has
                                                   // tells whether it is there
// `inner` behind any number of nodes, each one of `ops` and accepted by the predicate.
Pattern through(std::string name, Pattern inner, std::vector<Op> ops, Predicate accepts);
bool is_lossless_upcast(const Candidate& candidate);

}  // namespace liger::rewrite
