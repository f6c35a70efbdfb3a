#include "rewrite/mask/known_masks.h"

#include <algorithm>

namespace liger::rewrite::mask {

using graph::NodeId;

const ReadMask& KnownMasks::read(NodeId id, NodeId at, const std::vector<graph::SymInt>& scores) {
  const std::size_t writes = writes_before(at);
  for (const Entry& entry : entries_) {
    if (entry.id == id && entry.writes_before == writes && entry.scores == scores) return entry.mask;
  }
  entries_.push_back({id, writes, scores, read_mask(view_, facts_, id, at, scores)});
  return entries_.back().mask;
}

std::size_t KnownMasks::writes_before(NodeId at) const {
  const auto is_before = [&](const graph::CanonicalGraph::Mutation& mutation) { return mutation.node < at; };
  return static_cast<std::size_t>(std::count_if(view_.mutations().begin(), view_.mutations().end(), is_before));
}

}  // namespace liger::rewrite::mask
