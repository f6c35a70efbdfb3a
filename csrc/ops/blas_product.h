// Matrix products by a kernel of cuBLAS's that is not always the one that it would take by itself. A kernel that keeps
// tiles of 192 x 192 or 320 x 128 of the result fills all registers with them, and writes a tile before it begins with
// the next; smaller tiles leave room for both at once. bench/products.py compares them.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "ops/check.h"
#include "ops/tensors.h"

namespace liger::ops {

inline cudaDataType_t cuda_dtype(TorchDtype dtype) {
  if (dtype == TorchDtype::BFloat16) return CUDA_R_16BF;
  return dtype == TorchDtype::Half ? CUDA_R_16F : CUDA_R_32F;
}

// What cublasLt makes and destroys by handle.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class BlasObject {
 public:
  BlasObject() = default;
  ~BlasObject() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  BlasObject(const BlasObject&) = delete;
  BlasObject& operator=(const BlasObject&) = delete;
  Handle* out() { return &handle_; }
  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

// A matrix as BLAS sees it, which counts columns first: [rows, columns] before a possible transposition.
struct BlasMatrix {
  const void* data;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t stride;  // between columns
  bool is_transposed;
};

// result = a @ b (+ addend), [m, n]; result and addend, which may be one, with rows of neighbouring elements, of the
// operands' dtype or float32. Since BLAS counts columns first, it sees result^T = b^T @ a^T.
class BlasProduct {
 public:
  BlasProduct(const Tensor& a, const Tensor& b, Tensor& result, const Tensor* addend = nullptr)
      : result_(result),
        addend_(addend == nullptr ? result : *addend),
        beta_(addend == nullptr ? 0.0f : 1.0f),
        dtype_(a.scalar_type()),
        is_empty_(a.numel() == 0 || b.numel() == 0),
        left_(as_blas(b)),
        right_(as_blas(a)) {}

  // False where nothing was done: where cuBLAS's own choice is as good, or the operands are not for it. For half types.
  bool run() const {
    const bool is_half = dtype_ == TorchDtype::BFloat16 || dtype_ == TorchDtype::Half;
    if (!is_half || is_empty_ || !left_ || !right_) return false;
    if (alignment_of(left_->data) < 16 || alignment_of(right_->data) < 16) return false;
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle));
    const auto light = static_cast<cublasLtHandle_t>(handle);  // a handle of cuBLAS is one of cublasLt as well
    cudaStream_t stream = nullptr;
    if (cublasGetStream(static_cast<cublasHandle_t>(handle), &stream) != CUBLAS_STATUS_SUCCESS) return false;
    const std::optional<Choice> choice = choice_for(light);
    if (!choice) return false;
    const Description description(*this);
    if (!description.is_complete) return false;
    const Tensor workspace = new_empty(result_, Shape{kWorkspaceBytes / 4}, TorchDtype::Float);
    const float alpha = 1.0f;
    const cublasStatus_t status = cublasLtMatmul(
        light, description.product, &alpha, left_->data, description.left, right_->data, description.right, &beta_,
        addend_.const_data_ptr(), description.addend, result_.mutable_data_ptr(), description.result, &*choice,
        const_cast<void*>(workspace.const_data_ptr()), kWorkspaceBytes, stream);
    require(status == CUBLAS_STATUS_SUCCESS, "cublasLtMatmul failed: ", cublasGetStatusString(status));
    return true;
  }

  // By the kernel of cuBLAS's own choice, with torch's TF32 setting, which the handle carries. Adds in place only.
  void run_default() const {
    require(left_ && right_, "a product's operand has neighbouring elements neither in its rows nor in its columns");
    require(is_in_place(), "a product is added to another tensor than its result");
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle));
    const float alpha = 1.0f;
    const auto type = cuda_dtype(dtype_), result_type = cuda_dtype(result_.scalar_type());
    const auto operation = [](const BlasMatrix& matrix) { return matrix.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const auto as_int = [](std::int64_t extent) { return static_cast<int>(extent); };
    const std::int64_t inner = left_->is_transposed ? left_->rows : left_->columns;
    const cublasStatus_t status = cublasGemmEx(
        static_cast<cublasHandle_t>(handle), operation(*left_), operation(*right_), as_int(result_.size(1)),
        as_int(result_.size(0)), as_int(inner), &alpha, left_->data, type, as_int(left_->stride), right_->data, type,
        as_int(right_->stride), &beta_, result_.mutable_data_ptr(), result_type, as_int(result_.stride(0)),
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    require(status == CUBLAS_STATUS_SUCCESS, "cublasGemmEx failed: ", cublasGetStatusString(status));
  }

 private:
  using Choice = cublasLtMatmulAlgo_t;
  using Layout = BlasObject<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  using Key = std::array<std::int64_t, 14>;
  static constexpr std::int64_t kWorkspaceBytes = 1024;  // for counters; kernels that need more are not wanted

  // What cublasLt is told of a product.
  struct Description {
    explicit Description(const BlasProduct& of) {
      const cudaDataType_t type = cuda_dtype(of.dtype_);
      is_complete = cublasLtMatmulDescCreate(product.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
                    set(CUBLASLT_MATMUL_DESC_TRANSA, *of.left_) && set(CUBLASLT_MATMUL_DESC_TRANSB, *of.right_) &&
                    describe(left, type, *of.left_) && describe(right, type, *of.right_) &&
                    describe_rows(addend, of.addend_) && describe_rows(result, of.result_);
    }

    bool set(cublasLtMatmulDescAttributes_t attribute, const BlasMatrix& matrix) {
      const cublasOperation_t operation = matrix.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      return cublasLtMatmulDescSetAttribute(product, attribute, &operation, sizeof(operation)) == CUBLAS_STATUS_SUCCESS;
    }

    static bool describe(Layout& layout, cudaDataType_t type, const BlasMatrix& matrix) {
      return cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<std::uint64_t>(matrix.rows),
                                        static_cast<std::uint64_t>(matrix.columns),
                                        matrix.stride) == CUBLAS_STATUS_SUCCESS;
    }

    static bool describe_rows(Layout& layout, const Tensor& matrix) {
      const BlasMatrix transposed{nullptr, matrix.size(1), matrix.size(0), matrix.stride(0), false};
      return describe(layout, cuda_dtype(matrix.scalar_type()), transposed);
    }

    BlasObject<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
    Layout left, right, addend, result;
    bool is_complete = false;
  };

  // Nothing where neither its rows nor its columns have neighbouring elements.
  static std::optional<BlasMatrix> as_blas(const Tensor& matrix) {
    const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
    const void* data = matrix.const_data_ptr();
    if (matrix.stride(1) == 1 && matrix.stride(0) >= columns)
      return BlasMatrix{data, columns, rows, matrix.stride(0), false};
    if (matrix.stride(0) == 1 && matrix.stride(1) >= rows)
      return BlasMatrix{data, rows, columns, matrix.stride(1), true};
    return std::nullopt;
  }

  // Of an address, in bytes, as far as cublasLt wants to know.
  static std::uint32_t alignment_of(const void* address) {
    const auto bits = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(address) % 256);
    return bits == 0 ? 256 : bits & (~bits + 1);
  }

  bool is_in_place() const { return addend_.const_data_ptr() == result_.const_data_ptr(); }

  Key key() const {
    const std::int64_t alignments = alignment_of(left_->data) | (std::int64_t{alignment_of(right_->data)} << 10) |
                                    (std::int64_t{alignment_of(result_.const_data_ptr())} << 20) |
                                    (std::int64_t{alignment_of(addend_.const_data_ptr())} << 30);
    const std::int64_t adds = std::int64_t{beta_ != 0.0f} << 40 | std::int64_t{is_in_place()} << 41;
    const auto type = static_cast<std::int64_t>(dtype_), result_type = static_cast<std::int64_t>(result_.scalar_type());
    return {left_->rows,
            left_->columns,
            left_->stride,
            left_->is_transposed,
            right_->rows,
            right_->columns,
            right_->stride,
            right_->is_transposed,
            result_.stride(0),
            addend_.stride(0),
            type,
            result_type,
            alignments | adds,
            result_.get_device_index()};
  }

  // Asked once for each kind of product: cublasLt takes longer to answer than to launch.
  std::optional<Choice> choice_for(cublasLtHandle_t light) const {
    static std::mutex mutex;
    static std::map<Key, std::optional<Choice>> choices;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto [entry, is_new] = choices.try_emplace(key());
    if (is_new) entry->second = wanted(light);
    return entry->second;
  }

  std::optional<Choice> wanted(cublasLtHandle_t light) const {
    std::array<cublasLtMatmulHeuristicResult_t, 8> offers;
    const int count = ask(light, offers.data(), static_cast<int>(offers.size()));
    if (count == 0) return std::nullopt;
    // Where sums are kept in float32 a tile is twice as many bytes to read and to write. Gradients of weights, whose
    // operands both lie across, gain nothing otherwise.
    const int first = tile_of(offers[0]);
    const bool fills_registers = first == CUBLASLT_MATMUL_TILE_192x192 || first == CUBLASLT_MATMUL_TILE_320x128;
    const bool is_weight_gradient = !left_->is_transposed && right_->is_transposed;
    const bool may_gain = fills_registers && !is_weight_gradient;
    // What adds to another tensor than its result has no default: ATen would copy that tensor first.
    const auto otherwise = is_in_place() ? std::nullopt : std::optional<Choice>(offers[0].algo);
    if (!may_gain && result_.scalar_type() != TorchDtype::Float) return otherwise;
    for (const int tile : {CUBLASLT_MATMUL_TILE_128x160, CUBLASLT_MATMUL_TILE_168x128, CUBLASLT_MATMUL_TILE_176x128}) {
      for (int i = 0; i < count; ++i) {
        if (tile_of(offers[i]) == tile) return offers[i].algo;
      }
    }
    return otherwise;
  }

  static int tile_of(const cublasLtMatmulHeuristicResult_t& offer) {
    int tile = 0;
    std::size_t size = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&offer.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof(tile), &size);
    return tile;
  }

  // cublasLt's offers, the one that it thinks best first; returns how many.
  int ask(cublasLtHandle_t light, cublasLtMatmulHeuristicResult_t* offers, int most) const {
    const Description description(*this);
    BlasObject<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    if (!description.is_complete || cublasLtMatmulPreferenceCreate(preference.out()) != CUBLAS_STATUS_SUCCESS) return 0;
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)) ==
             CUBLAS_STATUS_SUCCESS;
    };
    const bool is_set = prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspaceBytes)) &&
                        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(left_->data)) &&
                        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(right_->data)) &&
                        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(addend_.const_data_ptr())) &&
                        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(result_.const_data_ptr()));
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(light, description.product, description.left, description.right,
                                       description.addend, description.result, preference, most, offers, &count);
    return is_set && status == CUBLAS_STATUS_SUCCESS ? count : 0;
  }

  Tensor& result_;
  const Tensor& addend_;
  float beta_;
  TorchDtype dtype_;
  bool is_empty_;
  std::optional<BlasMatrix> left_, right_;
};

}  // namespace liger::ops
