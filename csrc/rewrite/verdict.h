// The answer of a check: yes, or no with a sentence. There is no bare `false`.
#pragma once

#include <string>
#include <utility>

namespace liger::rewrite {

class [[nodiscard]] Verdict {
 public:
  static Verdict yes() { return Verdict(true, {}); }
  static Verdict no(std::string reason) { return Verdict(false, std::move(reason)); }

  explicit operator bool() const { return yes_; }
  const std::string& reason() const { return reason_; }

 private:
  Verdict(bool yes, std::string reason) : yes_(yes), reason_(std::move(reason)) {}

  bool yes_;
  std::string reason_;
};

inline Verdict ok() { return Verdict::yes(); }
inline Verdict because(std::string reason) { return Verdict::no(std::move(reason)); }

}  // namespace liger::rewrite
