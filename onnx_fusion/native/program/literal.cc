// Literals by dtype (docs/tile_program.md, section 2).
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "program/reader.h"

namespace onnx_fusion {
namespace {

// A double rounded to a binary float of `exponent` and `mantissa` bits, ties to even.
uint16_t round_half(double value, int exponent_bits, int mantissa_bits) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 63) << 15);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  if (std::isnan(value)) return sign | infinity | static_cast<uint16_t>(1 << (mantissa_bits - 1));
  if (value == 0) return sign;
  int exponent;
  std::frexp(value, &exponent);  // |value| in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 1, 1 - bias) - mantissa_bits;
  const double scaled = std::ldexp(std::fabs(value), -unit);  // in units of the last place
  if (std::isinf(value) || exponent - 1 > bias) return sign | infinity;
  const uint64_t integer = static_cast<uint64_t>(std::nearbyint(scaled));
  // A subnormal's field is 0 and its unit that of field 1, so adding the integer carries rightly.
  const int field = std::max(exponent - 1, 1 - bias) + bias - 1;
  const uint64_t result = (static_cast<uint64_t>(field) << mantissa_bits) + integer;
  return sign | static_cast<uint16_t>(result >= infinity ? infinity : result);
}

// The digits' value, which from_chars could not hold: 0, or an infinity.
double out_of_range(std::string_view text) {
  int64_t point = 0, exponent = 0;
  bool seen = false, fraction = false;
  size_t i = 0;
  for (; i < text.size() && text[i] != 'e'; ++i) {
    if (text[i] == '.') {
      fraction = true;
    } else if (text[i] != '-') {
      seen = seen || text[i] != '0';
      if (fraction && !seen) --point;
      if (!fraction && seen) ++point;
    }
  }
  if (i < text.size()) {
    const bool negative = text[i + 1] == '-';
    for (char c : text.substr(i + 1)) {
      if (c >= '0' && c <= '9' && exponent < 1000000) exponent = exponent * 10 + (c - '0');
    }
    if (negative) exponent = -exponent;
  }
  return point + exponent > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

bool digits(std::string_view text, size_t* at) {
  const size_t start = *at;
  while (*at < text.size() && text[*at] >= '0' && text[*at] <= '9') ++*at;
  return *at > start;
}

bool decimal(std::string_view text) {
  size_t at = !text.empty() && text[0] == '-' ? 1 : 0;
  if (!digits(text, &at)) return false;
  if (at < text.size() && text[at] == '.') {
    ++at;
    if (!digits(text, &at)) return false;
  }
  if (at < text.size() && text[at] == 'e') {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    if (!digits(text, &at)) return false;
  }
  return at == text.size();
}

template <typename T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

}  // namespace

uint16_t round_f16(double value) { return round_half(value, 5, 10); }
uint16_t round_bf16(double value) { return round_half(value, 8, 7); }

uint64_t Reader::literal(DType d) {
  skip();
  size_t end = at_;
  while (end < text_.size() && text_[end] != ' ') ++end;
  const std::string_view text = text_.substr(at_, end - at_);
  if (text.empty()) fail("expected a literal");
  if (text.size() > 40) fail("a literal is longer than 40 characters");
  at_ = end;
  const auto wrong = [&](const char* why) {
    fail("'" + std::string(text) + "' is not a literal of " + dtype_name(d) + why);
  };
  if (d == DType::boolean) {
    if (text != "true" && text != "false") wrong("");
    return text == "true";
  }
  if (d == DType::f32 || d == DType::f64 || d == DType::f16 || d == DType::bf16) {
    double value = 0;
    if (text == "inf" || text == "-inf") {
      value = text[0] == '-' ? -std::numeric_limits<double>::infinity()
                             : std::numeric_limits<double>::infinity();
    } else if (text == "nan") {
      value = std::numeric_limits<double>::quiet_NaN();
    } else {
      if (!decimal(text)) wrong("");
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (result.ec == std::errc::result_out_of_range) {
        value = out_of_range(text);
        if (text[0] == '-') value = -value;
      }
      if (!std::isfinite(value) || (d != DType::f64 && std::isinf(static_cast<float>(value)))) {
        wrong(": it is too large");
      }
    }
    if (d == DType::f64) return bits_of(value);
    if (d == DType::f32) return bits_of(static_cast<float>(value));
    return d == DType::f16 ? round_f16(value) : round_bf16(value);
  }
  const bool negative = text[0] == '-';
  size_t at = negative ? 1 : 0;
  const size_t first = at;
  if (!digits(text, &at) || at != text.size()) wrong("");
  unsigned __int128 magnitude = 0;
  for (size_t i = first; i < text.size(); ++i) {
    magnitude = magnitude * 10 + static_cast<unsigned>(text[i] - '0');
    if (magnitude > (static_cast<unsigned __int128>(1) << 64)) wrong(": out of range");
  }
  const bool is_signed = d == DType::i8 || d == DType::i16 || d == DType::i32 || d == DType::i64;
  const int width = static_cast<int>(dtype_size(d)) * 8;
  const unsigned __int128 one = 1;
  const unsigned __int128 limit = negative ? (is_signed ? one << (width - 1) : 0)
                                           : (one << (is_signed ? width - 1 : width)) - 1;
  if (magnitude > limit) wrong(": out of range");
  const uint64_t bits = static_cast<uint64_t>(magnitude);
  const uint64_t value = negative ? 0 - bits : bits;
  return width == 64 ? value : value & ((uint64_t{1} << width) - 1);
}

}  // namespace onnx_fusion
