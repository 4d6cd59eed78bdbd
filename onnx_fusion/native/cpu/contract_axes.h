// The letters of a `dot`, sorted by what they are to it.
#pragma once

#include "cpu/tile.h"

namespace onnx_fusion::cpu {

struct DotOperand {
  int value = -1;
  Axis own;                       // letters of this operand alone
  const BoundMap* map = nullptr;  // if it is nothing but a load of f32 with linear indices
  int tensor = -1;                // of the map
  float fill = 0;                 // outside the tensor
};

// Axes leave out letters of extent 1. `batch` has the letters of both operands, and those that only
// the rest of the stage has.
struct DotLetters {
  DotOperand operands[2];
  Axis batch, k;
  const Linear* store = nullptr;  // the address of the first store
};

// Sets map, tensor and fill if the value is nothing but such a load.
void read_operand(const BoundStage& stage, int value, DotOperand* operand);
int find_dot(const Stage& stage);  // its line, or -1
DotLetters dot_letters(const BoundStage& stage);
bool is_constant(const DotOperand& operand, const TensorView* constants, size_t count);

// Sorts by the step in memory, largest first.
void sort_axis(Axis* axis, const Linear& address);

// The smallest step in memory between neighbours along an axis, 0 if there is none; *letter takes
// it.
int64_t least_step(const BoundStage& stage, const Axis& axis, const Linear& address, int* letter);

// The positions of the axis's letters at its flat index, written into `letters`.
void locate(const BoundStage& stage, const Axis& axis, int64_t index, int64_t* letters);

}  // namespace onnx_fusion::cpu
