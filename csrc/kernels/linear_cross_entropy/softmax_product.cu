// Launchers of softmax_product.cuh. On other devices than Hopper, and where no code for it is compiled, none of it is
// there.
#include <cmath>

#include "kernels/linear_cross_entropy/softmax_product.h"

#if defined(LIGER_HOPPER)
#include "kernels/common/tiled_product.h"
#include "kernels/linear_cross_entropy/softmax_product.cuh"
#endif

namespace liger::kernels {

namespace {

constexpr std::int64_t kPartColumns = 192;

}  // namespace

std::int64_t softmax_product_parts(std::int64_t vocab) { return (vocab + kPartColumns - 1) / kPartColumns; }

#if defined(LIGER_HOPPER)

namespace {

using hopper::MatrixOfTiles;
static_assert(kPartColumns == hopper::kTileColumns);

MatrixOfTiles hidden_tiles(const SoftmaxProductArgs& args) {
  return {args.hidden, args.rows, args.hidden_size, hopper::kTileRows};
}
MatrixOfTiles weight_tiles(const SoftmaxProductArgs& args) {
  return {args.weight, args.vocab, args.hidden_size, hopper::kSharedColumns};
}
MatrixOfTiles out_tiles(const SoftmaxProductArgs& args) { return {args.out, args.rows, args.vocab, hopper::kHalfRows}; }

}  // namespace

bool supports_softmax_product(const SoftmaxProductArgs& args) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30;  // rows, columns and tiles are counted in 32 bits
  const bool is_small = args.rows < kMost && args.vocab < kMost && args.hidden_size < kMost &&
                        hopper::tiles_of(args.rows, hopper::kTileRows) * softmax_product_parts(args.vocab) < kMost;
  return is_small && args.hidden_size > 0 && std::isfinite(args.scale) && args.scale > 0.0f &&
         hidden_tiles(args).is_aligned() && weight_tiles(args).is_aligned() && out_tiles(args).is_aligned() &&
         hopper::is_hopper();
}

Status softmax_product(const SoftmaxProductArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  const bool writes = args.out.data != nullptr;
  const auto a = hidden_tiles(args).map(), b = weight_tiles(args).map(), out = writes ? out_tiles(args).map() : a;
  if (!a || !b || !out) return Status("the driver refuses the layout of a matrix");
  hopper::SoftmaxProduct product = {};
  product.maps = {*a, {*b, *b}};
  product.out = *out;
  product.shape.column_tiles = static_cast<int>(softmax_product_parts(args.vocab));
  product.shape.inner_steps = static_cast<int>(hopper::tiles_of(args.hidden_size, hopper::kInnerStep));
  product.rows = static_cast<int>(args.rows);
  product.vocab = static_cast<int>(args.vocab);
  product.writes = writes;
  product.scale = args.scale;
  product.row = args.row;
  product.counted = args.counted;
  product.partial_sums = args.partial_sums;
  for (const bool is_repeated : {false, true}) {
    product.is_repeated = is_repeated;
    const Status status = hopper::launch_product(hopper::softmax_product_kernel, product, context);
    if (!status.ok()) return status;
  }
  return {};
}

#else

bool supports_softmax_product(const SoftmaxProductArgs&) { return false; }
Status softmax_product(const SoftmaxProductArgs&, const LaunchContext&) {
  return Status("no code for Hopper was compiled");
}

#endif

}  // namespace liger::kernels
