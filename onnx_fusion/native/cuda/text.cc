#include "cuda/text.h"

#include <cmath>
#include <cstdio>
#include <cstring>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kPrinted = 16;  // numbers up to this one are printed where they are fixed

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::string decimal(double value, int digits, const char* suffix) {
  char text[40];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  std::string out = text;
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  out += suffix;
  return std::signbit(value) ? "(" + out + ")" : out;
}

std::string hex(uint64_t bits, int digits) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%0*llx", digits, static_cast<unsigned long long>(bits));
  return text;
}

uint64_t hash(const std::string& text) {
  uint64_t h = 1469598103934665603u;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  return h;
}

}  // namespace

const char* type_name(DType dtype) {
  static const char* names[] = {
      "float",       "double",        "unsigned short", "unsigned short",
      "signed char", "unsigned char", "short",          "unsigned short",
      "int",         "unsigned",      "long long",      "unsigned long long",
      "bool"};
  return names[static_cast<size_t>(dtype)];
}

std::string literal(DType dtype, uint64_t bits) {
  switch (dtype) {
    case DType::f32: {
      const float value = from_bits<float>(bits);
      if (std::isfinite(value)) return decimal(value, 9, "f");
      return "__uint_as_float(" + hex(bits & 0xffffffffu, 8) + "u)";
    }
    case DType::f64: {
      const double value = from_bits<double>(bits);
      if (std::isfinite(value)) return decimal(value, 17, "");
      return "__longlong_as_double(" + hex(bits, 16) + "ll)";
    }
    case DType::f16:
    case DType::bf16:
    case DType::u16: return std::to_string(from_bits<uint16_t>(bits));
    case DType::i8: return std::to_string(from_bits<int8_t>(bits));
    case DType::u8: return std::to_string(from_bits<uint8_t>(bits));
    case DType::i16: return std::to_string(from_bits<int16_t>(bits));
    case DType::u32: return std::to_string(from_bits<uint32_t>(bits)) + "u";
    case DType::i32: {
      const int32_t value = from_bits<int32_t>(bits);
      if (value == INT32_MIN) return "(-2147483647 - 1)";
      return value < 0 ? "(" + std::to_string(value) + ")" : std::to_string(value);
    }
    case DType::i64: {
      const int64_t value = from_bits<int64_t>(bits);
      if (value == INT64_MIN) return "(-9223372036854775807ll - 1)";
      return (value < 0 ? "(" : "") + std::to_string(value) + "ll" + (value < 0 ? ")" : "");
    }
    case DType::u64: return std::to_string(bits) + "ull";
    default: return (bits & 0xff) != 0 ? "true" : "false";
  }
}

void Text::line(const std::string& text) {
  body_.append(static_cast<size_t>(2 * depth_), ' ');
  body_ += text;
  body_ += '\n';
}

void Text::open(const std::string& head) {
  line(head.empty() ? "{" : head + " {");
  ++depth_;
}

void Text::close(const std::string& tail) {
  --depth_;
  line(tail);
}

std::string Text::parameter(const std::string& declaration, const std::string& name,
                            Argument argument) {
  parameters_.push_back(declaration + name);
  arguments.push_back(argument);
  return name;
}

Argument argument_of(const Program& program, int tensor) {
  const TensorKind kind = program.tensors[static_cast<size_t>(tensor)].kind;
  if (kind == TensorKind::input) return {Argument::Kind::input, tensor};
  if (kind == TensorKind::temp) return {Argument::Kind::workspace, tensor};
  return {Argument::Kind::output, tensor - static_cast<int64_t>(program.inputs + program.temps)};
}

std::string Text::pointer(int tensor, bool writes) {
  const auto found = pointers_.find(tensor);
  if (found != pointers_.end()) return found->second;
  const Program& program = *bound_.program;
  const Tensor& what = program.tensors[static_cast<size_t>(tensor)];
  const std::string type = std::string(writes ? "" : "const ") + type_name(what.dtype);
  return pointers_[tensor] = parameter(type + "* __restrict__ ", "t" + std::to_string(tensor),
                                       argument_of(program, tensor));
}

std::string Text::scratch(int buffer, DType dtype, bool writes) {
  const auto found = pointers_.find(buffer);
  if (found != pointers_.end()) return found->second;
  const std::string type = std::string(writes ? "" : "const ") + type_name(dtype);
  return pointers_[buffer] =
             parameter(type + "* __restrict__ ", fresh("w"), {Argument::Kind::workspace, buffer});
}

std::string Text::failure() {
  const auto found = pointers_.find(-1);
  if (found != pointers_.end()) return found->second;
  return pointers_[-1] = parameter("int* ", "failed", {Argument::Kind::failure, 0});
}

std::string Text::number(int64_t value, bool fixed) {
  if (value == 0 || value == 1 || (fixed && std::abs(value) <= kPrinted)) {
    return std::to_string(value);
  }
  if (value == -1) return "-1";
  const bool large = wide_ || value > INT32_MAX || value < INT32_MIN;
  const auto found = numbers_.find({value, large});
  if (found != numbers_.end()) return found->second;
  return numbers_[{value, large}] =
             parameter(large ? "const long long " : "const int ", fresh("n"),
                       {large ? Argument::Kind::int64 : Argument::Kind::int32, value});
}

std::string Text::times(int64_t factor, bool fixed, const std::string& what) {
  if (factor == 0 || what == "0") return "";
  if (factor == 1) return what;
  if (factor == -1) return "-" + what;
  return number(factor, fixed) + " * " + what;
}

std::string Text::quotient(const std::string& n, int64_t divisor, bool fixed) {
  if (divisor == 1) return n;
  if (wide_) return n + " / " + number(divisor, fixed);
  if (fixed && divisor <= kPrinted) {
    return "int((unsigned)(" + n + ") / " + std::to_string(divisor) + "u)";
  }
  // Granlund and Montgomery, Division by Invariant Integers using Multiplication, figure 4.1.
  auto found = quotients_.find(divisor);
  if (found == quotients_.end()) {
    int shift = 0;
    while ((int64_t{1} << shift) < divisor) ++shift;
    const uint64_t magic =
        ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - static_cast<uint64_t>(divisor))) /
            static_cast<uint64_t>(divisor) +
        1;
    const std::string name = fresh("d");
    parameter("const unsigned ", name + "m", {Argument::Kind::int32, static_cast<int32_t>(magic)});
    parameter("const int ", name + "s", {Argument::Kind::int32, shift});
    found = quotients_.emplace(divisor, name).first;
  }
  return "quick_div(" + n + ", " + found->second + "m, " + found->second + "s)";
}

Source Text::finish(const std::string& schedule, int threads, int blocks_per_processor) const {
  std::string head = "(";
  for (size_t i = 0; i < parameters_.size(); ++i) head += (i > 0 ? ",\n    " : "") + parameters_[i];
  const std::string blocks =
      blocks_per_processor > 0 ? ", " + std::to_string(blocks_per_processor) : "";
  const std::string bounds = "__launch_bounds__(" + std::to_string(threads) + blocks + ") ";
  const std::string rest = head + ") {\n" + body_ + "}\n";
  const std::string entry = schedule + "_" + hex(hash(bounds + rest), 16).substr(2);
  return {entry, "extern \"C\" __global__ void " + bounds + entry + rest};
}

}  // namespace onnx_fusion::cuda
