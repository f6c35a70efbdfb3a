// Which of its kernels cuBLAS runs for a product that is added to a float32 matrix: not always the one that it would
// take by itself. Over and above the product such a kernel reads and writes four times as many bytes for its result as
// one that stores half types, and cuBLAS's first choice waits for them.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>

#include <array>
#include <memory>
#include <type_traits>

#include "ops/check.h"
#include "ops/device.h"
#include "ops/stable.h"

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

// total (+)= a^T @ b, as add_transposed_matmul takes them, for half types.
class BlasChoice {
 public:
  BlasChoice(const Tensor& a, const Tensor& b, bool accumulate) : a_(a), b_(b), beta_(accumulate ? 1.0f : 0.0f) {
    const cublasOperation_t no = CUBLAS_OP_N, yes = CUBLAS_OP_T;
    const cudaDataType_t type = cuda_dtype(a.scalar_type());
    const auto rows = static_cast<std::uint64_t>(b.size(1)), columns = static_cast<std::uint64_t>(a.size(1));
    const auto depth = static_cast<std::uint64_t>(a.size(0));
    is_described_ = cublasLtMatmulDescCreate(product_.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
                    set(CUBLASLT_MATMUL_DESC_TRANSA, no) && set(CUBLASLT_MATMUL_DESC_TRANSB, yes) &&
                    describe(left_, type, rows, depth, b.stride(0)) &&
                    describe(right_, type, columns, depth, a.stride(0)) &&
                    describe(result_, CUDA_R_32F, rows, columns, b.size(1));
  }

  // False where cublasLt does not offer the kernel that is wanted, and nothing was done.
  bool run(Tensor& total) const {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle));
    const auto blas = static_cast<cublasHandle_t>(handle);
    const auto light = static_cast<cublasLtHandle_t>(handle);  // a handle of cuBLAS is one of cublasLt as well
    Algorithms offers;
    const int index = is_described_ ? wanted(offers, light) : -1;
    cudaStream_t stream = nullptr;
    if (index < 0 || cublasGetStream(blas, &stream) != CUBLAS_STATUS_SUCCESS) return false;
    const float alpha = 1.0f;
    const Tensor workspace = new_empty(total, Shape{kWorkspaceBytes / 4}, TorchDtype::Float);
    const cublasStatus_t status =
        cublasLtMatmul(light, product_, &alpha, b_.const_data_ptr(), left_, a_.const_data_ptr(), right_, &beta_,
                       total.mutable_data_ptr(), result_, total.mutable_data_ptr(), result_, &offers[index].algo,
                       const_cast<void*>(workspace.const_data_ptr()), kWorkspaceBytes, stream);
    require(status == CUBLAS_STATUS_SUCCESS, "cublasLtMatmul failed: ", cublasGetStatusString(status));
    return true;
  }

 private:
  static constexpr std::size_t kWorkspaceBytes = 1024;  // for counters; none of what it is wanted for needs more
  using Algorithms = std::array<cublasLtMatmulHeuristicResult_t, 12>;
  using Layout = BlasObject<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

  bool set(cublasLtMatmulDescAttributes_t attribute, cublasOperation_t operation) {
    return cublasLtMatmulDescSetAttribute(product_, attribute, &operation, sizeof(operation)) == CUBLAS_STATUS_SUCCESS;
  }

  static bool describe(Layout& layout, cudaDataType_t type, std::uint64_t rows, std::uint64_t columns,
                       std::int64_t stride) {
    return cublasLtMatrixLayoutCreate(layout.out(), type, rows, columns, stride) == CUBLAS_STATUS_SUCCESS;
  }

  // Tiles of 128 x 160 leave registers for the next tile while the last one is added: on an H100 with sums of 2048 rows
  // they take 0.80 to 0.97 of the time of cuBLAS's own choice (bench/accumulated_products.cu).
  int wanted(Algorithms& offers, cublasLtHandle_t light) const {
    BlasObject<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    int count = 0;
    const bool is_answered =
        cublasLtMatmulPreferenceCreate(preference.out()) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                             sizeof(kWorkspaceBytes)) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulAlgoGetHeuristic(light, product_, left_, right_, result_, result_, preference,
                                       static_cast<int>(offers.size()), offers.data(), &count) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; is_answered && i < count; ++i) {
      int tile = 0;
      std::size_t size = 0;
      const cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(&offers[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID,
                                                                         &tile, sizeof(tile), &size);
      if (status == CUBLAS_STATUS_SUCCESS && tile == CUBLASLT_MATMUL_TILE_128x160) return i;
    }
    return -1;
  }

  const Tensor& a_;
  const Tensor& b_;
  float beta_;
  bool is_described_ = false;
  BlasObject<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product_;
  Layout left_, right_, result_;
};

}  // namespace liger::ops
