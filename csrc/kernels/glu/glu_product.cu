// Launchers of glu_product.cuh. On other devices than Hopper, and where no code for it is compiled, none of it is
// there.
#include "kernels/glu/glu_product.h"

#if defined(LIGER_HOPPER)
#include "kernels/common/tiled_product.h"
#include "kernels/glu/glu_product.cuh"
#endif

namespace liger::kernels {

#if defined(LIGER_HOPPER)

namespace {

using hopper::MatrixOfTiles;

// Fills the map of a matrix [rows, width]; false where the driver refuses.
template <typename Args>
bool set_map(CUtensorMap& map, const ProductMatrix& matrix, const Args& args) {
  const auto found = MatrixOfTiles{matrix, args.rows, args.width, hopper::kHalfRows, hopper::kNarrowColumns}.map();
  if (found) map = *found;
  return found.has_value();
}

template <typename Args>
bool set_maps(hopper::GluProduct& product, const Args& args) {
  return set_map(product.gate, args.gate, args) && set_map(product.up, args.up, args) &&
         set_map(product.out, args.out, args);
}

// columns: of the product, those of both of a pair of matrices.
hopper::ProductShape shape_of(std::int64_t rows, std::int64_t columns, std::int64_t inner) {
  return {static_cast<int>(hopper::tiles_of(rows, hopper::kTileRows * hopper::kCluster)),
          static_cast<int>(hopper::tiles_of(columns, hopper::kTileColumns)),
          static_cast<int>(hopper::tiles_of(inner, hopper::kInnerStep))};
}

// Rows, columns and tiles are counted in 32 bits.
bool fits(std::int64_t rows, std::int64_t hidden_size, std::int64_t width) {
  constexpr std::int64_t kMost = std::int64_t{1} << 29;
  return rows < kMost && width < kMost && hidden_size < kMost && hidden_size > 0 && width > 0 &&
         hopper::tiles_of(rows, hopper::kTileRows) * hopper::tiles_of(2 * width, hopper::kTileColumns) < kMost;
}

bool are_aligned(std::initializer_list<ProductMatrix> matrices) {
  for (const ProductMatrix& matrix : matrices)
    if (!MatrixOfTiles{matrix, 0, 0, 0}.is_aligned()) return false;
  return true;
}

constexpr const char* kRefused = "the driver refuses the layout of a matrix";

}  // namespace

bool supports_glu_product(const GluProductArgs& args) {
  return fits(args.rows, args.hidden_size, args.width) &&
         are_aligned({args.hidden, args.gate_weight, args.up_weight, args.gate, args.up, args.out}) &&
         hopper::is_hopper();
}

bool supports_glu_product(const GluProductBackwardArgs& args) {
  return fits(args.rows, args.hidden_size, args.width) &&
         are_aligned({args.grad, args.down_weight, args.gate, args.up, args.grad_gate, args.grad_up, args.out}) &&
         hopper::is_hopper();
}

Status glu_product(const GluProductArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  const auto weight_tiles = [&](const ProductMatrix& weight) {
    return MatrixOfTiles{weight, args.width, args.hidden_size, hopper::kSharedColumns}.map();
  };
  const auto hidden = MatrixOfTiles{args.hidden, args.rows, args.hidden_size, hopper::kTileRows}.map();
  const auto gate_weight = weight_tiles(args.gate_weight), up_weight = weight_tiles(args.up_weight);
  hopper::GluProduct product = {};
  if (!hidden || !gate_weight || !up_weight || !set_maps(product, args)) return Status(kRefused);
  product.maps = {*hidden, {*gate_weight, *up_weight}};
  product.shape = shape_of(args.rows, 2 * args.width, args.hidden_size);
  return dispatch_activation(args.activation, [&](auto activation) {
    return hopper::launch_product(hopper::glu_product_kernel<activation.value>, product, context);
  });
}

Status glu_product_backward(const GluProductBackwardArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  const auto grad = MatrixOfTiles{args.grad, args.rows, args.hidden_size, hopper::kTileRows}.map();
  const auto weight = MatrixOfTiles{args.down_weight, args.hidden_size, args.width, hopper::kSharedInner}.map();
  hopper::GluProduct product = {};
  if (!grad || !weight || !set_maps(product, args) || !set_map(product.grad_gate, args.grad_gate, args) ||
      !set_map(product.grad_up, args.grad_up, args))
    return Status(kRefused);
  product.maps = {*grad, {*weight, *weight}};
  product.shape = shape_of(args.rows, args.width, args.hidden_size);
  return dispatch_activation(args.activation, [&](auto activation) {
    return hopper::launch_product(hopper::glu_product_backward_kernel<activation.value>, product, context);
  });
}

#else

bool supports_glu_product(const GluProductArgs&) { return false; }
bool supports_glu_product(const GluProductBackwardArgs&) { return false; }

Status glu_product(const GluProductArgs&, const LaunchContext&) { return Status("no code for Hopper was compiled"); }
Status glu_product_backward(const GluProductBackwardArgs&, const LaunchContext&) {
  return Status("no code for Hopper was compiled");
}

#endif

}  // namespace liger::kernels
