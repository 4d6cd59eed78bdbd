// The element types of tile programs (docs/tile_program.md, section 4).
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnx_fusion {

// X(enumerator, name in programs, bytes, ONNX TensorProto code)
#define ONNX_FUSION_DTYPES(X) \
  X(f32, "f32", 4, 1)         \
  X(f64, "f64", 8, 11)        \
  X(f16, "f16", 2, 10)        \
  X(bf16, "bf16", 2, 16)      \
  X(i8, "i8", 1, 3)           \
  X(u8, "u8", 1, 2)           \
  X(i16, "i16", 2, 5)         \
  X(u16, "u16", 2, 4)         \
  X(i32, "i32", 4, 6)         \
  X(u32, "u32", 4, 12)        \
  X(i64, "i64", 8, 7)         \
  X(u64, "u64", 8, 13)        \
  X(boolean, "bool", 1, 9)

enum class DType : uint8_t {
#define X(name, text, size, onnx) name,
  ONNX_FUSION_DTYPES(X)
#undef X
};

inline constexpr size_t kDTypeCount = 13;
inline constexpr size_t kDTypeSizes[] = {
#define X(name, text, size, onnx) size,
    ONNX_FUSION_DTYPES(X)
#undef X
};
inline constexpr const char* kDTypeNames[] = {
#define X(name, text, size, onnx) text,
    ONNX_FUSION_DTYPES(X)
#undef X
};
inline constexpr int kDTypeOnnxCodes[] = {
#define X(name, text, size, onnx) onnx,
    ONNX_FUSION_DTYPES(X)
#undef X
};

constexpr size_t dtype_size(DType d) { return kDTypeSizes[static_cast<size_t>(d)]; }
constexpr const char* dtype_name(DType d) { return kDTypeNames[static_cast<size_t>(d)]; }
constexpr int dtype_onnx(DType d) { return kDTypeOnnxCodes[static_cast<size_t>(d)]; }

}  // namespace onnx_fusion
