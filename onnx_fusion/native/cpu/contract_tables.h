// Where the elements of a contraction's operand lie: offsets that add up, computed once at binding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/contract_kernels.h"
#include "cpu/tile.h"

namespace onnx_fusion::cpu {

struct TableGuard {
  uint32_t extent;
  std::vector<int32_t> outer, inner;
  std::vector<int32_t> values;  // that inner takes; empty if they are many
  std::vector<uint8_t> choice;  // inner[k] = values[choice[k]]
};

// Element (b, o, k) is at batch[b] + outer[o] + inner[k] of the tensor, unless a guard's coordinate
// outer[o] + inner[k] is outside [0, extent): then it is `fill`.
struct OperandTables {
  std::vector<int64_t> batch, outer, inner;
  std::vector<TableGuard> guards;
  float fill = 0;
};

inline bool is_inside(const OperandTables& tables, int64_t outer, int64_t inner) {
  return std::all_of(tables.guards.begin(), tables.guards.end(), [&](const TableGuard& guard) {
    return static_cast<uint32_t>(guard.outer[outer] + guard.inner[inner]) < guard.extent;
  });
}

// Per outer index, whether it is inside at every inner one.
std::vector<uint8_t> find_inside(const OperandTables& tables);

// Batches that begin at the same element share a packing of `floats`: appends where each one's
// begins, and returns the distinct elements in order.
std::vector<int64_t> number_slots(const OperandTables& tables, int64_t floats,
                                  std::vector<int64_t>* slots);

// False if the map cannot be written so: it is not linear, or a guard depends on the batch.
bool build_tables(const BoundStage& stage, const BoundMap& map, float fill, const Axis& batch,
                  const Axis& outer, const Axis& inner, OperandTables* tables);

// How each vector of `lanes` columns is loaded.
struct ColumnTables {
  std::vector<ColumnVector> vectors;
  std::vector<ColumnSegment> segments;
};
ColumnTables build_columns(const std::vector<int64_t>& outer, int lanes, int64_t padded);

// Consecutive k whose elements lie `step` apart and are inside or outside together.
struct Run {
  int64_t begin, end;
};
struct RunTables {
  std::vector<Run> runs;
  int64_t step = 1;
};
RunTables build_runs(const OperandTables& tables);

}  // namespace onnx_fusion::cpu
