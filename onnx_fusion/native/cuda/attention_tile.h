// How the threads of a block share an attention's tiles, for each unit that may multiply them.
#pragma once

#include <string>

#include "cuda/attention.h"

namespace onnx_fusion::cuda {

struct AttentionTile {
  AttentionTile(const Attention& attention, const Device& device);

  static constexpr int kWarps = 4;  // of a block; each has its rows to itself

  const Unit unit;
  int each = 2;          // rows of a thread
  int columns = 64;      // of scores, at a time
  int64_t depth, width;  // of the operands in shared memory: with zeros beyond the head's

  bool cores() const { return unit != Unit::fmaf; }
  bool halves() const { return unit == Unit::f16 || unit == Unit::bf16; }
  const char* name() const;  // of the unit
  const char* element() const {
    return !cores() ? "float" : halves() ? "unsigned short" : "unsigned";
  }

  // A thread has rows i of scores [i][j] and sums [i][d], and shares each with other lanes.
  int warp_rows() const { return cores() ? 16 : 2 * each; }
  int block_rows() const { return kWarps * warp_rows(); }
  int lanes() const { return cores() ? 4 : 16; }
  int of_row(int64_t extent) const { return static_cast<int>(extent) / lanes(); }
  // Neighbours among a thread's columns.
  int run(int64_t extent) const { return cores() || extent % 64 != 0 ? 2 : 4; }
  std::string declare(const char* name, int64_t extent) const;
  std::string value(const char* name, const char* column, int next = 0) const;
  std::string row() const;                                         // of i, in the block
  std::string column(const char* index, int64_t extent) const;     // of j or d, in the tile

  // Operands in shared memory: for tensor cores [own][sum]; for fmaf [sum][own], with runs of 4
  // exchanged so that who writes along the sum meets all banks, as who reads along the other does.
  int64_t stride(int64_t own, int64_t sum, bool result) const;
  int64_t elements(int64_t own, int64_t sum, bool result) const;
  int64_t keys() const;  // elements of the keys' tile, which fmaf uses for the weights too
  int64_t shared_bytes() const;
};

// Prints the products of the tiles in shared memory: scores, and what they add to the sums.
void multiply_scores(const AttentionTile& tile, Text& text);
void multiply_result(const AttentionTile& tile, Text& text);

}  // namespace onnx_fusion::cuda
