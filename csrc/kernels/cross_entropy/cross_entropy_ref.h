// Plain loops over cross_entropy.h in float64, for tests: the formulas of that file's first comment and nothing else.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels::ref {

struct CrossEntropyProblem {
  std::int64_t rows;
  std::int64_t vocab;
  std::vector<double> logits;         // [rows, vocab]
  std::vector<std::int64_t> classes;  // [rows]
  std::int64_t ignore_index = -100;
  bool is_mean = true;  // else the sum
  double label_smoothing = 0.0;
  double logit_scale = 1.0;
  double softcap = 0.0;
  double z_loss = 0.0;
};

struct CrossEntropyResult {
  double loss = 0.0;
  std::vector<double> row_loss;     // [rows]
  std::vector<double> lse;          // [rows]
  std::vector<double> grad_logits;  // [rows, vocab], for an upstream gradient of 1
};

inline double transform_ref(const CrossEntropyProblem& problem, double logit) {
  const double scaled = logit * problem.logit_scale;
  return problem.softcap > 0.0 ? problem.softcap * std::tanh(scaled / problem.softcap) : scaled;
}

inline double slope_ref(const CrossEntropyProblem& problem, double transformed) {
  const double ratio = problem.softcap > 0.0 ? transformed / problem.softcap : 0.0;
  return problem.logit_scale * (1.0 - ratio * ratio);
}

inline CrossEntropyResult cross_entropy_ref(const CrossEntropyProblem& problem) {
  const auto vocab = static_cast<double>(problem.vocab);
  double counted = 0.0;
  for (const std::int64_t label : problem.classes) counted += label != problem.ignore_index;
  const double ce_divisor = problem.is_mean ? counted : 1.0;
  const double z_divisor = problem.is_mean ? static_cast<double>(problem.rows) : 1.0;
  CrossEntropyResult result;
  for (std::int64_t row = 0; row < problem.rows; ++row) {
    const std::int64_t label = problem.classes[row];
    const double weight = label == problem.ignore_index ? 0.0 : 1.0;
    std::vector<double> u(problem.vocab);
    double max = -INFINITY, sum = 0.0, total = 0.0;
    for (std::int64_t j = 0; j < problem.vocab; ++j) {
      u[j] = transform_ref(problem, problem.logits[row * problem.vocab + j]);
      max = std::fmax(max, u[j]);
      total += u[j];
    }
    for (std::int64_t j = 0; j < problem.vocab; ++j) sum += std::exp(u[j] - max);
    const double lse = max + std::log(sum), smoothing = problem.label_smoothing;
    const double loss = weight == 0.0 ? 0.0 : (1.0 - smoothing) * (lse - u[label]) + smoothing * (lse - total / vocab);
    result.lse.push_back(lse);
    result.row_loss.push_back(loss);
    result.loss += loss / ce_divisor + problem.z_loss * lse * lse / z_divisor;
    for (std::int64_t j = 0; j < problem.vocab; ++j) {
      const double p = std::exp(u[j] - lse), target = smoothing / vocab + (j == label ? 1.0 - smoothing : 0.0);
      const double ce = weight == 0.0 ? 0.0 : (p - target) / ce_divisor;
      result.grad_logits.push_back((ce + 2.0 * problem.z_loss * lse * p / z_divisor) * slope_ref(problem, u[j]));
    }
  }
  return result;
}

}  // namespace liger::kernels::ref
