#include "cpu/isa/math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};
struct Bool {
  uint8_t value;
};

ONNX_FUSION_INLINE float widen(F16 h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(h.bits & 0x7fff) << 13;
  // A multiplication by 2^112 moves the exponent's bias and normalises subnormals.
  const float scaled = bits<float>(magnitude) * 5.192296858534828e33f;
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t r = magnitude >= 0x0f800000u ? special : bits<uint32_t>(scaled);
  return bits<float>(r | sign);
}
ONNX_FUSION_INLINE float widen(BF16 h) { return bits<float>(static_cast<uint32_t>(h.bits) << 16); }
ONNX_FUSION_INLINE int32_t widen(Bool b) { return b.value; }
template <class T>
ONNX_FUSION_INLINE T widen(T a) {
  return a;
}

ONNX_FUSION_INLINE F16 to_f16(float a) {
  const uint32_t u = bits<uint32_t>(a);
  const uint32_t sign = u & 0x80000000u, magnitude = u & 0x7fffffffu;
  // Adding 2^k aligns the last place of f16 with that of f32, which rounds to nearest even.
  const uint32_t exponent = magnitude & 0x7f800000u;
  const uint32_t floor = 113u << 23;
  const uint32_t aligned = (exponent < floor ? floor : exponent) + (13u << 23);
  const float magic = bits<float>(aligned > 0x7f000000u ? 0x7f000000u : aligned);
  const float rounded = (bits<float>(magnitude) + magic) - magic;
  const float scaled = rounded * 1.925929944387236e-34f;  // 2^-112
  const uint32_t finite = bits<uint32_t>(scaled) >> 13;
  uint32_t r = rounded >= 65520.0f ? 0x7c00u : finite;
  r = magnitude > 0x7f800000u ? 0x7e00u : r;
  return {static_cast<uint16_t>(r | sign >> 16)};
}
ONNX_FUSION_INLINE BF16 to_bf16(float a) {
  const uint32_t u = bits<uint32_t>(a);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(a != a ? (u >> 16) | 0x40u : rounded)};
}
template <class To, class From>
ONNX_FUSION_INLINE To convert(From x) {
  const auto a = widen(x);
  using A = std::decay_t<decltype(a)>;
  if constexpr (std::is_same_v<To, Bool>) {
    return {static_cast<uint8_t>(a != A{0})};
  } else if constexpr (std::is_same_v<To, F16>) {
    return to_f16(static_cast<float>(a));
  } else if constexpr (std::is_same_v<To, BF16>) {
    return to_bf16(static_cast<float>(a));
  } else if constexpr (std::is_floating_point_v<A> && std::is_integral_v<To>) {
    // What does not fit is the machine's choice: the low bits of the 64-bit conversion.
    if constexpr (std::is_same_v<To, uint64_t>) {
      const double d = static_cast<double>(a);
      return d >= 9223372036854775808.0
                 ? static_cast<uint64_t>(static_cast<int64_t>(d - 9223372036854775808.0)) ^
                       0x8000000000000000u
                 : static_cast<uint64_t>(static_cast<int64_t>(d));
    } else if constexpr (std::is_same_v<To, int32_t> || sizeof(To) < 4) {
      return static_cast<To>(static_cast<int32_t>(a));
    } else {
      return static_cast<To>(static_cast<int64_t>(a));
    }
  } else {
    return static_cast<To>(a);
  }
}

template <class From, class To>
void cast(void* out, const void* a, const void*, const void*, int64_t n) {
  To* o = static_cast<To*>(out);
  const From* x = static_cast<const From*>(a);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = convert<To>(x[i]);
}

template <class From>
void set(Pass* row) {
  row[static_cast<int>(DType::f32)] = cast<From, float>;
  row[static_cast<int>(DType::f64)] = cast<From, double>;
  row[static_cast<int>(DType::f16)] = cast<From, F16>;
  row[static_cast<int>(DType::bf16)] = cast<From, BF16>;
  row[static_cast<int>(DType::i8)] = cast<From, int8_t>;
  row[static_cast<int>(DType::u8)] = cast<From, uint8_t>;
  row[static_cast<int>(DType::i16)] = cast<From, int16_t>;
  row[static_cast<int>(DType::u16)] = cast<From, uint16_t>;
  row[static_cast<int>(DType::i32)] = cast<From, int32_t>;
  row[static_cast<int>(DType::u32)] = cast<From, uint32_t>;
  row[static_cast<int>(DType::i64)] = cast<From, int64_t>;
  row[static_cast<int>(DType::u64)] = cast<From, uint64_t>;
  row[static_cast<int>(DType::boolean)] = cast<From, Bool>;
}

}  // namespace

void fill_cast(Kernels* k) {
  set<float>(k->cast[static_cast<int>(DType::f32)]);
  set<double>(k->cast[static_cast<int>(DType::f64)]);
  set<F16>(k->cast[static_cast<int>(DType::f16)]);
  set<BF16>(k->cast[static_cast<int>(DType::bf16)]);
  set<int8_t>(k->cast[static_cast<int>(DType::i8)]);
  set<uint8_t>(k->cast[static_cast<int>(DType::u8)]);
  set<int16_t>(k->cast[static_cast<int>(DType::i16)]);
  set<uint16_t>(k->cast[static_cast<int>(DType::u16)]);
  set<int32_t>(k->cast[static_cast<int>(DType::i32)]);
  set<uint32_t>(k->cast[static_cast<int>(DType::u32)]);
  set<int64_t>(k->cast[static_cast<int>(DType::i64)]);
  set<uint64_t>(k->cast[static_cast<int>(DType::u64)]);
  set<Bool>(k->cast[static_cast<int>(DType::boolean)]);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
