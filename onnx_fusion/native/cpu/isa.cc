// The instruction set, chosen once when it is first asked for.
#include <cstdlib>
#include <cstring>
#include <string>

#include "cpu/kernels.h"
#include "cpu/strand_kernels.h"
#include "machine.h"

#if defined(__x86_64__)
#define ONNX_FUSION_EACH_ISA(X) X(avx512) X(avx2) X(base)
#else
#define ONNX_FUSION_EACH_ISA(X) X(neon)
#endif

namespace onnx_fusion {
namespace cpu {

#define X(isa)                       \
  namespace isa {                    \
  void fill_unary(Kernels*);         \
  void fill_binary(Kernels*);        \
  void fill_chain(Kernels*);         \
  void fill_move(Kernels*);          \
  void fill_copy(Kernels*);          \
  void fill_activate(Kernels*);      \
  void fill_rows(Kernels*);          \
  void fill_softmax(Kernels*);       \
  void fill_norm(Kernels*);          \
  void fill_cast(Kernels*);          \
  void fill_reduce(Kernels*);        \
  void fill_window(Kernels*);        \
  void fill_pool(Kernels*);          \
  void fill_extremes(Kernels*);      \
  void fill_strands(StrandKernels*); \
  }
ONNX_FUSION_EACH_ISA(X)
#undef X

namespace {

bool supported(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (std::strcmp(name, "avx512") == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  }
  if (std::strcmp(name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
  }
#endif
  return std::strcmp(name, "base") == 0 || std::strcmp(name, "neon") == 0;
}

// What is used, and what is wrong with ONNX_FUSION_ISA: it is used if this machine has it.
struct Choice {
  const char* name = nullptr;
  std::string error;
};

Choice choose() {
  const char* wanted = std::getenv("ONNX_FUSION_ISA");
  const bool named = wanted != nullptr && *wanted != '\0';
  Choice choice;
  std::string there;
#define X(isa)                                                                 \
  if (supported(#isa)) {                                                       \
    if (choice.name == nullptr) choice.name = #isa;                            \
    if (named && std::strcmp(wanted, #isa) == 0) return {#isa, std::string()}; \
    there += there.empty() ? #isa : ", " #isa;                                 \
  }
  ONNX_FUSION_EACH_ISA(X)
#undef X
  if (named) {
    choice.error = "ONNX_FUSION_ISA is '" + std::string(wanted).substr(0, 40) +
                   "'; this library and machine have " + there + ": name one of these, or unset it";
  }
  return choice;
}

const Choice& choice() {
  static const Choice made = choose();
  return made;
}

const char* chosen() { return choice().name; }

Kernels make() {
  Kernels k{};
#define X(isa)                            \
  if (std::strcmp(chosen(), #isa) == 0) { \
    isa::fill_unary(&k);                  \
    isa::fill_binary(&k);                 \
    isa::fill_chain(&k);                  \
    isa::fill_move(&k);                   \
    isa::fill_copy(&k);                   \
    isa::fill_activate(&k);               \
    isa::fill_rows(&k);                   \
    isa::fill_softmax(&k);                \
    isa::fill_norm(&k);                   \
    isa::fill_cast(&k);                   \
    isa::fill_reduce(&k);                 \
    isa::fill_window(&k);                 \
    isa::fill_pool(&k);                   \
    isa::fill_extremes(&k);               \
  }
  ONNX_FUSION_EACH_ISA(X)
#undef X
  return k;
}

}  // namespace

const StrandKernels& strand_kernels() {
  static const StrandKernels table = [] {
    StrandKernels k{};
#define X(isa) \
  if (std::strcmp(chosen(), #isa) == 0) isa::fill_strands(&k);
    ONNX_FUSION_EACH_ISA(X)
#undef X
    return k;
  }();
  return table;
}

const Kernels& kernels() {
  static const Kernels table = make();
  return table;
}

}  // namespace cpu

std::string isa_name() { return cpu::chosen(); }

const std::string& isa_error() { return cpu::choice().error; }

}  // namespace onnx_fusion
