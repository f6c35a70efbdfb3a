// A rule: what it recognises, under which conditions, and the call that it writes instead.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rewrite/expr.h"
#include "rewrite/match.h"
#include "rewrite/pattern.h"
#include "rewrite/verdict.h"

namespace liger::rewrite {

struct Replacement {
  Expr call;
  std::string detail;             // for the report: "rms_norm + residual add"
  int root_output = kOnlyResult;  // which output of the call the root takes; declared outputs name their own
  std::vector<RunCondition> conditions = {};  // of the values that a call is given; none: it always holds
  graph::NodeId dropped = graph::kNoNode;     // an operand that the call no longer reads
  std::optional<Expr> otherwise = {};         // the call where the conditions do not hold; none: as written
  std::optional<OnDemand> on_demand = {};     // an output that the call does not make
};

class Rule {
 public:
  using Precondition = std::function<Verdict(const Match&)>;
  using PairPrecondition = std::function<Verdict(const Match&, const Match&)>;
  using Build = std::function<Replacement(const Match&)>;
  using BuildGroup = std::function<Replacement(const std::vector<Match>&)>;

  explicit Rule(std::string name) : name_(std::move(name)) {}

  Rule& match(Pattern root) {
    root_ = std::move(root);
    return *this;
  }
  // Below this part the graph merely looks alike, and nothing is said; from here on a failure is a near miss.
  Rule& near_miss_once(Pattern distinctive) {
    distinctive_ = std::move(distinctive);
    return *this;
  }
  // For a rule that joins what other rules replace one by one: they take the place where it refuses, or say why not.
  Rule& leave_refusals_to_others() {
    reports_refusals_ = false;
    return *this;
  }
  Rule& require(Precondition precondition) {
    preconditions_.push_back(std::move(precondition));
    return *this;
  }
  Rule& replace(Build build) {
    build_ = [build = std::move(build)](const std::vector<Match>& matches) { return build(matches.front()); };
    return *this;
  }
  // Two matches that share the given captures become one call, whose output i takes the root of match i.
  Rule& replace_pair(std::vector<Pattern> shared, std::string reason_if_alone, BuildGroup build) {
    shared_ = std::move(shared);
    reason_if_alone_ = std::move(reason_if_alone);
    build_ = std::move(build);
    return *this;
  }

  Rule& require_of_pair(PairPrecondition precondition) {
    pair_precondition_ = std::move(precondition);
    return *this;
  }

  const std::string& name() const { return name_; }
  const Pattern& root() const { return *root_; }
  const Pattern* distinctive() const { return distinctive_ ? &*distinctive_ : nullptr; }
  bool reports_refusals() const { return reports_refusals_; }
  const std::vector<Precondition>& preconditions() const { return preconditions_; }
  bool pairs() const { return !shared_.empty(); }
  const std::vector<Pattern>& shared() const { return shared_; }
  const std::string& reason_if_alone() const { return reason_if_alone_; }
  Verdict check_pair(const Match& a, const Match& b) const {
    return pair_precondition_ ? pair_precondition_(a, b) : ok();
  }
  Replacement build(const std::vector<Match>& matches) const { return build_(matches); }

 private:
  std::string name_;
  std::optional<Pattern> root_;
  std::optional<Pattern> distinctive_;
  bool reports_refusals_ = true;
  std::vector<Precondition> preconditions_;
  std::vector<Pattern> shared_;
  std::string reason_if_alone_;
  PairPrecondition pair_precondition_;
  BuildGroup build_;
};

}  // namespace liger::rewrite
