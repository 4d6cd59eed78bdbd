// What a contraction needs of the tile machine: its operands computed into panels, and its result
// tile carried through the rest of the stage into the stores.
//
// Both see the stage's letters as two axes, each a list of letters flattened row-major (the first
// one slowest). Letters in neither axis are fixed per call: `fixed` holds a position for every
// letter of the stage (those of the axes are ignored).
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/stage.h"

namespace onnx_fusion {

struct Axis {
  int count = 0;
  uint8_t letters[kMaxLetters] = {};
};

int64_t axis_extent(const BoundStage& stage, const Axis& axis);

namespace cpu {
class Finish;
}

class TileProgram;  // compiled instructions over a box of letters (cpu/compile.h)

// Computes one operand of a `dot` over any rectangle of rows x columns.
class Prologue {
 public:
  // `value` is the operand's number; every letter it depends on is in an axis or fixed per call.
  Prologue(const BoundProgram& bound, size_t stage, int value, const Axis& rows,
           const Axis& columns);
  ~Prologue();

  // The map of the load that the operand is, if it is nothing but a load of f32 (any map); else
  // null. map->linear && !map->guarded: element (letters) is at tensors[tensor] + map->address.
  const BoundMap* load(int* tensor) const;

  // dst[(r - r0) * row_stride + (c - c0) * column_stride] = operand at row r, column c.
  // `scratch` holds at least scratch_bytes(), aligned to 64; one per thread.
  void run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, int64_t c0,
           int64_t c1, float* dst, int64_t row_stride, int64_t column_stride, char* scratch) const;
  size_t scratch_bytes() const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

// What lies between two lines of a stage, pointwise: a value computed from another that is in
// memory.
class Relay {
 public:
  // Lines of the body; every letter that the result depends on is in an axis or fixed per call.
  Relay(const BoundProgram& bound, size_t stage, int from, int to, const Axis& rows,
        const Axis& columns);
  ~Relay();

  // Element (row r, column c) is at [(r - r0) * ld + (c - c0)] of both; they may not overlap.
  void run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, int64_t c0,
           int64_t c1, const float* in, float* out, int64_t ld, char* scratch) const;
  size_t scratch_bytes() const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

// Everything of a stage that follows its only `dot` or reduction, stores included.
class Epilogue {
 public:
  // Together the axes hold every letter of the result that is not fixed per call. Columns should be
  // the letters along which the stores are contiguous. It may begin at a later line of the body,
  // `from`.
  Epilogue(const BoundProgram& bound, size_t stage, const Axis& rows, const Axis& columns,
           int from = -1);
  ~Epilogue();

  // The result is stored as it is, as f32, and element (row r, column c) of it belongs at
  // tensors[tensor] + address (over the letters): accumulators may be written there at once.
  const BoundMap* plain_store(int* tensor) const;

  // accumulators[(r - r0) * ld + (c - c0)] is the dot's value at row r, column c; clobbered never.
  // Best with 256 to 4096 points a call and long columns.
  void run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, int64_t c0,
           int64_t c1, const float* accumulators, int64_t ld, char* scratch) const;
  size_t scratch_bytes() const;
  // What `run` does, if it is of that kind; else null.
  const cpu::Finish* finish() const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace onnx_fusion
