// A contraction with few columns: vectors lie along k, and each sum's lanes are added up at the
// end.
#include "cpu/narrow_kernels.h"

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Vectors that hold Parts partial sums each, joined: r has the halves' sums of a, then those of b.
template <int Parts>
inline Floats join_halves(Floats a, Floats b) {
  constexpr int kHalf = Parts / 2;
  const auto lane = [](int l, int part) {  // which lane of a and b holds this part of sum l / kHalf
    return l / kHalf * Parts + part * kHalf + l % kHalf;
  };
  Ints low, high;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) {
    low[l] = lane(l, 0);
    high[l] = lane(l, 1);
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// The sums over the lanes of kLanes vectors (of fewer, and zeros), each in its lane.
template <int Parts, int Count>
inline Floats add_lanes(const Floats* x) {
  if constexpr (Parts == 1) {
    return x[0];
  } else {
    constexpr int kJoined = (Count + 1) / 2;
    Floats joined[kJoined];
#pragma GCC unroll 16
    for (int i = 0; i < kJoined; ++i) {
      joined[i] = join_halves<Parts>(x[2 * i], 2 * i + 1 < Count ? x[2 * i + 1] : Floats{});
    }
    return add_lanes<Parts / 2, kJoined>(joined);
  }
}

template <int R, int N>
void tile(const NarrowTile& t) {
  constexpr int kSums = R * N;
  Floats sum[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) sum[i] = Floats{};
  const float* w = t.weights;
  for (int run = 0; run < t.runs; ++run) {
    const float* a[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) a[r] = t.rows[r] + t.offsets[run];
    const int64_t length = t.lengths[run];
    int64_t k = 0;
    for (; k + kLanes <= length; k += kLanes, w += N * kLanes) {
      Floats y[N];
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) y[n] = load(w + n * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Floats x = load(a[r] + k);
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) sum[r * N + n] += x * y[n];
      }
    }
    if (k == length) continue;
    const int left = static_cast<int>(length - k);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Floats x = load_some(a[r] + k, left);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[r * N + n] += x * load(w + n * kLanes);
    }
    w += N * kLanes;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; i += kLanes) {
    constexpr int kFull = kSums < kLanes ? kSums : kLanes;
    if (i + kLanes <= kSums || kSums < kLanes) {
      store(t.out + i, add_lanes<kLanes, kFull>(sum + i));
    } else {
      constexpr int kRest = kSums % kLanes == 0 ? kLanes : kSums % kLanes;
      store(t.out + i, add_lanes<kLanes, kRest>(sum + i));
    }
  }
}

using Tile = void (*)(const NarrowTile&);
#if defined(__AVX512F__)
constexpr int kColumns = 8;
constexpr Tile kTiles[] = {nullptr,    tile<8, 1>, tile<8, 2>, tile<5, 3>, tile<4, 4>,
                           tile<3, 5>, tile<2, 6>, tile<2, 7>, tile<2, 8>};
constexpr int kRows[kMostNarrow + 1] = {0, 8, 8, 5, 4, 3, 2, 2, 2};
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kColumns = 4;
constexpr Tile kTiles[] = {nullptr, tile<8, 1>, tile<4, 2>, tile<3, 3>, tile<2, 4>};
constexpr int kRows[kMostNarrow + 1] = {0, 8, 4, 3, 2};
#else
constexpr int kColumns = 2;
constexpr Tile kTiles[] = {nullptr, tile<8, 1>, tile<4, 2>};
constexpr int kRows[kMostNarrow + 1] = {0, 8, 4};
#endif

void run_tile(int columns, const NarrowTile& t) { kTiles[columns](t); }

}  // namespace

extern const NarrowKernels narrow_kernels;
const NarrowKernels narrow_kernels = {
    kColumns,
    {kRows[0], kRows[1], kRows[2], kRows[3], kRows[4], kRows[5], kRows[6], kRows[7], kRows[8]},
    run_tile,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
