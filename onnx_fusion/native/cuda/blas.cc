// Products by cuBLASLt.
#include <dlfcn.h>

#include <type_traits>

#include "cuda/library.h"

namespace onnx_fusion::cuda {
namespace {

// cublasLt.h, cublas_api.h and library_types.h of 13.1, where they are as in 12.0.
constexpr int kReal32 = 0, kReal16 = 2, kBrain16 = 14;  // cudaDataType
constexpr int kCompute32 = 68, kComputeTf32 = 77;       // cublasComputeType_t
constexpr int kTransposed = 1;                          // cublasOperation_t
// cublasLtMatmulDescAttributes_t
constexpr int kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBias = 8;
constexpr int kBatches = 5, kBatchStride = 6;  // cublasLtMatrixLayoutAttribute_t
// cublasLtMatmulPreferenceAttributes_t
constexpr int kMostWorkspace = 1, kReductions = 3, kAlignmentA = 5;
constexpr uint32_t kByComputeType = 2;                     // cublasLtReductionScheme_t
constexpr uint32_t kDefault = 1, kAddBias = 4;  // cublasLtEpilogue_t
constexpr uint32_t kAlignment = 16;  // of what find_call takes
constexpr int kMostAlgorithms = 8;

struct Found {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Found) == 96);

int type_of(DType dtype) {
  return dtype == DType::f16 ? kReal16 : dtype == DType::bf16 ? kBrain16 : kReal32;
}

#define ONNX_FUSION_BLAS(X)                                                                       \
  X(version, "cublasLtGetVersion", size_t())                                                      \
  X(status_name, "cublasLtGetStatusName", const char*(int))                                       \
  X(create, "cublasLtCreate", int(void**))                                                        \
  X(create_operation, "cublasLtMatmulDescCreate", int(void**, int, int))                          \
  X(destroy_operation, "cublasLtMatmulDescDestroy", int(void*))                                   \
  X(set_operation, "cublasLtMatmulDescSetAttribute", int(void*, int, const void*, size_t))        \
  X(create_layout, "cublasLtMatrixLayoutCreate", int(void**, int, uint64_t, uint64_t, int64_t))   \
  X(destroy_layout, "cublasLtMatrixLayoutDestroy", int(void*))                                    \
  X(set_layout, "cublasLtMatrixLayoutSetAttribute", int(void*, int, const void*, size_t))         \
  X(create_preference, "cublasLtMatmulPreferenceCreate", int(void**))                             \
  X(destroy_preference, "cublasLtMatmulPreferenceDestroy", int(void*))                            \
  X(set_preference, "cublasLtMatmulPreferenceSetAttribute", int(void*, int, const void*, size_t)) \
  X(find_algorithms, "cublasLtMatmulAlgoGetHeuristic",                                            \
    int(void*, void*, void*, void*, void*, void*, void*, int, Found*, int*))                      \
  X(multiply, "cublasLtMatmul",                                                                   \
    int(void*, void*, const void*, const void*, void*, const void*, void*, const void*,           \
        const void*, void*, void*, void*, const void*, void*, size_t, Stream))

struct Table {
#define X(member, name, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  ONNX_FUSION_BLAS(X)
#undef X
};

class Blas : public Library {
 public:
  explicit Blas(const Table& table) : table_(table) {
    version_ = "cuBLASLt " + std::to_string(table.version());
  }
  const char* entry() const override { return "cublasLtMatmul"; }
  std::string describe(int status) const override {
    const char* name = table_.status_name(status);
    return std::string(name != nullptr ? name : "error") + " (" + std::to_string(status) + ")";
  }
  std::unique_ptr<Prepared> prepare(Context context, const Call& call,
                                    int algorithm) const override;

 private:
  int create_handle(void** handle, const Stream*) const override { return table_.create(handle); }
  const Table table_;
};

class Multiplication : public Prepared {
 public:
  Multiplication(const Table& table, void* handle, const Call& call)
      : t_(table), call_(call), sizes_(std::get<Matrices>(call.sizes)), handle_(handle) {}
  ~Multiplication() override;
  Multiplication(const Multiplication&) = delete;
  Multiplication& operator=(const Multiplication&) = delete;

  bool describe();
  bool choose(int algorithm);
  int run(const uint64_t* pointers, Stream stream, bool captured) const override;

 private:
  bool layout(void** made, DType dtype, int64_t rows, int64_t columns, int64_t lead,
              int64_t batch) const;

  const Table& t_;
  const Call call_;
  const Matrices sizes_;
  void* const handle_;
  void* operation_ = nullptr;
  void* layouts_[4] = {};     // as the library takes them: b, a, c, d
  mutable std::mutex mutex_;  // the bias' address is a part of the operation
  struct Algorithm {
    uint64_t data[8];
  } algorithm_ = {};
};

Multiplication::~Multiplication() {
  if (operation_ != nullptr) t_.destroy_operation(operation_);
  for (void* layout : layouts_) {
    if (layout != nullptr) t_.destroy_layout(layout);
  }
}

std::unique_ptr<Prepared> Blas::prepare(Context context, const Call& call, int algorithm) const {
  const Handle* const own = handle(context);
  if (own == nullptr) return nullptr;
  auto made = std::make_unique<Multiplication>(table_, own->handle, call);
  if (!made->describe() || !made->choose(algorithm)) return nullptr;
  return made;
}

bool Multiplication::layout(void** made, DType dtype, int64_t rows, int64_t columns, int64_t lead,
                            int64_t batch) const {
  const auto batches = static_cast<int32_t>(sizes_.batches);
  return sizes_.batches <= INT32_MAX &&
         t_.create_layout(made, type_of(dtype), static_cast<uint64_t>(rows),
                          static_cast<uint64_t>(columns), lead) == 0 &&
         t_.set_layout(*made, kBatches, &batches, sizeof batches) == 0 &&
         t_.set_layout(*made, kBatchStride, &batch, sizeof batch) == 0;
}

// The library's matrices lie by columns: what it sees is the transposed product, d' = b' a'. Of a
// matrix whose columns lie side by side in memory, it sees the transposed one.
bool Multiplication::describe() {
  const Call& c = call_;
  if (t_.create_operation(&operation_, c.tf32 ? kComputeTf32 : kCompute32, kReal32) != 0) {
    return false;
  }
  const auto operand = [&](void** made, const Strides& at, int64_t rows, int64_t columns,
                           int transpose) {
    const bool by_rows = at.column == 1 && at.row >= columns;
    const int32_t turned = kTransposed;
    if (!by_rows && t_.set_operation(operation_, transpose, &turned, sizeof turned) != 0) {
      return false;
    }
    return layout(made, c.operands, by_rows ? columns : rows, by_rows ? rows : columns,
                  by_rows ? at.row : at.column, at.batch);
  };
  const uint32_t epilogue = c.has_bias ? kAddBias : kDefault;
  const Matrices& s = sizes_;
  const Strides& added = c.has_c ? s.c : s.d;
  const auto some = static_cast<uintptr_t>(kAlignment);  // as aligned as the address of each run
  if (c.has_bias && t_.set_operation(operation_, kBias, &some, sizeof some) != 0) return false;
  return t_.set_operation(operation_, kEpilogue, &epilogue, sizeof epilogue) == 0 &&
         operand(&layouts_[0], s.b, s.k, s.n, kTransposeA) &&
         operand(&layouts_[1], s.a, s.m, s.k, kTransposeB) &&
         layout(&layouts_[2], c.result, s.n, s.m, added.row, added.batch) &&
         layout(&layouts_[3], c.result, s.n, s.m, s.d.row, s.d.batch);
}

bool Multiplication::choose(int algorithm) {
  void* preference = nullptr;
  if (algorithm >= kMostAlgorithms || t_.create_preference(&preference) != 0) return false;
  const uint64_t most = call_.most_workspace;
  bool fine = t_.set_preference(preference, kMostWorkspace, &most, sizeof most) == 0;
  // Parts of a sum are added up in float32, never in the result's type.
  fine = fine &&
         t_.set_preference(preference, kReductions, &kByComputeType, sizeof kByComputeType) == 0;
  for (int k = 0; k < 4; ++k) {
    fine =
        fine && t_.set_preference(preference, kAlignmentA + k, &kAlignment, sizeof kAlignment) == 0;
  }
  Found found[kMostAlgorithms] = {};
  int count = 0;
  fine = fine && t_.find_algorithms(handle_, operation_, layouts_[0], layouts_[1], layouts_[2],
                                    layouts_[3], preference, algorithm + 1, found, &count) == 0;
  t_.destroy_preference(preference);
  if (!fine || count <= algorithm || found[algorithm].status != 0 ||
      found[algorithm].workspace_bytes > call_.most_workspace) {
    return false;
  }
  workspace_bytes_ = found[algorithm].workspace_bytes;
  for (int k = 0; k < 8; ++k) algorithm_.data[k] = found[algorithm].algorithm[k];
  return true;
}

int Multiplication::run(const uint64_t* pointers, Stream stream, bool) const {
  const Call& c = call_;
  const auto at = [&](int which, DType dtype, int64_t start) {
    return reinterpret_cast<char*>(pointers[which]) +
           start * static_cast<int64_t>(dtype_size(dtype));
  };
  void* const d = at(2, c.result, c.at_d);
  const float one = 1, beta = c.has_c ? 1 : 0;
  std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
  if (c.has_bias) {
    const void* const bias = at(c.has_c ? 5 : 4, c.result, c.at_bias);
    lock.lock();
    if (const int status = t_.set_operation(operation_, kBias, &bias, sizeof bias)) return status;
  }
  return t_.multiply(handle_, operation_, &one, at(1, c.operands, c.at_b), layouts_[0],
                     at(0, c.operands, c.at_a), layouts_[1], &beta,
                     c.has_c ? at(4, c.result, c.at_c) : d, layouts_[2], d, layouts_[3],
                     &algorithm_, reinterpret_cast<void*>(pointers[3]), workspace_bytes_, stream);
}

}  // namespace

std::unique_ptr<const Library> open_blas(void* file) {
  Table table;
#define X(member, name, ...)                                                  \
  table.member = reinterpret_cast<decltype(table.member)>(dlsym(file, name)); \
  if (table.member == nullptr) return nullptr;
  ONNX_FUSION_BLAS(X)
#undef X
  return std::make_unique<Blas>(table);
}

}  // namespace onnx_fusion::cuda
