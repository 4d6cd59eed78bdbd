// What the stand-ins for cuBLASLt and cuDNN share: values of each type, and the fake driver's clock.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

enum { kFloat = 0, kHalf = 2 };  // of both libraries; any other type is bfloat16

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : otherwise;
}

double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

double get(int type, const void* memory, int64_t i) {
  if (type == kFloat) return static_cast<const float*>(memory)[i];
  const uint16_t bits = static_cast<const uint16_t*>(memory)[i];
  if (type == kHalf) return half(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

void put(int type, void* memory, int64_t i, float value) {
  if (type == kFloat) {
    static_cast<float*>(memory)[i] = value;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint16_t out = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  if (std::isnan(value)) {
    out = 0x7fff;
  } else if (type == kHalf) {  // the nearest half, ties to even, by trying
    const double size = std::fabs(value);
    int exponent = 0;
    std::frexp(size, &exponent);
    const double unit = std::ldexp(1.0, std::max(exponent - 11, -24));
    const double rounded = std::nearbyint(size / unit) * unit;
    std::frexp(rounded, &exponent);
    const int fraction = static_cast<int>(std::ldexp(rounded, 11 - exponent)) - 1024;
    out = static_cast<uint16_t>(rounded >= 65536     ? 0x7c00
                                : rounded < 0x1p-14 ? static_cast<int>(rounded * 0x1p24)
                                                    : ((exponent + 14) << 10) + fraction);
    if (value < 0) out |= 0x8000;
  }
  static_cast<uint16_t*>(memory)[i] = out;
}

void tick(float ms) {
  static auto* const clock = reinterpret_cast<void (*)(float)>(
      dlsym(dlopen(std::getenv("ONNX_FUSION_LIBCUDA"), RTLD_NOW), "fake_cuda_tick"));
  clock(ms);
}

}  // namespace
