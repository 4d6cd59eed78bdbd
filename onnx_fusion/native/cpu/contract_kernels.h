// What a contraction needs of an ISA: register tiles, packing and vector loops, on plain numbers.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// How the lanes of one vector of columns lie in memory.
enum ColumnKind : int32_t {
  kOneRun,    // one segment of consecutive elements holds every lane
  kRuns,      // a few such segments
  kEvenRuns,  // segments with a step of two elements
  kScattered  // lane by lane
};

struct ColumnVector {
  int32_t kind;
  int32_t segment;  // index of its first segment
  int32_t segments;
  int32_t lanes;  // columns that exist
};

// Lanes `mask` of a vector are at offset + step * lane.
struct ColumnSegment {
  int64_t offset;
  uint32_t mask;
};

inline constexpr int kMaxGuards = 8;

// Elements whose coordinate outer + inner is outside [0, extent) have the value `fill`. The few
// values that `inner` takes are listed, so that masks are made once per block of columns.
struct PackGuard {
  const int32_t* outer;    // per column
  const int32_t* inner;    // per k
  const uint8_t* choice;   // per k: which of `values` inner is; null if there are too many
  const int32_t* values;
  int value_count;
  uint32_t extent;
};

inline constexpr int kMaxGuardValues = 32;

// Columns of an operand, to be written as out[k][column of the panel].
struct ColumnPack {
  const float* base;
  const int64_t* outer;  // per column
  const int64_t* inner;  // per k
  const ColumnVector* vectors;
  const ColumnSegment* segments;
  const PackGuard* guards;
  int guard_count;
  float fill;
  bool along_k;  // inner is 0, 1, 2, ...: columns are read along k and transposed
};

struct FinishRows;

// How a tile finds its rows for each piece of k.
enum class TileRows {
  direct,  // each where it lies, k contiguous; columns packed
  packed,  // together: the first row's pointer is k's first, a_step apart; columns packed
  strided,  // k a_step apart, the columns' b_step
  indexed  // each where it lies, k at the offsets; columns packed; one piece
};

// Packed columns are [k][column of the tile].
struct TileCall {
  int pieces;                 // of k
  const int64_t* depths;      // per piece
  const float* const* a;      // [piece][row]
  const float* const* ahead;  // rows worth fetching meanwhile, or null
  int64_t a_step, b_step;
  const float* b;
  float* c;
  int64_t ldc;
  bool add;                  // to what c holds
  const FinishRows* finish;  // where the finished sums go, and how; null: into c
  const int64_t* offsets = nullptr;  // of k, where rows are indexed
  const float* fetch = nullptr;      // lines of 64 bytes to bring near meanwhile, or null
  int fetch_lines = 0;               // of them, per kFetchStep of k
  int64_t tiles = 1;    // one after the other: a, ahead, c and finish go on
  int64_t apart = 0;    // floats from each row to the next, of this and of the further tiles; 0:
                        // they differ
  bool halved = false;  // of the last vector only the lower half exists, in b too
};

// What TileCall::apart is for these rows.
inline int64_t rows_apart(const float* const* rows, int64_t count) {
  if (count < 2 || rows[1] <= rows[0]) return 0;
  const int64_t apart = rows[1] - rows[0];
  for (int64_t r = 2; r < count; ++r) {
    if (rows[r] != rows[r - 1] + apart) return 0;
  }
  return apart;
}

inline constexpr int kFetchStep = 16;  // of k, between two groups of fetched lines

// One or two rows, one piece of k, several packed panels that lie b_panel apart; a row of c is
// contiguous.
struct StreamCall {
  int64_t depth;
  const float* const* a;
  int64_t a_step;
  const float* b;
  int64_t b_panel;
  float* c;
  int64_t ldc;
  bool add;
};

// One row against lines of b that lie `b_step` apart, unpacked; each is read from end to end.
struct SpreadCall {
  int64_t depth;
  const float* a;
  int64_t a_step;
  const float* b;
  int64_t b_step;
  int64_t columns;
  float* c;
  bool add;  // to what c holds
};

inline constexpr int kMostTileRows = 12;
inline constexpr int kMostAhead = 4;  // tiles

struct TileKernels {
  int rows[4];       // of a tile, by its vectors of columns
  int max_vectors;   // widest panel
  int halved;        // vectors of a panel of which the last may be half a one: up to so many
  bool activates;    // finishes activations too; else it leaves them to FinishPasses::activate
  int streams[3];    // panels that one call of `stream` takes, by rows
  // c[i][j] = sum over pieces and p < depths[piece] of a[piece][i][p] * b[q][j], q counting all p.
  void (*tile)(TileRows kind, int rows, int vectors, const TileCall& call);
  void (*stream)(int rows, int panels, int vectors, const StreamCall& call);
  void (*spread)(const SpreadCall& call);
  // c[j] = (add ? c : 0) + sum over p < k of a[p] * b[j][p], for j < count.
  void (*dots)(int64_t k, const float* a, const float* const* b, int count, float* c, bool add);
};

struct GemmKernels {
  int lanes;  // floats in a vector
  int max_vectors;  // widest panel
  int rows[4];  // of a tile, by its vectors of columns
  // A tile without the rest of a TileCall: c = (add ? c : 0) + the sum.
  void (*tile)(int rows, int vectors, int pieces, const int64_t* depths, const float* const* a,
               int64_t a_step, const float* b, int64_t b_step, float* c, int64_t ldc, bool add);
  void (*dots)(int64_t k, const float* a, const float* const* b, int count, float* c, bool add);
  // `count` vectors from column `column` (of a panel's first vector) on, in panels of `vectors`,
  // for `depth` k from k0 on; absent columns are 0 or `fill`.
  void (*pack_columns)(const ColumnPack& pack, int64_t column, int64_t count, int vectors,
                       int64_t k0, int64_t depth, float* out);
  // out[c * out_step + r] = in[r * in_step + c], r < rows, c < columns.
  void (*transpose)(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out,
                    int64_t out_step);
};

// Consecutive outputs of a window along which the input has a constant step.
struct WindowVector {
  int64_t offset;  // of the first one's input, for tap offset 0
  int32_t column;  // where the outputs go
  int16_t lanes;
  int16_t whole;  // all lanes exist and are inside the input for every tap
};

// One channel of a window: the weights are scalars.
struct WindowRow {
  const WindowVector* vectors;
  int64_t count;
  const uint16_t* masks;  // [vector][tap]: the lanes inside the input
  const int64_t* inner;  // per tap
  int taps;
  int step;  // 1 or 2
  const float* base;
  const float* weights;  // per tap
  float fill;  // of what is outside
};

struct WindowKernels {
  // out[vector.column + lane] for every vector, in order; up to a vector more is written.
  void (*row)(const WindowRow& row, float* out);
  // out[i * ldo + c] = sum over taps of in[tap * pixels + i][c] * weights[tap * weight_step + c],
  // i < pixels <= 4, c < channels.
  void (*channels)(const float* const* in, int taps, int pixels, const float* weights,
                   int64_t weight_step, int64_t channels, float* out, int64_t ldo);
};

// The ISA's in use.
const GemmKernels& gemm_kernels();
const TileKernels& tile_kernels();
const WindowKernels& window_kernels();

}  // namespace onnx_fusion::cpu
