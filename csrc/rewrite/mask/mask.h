// What the mask of an attention call is: the condition under which a query attends to a key, as a conjunction of terms
// that attention kernels know.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "rewrite/mask/reader.h"
#include "rewrite/verdict.h"

namespace liger::rewrite::mask {

struct Term {
  enum class Kind : std::uint8_t {
    causal,     // key <= query
    window,     // key > query - size
    chunk,      // key and query lie in the same chunk of `size` positions, which may begin source[...] later
    padding,    // source[..., key] is not zero
    documents,  // source[..., query] == source[..., key]
    blocks,     // key <= query, or both in one block: attention to what is not causal, as for prefixes and images
    other,
  };

  Kind kind = Kind::other;
  Condition condition = Condition::constant(true);
  std::int64_t size = 0;         // of a window or chunk
  std::optional<Source> source;  // of padding and documents, and of chunks that do not begin at 0
  std::size_t dim = 0;           // of the source: the one that runs over positions
};

struct Mask {
  std::vector<Term> terms;  // all must hold; none: everything is attended to

  bool has(Term::Kind kind) const;
  std::string text() const;  // "causal, window of 8, padding %attention_mask"
};

std::string_view name_of(Term::Kind kind);  // "causal"

// A chunk that holds all positions where the elements of its source are 0.
bool is_whole_from_zero(const Term& term);

// The terms of a condition on batch, head, query and key.
Mask classify(const Condition& condition);

// The mask `id` of the attention call `at`, whose scores have the shape `scores`, [..., queries, keys]: a boolean
// tensor, or numbers that are added, which must be 0 and -inf (or the lowest number of a dtype of 8 exponent bits). The
// reason says what is not understood.
struct ReadMask {
  Verdict understood = ok();
  Mask mask;
};
ReadMask read_mask(const graph::CanonicalGraph& view, const Facts& facts, graph::NodeId id, graph::NodeId at,
                   const std::vector<graph::SymInt>& scores);

// What is known of tensors that are passed on to a subgraph, by the names of their nodes here; the rest is left out.
Facts facts_of(const graph::CanonicalGraph& view, const Facts& facts, const std::vector<std::string>& names);

}  // namespace liger::rewrite::mask
