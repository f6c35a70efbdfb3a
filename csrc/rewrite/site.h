// A site: the part of the graph that one call would replace, and the checks that are the same for every rule.
#pragma once

#include <vector>

#include "rewrite/match.h"

namespace liger::rewrite {

struct Site {
  const CanonicalGraph* view = nullptr;
  NodeId anchor = graph::kNoNode;  // where the call goes: the last root
  std::vector<NodeId> operations;  // matched nodes, sorted
  std::vector<NodeId> identities;  // nodes between them that change nothing or take a value apart, sorted
  std::vector<NodeId> captured;    // nodes that the call may read, sorted
  std::vector<Result> results;     // roots and declared outputs that something outside uses

  bool holds(NodeId id) const;           // as an operation or an identity
  std::vector<NodeId> interior() const;  // operations and identities, sorted
};

// `matched` are the operations of each match, in the order of `matches`. Root i takes output i where there are several
// matches, else `root_output`.
Site make_site(const std::vector<Match>& matches, const std::vector<std::vector<NodeId>>& matched);

// Refuses where an interior value is used outside (unless it is an output of the call, or a mere cast or view of an
// input, which may stay), where a value is written to between its use and the call, where autocast or grad mode differ
// inside the site, and where an output would be used before the call that makes it.
Verdict check_site(const Site& site);

// The operations without casts and views of what the site only reads: those may stay, so several sites can share them.
std::vector<NodeId> exclusive_operations(const Site& site);

// The same node, or the same view taken twice of the same value, which nothing writes to in between.
bool same_view(const CanonicalGraph& view, NodeId a, NodeId b);

}  // namespace liger::rewrite
