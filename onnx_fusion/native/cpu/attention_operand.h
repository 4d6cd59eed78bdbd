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
  float* memory(const RunContext& context, const int64_t* positions) const;
};

// The vector side of a product, for one batch: where its columns lie.
struct ColumnView {
  const float* memory = nullptr;  // of columns that are read in place
  const float* packed = nullptr;  // [panel][k][column of the panel]
};

class ColumnOperand {
 public:
  // `rows` is how many rows each column meets.
  ColumnOperand(const BoundProgram& bound, size_t stage, int value, const Axis& columns,
                const Axis& k, int64_t rows);

  // Packs into `buffer`, of floats() floats, what is not read in place.
  ColumnView prepare(const RunContext& context, const int64_t* fixed, float* buffer,
                     char* scratch) const;
  // out[r * ld + c - c0] = (add ? itself : 0) + the sum over k in [k0, k1) of rows[r][k - k0] *
  // column c; c0 begins a panel. Up to a vector behind c1 is written.
  void multiply(const ColumnView& view, const float* const* rows, int64_t count, int64_t k0,
                int64_t k1, int64_t c0, int64_t c1, float* out, int64_t ld, bool add) const;
  // The largest absolute value in the view; infinity if any element is NaN.
  float magnitude(const ColumnView& view) const;
  int64_t floats() const;
  size_t scratch_bytes() const { return prologue_ != nullptr ? prologue_->scratch_bytes() : 0; }

  int64_t columns, depth, width;

 private:
  enum class Way { packed, in_place, mix, dots };

  Way choose_way(int64_t rows) const;
  int64_t crowding() const;
  int panel_vectors(int64_t panel) const;
  // Panels from here on are packed: all, the last one if it ends within a vector, or none.
  int64_t first_packed() const;

  int vectors_;
  int64_t lanes_, panels_, tile_rows_;
  Way way_ = Way::packed;
  OperandSource source_;
  OperandTables tables_;
  ColumnTables column_tables_;
  int64_t step_ = 0;  // between one k and the next, if it is the same everywhere
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

// A tensor whose rows lie in memory as those of the scores or of the result: a mask, a bias, the
// output.
class PlaneRows {
 public:
  // False if the columns are not consecutive. `line` loads it or stores it.
  bool make(const BoundProgram& bound, size_t stage, int line, const Axis& rows,
            const Axis& columns);
  // The same for the output of a contraction that stores its dot as it is; else false.
  bool make_store(const BoundProgram& bound, size_t stage, const Axis& rows, const Axis& columns);
  float* memory(const RunContext& context, const int64_t* fixed) const {
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
  std::vector<PlaneRows> planes;  // at most two, in the order added

  bool make(const BoundProgram& bound, const AttentionMatch& match);
};

}  // namespace onnx_fusion::cpu
