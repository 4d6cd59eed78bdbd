// Reductions: what their schedules share.
#pragma once

#include <string>

#include "cuda/body.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {

struct Row {  // what one result is reduced from
  LetterSet reduced = 0, kept = 0;
  int64_t length = 1, rows = 1;
  int levels = 0;
};

enum class Way { serial, warp, block, column };

constexpr int kWidth = 32;  // columns of a block
constexpr int64_t kFolded = 32 * 8;  // bytes of shared memory in which a block's warps meet

Team warp_team();
Team block_team(int threads);
Team column_team(int height);

// Prints the stores, those of a row's result by `leader` alone; `guard` is what must hold for any.
void print_stores(Body& body, const Row& row, const Team& team, const std::string& guard,
                  const std::string& leader);

// A letter along which neighbours in memory lie, or -1.
int fastest(const Nest& nest, LetterSet set);

// From sm_100 on the assembler takes 32 registers, and spills, unless told that half of a
// processor's threads suffice.
int blocks_of(const Work& work, int threads);

// Adds launches in which several blocks share each row, where rows are long and fewer than
// processors; `split` is whether it did.
Status split_rows(Work& work, size_t stage, const Nest& nest, const Row& row, Way way, bool* split);

}  // namespace onnx_fusion::cuda
