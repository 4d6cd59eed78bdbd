// A stand-in for libcublasLt: checks every descriptor and address, and makes the product on the host.
//
// FAKE_CUBLASLT_MS (1): what a call takes, by the clock of fake_cuda.cc; the second algorithm half of it.
// FAKE_CUBLASLT_ALGORITHMS (2): how many there are. FAKE_CUBLASLT_WRONG: one element of a product is
// wrong. FAKE_CUBLASLT_FAILS: calls fail.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "fake_library.h"

namespace {

enum { kOk = 0, kInvalidValue = 7, kFailed = 13, kNotSupported = 15 };
enum { kBrain = 14 };
constexpr uint64_t kMagic = 0x616c676f;

struct Operation {
  int compute, scale;
  int32_t transpose_a = 0, transpose_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t lead;
  int32_t batches = 1;
  int64_t batch_stride = 0;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = ~0u;
  uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Found {
  uint64_t algorithm[8];
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

auto& mutex = *new std::mutex;
auto& wrong = *new std::string;  // what was asked for that cublasLt refuses, or must not be asked
auto& last = *new std::string;
int calls = 0, objects = 0, handles = 0, asked_for = 0;
char context;
constexpr size_t kWorkspace = 1 << 20;  // that an algorithm needs

int refuse(const std::string& what) {
  wrong += what + "\n";
  return kInvalidValue;
}

template <class T>
int set(T* field, const void* value, size_t size, const char* name) {
  if (size != sizeof(T)) return refuse(std::string(name) + " has another size");
  std::memcpy(field, value, size);
  return kOk;
}

// What fits together; the product's rows, columns and terms.
int check(const Operation& op, const Layout& a, const Layout& b, const Layout& c, const Layout& d,
          int64_t* m, int64_t* n, int64_t* k) {
  *m = static_cast<int64_t>(op.transpose_a ? a.columns : a.rows);
  *k = static_cast<int64_t>(op.transpose_a ? a.rows : a.columns);
  *n = static_cast<int64_t>(op.transpose_b ? b.rows : b.columns);
  if (static_cast<int64_t>(op.transpose_b ? b.columns : b.rows) != *k) return refuse("k differs");
  if (op.scale != kFloat || (op.compute != 68 && op.compute != 77)) return refuse("compute type");
  if (op.compute == 77 && a.type != kFloat) return refuse("tf32 of halves");
  if (a.type != b.type || c.type != d.type) return refuse("types differ");
  if (d.type != a.type && d.type != kFloat) return refuse("the result's type");
  for (const Layout* l : {&a, &b, &c, &d}) {
    if (l->lead < static_cast<int64_t>(l->rows)) return refuse("a leading dimension");
    if (l->batches != d.batches || l->batches < 1) return refuse("batches differ");
  }
  if (static_cast<int64_t>(d.rows) != *m || static_cast<int64_t>(d.columns) != *n ||
      d.rows != c.rows || d.columns != c.columns) {
    return refuse("the result's shape");
  }
  if (d.batches > 1 && d.batch_stride < static_cast<int64_t>(d.rows)) return refuse("d's batches");
  if (op.epilogue != 1 && (op.epilogue & ~6u) != 0) return refuse("epilogue");
  return kOk;
}

}  // namespace

extern "C" {

int fake_cublaslt_calls() { return calls; }
int fake_cublaslt_objects() { return objects; }
int fake_cublaslt_asked() { return asked_for; }
int fake_cublaslt_handles() { return handles; }
const char* fake_cublaslt_wrong() { return wrong.c_str(); }
const char* fake_cublaslt_last() { return last.c_str(); }

size_t cublasLtGetVersion() { return static_cast<size_t>(number("FAKE_CUBLASLT_VERSION", 130100)); }
const char* cublasLtGetStatusName(int status) {
  return status == kFailed ? "CUBLAS_STATUS_EXECUTION_FAILED" : "CUBLAS_STATUS_OTHER";
}
int cublasLtCreate(void** handle) {
  ++handles;
  *handle = &context;
  return kOk;
}
int cublasLtMatmulDescCreate(Operation** made, int compute, int scale) {
  ++objects;
  *made = new Operation{compute, scale};
  return kOk;
}
int cublasLtMatmulDescDestroy(Operation* op) {
  --objects;
  delete op;
  return kOk;
}
int cublasLtMatmulDescSetAttribute(Operation* op, int attribute, const void* value, size_t size) {
  switch (attribute) {
    case 3: return set(&op->transpose_a, value, size, "transpose a");
    case 4: return set(&op->transpose_b, value, size, "transpose b");
    case 7: return set(&op->epilogue, value, size, "epilogue");
    case 8: return set(&op->bias, value, size, "bias");
    default: return refuse("operation attribute " + std::to_string(attribute));
  }
}
int cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns,
                               int64_t lead) {
  if (type != kFloat && type != kHalf && type != kBrain) return refuse("a matrix's type");
  ++objects;
  *made = new Layout{type, rows, columns, lead};
  return kOk;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) {
  --objects;
  delete layout;
  return kOk;
}
int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t size) {
  switch (attribute) {
    case 5: return set(&layout->batches, value, size, "batches");
    case 6: return set(&layout->batch_stride, value, size, "batch stride");
    default: return refuse("layout attribute " + std::to_string(attribute));
  }
}
int cublasLtMatmulPreferenceCreate(Preference** made) {
  ++objects;
  *made = new Preference;
  return kOk;
}
int cublasLtMatmulPreferenceDestroy(Preference* preference) {
  --objects;
  delete preference;
  return kOk;
}
int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value,
                                         size_t size) {
  if (attribute == 1) return set(&preference->workspace, value, size, "workspace");
  if (attribute == 3) return set(&preference->reductions, value, size, "reductions");
  if (attribute >= 5 && attribute <= 8) {
    return set(&preference->alignment[attribute - 5], value, size, "alignment");
  }
  return refuse("preference attribute " + std::to_string(attribute));
}
int cublasLtMatmulAlgoGetHeuristic(void* handle, Operation* op, Layout* a, Layout* b, Layout* c,
                                   Layout* d, Preference* preference, int asked, Found* found,
                                   int* count) {
  int64_t m, n, k;
  const std::lock_guard<std::mutex> lock(mutex);
  ++asked_for;
  if (handle != &context) return refuse("handle");
  if (const int status = check(*op, *a, *b, *c, *d, &m, &n, &k)) return status;
  for (const uint32_t alignment : preference->alignment) {
    if (alignment != 16) return refuse("alignment");
  }
  if (preference->reductions != 2) return refuse("sums in another type");
  const int all = number("FAKE_CUBLASLT_ALGORITHMS", 2);
  if (all == 0) return kNotSupported;
  *count = std::min(asked, all);
  for (int i = 0; i < *count; ++i) {
    const size_t bytes = std::min<size_t>(kWorkspace, preference->workspace);
    found[i] = {{kMagic, static_cast<uint64_t>(i), bytes}, bytes, 0, 1, {}};
  }
  return kOk;
}
int cublasLtMatmul(void* handle, Operation* op, const float* alpha, const char* a, Layout* la,
                   const char* b, Layout* lb, const float* beta, const char* c, Layout* lc, char* d,
                   Layout* ld, const uint64_t* algorithm, void* workspace, size_t bytes, void*) {
  int64_t m, n, k;
  const std::lock_guard<std::mutex> lock(mutex);
  ++calls;
  tick(static_cast<float>(number("FAKE_CUBLASLT_MS", 1)) / (algorithm[1] == 1 ? 2 : 1));
  if (std::getenv("FAKE_CUBLASLT_FAILS") != nullptr) return kFailed;
  if (handle != &context || algorithm[0] != kMagic || *alpha != 1) return refuse("a call");
  if (const int status = check(*op, *la, *lb, *lc, *ld, &m, &n, &k)) return status;
  if (bytes < algorithm[2] || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return refuse("workspace");
  }
  std::memset(workspace, 0xa5, bytes);  // it is the call's own
  const bool relu = op->epilogue & 2, bias = op->epilogue & 4;
  for (const void* p : {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(c),
                        static_cast<const void*>(d), bias ? op->bias : d}) {
    if (p == nullptr || reinterpret_cast<uintptr_t>(p) % 16 != 0) return refuse("an address");
  }
  if (*beta == 0 && c != d) return refuse("c");
  const char* const types = ld->type == kFloat ? "f32" : ld->type == kHalf ? "f16" : "bf16";
  last = std::string(types) + (op->transpose_a ? " T" : " N") + (op->transpose_b ? "T" : "N") +
         (op->compute == 77 ? " tf32" : "") + (*beta != 0 ? " c" : "") + (bias ? " bias" : "") +
         (relu ? " relu" : "") + " " + std::to_string(ld->batches);
  std::vector<double> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(k * n));
  for (int64_t batch = 0; batch < ld->batches; ++batch) {
    const auto read = [&](const char* from, const Layout& l, bool turned, std::vector<double>& to,
                          int64_t rows, int64_t columns, bool by_rows) {
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t at = batch * l.batch_stride + (turned ? i * l.lead + j : j * l.lead + i);
          to[static_cast<size_t>(by_rows ? i * columns + j : j * rows + i)] = get(l.type, from, at);
        }
      }
    };
    read(a, *la, op->transpose_a != 0, x, m, k, true);
    read(b, *lb, op->transpose_b != 0, y, k, n, false);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0;
        for (int64_t t = 0; t < k; ++t) sum += x[static_cast<size_t>(i * k + t)] * y[static_cast<size_t>(j * k + t)];
        if (*beta != 0) sum += *beta * get(lc->type, c, batch * lc->batch_stride + j * lc->lead + i);
        if (bias) sum += get(ld->type, op->bias, i);
        if (relu && !(sum >= 0)) sum = 0;
        if (std::getenv("FAKE_CUBLASLT_WRONG") && i == m - 1 && j == n / 2) sum += 2 * std::sqrt(static_cast<double>(k));
        put(ld->type, d, batch * ld->batch_stride + j * ld->lead + i, static_cast<float>(sum));
      }
    }
  }
  return kOk;
}

}  // extern "C"
