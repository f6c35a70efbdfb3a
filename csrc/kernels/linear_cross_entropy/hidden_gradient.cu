// Launchers of hidden_gradient.cuh.
#include "kernels/linear_cross_entropy/hidden_gradient.h"

#if defined(LIGER_HOPPER)
#include "kernels/common/tiled_product.h"
#include "kernels/linear_cross_entropy/hidden_gradient.cuh"
#endif

namespace liger::kernels {

#if defined(LIGER_HOPPER)

std::int64_t hidden_product_parts(std::int64_t rows, std::int64_t hidden_size) {
  constexpr std::int64_t kMostParts = 4;
  const std::int64_t clusters = std::max(1, gpu::multiprocessor_count() / hopper::kCluster);
  const std::int64_t tiles = hopper::tiles_of(rows, hopper::kTileRows * hopper::kCluster) *
                             hopper::tiles_of(hidden_size, hopper::kTileColumns);
  // A cluster's most tiles, each of 1/parts of the classes.
  const auto turns = [&](std::int64_t parts) { return hopper::tiles_of(tiles * parts, clusters); };
  std::int64_t best = 1;
  for (std::int64_t parts = 2; parts <= kMostParts; ++parts)
    if (turns(parts) * best < turns(best) * parts) best = parts;
  return best;
}

Status hidden_product(const HiddenProductArgs& args, const LaunchContext& context) {
  using hopper::MatrixOfTiles;
  if (args.rows == 0) return {};
  const auto a = MatrixOfTiles{args.exponentials, args.rows, args.vocab, hopper::kTileRows}.map();
  const auto b = MatrixOfTiles{args.weight, args.vocab, args.hidden_size, hopper::kSharedInner}.map();
  if (!a || !b) return Status("the driver refuses the layout of a matrix");
  hopper::HiddenProduct product = {};
  product.maps = {*a, {*b, *b}};
  product.shape.column_tiles = static_cast<int>(hopper::tiles_of(args.hidden_size, hopper::kTileColumns));
  product.shape.inner_steps =
      static_cast<int>(hopper::tiles_of(hopper::tiles_of(args.vocab, hopper::kInnerStep), args.parts));
  product.shape.parts = static_cast<int>(args.parts);
  product.rows = static_cast<int>(args.rows);
  product.hidden_size = static_cast<int>(args.hidden_size);
  product.counted = args.counted;
  product.products = args.products;
  return hopper::launch_product(hopper::hidden_product_kernel, product, context);
}

#else

std::int64_t hidden_product_parts(std::int64_t, std::int64_t) { return 1; }
Status hidden_product(const HiddenProductArgs&, const LaunchContext&) {
  return Status("no code for Hopper was compiled");
}

#endif

}  // namespace liger::kernels
