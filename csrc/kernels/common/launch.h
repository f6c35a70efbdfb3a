// What an entry point gets besides its arguments, and what it returns. No entry point allocates, waits or throws.
#pragma once

#include <cstdint>

namespace liger::kernels {

// Success, or a message with static storage duration.
class Status {
 public:
  constexpr Status() = default;
  constexpr explicit Status(const char* message) : message_(message) {}
  constexpr bool ok() const { return message_ == nullptr; }
  constexpr const char* message() const { return message_; }

 private:
  const char* message_ = nullptr;
};

using RangeBody = void (*)(std::int64_t begin, std::int64_t end, void* state);
// Runs body over disjoint ranges that cover [0, count), none shorter than grain except the last.
using ParallelFor = void (*)(std::int64_t count, std::int64_t grain, RangeBody body, void* state);

struct LaunchContext {
  void* stream = nullptr;              // of the GPU; the CPU ignores it
  ParallelFor parallel_for = nullptr;  // of the CPU; null runs serially
  int num_threads = 1;                 // of the CPU
};

// body(begin, end) over ranges of [0, count); for the CPU kernels.
template <typename Body>
void for_ranges(const LaunchContext& context, std::int64_t count, std::int64_t grain, Body&& body) {
  if (context.parallel_for == nullptr || context.num_threads <= 1 || count <= grain) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  const auto call = [](std::int64_t begin, std::int64_t end, void* state) { (*static_cast<Body*>(state))(begin, end); };
  context.parallel_for(count, grain, call, &body);
}

}  // namespace liger::kernels
