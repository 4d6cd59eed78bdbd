// The arithmetic instructions of tile programs (docs/tile_program.md, section 5), one line each.
// The name table of the parser and the functors of every CPU ISA and of CUDA come from this list.
//
// X(name, arity, types, result, expression in a, b, c)
//   types   which operand types exist: F f32 f64, I i32 i64, B bool
//   result  same: the operands' type, boolean: bool
// The expression calls only functions every backend defines as overloads (m_...), and operators.
#pragma once

// clang-format off
#define ONNX_FUSION_ELEMENTWISE(X)                              \
  X(neg,     1, FI,  same,    m_neg(a))                         \
  X(abs,     1, FI,  same,    m_abs(a))                         \
  X(sign,    1, FI,  same,    m_sign(a))                        \
  X(sqrt,    1, F,   same,    m_sqrt(a))                        \
  X(exp,     1, F,   same,    m_exp(a))                         \
  X(log,     1, F,   same,    m_log(a))                         \
  X(sin,     1, F,   same,    m_sin(a))                         \
  X(cos,     1, F,   same,    m_cos(a))                         \
  X(tan,     1, F,   same,    m_tan(a))                         \
  X(asin,    1, F,   same,    m_asin(a))                        \
  X(acos,    1, F,   same,    m_acos(a))                        \
  X(atan,    1, F,   same,    m_atan(a))                        \
  X(sinh,    1, F,   same,    m_sinh(a))                        \
  X(cosh,    1, F,   same,    m_cosh(a))                        \
  X(tanh,    1, F,   same,    m_tanh(a))                        \
  X(asinh,   1, F,   same,    m_asinh(a))                       \
  X(acosh,   1, F,   same,    m_acosh(a))                       \
  X(atanh,   1, F,   same,    m_atanh(a))                       \
  X(erf,     1, F,   same,    m_erf(a))                         \
  X(sigmoid, 1, F,   same,    m_sigmoid(a))                     \
  X(floor,   1, F,   same,    m_floor(a))                       \
  X(ceil,    1, F,   same,    m_ceil(a))                        \
  X(round,   1, F,   same,    m_round(a))                       \
  X(is_nan,  1, F,   boolean, a != a)                           \
  X(is_inf,  1, F,   boolean, m_is_inf(a))                      \
  X(not,     1, IB,  same,    m_not(a))                         \
  X(add,     2, FI,  same,    m_add(a, b))                      \
  X(sub,     2, FI,  same,    m_sub(a, b))                      \
  X(mul,     2, FI,  same,    m_mul(a, b))                      \
  X(div,     2, FI,  same,    m_div(a, b))                      \
  X(mod,     2, FI,  same,    m_mod(a, b))                      \
  X(fmod,    2, FI,  same,    m_fmod(a, b))                     \
  X(pow,     2, F,   same,    m_pow(a, b))                      \
  X(min,     2, FI,  same,    m_min(a, b))                      \
  X(max,     2, FI,  same,    m_max(a, b))                      \
  X(and,     2, IB,  same,    static_cast<decltype(a)>(a & b))  \
  X(or,      2, IB,  same,    static_cast<decltype(a)>(a | b))  \
  X(xor,     2, IB,  same,    static_cast<decltype(a)>(a ^ b))  \
  X(eq,      2, FIB, boolean, a == b)                           \
  X(lt,      2, FI,  boolean, a < b)                            \
  X(le,      2, FI,  boolean, a <= b)

// X(name, what it gives over nothing is section 5's)
#define ONNX_FUSION_REDUCTIONS(X) \
  X(reduce_sum)                   \
  X(reduce_max)                   \
  X(reduce_min)                   \
  X(reduce_prod)

// Instructions with a syntax of their own.
#define ONNX_FUSION_STRUCTURAL(X) \
  X(load) X(index) X(const) X(cast) X(select) X(where) X(dot) X(store)
// clang-format on

namespace onnx_fusion {

#define X1(name, ...) op_##name,
enum class Op : unsigned char {
  ONNX_FUSION_ELEMENTWISE(X1) ONNX_FUSION_REDUCTIONS(X1) ONNX_FUSION_STRUCTURAL(X1) count
};
#undef X1

inline constexpr unsigned kF = 1, kI = 2, kB = 4, kFI = 3, kIB = 6, kFIB = 7;

}  // namespace onnx_fusion
