// Launchers of weight_gradient.cuh.
#include "kernels/linear_cross_entropy/weight_gradient.h"

#if defined(LIGER_HOPPER)
#include "kernels/common/tiled_product.h"
#include "kernels/linear_cross_entropy/weight_gradient.cuh"
#endif

namespace liger::kernels {

#if defined(LIGER_HOPPER)

Status weight_gradient(const WeightGradientArgs& args, const LaunchContext& context) {
  using hopper::MatrixOfTiles;
  if (args.rows == 0) return {};
  const auto a = MatrixOfTiles{args.exponentials, args.rows, args.vocab, hopper::kInnerStep}.map();
  const auto b = MatrixOfTiles{args.scaled_hidden, args.rows, args.hidden_size, hopper::kSharedInner}.map();
  static_assert(LowerBits::kBox == hopper::kHalfRows && LowerBits::kBox == hopper::kBoxColumns);
  const ProductMatrix result{args.upper, args.hidden_size};
  const auto upper = MatrixOfTiles{result, args.vocab, args.hidden_size, hopper::kHalfRows}.map();
  if (!a || !b || !upper) return Status("the driver refuses the layout of a matrix");
  hopper::WeightGradient gradient = {};
  gradient.maps = {*a, {*b, *b}};
  gradient.upper = *upper;
  gradient.lower = static_cast<unsigned char*>(args.lower);
  gradient.shape.row_pairs = static_cast<int>(hopper::tiles_of(args.vocab, hopper::kTileRows * hopper::kCluster));
  gradient.shape.column_tiles = static_cast<int>(hopper::tiles_of(args.hidden_size, hopper::kTileColumns));
  gradient.rows = static_cast<int>(args.rows);
  gradient.counted = args.counted;
  gradient.vocab = static_cast<int>(args.vocab);
  gradient.hidden_size = static_cast<int>(args.hidden_size);
  gradient.is_first = args.is_first;
  gradient.is_last = args.is_last;
  gradient.row_of_class = args.row_of_class;
  gradient.label_sums = args.label_sums;
  return hopper::launch_product(hopper::weight_gradient_kernel, gradient, context);
}

#else

Status weight_gradient(const WeightGradientArgs&, const LaunchContext&) {
  return Status("no code for Hopper was compiled");
}

#endif

}  // namespace liger::kernels
