// What isa/tile.cc lends to other files of the same ISA.
#pragma once

#include <cstdint>

#include "cpu/contract_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

// Whether a tile's results are activated as soon as they are stored: few of them would wait for
// each other.
#if defined(__AVX512F__)
inline constexpr bool kActivates = true;
#else
inline constexpr bool kActivates = false;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kTileRows[] = {0, 12, 8, 8}, kTileVectors = 3;
#elif defined(__AVX2__)
inline constexpr int kTileRows[] = {0, 12, 6, 4}, kTileVectors = 3;
#else
inline constexpr int kTileRows[] = {0, 4, 4, 0}, kTileVectors = 2;
#endif

// Vectors that may end with half a one: of half vectors there are twice as many, less one.
#if defined(__AVX512F__)
inline constexpr int kHalvedVectors = 2;
#else
inline constexpr int kHalvedVectors = 0;
#endif

// False if the tiles are not of this kind (isa/dense.cc).
bool run_dense(int rows, int vectors, const TileCall& call);

void run_plain_tile(int rows, int vectors, int pieces, const int64_t* depths, const float* const* a,
                    int64_t a_step, const float* b, int64_t b_step, float* c, int64_t ldc,
                    bool add);
void run_dots(int64_t k, const float* a, const float* const* b, int count, float* c, bool add);

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
