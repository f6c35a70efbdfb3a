// The tables of all readers as two hash maps, built once.
#include <deque>
#include <unordered_map>

#include "graph/reading.h"

namespace liger::graph {
namespace {

// Calls `visit` with each space-separated word.
template <typename Visit>
void for_each_word(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    if (space != 0) visit(text.substr(0, space));
    text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
  }
}

Signature parse_signature(const Spelling& spelling) {
  Signature signature;
  signature.spelling = &spelling;
  bool keyword_only = false;
  for_each_word(spelling.parameters, [&](std::string_view word) {
    if (word == "*") {
      keyword_only = true;
      return;
    }
    if (word.size() > 3 && word.substr(word.size() - 3) == "...") {
      signature.variadic = true;
      word.remove_suffix(3);
    }
    const std::size_t slash = word.find('/');
    auto& names = signature.parameters.at(signature.count++);
    names[0] = word.substr(0, slash);
    names[1] = slash == std::string_view::npos ? names[0] : word.substr(slash + 1);
    if (!keyword_only) signature.positional = signature.count;
  });
  return signature;
}

class SpellingIndex {
 public:
  SpellingIndex() {
    for (const SpellingTable& table : {arithmetic_spellings(), reduction_spellings(), layout_spellings(),
                                       slice_spellings(), cast_spellings(), creation_spellings(), nn_spellings()}) {
      for (const Spelling* spelling = table.begin; spelling != table.end; ++spelling) add(*spelling);
    }
  }

  const Signature* find(const Node& node) const {
    constexpr std::string_view unbound = "torch.Tensor.";
    std::string_view target = node.target;
    bool is_method = node.kind == NodeKind::call_method;
    if (!is_method && node.kind != NodeKind::call_function) return nullptr;
    if (!is_method && target.substr(0, unbound.size()) == unbound) {
      is_method = true;
      target.remove_prefix(unbound.size());
    }
    const auto& map = is_method ? methods_ : functions_;
    const auto found = map.find(target);
    return found == map.end() ? nullptr : found->second;
  }

 private:
  void add(const Spelling& spelling) {
    signatures_.push_back(parse_signature(spelling));
    for_each_word(spelling.names, [&](std::string_view name) {
      if (name[0] == '.') {
        methods_.emplace(name.substr(1), &signatures_.back());
      } else if (name.substr(0, 2) == "F.") {
        for (const char* home : {"torch.nn.functional.", "torch._C._nn."}) {
          functions_.emplace(owned_.emplace_back(home + std::string(name.substr(2))), &signatures_.back());
        }
      } else {
        functions_.emplace(name, &signatures_.back());
      }
    });
  }

  std::deque<Signature> signatures_;
  std::deque<std::string> owned_;
  std::unordered_map<std::string_view, const Signature*> functions_, methods_;
};

}  // namespace

const Signature* find_signature(const Node& node) {
  static const SpellingIndex index;
  return index.find(node);
}

}  // namespace liger::graph
