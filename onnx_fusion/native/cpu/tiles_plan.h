// A stage as one or more tile programs over disjoint boxes, run tile by tile on the caller's
// threads.
#pragma once

#include <memory>
#include <vector>

#include "cpu/copy.h"
#include "cpu/tile_program.h"

namespace onnx_fusion::cpu {

class TilesPlan final : public StagePlan {
 public:
  void add(std::unique_ptr<TileProgram> program);
  void add(std::unique_ptr<Copy> copy);
  void run(const RunContext& context) const override;

 private:
  struct Part {
    std::unique_ptr<TileProgram> program;  // or
    std::unique_ptr<Copy> copy;
    int64_t begin, end;  // of its tiles, in one row
  };
  std::vector<Part> parts_;
  int64_t tiles_ = 0;
  double nanoseconds_ = 0;
  size_t scratch_bytes_ = 0;
};

// The stores of a stage that store something.
std::vector<int> stores_of(const BoundStage& stage);

// Letters by the memory of `map`, the slowest first; those it lacks come before.
std::vector<uint8_t> order_by(const BoundStage& stage, const Linear& address);

// A chunk of at most `most` positions that divides the extent evenly, in whole vectors if it is
// long.
int64_t even_chunk(int64_t extent, int64_t most);

}  // namespace onnx_fusion::cpu
