// Moving elements without looking at them: a store of what one load, or a constant, gives.
#pragma once

#include <memory>
#include <vector>

#include "cpu/tile_program.h"

namespace onnx_fusion::cpu {

class Copy {
 public:
  // One copy for each store, if the program does nothing but move; else none.
  static std::vector<std::unique_ptr<Copy>> split(const TileProgram& program);

  int64_t tiles() const { return tiles_; }
  double nanoseconds() const;
  void run(const RunContext& context, int64_t begin, int64_t end) const;

 private:
  struct Loop {
    int64_t extent, in, out;  // strides in elements
  };
  // How the innermost elements lie.
  enum class Kind : uint8_t { runs, planes, strided, repeated };

  Copy(const TileProgram& program, const TileStore& store);
  void arrange();
  void run_rows(const char* in, char* out, int64_t begin, int64_t end) const;
  void run_repeated(const char* in, char* out, int64_t begin, int64_t end) const;
  void run_planes(const char* in, char* out, int64_t begin, int64_t end) const;

  int from_ = -1, to_ = -1;  // tensors; from_ < 0: the constant
  uint64_t constant_ = 0;
  int size_ = 2;
  int64_t bytes_ = 4, in_base_ = 0, out_base_ = 0;
  bool past_ = false;        // the output goes past the caches
  std::vector<Loop> loops_;  // slowest first, without the innermost ones
  Kind kind_ = Kind::runs;
  Loop row_{1, 1, 1};     // runs, strided: a row; planes: the loop whose output is contiguous;
                       // repeated: how often each element of `across_` comes
  Loop across_{1, 1, 1};  // planes: the loop whose input is contiguous
  int64_t rows_ = 1, rows_a_tile_ = 1, pieces_ = 1;  // a long row is cut into pieces
  int64_t row_block_ = 1, across_block_ = 1;
  int64_t tiles_ = 1;
};

}  // namespace onnx_fusion::cpu
