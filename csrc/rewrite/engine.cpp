#include "rewrite/engine.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "rewrite/matcher.h"
#include "rewrite/site.h"

namespace liger::rewrite {

namespace {

using graph::Graph;

// A match that passed every check: what it would write, before overlaps are settled.
struct Proposal {
  const Rule* rule = nullptr;
  std::vector<Match> matches;
  Site site;
};

// A place where a rule's distinctive part matched, or a complete match was refused, and why.
struct Refusal {
  const Rule* rule = nullptr;
  Record::Kind kind = Record::Kind::near_miss;
  NodeId node = graph::kNoNode;
  std::size_t depth = 0;
  std::string reason;
};

std::vector<int> outputs_needed(const Site& site) {
  std::vector<int> outputs;
  for (const Result& result : site.results) {
    if (result.node != site.anchor && result.output != kOnlyResult) outputs.push_back(result.output);
  }
  return outputs;
}

// Outputs of which everything outside that reads them is the graph's own output node.
std::vector<int> outputs_only_returned(const Site& site) {
  const graph::Graph& graph = site.view->graph();
  std::vector<int> outputs = outputs_needed(site);
  const auto is_read = [&](int output) {
    return std::any_of(site.results.begin(), site.results.end(), [&](const Result& result) {
      const auto& users = graph[result.node].users;
      return result.output == output && std::any_of(users.begin(), users.end(), [&](NodeId user) {
               return !site.holds(user) && graph[user].kind != graph::NodeKind::output;
             });
    });
  };
  outputs.erase(std::remove_if(outputs.begin(), outputs.end(), is_read), outputs.end());
  return outputs;
}

class Run {
 public:
  Run(const Graph& graph, const EngineOptions& options)
      : graph_(graph), view_(graph), options_(options), context_(options.context) {
    context_.masks = std::make_shared<mask::KnownMasks>(view_, context_.facts);
  }

  RewriteResult over(const std::vector<Rule>& rules) {
    for (const Rule& rule : rules) {
      const auto& disabled = options_.disable;
      if (std::find(disabled.begin(), disabled.end(), rule.name()) != disabled.end()) continue;
      const std::size_t proposals = proposals_.size(), refusals = refusals_.size();
      if (guarded(rule.name(), [&] { apply(rule); })) continue;
      proposals_.erase(proposals_.begin() + static_cast<std::ptrdiff_t>(proposals), proposals_.end());
      refusals_.erase(refusals_.begin() + static_cast<std::ptrdiff_t>(refusals), refusals_.end());
    }
    settle_overlaps();
    report_refusals();
    return std::move(result_);
  }

 private:
  // An exception inside a rule costs that rule's rewrites, never the user's model.
  bool guarded(const std::string& rule, const std::function<void()>& work) {
    try {
      work();
      return true;
    } catch (const std::exception& error) {
      if (options_.strict) throw;
      result_.errors.emplace_back(rule, error.what());
      return false;
    }
  }

  void apply(const Rule& rule) {
    std::vector<Proposal> found;
    for (NodeId root : roots_of(rule)) match_at(rule, root, found);
    if (rule.pairs()) found = paired(rule, without_nested(std::move(found)));
    std::move(found.begin(), found.end(), std::back_inserter(proposals_));
  }

  std::vector<NodeId> roots_of(const Rule& rule) const {
    const std::vector<Op>& ops = root_ops(rule.root());
    std::vector<NodeId> roots;
    for (const graph::Node& node : graph_.nodes) {
      const Op op = view_[node.id].op;
      const bool possible = ops.empty() ? op != Op::input && op != Op::output && op != Op::identity
                                        : std::find(ops.begin(), ops.end(), op) != ops.end();
      if (possible && node.tensor) roots.push_back(node.id);
    }
    return roots;
  }

  void match_at(const Rule& rule, NodeId root, std::vector<Proposal>& found) {
    Matcher matcher(view_, rule.root(), rule.distinctive(), options_.step_budget);
    const auto accept = [&](const Match& match, const std::vector<NodeId>& matched, std::size_t& checks_passed) {
      Proposal proposal{&rule, {match}, make_site({match}, {matched})};
      Verdict verdict = check(proposal, checks_passed);
      if (verdict) found.push_back(std::move(proposal));
      return verdict;
    };
    const Matcher::Outcome outcome = matcher.run(root, accept);
    if (!outcome.accepted) note_refusal(rule, root, outcome);
  }

  Verdict check(Proposal& proposal, std::size_t& checks_passed) const {
    Match& match = proposal.matches.front();
    match.set_needed_outputs(outputs_needed(proposal.site), outputs_only_returned(proposal.site));
    match.set_result(proposal.site.results.front().node);
    match.set_context(context_);
    for (const auto& precondition : proposal.rule->preconditions()) {
      if (Verdict verdict = precondition(match); !verdict) return verdict;
      ++checks_passed;
    }
    return check_site(proposal.site);
  }

  void refuse(Refusal refusal) {
    if (refusal.rule->reports_refusals()) refusals_.push_back(std::move(refusal));
  }

  void note_refusal(const Rule& rule, NodeId root, const Matcher::Outcome& outcome) {
    const Failure& failure = outcome.failure;
    if (outcome.complete || outcome.budget_exhausted) {
      const NodeId where = outcome.distinctive == graph::kNoNode ? root : outcome.distinctive;
      refuse({&rule, Record::Kind::declined, where, failure.depth, failure.reason});
    } else if (outcome.distinctive != graph::kNoNode) {
      refuse({&rule, Record::Kind::near_miss, outcome.distinctive, failure.depth, failure.reason});
    }
  }

  // A match inside a larger one of the same rule is no neighbour of it.
  static std::vector<Proposal> without_nested(std::vector<Proposal> found) {
    std::vector<Proposal> outer;
    for (const Proposal& proposal : found) {
      const auto& inner = proposal.site.operations;
      const bool nested = std::any_of(found.begin(), found.end(), [&](const Proposal& other) {
        const auto& all = other.site.operations;
        return all.size() > inner.size() && std::includes(all.begin(), all.end(), inner.begin(), inner.end());
      });
      if (!nested) outer.push_back(proposal);
    }
    return outer;
  }

  // Neighbours in program order that share the rule's captures become one proposal.
  std::vector<Proposal> paired(const Rule& rule, std::vector<Proposal> found) {
    std::vector<Proposal> pairs;
    for (std::size_t i = 0; i < found.size(); ++i) {
      std::string reason = rule.reason_if_alone();
      if (i + 1 < found.size() && share(rule, found[i], found[i + 1])) {
        Proposal pair = merge(found[i], found[i + 1]);
        const Verdict fits = rule.check_pair(found[i].matches.front(), found[i + 1].matches.front());
        const Verdict verdict = fits ? check_site(pair.site) : fits;
        if (verdict) {
          pairs.push_back(std::move(pair));
          ++i;
          continue;
        }
        reason = verdict.reason();
      }
      refuse({&rule, Record::Kind::declined, found[i].matches.front().root(), 0, reason});
    }
    return pairs;
  }

  bool share(const Rule& rule, const Proposal& a, const Proposal& b) const {
    return std::all_of(rule.shared().begin(), rule.shared().end(), [&](const Pattern& pattern) {
      return same_view(view_, a.matches.front().id(pattern), b.matches.front().id(pattern));
    });
  }

  static Proposal merge(const Proposal& a, const Proposal& b) {
    Proposal pair{a.rule, {a.matches.front(), b.matches.front()}, {}};
    pair.site = make_site(pair.matches, {a.site.operations, b.site.operations});
    return pair;
  }

  // The larger match wins; among equals the earlier one.
  void settle_overlaps() {
    std::stable_sort(proposals_.begin(), proposals_.end(), [](const Proposal& a, const Proposal& b) {
      return a.site.operations.size() > b.site.operations.size();
    });
    std::vector<Proposal*> chosen;
    std::set<NodeId> taken_exclusively;
    for (Proposal& proposal : proposals_) {
      const auto& operations = proposal.site.operations;
      const std::vector<NodeId> exclusive = exclusive_operations(proposal.site);
      const auto any_in = [](const std::vector<NodeId>& ids, const std::set<NodeId>& set) {
        return std::any_of(ids.begin(), ids.end(), [&](NodeId id) { return set.count(id) > 0; });
      };
      if (any_in(exclusive, taken_) || any_in(operations, taken_exclusively)) continue;
      taken_.insert(operations.begin(), operations.end());
      taken_exclusively.insert(exclusive.begin(), exclusive.end());
      chosen.push_back(&proposal);
    }
    std::sort(chosen.begin(), chosen.end(),
              [](const Proposal* a, const Proposal* b) { return a->site.anchor < b->site.anchor; });
    for (const Proposal* proposal : chosen) {
      guarded(proposal->rule->name(), [&] { emit(*proposal); });
    }
    read_replaced_identities();
  }

  // Where an edit replaces an identity of a value, calls behind it read that one: the value itself can go.
  void read_replaced_identities() {
    std::map<NodeId, NodeId> replaced;
    for (const Edit& edit : result_.edits) {
      for (const Result& result : edit.results) replaced[view_.resolve(result.node)] = result.node;
    }
    for (Edit& edit : result_.edits) {
      const auto read_replaced = [&](graph::NodeRef& operand) {
        const auto found = replaced.find(operand.id);
        if (found != replaced.end() && found->second < edit.anchor) operand.id = found->second;
      };
      for_each_node(edit.call, read_replaced);
      if (edit.otherwise) for_each_node(*edit.otherwise, read_replaced);
      graph::NodeRef returned{edit.on_demand_from};
      read_replaced(returned);
      edit.on_demand_from = returned.id;
    }
  }

  void emit(const Proposal& proposal) {
    const Site& site = proposal.site;
    Replacement replacement = proposal.rule->build(proposal.matches);
    const NodeId root = proposal.matches.back().root();  // where the model's own code computes it
    Edit edit{proposal.rule->name(),
              result_.records.size(),
              site.anchor,
              std::move(replacement.call),
              site.results,
              site.interior(),
              std::move(replacement.conditions),
              made_for(replacement.dropped),
              {},
              graph::kNoNode,
              std::move(replacement.otherwise)};
    if (proposal.matches.size() == 1) edit.results.front().output = replacement.root_output;
    if (replacement.on_demand) leave_to_caller(edit, *replacement.on_demand);
    result_.edits.push_back(std::move(edit));
    result_.records.push_back(
        {Record::Kind::rewritten, proposal.rule->name(), root, replacement.detail, "", site.interior().size()});
  }

  static void leave_to_caller(Edit& edit, const OnDemand& on_demand) {
    const auto is_left = [&](const Result& result) { return result.output == on_demand.output; };
    for (const Result& result : edit.results) {
      if (is_left(result)) edit.on_demand.push_back(result.node);
    }
    edit.results.erase(std::remove_if(edit.results.begin(), edit.results.end(), is_left), edit.results.end());
    edit.on_demand_from = on_demand.from;
  }

  // What a dropped operand is made from, as far as it is understood and so has no other effect. Layers share a mask:
  // each node is listed once.
  std::vector<NodeId> made_for(NodeId dropped) {
    std::vector<NodeId> found, pending;
    if (dropped != graph::kNoNode) pending.push_back(dropped);
    while (!pending.empty()) {
      const NodeId id = pending.back();
      pending.pop_back();
      const Op op = view_[id].op;
      const bool stays = op == Op::opaque || op == Op::input || op == Op::item || op == Op::dropout ||
                         op == Op::subgraph_call || op == Op::tuple_item || !graph_[id].tensor;
      if (stays || !dropped_.insert(id).second) continue;
      found.push_back(id);
      const std::vector<NodeId> inputs = graph::inputs_of(graph_[id]);
      pending.insert(pending.end(), inputs.begin(), inputs.end());
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  // One record for each place: the deepest refusal, and none where a rewrite took the place after all.
  void report_refusals() {
    std::map<std::pair<std::string, NodeId>, const Refusal*> deepest;
    for (const Refusal& refusal : refusals_) {
      if (taken_.count(refusal.node) > 0) continue;
      const Refusal*& best = deepest[{refusal.rule->name(), refusal.node}];
      const auto rank = [](const Refusal* r) { return std::pair(r->kind == Record::Kind::declined, r->depth); };
      if (best == nullptr || rank(&refusal) > rank(best)) best = &refusal;
    }
    std::vector<const Refusal*> ordered;
    ordered.reserve(deepest.size());
    for (const auto& [place, refusal] : deepest) ordered.push_back(refusal);
    std::sort(ordered.begin(), ordered.end(), [](const Refusal* a, const Refusal* b) { return a->node < b->node; });
    for (const Refusal* refusal : ordered) {
      result_.records.push_back({refusal->kind, refusal->rule->name(), refusal->node, "", refusal->reason, 0});
    }
  }

  const Graph& graph_;
  CanonicalGraph view_;
  const EngineOptions& options_;
  Context context_;
  std::vector<Proposal> proposals_;
  std::vector<Refusal> refusals_;
  std::set<NodeId> taken_;
  std::set<NodeId> dropped_;
  RewriteResult result_;
};

}  // namespace

RewriteResult rewrite(const Graph& graph, const std::vector<Rule>& rules, const EngineOptions& options) {
  return Run(graph, options).over(rules);
}

}  // namespace liger::rewrite
