#include "rewrite/site.h"

#include <algorithm>
#include <map>

namespace liger::rewrite {

namespace {

using graph::Graph;

bool contains(const std::vector<NodeId>& sorted, NodeId id) {
  return std::binary_search(sorted.begin(), sorted.end(), id);
}

void sort_unique(std::vector<NodeId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

std::string percent(const Graph& graph, NodeId id) { return "%" + graph[id].name; }

std::vector<NodeId> captures_of(const std::vector<Match>& matches) {
  std::vector<NodeId> captured;
  for (const Match& match : matches) {
    for (const auto& [pattern, binding] : match.bindings()) {
      const bool is_leaf = pattern->kind == Pattern::Kind::tensor || pattern->kind == Pattern::Kind::optional ||
                           pattern->kind == Pattern::Kind::scalar;
      if (is_leaf && binding.value.is_node()) captured.push_back(binding.value.node);
    }
  }
  sort_unique(captured);
  return captured;
}

// The node that an identity reads, which may be an identity itself.
NodeId source_of_identity(const CanonicalGraph& view, NodeId identity) {
  for (NodeId input : graph::inputs_of(view.graph()[identity])) {
    if (view.resolve(input) == view.resolve(identity)) return input;
  }
  return view.resolve(identity);
}

// A chunk or split that a slice is a piece of, where an operation of the site makes what it takes apart: it goes with
// that value.
bool takes_apart(const CanonicalGraph& view, NodeId slice, NodeId input, const std::vector<NodeId>& operations) {
  if (view[slice].op != Op::slice || view.graph()[input].tensor || view.graph()[input].size) return false;
  return contains(operations, view[slice].operands.front().node);
}

// The identity nodes through which the operations read each other and the captured values, and what takes values of
// theirs apart.
std::vector<NodeId> identities_between(const CanonicalGraph& view, const std::vector<NodeId>& operations,
                                       const std::vector<NodeId>& captured) {
  std::vector<NodeId> identities;
  for (NodeId id : operations) {
    for (NodeId input : graph::inputs_of(view.graph()[id])) {
      if (takes_apart(view, id, input, operations)) {
        identities.push_back(input);
        input = graph::inputs_of(view.graph()[input]).front();
      }
      while (view[input].op == Op::identity && !contains(captured, input) && !contains(operations, input)) {
        identities.push_back(input);
        input = source_of_identity(view, input);
      }
    }
  }
  sort_unique(identities);
  return identities;
}

// Identity nodes that stand for the same value as `id`, with `id` itself.
std::vector<NodeId> same_value_in(const Site& site, NodeId id) {
  std::vector<NodeId> same{id};
  for (NodeId identity : site.identities) {
    if (site.view->resolve(identity) == id) same.push_back(identity);
  }
  return same;
}

bool used_outside(const Site& site, NodeId id) {
  const auto& users = site.view->graph()[id].users;
  return std::any_of(users.begin(), users.end(), [&](NodeId user) { return !site.holds(user); });
}

std::map<NodeId, int> declared_outputs(const std::vector<Match>& matches) {
  std::map<NodeId, int> outputs;
  for (const Match& match : matches) {
    for (const auto& [pattern, binding] : match.bindings()) {
      if (pattern->declared_output >= 0 && binding.value.is_node()) {
        outputs.emplace(binding.value.node, pattern->declared_output);
      }
    }
  }
  return outputs;
}

// A cast or view of a captured value may stay for its other users: it costs what it cost before.
bool may_stay(const Site& site, NodeId id) {
  switch ((*site.view)[id].op) {
    case Op::identity:
    case Op::cast:
    case Op::slice:
    case Op::reshape:
    case Op::permute:
    case Op::expand:
      break;
    default:
      return false;
  }
  const Operand& input = (*site.view)[id].operands.front();
  return input.is_node() &&
         (contains(site.captured, input.node) || (site.holds(input.node) && may_stay(site, input.node)));
}

bool is_result(const Site& site, NodeId id) {
  return std::any_of(site.results.begin(), site.results.end(), [&](const Result& r) { return r.node == id; });
}

// An identity of an interior value (x.contiguous(), x * 1.0) that something outside reads.
bool stands_for_result(const Site& site, NodeId id) {
  return is_result(site, id) || ((*site.view)[id].op == Op::identity && is_result(site, site.view->resolve(id)));
}

Verdict check_escapes(const Site& site) {
  const Graph& graph = site.view->graph();
  for (NodeId id : site.interior()) {
    if (stands_for_result(site, id) || may_stay(site, id)) continue;
    for (NodeId user : graph[id].users) {
      if (site.holds(user)) continue;
      const bool returned = graph[user].kind == graph::NodeKind::output;
      return because(percent(graph, id) + " is also " +
                     (returned ? "returned by the graph" : "used by " + percent(graph, user)));
    }
  }
  return ok();
}

Verdict check_regions(const Site& site) {
  const CanonicalGraph& view = *site.view;
  for (NodeId id : site.operations) {
    if (view.autocast_region(id) != view.autocast_region(site.anchor)) {
      return because(percent(view.graph(), id) + " and " + percent(view.graph(), site.anchor) +
                     " are in different autocast regions");
    }
    if (view.grad_enabled(id) != view.grad_enabled(site.anchor)) {
      return because("gradients are switched on or off between " + percent(view.graph(), id) + " and " +
                     percent(view.graph(), site.anchor));
    }
  }
  return ok();
}

// Where the site first reads `id`: from then until the anchor nothing may write to it.
NodeId first_read(const Site& site, NodeId id) {
  for (NodeId user : site.view->graph()[id].users) {  // in program order
    if (site.holds(user)) return user;
  }
  return site.anchor;
}

Verdict check_unwritten(const Site& site, NodeId id, NodeId from) {
  const Graph& graph = site.view->graph();
  for (const CanonicalGraph::Mutation& mutation : site.view->mutations()) {
    if (mutation.node <= from || mutation.node >= site.anchor) continue;
    const auto& roots = mutation.storage_roots;
    if (std::count(roots.begin(), roots.end(), site.view->storage_root(id)) == 0) continue;
    return because(percent(graph, id) + " may be modified in place by " + percent(graph, mutation.node) + " before " +
                   percent(graph, site.anchor));
  }
  return ok();
}

Verdict check_mutations(const Site& site) {
  for (NodeId id : site.captured) {
    if (Verdict verdict = check_unwritten(site, id, first_read(site, id)); !verdict) return verdict;
  }
  for (NodeId id : site.interior()) {
    if (Verdict verdict = check_unwritten(site, id, id); !verdict) return verdict;
  }
  return ok();
}

Verdict check_order(const Site& site) {
  const Graph& graph = site.view->graph();
  for (const Result& result : site.results) {
    for (NodeId user : graph[result.node].users) {
      if (site.holds(user) || user > site.anchor) continue;
      return because(percent(graph, result.node) + " is used by " + percent(graph, user) + " before " +
                     percent(graph, site.anchor) + ", where the fused call would make it");
    }
  }
  return ok();
}

// A root that only an identity reads (contiguous, cat with an empty tensor) ends there: the call makes what is read.
NodeId last_identity_of(const CanonicalGraph& view, NodeId root, std::vector<NodeId>& identities) {
  NodeId last = root;
  while (view.graph()[last].users.size() == 1) {
    const NodeId user = view.graph()[last].users.front();
    if (view[user].op != Op::identity || view.resolve(user) != view.resolve(root)) break;
    identities.push_back(user);
    last = user;
  }
  return last;
}

void add_results(Site& site, NodeId id, int output) {
  for (NodeId same : same_value_in(site, id)) {
    if (same == id || used_outside(site, same)) site.results.push_back({output, same});
  }
}

}  // namespace

bool Site::holds(NodeId id) const { return contains(operations, id) || contains(identities, id); }

std::vector<NodeId> Site::interior() const {
  std::vector<NodeId> all(operations);
  all.insert(all.end(), identities.begin(), identities.end());
  std::sort(all.begin(), all.end());
  return all;
}

Site make_site(const std::vector<Match>& matches, const std::vector<std::vector<NodeId>>& matched) {
  Site site;
  site.view = &matches.front().view();
  for (const auto& nodes : matched) site.operations.insert(site.operations.end(), nodes.begin(), nodes.end());
  sort_unique(site.operations);
  site.captured = captures_of(matches);
  site.identities = identities_between(*site.view, site.operations, site.captured);
  for (std::size_t i = 0; i < matches.size(); ++i) {
    const NodeId last = last_identity_of(*site.view, matches[i].root(), site.identities);
    site.anchor = std::max(site.anchor, last);
    site.results.push_back({matches.size() > 1 ? static_cast<int>(i) : kOnlyResult, last});
  }
  sort_unique(site.identities);
  for (const auto& [id, output] : declared_outputs(matches)) {
    const std::vector<NodeId> same = same_value_in(site, id);
    const bool escapes = std::any_of(same.begin(), same.end(), [&](NodeId s) { return used_outside(site, s); });
    if (escapes) add_results(site, id, output);
  }
  return site;
}

std::vector<NodeId> exclusive_operations(const Site& site) {
  std::vector<NodeId> exclusive;
  for (NodeId id : site.operations) {
    if (is_result(site, id) || !may_stay(site, id)) exclusive.push_back(id);
  }
  return exclusive;
}

Verdict check_site(const Site& site) {
  for (const auto& check : {check_escapes, check_regions, check_mutations, check_order}) {
    if (Verdict verdict = check(site); !verdict) return verdict;
  }
  return ok();
}

bool same_view(const CanonicalGraph& view, NodeId a, NodeId b) {
  if (a == b) return true;
  const graph::CanonicalNode &left = view[a], &right = view[b];
  const bool is_view =
      left.op == Op::reshape || left.op == Op::expand || left.op == Op::slice || left.op == Op::permute;
  if (!is_view || left.op != right.op || left.dims != right.dims || left.bounds != right.bounds) return false;
  if (left.operands.front().node != right.operands.front().node) return false;
  const auto &x = view.graph()[a].tensor, &y = view.graph()[b].tensor;
  if (!x || !y || x->shape != y->shape || x->strides != y->strides) return false;
  const auto [first, last] = std::minmax(a, b);
  const NodeId storage = view.storage_root(a);
  const auto& mutations = view.mutations();
  return std::none_of(mutations.begin(), mutations.end(), [&, first = first, last = last](const auto& mutation) {
    const auto& roots = mutation.storage_roots;
    return mutation.node > first && mutation.node < last && std::count(roots.begin(), roots.end(), storage) > 0;
  });
}

}  // namespace liger::rewrite
