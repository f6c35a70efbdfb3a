// N neighbouring elements moved by the widest accesses that their bytes allow, and the choice of N.
#pragma once

#include <cstdint>

namespace liger::kernels {

inline constexpr int kVectorBytes = 16;  // the widest single access

template <typename T, int N>
struct alignas(sizeof(T) * N < kVectorBytes ? sizeof(T) * N : kVectorBytes) Packed {
  T values[N];
};

// The largest power of two of neighbouring elements, at most `limit`, that every pointer, stride and size given to it
// allows to move together.
class VectorWidth {
 public:
  explicit VectorWidth(int limit) : width_(limit) {}

  // An address of elements of `bytes` each; null is no constraint.
  VectorWidth& pointer(const void* address, std::int64_t bytes) {
    const auto offset = reinterpret_cast<std::uintptr_t>(address);
    while (width_ > 1 && offset % access_bytes(bytes) != 0) width_ /= 2;
    return *this;
  }
  // A stride or size, in elements.
  VectorWidth& multiple(std::int64_t count) {
    while (width_ > 1 && count % width_ != 0) width_ /= 2;
    return *this;
  }
  int width() const { return width_; }

 private:
  std::uintptr_t access_bytes(std::int64_t bytes) const {
    const std::int64_t total = width_ * bytes;
    return static_cast<std::uintptr_t>(total < kVectorBytes ? total : kVectorBytes);
  }

  int width_;
};

}  // namespace liger::kernels
