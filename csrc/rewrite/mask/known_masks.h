// The masks of one graph, each of them read once: the layers of a model share theirs.
#pragma once

#include <deque>
#include <vector>

#include "rewrite/mask/mask.h"

namespace liger::rewrite::mask {

class KnownMasks {
 public:
  KnownMasks(const graph::CanonicalGraph& view, const Facts& facts) : view_(view), facts_(facts) {}

  // As read_mask; the result lives as long as this does.
  const ReadMask& read(graph::NodeId id, graph::NodeId at, const std::vector<graph::SymInt>& scores);

 private:
  struct Entry {
    graph::NodeId id;
    std::size_t writes_before;  // which is all that reading depends on `at` for
    std::vector<graph::SymInt> scores;
    ReadMask mask;
  };

  std::size_t writes_before(graph::NodeId at) const;

  const graph::CanonicalGraph& view_;
  const Facts& facts_;
  std::deque<Entry> entries_;
};

}  // namespace liger::rewrite::mask
