#include "cuda/blas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>
#include <vector>

#include "cuda/nvrtc.h"

namespace onnx_fusion::cuda {
namespace {

constexpr const char* kVariable = "ONNX_FUSION_CUBLASLT";
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr const char* kPackages[] = {"/../nvidia/cu13/lib/libcublasLt.so.13",
                                     "/../nvidia/cublas/lib/libcublasLt.so.12"};
constexpr const char* kToolkit = "/usr/local/cuda/lib64/libcublasLt.so";

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
constexpr uint32_t kDefault = 1, kRelu = 2, kAddBias = 4;  // cublasLtEpilogue_t
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

// Loaded already, by ONNX Runtime's provider perhaps, or where NVIDIA's packages put it.
void* find_library(const char* named) {
  if (named != nullptr) {
    return *named == '\0' ? nullptr : dlopen(named, RTLD_NOW | RTLD_LOCAL);
  }
  for (const char* name : kNames) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return library;
  }
  std::vector<std::string> places;
  for (const char* package : kPackages) places.push_back(library_folder() + package);
  places.insert(places.end(), std::begin(kNames), std::end(kNames));
  places.push_back(kToolkit);
  for (const std::string& place : places) {
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

}  // namespace

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

struct Blas::Table {
#define X(member, name, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  ONNX_FUSION_BLAS(X)
#undef X
};

const Blas* Blas::open(const char* named) {
  void* library = find_library(named);
  if (library == nullptr) return nullptr;
  auto table = std::make_unique<Table>();
#define X(member, name, ...)                                                       \
  table->member = reinterpret_cast<decltype(table->member)>(dlsym(library, name)); \
  if (table->member == nullptr) return nullptr;
  ONNX_FUSION_BLAS(X)
#undef X
  auto* blas = new Blas;
  blas->version_ = "cuBLASLt " + std::to_string(table->version());
  blas->table_ = std::move(table);
  return blas;
}

const Blas* Blas::get() {
  // Never closed: it keeps threads and statics of its own.
  static auto& mutex = *new std::mutex;
  static auto& found = *new std::map<std::string, const Blas*>;
  const char* named = std::getenv(kVariable);
  std::lock_guard<std::mutex> lock(mutex);
  const auto [place, is_new] =
      found.try_emplace(named == nullptr ? "usual" : std::string("=") + named, nullptr);
  if (is_new) place->second = open(named);
  return place->second;
}

std::string Blas::describe(int status) const {
  const char* name = table_->status_name(status);
  return std::string(name != nullptr ? name : "error") + " (" + std::to_string(status) + ")";
}

void* Blas::handle(Context context) const {
  // Never destroyed: contexts live as long as the process, and that would wait for the device.
  std::lock_guard<std::mutex> lock(mutex_);
  void*& handle = handles_[context];
  if (handle == nullptr && table_->create(&handle) != 0) handle = nullptr;
  return handle;
}

Multiplication::Multiplication(const Blas& blas, const Call& call) : blas_(blas), call_(call) {}

Multiplication::~Multiplication() {
  const Blas::Table& t = blas_.table();
  if (operation_ != nullptr) t.destroy_operation(operation_);
  for (void* layout : layouts_) {
    if (layout != nullptr) t.destroy_layout(layout);
  }
}

std::unique_ptr<Multiplication> Multiplication::create(const Blas& blas, Context context,
                                                       const Call& call, int algorithm) {
  std::unique_ptr<Multiplication> made(new Multiplication(blas, call));
  made->handle_ = blas.handle(context);
  if (made->handle_ == nullptr || !made->describe() || !made->choose(algorithm)) return nullptr;
  return made;
}

bool Multiplication::layout(void** made, DType dtype, int64_t rows, int64_t columns, int64_t lead,
                            int64_t batch) const {
  const Blas::Table& t = blas_.table();
  const auto batches = static_cast<int32_t>(call_.batches);
  return call_.batches <= INT32_MAX &&
         t.create_layout(made, type_of(dtype), static_cast<uint64_t>(rows),
                         static_cast<uint64_t>(columns), lead) == 0 &&
         t.set_layout(*made, kBatches, &batches, sizeof batches) == 0 &&
         t.set_layout(*made, kBatchStride, &batch, sizeof batch) == 0;
}

// The library's matrices lie by columns: what it sees is the transposed product, d' = b' a'. Of a
// matrix whose columns lie side by side in memory, it sees the transposed one.
bool Multiplication::describe() {
  const Blas::Table& t = blas_.table();
  const Call& c = call_;
  if (t.create_operation(&operation_, c.tf32 ? kComputeTf32 : kCompute32, kReal32) != 0) {
    return false;
  }
  const auto operand = [&](void** made, const Strides& at, int64_t rows, int64_t columns,
                           int transpose) {
    const bool by_rows = at.column == 1 && at.row >= columns;
    const int32_t turned = kTransposed;
    if (!by_rows && t.set_operation(operation_, transpose, &turned, sizeof turned) != 0) {
      return false;
    }
    return layout(made, c.operands, by_rows ? columns : rows, by_rows ? rows : columns,
                  by_rows ? at.row : at.column, at.batch);
  };
  const uint32_t epilogue = (c.relu ? kRelu : 0) | (c.has_bias ? kAddBias : 0);
  const uint32_t wanted = epilogue == 0 ? kDefault : epilogue;
  const Strides& added = c.has_c ? c.c : c.d;
  const auto some = static_cast<uintptr_t>(kAlignment);  // as aligned as the address of each run
  if (c.has_bias && t.set_operation(operation_, kBias, &some, sizeof some) != 0) return false;
  return t.set_operation(operation_, kEpilogue, &wanted, sizeof wanted) == 0 &&
         operand(&layouts_[0], c.b, c.k, c.n, kTransposeA) &&
         operand(&layouts_[1], c.a, c.m, c.k, kTransposeB) &&
         layout(&layouts_[2], c.result, c.n, c.m, added.row, added.batch) &&
         layout(&layouts_[3], c.result, c.n, c.m, c.d.row, c.d.batch);
}

bool Multiplication::choose(int algorithm) {
  const Blas::Table& t = blas_.table();
  void* preference = nullptr;
  if (algorithm >= kMostAlgorithms || t.create_preference(&preference) != 0) return false;
  const uint64_t most = call_.workspace_bytes;
  bool fine = t.set_preference(preference, kMostWorkspace, &most, sizeof most) == 0;
  // Parts of a sum are added up in float32, never in the result's type.
  fine = fine && t.set_preference(preference, kReductions, &kByComputeType,
                                  sizeof kByComputeType) == 0;
  for (int k = 0; k < 4; ++k) {
    fine = fine && t.set_preference(preference, kAlignmentA + k, &kAlignment,
                                    sizeof kAlignment) == 0;
  }
  Found found[kMostAlgorithms] = {};
  int count = 0;
  fine = fine && t.find_algorithms(handle_, operation_, layouts_[0], layouts_[1], layouts_[2],
                                   layouts_[3], preference, algorithm + 1, found, &count) == 0;
  t.destroy_preference(preference);
  if (!fine || count <= algorithm || found[algorithm].status != 0 ||
      found[algorithm].workspace_bytes > call_.workspace_bytes) {
    return false;
  }
  for (int k = 0; k < 8; ++k) algorithm_.data[k] = found[algorithm].algorithm[k];
  return true;
}

int Multiplication::run(const uint64_t* pointers, Stream stream) const {
  const Blas::Table& t = blas_.table();
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
    if (const int status = t.set_operation(operation_, kBias, &bias, sizeof bias)) return status;
  }
  return t.multiply(handle_, operation_, &one, at(1, c.operands, c.at_b), layouts_[0],
                    at(0, c.operands, c.at_a), layouts_[1], &beta,
                    c.has_c ? at(4, c.result, c.at_c) : d, layouts_[2], d, layouts_[3],
                    &algorithm_, reinterpret_cast<void*>(pointers[3]), c.workspace_bytes, stream);
}

}  // namespace onnx_fusion::cuda
