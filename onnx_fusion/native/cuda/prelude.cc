// What bodies may call, printed where they do. The functions that instructions.h names come first;
// those that need the machine are the emulator's own where ONNX_FUSION_EMULATED is defined.
#include <cctype>
#include <vector>

#include "cuda/render.h"

namespace onnx_fusion::cuda {
namespace {

struct Function {
  const char* name;
  const char* text;
  bool machine = false;  // the emulator has its own
};

#define FLOATS(name, f)                               \
  {name, "DEVICE float " name "(float a) { return " f \
         "f(a); }\n"                                  \
         "DEVICE double " name "(double a) { return " f "(a); }\n"}

// Later ones may call earlier ones.
const Function kFunctions[] = {
    FLOATS("m_sqrt", "sqrt"),
    FLOATS("m_exp", "exp"),
    FLOATS("m_log", "log"),
    FLOATS("m_sin", "sin"),
    FLOATS("m_cos", "cos"),
    FLOATS("m_tan", "tan"),
    FLOATS("m_asin", "asin"),
    FLOATS("m_acos", "acos"),
    FLOATS("m_atan", "atan"),
    FLOATS("m_sinh", "sinh"),
    FLOATS("m_cosh", "cosh"),
    FLOATS("m_tanh", "tanh"),
    FLOATS("m_asinh", "asinh"),
    FLOATS("m_acosh", "acosh"),
    FLOATS("m_atanh", "atanh"),
    FLOATS("m_erf", "erf"),
    FLOATS("m_floor", "floor"),
    FLOATS("m_ceil", "ceil"),
    FLOATS("m_round", "rint"),
    {"m_sigmoid",
     "DEVICE float m_sigmoid(float a) { return __fdividef(1.0f, 1.0f + expf(-a)); }\n"
     "DEVICE double m_sigmoid(double a) { return 1.0 / (1.0 + exp(-a)); }\n"},
    {"m_pow",
     "DEVICE float m_pow(float a, float b) { return powf(a, b); }\n"
     "DEVICE double m_pow(double a, double b) { return pow(a, b); }\n"},
    {"m_neg",
     "DEVICE float m_neg(float a) { return -a; }\n"
     "DEVICE double m_neg(double a) { return -a; }\n"
     "DEVICE int m_neg(int a) { return (int)(0u - (unsigned)a); }\n"
     "DEVICE long long m_neg(long long a) { return (long long)(0ull - (unsigned long long)a); }\n"},
    {"m_abs",
     "DEVICE float m_abs(float a) { return fabsf(a); }\n"
     "DEVICE double m_abs(double a) { return fabs(a); }\n"
     "DEVICE int m_abs(int a) { return a < 0 ? (int)(0u - (unsigned)a) : a; }\n"
     "DEVICE long long m_abs(long long a) {\n"
     "  return a < 0 ? (long long)(0ull - (unsigned long long)a) : a;\n"
     "}\n"},
    {"m_sign",
     "template <class T>\nDEVICE T m_sign(T a) { return a > 0 ? T(1) : a < 0 ? T(-1) : a; }\n"},
    {"m_is_inf",
     "DEVICE bool m_is_inf(float a) { return fabsf(a) == __uint_as_float(0x7f800000u); }\n"
     "DEVICE bool m_is_inf(double a) { return fabs(a) > 1.7976931348623157e308; }\n"},
    {"m_not",
     "DEVICE bool m_not(bool a) { return !a; }\n"
     "DEVICE int m_not(int a) { return ~a; }\n"
     "DEVICE long long m_not(long long a) { return ~a; }\n"},
#define WRAPPING(name, op)                                                  \
  {name, "DEVICE float " name "(float a, float b) { return a " op           \
         " b; }\n"                                                          \
         "DEVICE double " name "(double a, double b) { return a " op        \
         " b; }\n"                                                          \
         "DEVICE int " name "(int a, int b) { return (int)((unsigned)a " op \
         " (unsigned)b); }\n"                                               \
         "DEVICE long long " name                                           \
         "(long long a, long long b) {\n"                                   \
         "  return (long long)((unsigned long long)a " op                   \
         " (unsigned long long)b);\n"                                       \
         "}\n"}
    WRAPPING("m_add", "+"),
    WRAPPING("m_sub", "-"),
    WRAPPING("m_mul", "*"),
    {"m_div",
     "DEVICE float m_div(float a, float b) { return a / b; }\n"
     "DEVICE double m_div(double a, double b) { return a / b; }\n"
     "DEVICE int m_div(int a, int b) {\n"
     "  return b == 0 ? 0 : b == -1 ? (int)(0u - (unsigned)a) : a / b;\n"
     "}\n"
     "DEVICE long long m_div(long long a, long long b) {\n"
     "  return b == 0 ? 0 : b == -1 ? (long long)(0ull - (unsigned long long)a) : a / b;\n"
     "}\n"},
    {"m_mod",
     "DEVICE float c_fmod(float a, float b) { return fmodf(a, b); }\n"
     "DEVICE double c_fmod(double a, double b) { return fmod(a, b); }\n"
     "DEVICE int c_fmod(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }\n"
     "DEVICE long long c_fmod(long long a, long long b) { return b == 0 || b == -1 ? 0 : a % b; }\n"
     "template <class T>\n"
     "DEVICE T m_mod(T a, T b) {\n"
     "  const T r = c_fmod(a, b);\n"
     "  return r != 0 && (r < 0) != (b < 0) ? r + b : r;\n"
     "}\n"},
    {"m_fmod",
     "DEVICE float m_fmod(float a, float b) { return fmodf(a, b); }\n"
     "DEVICE double m_fmod(double a, double b) { return fmod(a, b); }\n"
     "DEVICE int m_fmod(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }\n"
     "DEVICE long long m_fmod(long long a, long long b) { return b == 0 || b == -1 ? 0 : a % b; "
     "}\n"},
    {"m_min",
     "template <class T>\nDEVICE T m_min(T a, T b) { return (a < b) | (a != a) ? a : b; }\n"},
    {"m_max",
     "template <class T>\nDEVICE T m_max(T a, T b) { return (a > b) | (a != a) ? a : b; }\n"},
    {"quick_div",
     "DEVICE int quick_div(int n, unsigned m, int s) {\n"
     "  return (int)((__umulhi((unsigned)n, m) + (unsigned)n) >> s);\n"
     "}\n"},
    {"floor_div",
     "template <class T>\n"
     "DEVICE T floor_div(T a, T b) { return a / b - (a % b < 0); }\n"},
    {"floor_mod",
     "template <class T>\n"
     "DEVICE T floor_mod(T a, T b) { return a % b < 0 ? a % b + b : a % b; }\n"},
    {"inside",
     "DEVICE bool inside(int a, int n) { return (unsigned)a < (unsigned)n; }\n"
     "DEVICE bool inside(long long a, long long n) {\n"
     "  return (unsigned long long)a < (unsigned long long)n;\n"
     "}\n"},
    {"bf16_to_float",
     "DEVICE float bf16_to_float(unsigned short a) { return __uint_as_float((unsigned)a << 16); "
     "}\n"},
    {"half_to_float",
     "DEVICE float half_to_float(unsigned short a) {\n"
     "  float b;\n"
     "  asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(b) : \"h\"(a));\n"
     "  return b;\n"
     "}\n",
     true},
    {"float_to_half",
     "DEVICE unsigned short float_to_half(float a) {\n"
     "  unsigned short b;\n"
     "  asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(b) : \"f\"(a));\n"
     "  return b;\n"
     "}\n",
     true},
    {"float_to_bf16",
     "DEVICE unsigned short float_to_bf16(float a) {\n"
     "  const unsigned u = __float_as_uint(a);\n"
     "  return a != a ? (unsigned short)(u >> 16 | 0x40u)\n"
     "                : (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);\n"
     "}\n"},
    {"Pack",
     "template <class T, int N>\n"
     "struct alignas(sizeof(T) * N) Pack {\n"
     "  T at[N];\n"
     "};\n"},
    {"float_to_tf32",
     "DEVICE unsigned float_to_tf32(float a) {\n"
     "  unsigned b;\n"
     "  asm(\"cvt.rna.tf32.f32 %0, %1;\" : \"=r\"(b) : \"f\"(a));\n"
     "  return b;\n"
     "}\n",
     true},
#define MULTIPLY(name, shape, type)                                  \
  "  asm(\"mma.sync.aligned." shape ".row.col.f32." type "." type    \
  ".f32 {%0, %1, %2, %3}, \"\n"                                      \
  "      \"{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\"\n"        \
  "      : \"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3])\n" \
  "      : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(b[0]), \"r\"(b[1]));\n"
#define SIGNATURE(name)                                              \
  "DEVICE void multiply_" name                                       \
  "(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) " \
  "{\n"
    {"multiply_f16",
     SIGNATURE("f16") "#if __CUDA_ARCH__ >= 800\n" MULTIPLY(
         "f16", "m16n8k16",
         "f16") "#else\n"
                "  for (int i = 0; i < 2; ++i) {\n"
                "    asm(\"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, \"\n"
                "        \"{%4, %5}, {%6}, {%0, %1, %2, %3};\"\n"
                "        : \"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3])\n"
                "        : \"r\"(a[2 * i]), \"r\"(a[2 * i + 1]), \"r\"(b[i]));\n"
                "  }\n"
                "#endif\n"
                "}\n",
     true},
    {"multiply_bf16", SIGNATURE("bf16") MULTIPLY("bf16", "m16n8k16", "bf16") "}\n", true},
    {"multiply_tf32", SIGNATURE("tf32") MULTIPLY("tf32", "m16n8k8", "tf32") "}\n", true},
#undef MULTIPLY
#undef SIGNATURE
    // PTX, "cp.async" and "ldmatrix": from sm_80 and sm_75 on.
    {"copy_async",
     "DEVICE void copy_async(void* to, const void* from, int bytes) {\n"
     "  asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16, %2;\"\n"
     "               :: \"r\"((unsigned)__cvta_generic_to_shared(to)), \"l\"(from), \"r\"(bytes) "
     ": \"memory\");\n"
     "}\n",
     true},
    {"commit_copies",
     "DEVICE void commit_copies() { asm volatile(\"cp.async.commit_group;\" ::: \"memory\"); }\n",
     true},
    {"wait_copies",
     "template <int N>\n"
     "DEVICE void wait_copies() { asm volatile(\"cp.async.wait_group %0;\" :: \"n\"(N) : "
     "\"memory\"); }\n",
     true},
#define MATRICES(name, form)                                                          \
  {name,                                                                              \
   "DEVICE void " name                                                                \
   "(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {\n"        \
   "  asm volatile(\"ldmatrix.sync.aligned.m8n8.x4" form                              \
   ".shared.b16 {%0, %1, %2, %3}, [%4];\"\n"                                          \
   "               : \"=r\"(a), \"=r\"(b), \"=r\"(c), \"=r\"(d)\n"                    \
   "               : \"r\"((unsigned)__cvta_generic_to_shared(row)) : \"memory\");\n" \
   "}\n",                                                                             \
   true}
    MATRICES("load_matrices", ""),
    MATRICES("load_transposed", ".trans"),
#undef MATRICES
    {"shared_bytes",
     "extern __shared__ uint4 shared_memory[];\n"
     "DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }\n",
     true},
#define FOLDS(name, functor)                                       \
  {"warp_" name,                                                   \
   "template <class T>\n"                                          \
   "DEVICE T warp_" name                                           \
   "(T a, int lanes) {\n"                                          \
   "  for (int d = lanes / 2; d > 0; d /= 2) {\n"                  \
   "    a = " functor                                              \
   "(a, __shfl_xor_sync(0xffffffffu, a, d));\n"                    \
   "  }\n"                                                         \
   "  return a;\n"                                                 \
   "}\n"},                                                         \
      {"block_" name,                                              \
       "template <class T>\n"                                      \
       "DEVICE T block_" name                                      \
       "(T a, T* shared, int thread, int threads) {\n"             \
       "  for (int d = 16; d > 0; d /= 2) a = " functor            \
       "(a, __shfl_xor_sync(0xffffffffu, a, d));\n"                \
       "  __syncthreads();\n"                                      \
       "  if (thread % 32 == 0) shared[thread / 32] = a;\n"        \
       "  __syncthreads();\n"                                      \
       "  a = shared[0];\n"                                        \
       "  for (int w = 1; w < threads / 32; ++w) a = " functor     \
       "(a, shared[w]);\n"                                         \
       "  return a;\n"                                             \
       "}\n"},                                                     \
      {"column_" name,                                             \
       "template <class T>\n"                                      \
       "DEVICE T column_" name                                     \
       "(T a, T* shared, int x, int y, int width, int height) {\n" \
       "  __syncthreads();\n"                                      \
       "  shared[y * width + x] = a;\n"                            \
       "  __syncthreads();\n"                                      \
       "  a = shared[x];\n"                                        \
       "  for (int i = 1; i < height; ++i) a = " functor           \
       "(a, shared[i * width + x]);\n"                             \
       "  return a;\n"                                             \
       "}\n"}
    FOLDS("sum", "m_add"),
    FOLDS("max", "m_max"),
    FOLDS("min", "m_min"),
    FOLDS("prod", "m_mul"),
};

bool calls(const std::string& text, const std::string& name) {
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const char before = at == 0 ? ' ' : text[at - 1];
    const char after = at + name.size() < text.size() ? text[at + name.size()] : ' ';
    const bool starts = !std::isalnum(static_cast<unsigned char>(before)) && before != '_';
    if (starts && (after == '(' || after == '<')) return true;
  }
  return false;
}

}  // namespace

std::string unit(const Source* sources, size_t count) {
  std::string bodies;
  for (size_t i = 0; i < count; ++i) bodies += sources[i].body;
  const size_t functions = sizeof kFunctions / sizeof kFunctions[0];
  std::vector<bool> used(functions);
  std::string later = bodies;
  for (size_t i = functions; i-- > 0;) {
    used[i] = calls(later, kFunctions[i].name);
    if (used[i]) later += kFunctions[i].text;
  }
  std::string own, machine;
  for (size_t i = 0; i < functions; ++i) {
    if (used[i]) (kFunctions[i].machine ? machine : own) += kFunctions[i].text;
  }
  std::string text = "#define DEVICE static __device__ __forceinline__\n";
  if (!machine.empty()) text += "#ifndef ONNX_FUSION_EMULATED\n" + machine + "#endif\n";
  return text + own + bodies;
}

}  // namespace onnx_fusion::cuda
