// An attention's operands, brought into the form that the register tile takes.
#pragma once

#include <memory>
#include <vector>

#include "cpu/contract_tables.h"
#include "cpu/attention_match.h"

namespace onnx_fusion::cpu {

// Where an operand of a `dot` comes from: memory that a linear map walks, or a prologue.
struct OperandSource {
  const BoundMap* map = nullptr;  // null: computed
  int tensor = -1;
  LetterSet fixed = 0;  // the map's letters that are in no axis

  // The operand's memory, at the fixed letters' positions.
  const float* memory(const RunContext& context, const int64_t* positions) const;
};

// The vector side: panels of columns, [panel][k][column of the panel].
class ColumnOperand {
 public:
  ColumnOperand(const BoundProgram& bound, size_t stage, int value, const Axis& columns, const Axis& k);

  void pack(const RunContext& context, const int64_t* fixed, float* out, char* scratch) const;
  int64_t floats() const { return panels * width * depth; }
  size_t scratch_bytes() const { return prologue_ != nullptr ? prologue_->scratch_bytes() : 0; }
  // Vectors of a panel that hold columns.
  int panel_vectors(int64_t panel) const;

  int64_t columns, depth, width, panels, tile_rows;
  int vectors;

 private:
  OperandSource source_;
  OperandTables tables_;
  ColumnTables column_tables_;
  bool along_k_ = false;
  std::unique_ptr<Prologue> prologue_;
};

// The broadcast side: rows whose elements lie one after the other along k.
class RowOperand {
 public:
  RowOperand(const BoundProgram& bound, size_t stage, int value, const Axis& rows, const Axis& k);

  // in_place: row r is at memory() + row(r); else `fill` makes rows r0.. of depth() each.
  bool in_place() const { return prologue_ == nullptr; }
  const float* memory(const RunContext& context, const int64_t* fixed) const {
    return source_.memory(context, fixed);
  }
  int64_t row(int64_t r) const { return tables_.outer[static_cast<size_t>(r)]; }
  void fill(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, float* out,
            char* scratch) const;
  int64_t depth() const { return depth_; }
  size_t scratch_bytes() const { return prologue_ != nullptr ? prologue_->scratch_bytes() : 0; }

 private:
  int64_t depth_;
  OperandSource source_;
  OperandTables tables_;
  std::unique_ptr<Prologue> prologue_;
};

// An addend of the scores whose rows lie in memory as they do: a mask or a bias.
class ScorePlane {
 public:
  // False if its columns are not consecutive.
  bool make(const BoundProgram& bound, size_t stage, int line, const Axis& rows, const Axis& columns);
  const float* memory(const RunContext& context, const int64_t* fixed) const {
    return source_.memory(context, fixed);
  }
  const int64_t* rows() const { return tables_.inner.data(); }

 private:
  OperandSource source_;
  OperandTables tables_;
};

// score * scale + planes, where everything between the dot and the stored score is that.
struct ScoreFinish {
  float scale = 1;
  std::vector<ScorePlane> planes;  // at most two, in the order added

  bool make(const BoundProgram& bound, const AttentionMatch& match);
};

}  // namespace onnx_fusion::cpu
