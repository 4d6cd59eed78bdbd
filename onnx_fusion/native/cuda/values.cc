// Expressions of single values: instructions, conversions, what a reduction over nothing is.
#include <cctype>
#include <cstring>

#include "cuda/body.h"

namespace onnx_fusion::cuda {
namespace {

const char* const kExpressions[] = {
#define X(name, arity, types, result, expression) #expression,
    ONNX_FUSION_ELEMENTWISE(X)
#undef X
};

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

}  // namespace

std::string express(Op op, const std::vector<std::string>& operands) {
  const std::string pattern = kExpressions[static_cast<size_t>(op)];
  std::string out;
  for (size_t i = 0; i < pattern.size();) {
    size_t end = i;
    while (end < pattern.size() && is_name(pattern[end])) ++end;
    if (end == i) {
      out += pattern[i++];
      continue;
    }
    const std::string word = pattern.substr(i, end - i);
    const size_t which = word.size() == 1 ? static_cast<size_t>(word[0] - 'a') : operands.size();
    out += which < operands.size() ? operands[which] : word;
    i = end;
  }
  return out;
}

std::string convert(DType from, DType to, const std::string& value) {
  std::string wide = value;
  DType type = from;
  if (from == DType::f16 || from == DType::bf16) {
    if (from == to) return value;
    wide = std::string(from == DType::f16 ? "half" : "bf16") + "_to_float(" + value + ")";
    type = DType::f32;
  }
  const bool floating = type == DType::f32 || type == DType::f64;
  if (to == DType::boolean) return wide + " != 0";
  if (to == DType::f16 || to == DType::bf16) {
    return std::string("float_to_") + (to == DType::f16 ? "half" : "bf16") + "((float)" + wide +
           ")";
  }
  if (type == to) return wide;
  const std::string cast = std::string("(") + type_name(to) + ")";
  if (floating && dtype_size(to) < 4) return cast + "(int)" + wide;
  if (floating && to == DType::u32) return cast + "(long long)" + wide;
  return cast + wide;
}

const char* fold_name(Op op) {
  switch (op) {
    case Op::op_reduce_max: return "max";
    case Op::op_reduce_min: return "min";
    case Op::op_reduce_prod: return "prod";
    default: return "sum";
  }
}

const char* fold_functor(Op op) {
  switch (op) {
    case Op::op_reduce_max: return "m_max";
    case Op::op_reduce_min: return "m_min";
    case Op::op_reduce_prod: return "m_mul";
    default: return "m_add";
  }
}

std::string nothing_value(const Instruction& line) {
  const bool lowest = line.op == Op::op_reduce_max, highest = line.op == Op::op_reduce_min;
  if (!lowest && !highest) {
    return convert(DType::i32, line.dtype, line.op == Op::op_reduce_prod ? "1" : "0");
  }
  switch (line.dtype) {
    case DType::f32:
      return literal(line.dtype, bits_of(lowest ? -__builtin_inff() : __builtin_inff()));
    case DType::f64:
      return literal(line.dtype, bits_of(lowest ? -__builtin_inf() : __builtin_inf()));
    case DType::i32: return literal(line.dtype, bits_of(lowest ? INT32_MIN : INT32_MAX));
    default: return literal(line.dtype, bits_of(lowest ? INT64_MIN : INT64_MAX));
  }
}

}  // namespace onnx_fusion::cuda
