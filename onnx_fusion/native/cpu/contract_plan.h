// A contraction as the generic engine runs it:
//
//   c[row][column] = sum over k of rows[row][k] * columns[k][column]        for every batch
//
// Columns are the vector side. An operand arrives packed (constant: in the plan; else: per block of
// a task), or is read where it lies. The letters of the `dot` are the axes: batch in both operands,
// row in one, column in the other, k reduced.
#pragma once

#include <memory>
#include <vector>

#include "cpu/contract_ahead.h"
#include "cpu/contract_axes.h"
#include "cpu/contract_tables.h"
#include "cpu/finish.h"
#include "cpu/weights.h"

namespace onnx_fusion::cpu {

enum class Source {
  cached,  // packed panels in the plan
  scaled,  // columns: the same, times a number for each k, per block
  direct,  // read in place, through tables
  indexed,  // rows: the same, of which only short runs of k lie together
  tables,  // packed per block, through tables
  computed,  // packed per block, by the prologue
  lines,  // one row, columns side by side: each k's read in place, in whole
  dots  // one row, columns along k: read in place
};

struct Side {
  Source source = Source::computed;
  int tensor = -1;  // unless computed
  OperandTables tables;
  std::unique_ptr<Prologue> prologue;
  std::shared_ptr<const PackedWeights> weights;
  std::vector<int64_t> slot;  // cached: per batch, where its packing begins
};

// Consecutive k that one call of the register tile takes.
struct Piece {
  int64_t k0, k1;
};

// Lines of an image that a row of windows reads (contract_lines.cc).
struct Lines {
  int64_t pixels = 0;  // windows of a row; 0: there are no lines
  int64_t step = 1;  // between them
  int guard = -1;  // the one along the line
  int64_t first = 0;  // what of it is least, of all k
  int64_t floats = 0;  // that a line has
  int64_t row_floats = 0;  // all lines of a row of windows
  int64_t rows = 1;  // of windows at once
  std::vector<int64_t> sample;  // a k of each line
  std::vector<int64_t> offsets;  // per k
};

// A block of k after which the accumulators go back to memory.
struct Block {
  int first, last;  // pieces
};

class ContractPlan final : public StagePlan {
 public:
  // With `scales`, a factor of an operand may go to the other one.
  ContractPlan(const BoundProgram& bound, size_t stage, const TensorView* constants, size_t count,
               bool scales);
  void run(const RunContext& context) const override;
  // There is such a factor, but not the packed columns that take it: plan without.
  bool fails() const { return factor_ >= 0 && columns_side_.source != Source::scaled; }

 private:
  // Part of one batch's rows and panels.
  struct Item {
    int64_t batch;
    int64_t row0, row1, panel0, panel1;
    const int64_t* fixed;  // positions of all letters, the axes' ignored
    const float* rows;  // the operands' memory at this batch, or their packing in the plan
    const float* columns;
  };
  struct Buffers {
    float* rows;
    float* columns;
    float* sums;
    float* turned;  // a finished strip, transposed
    const float** pointers;  // to direct rows: [tile][piece][row of the tile]
    float* factors;  // scaled: of the columns, per k
    float* borders;  // indexed rows that are partly outside, copied
    uint8_t* whole;  // per tile: it has no such row
    char* prologue;
    char* epilogue;
  };
  // What the first packed row and panel of the buffers are.
  struct Place {
    int64_t row, panel;
  };

  void choose_axes(const DotLetters& letters, const TensorView* constants, size_t count);
  void choose_row_source(const BoundProgram& bound, const DotOperand& operand,
                         const TensorView* constant);
  void choose_column_source(const BoundProgram& bound, const DotOperand& operand,
                            const TensorView* constant);
  void choose_depth();
  bool choose_lines();
  void choose_blocks();
  void cache_rows(const TensorView& constant);
  void cache_columns(const TensorView& constant);

  void pack_rows(const RunContext& context, const Item& item, int64_t row0, int64_t row1,
                 const Buffers& buffers) const;
  void scale_columns(const Item& item, const Block& block, int64_t panel0, int64_t panel1,
                     const Buffers& buffers) const;
  void pack_columns(const RunContext& context, const Item& item, const Block& block, int64_t panel0,
                    int64_t panel1, const Buffers& buffers) const;
  void run_item(const RunContext& context, const Item& item, const Buffers& buffers) const;
  void run_block(const RunContext& context, const Item& item, const Buffers& buffers, int64_t row0,
                 int64_t row1, int64_t panel0, int64_t panel1, int64_t packed_row) const;
  // Tiles of rows[0] rows, and then of rows[1]; at most so many.
  struct Tiling {
    int rows[2];
    int64_t tiles[2];
  };
  Tiling tile_rows(int64_t rows, int64_t most) const;
  void copy_border(const float* base, const Block& block, int64_t row, float* to) const;
  void point_indexed(const Item& item, const Buffers& buffers, const Block& block, int64_t row0,
                     int64_t row1) const;
  void copy_lines(const Item& item, int64_t row, float* to) const;
  void point_lines(const Item& item, const Buffers& buffers, int64_t row0, int64_t row1) const;
  void point_rows(const Item& item, const Buffers& buffers, const Block& block, int64_t row0,
                  int64_t row1) const;
  bool find_empty(const Buffers& buffers, int pieces, const Tiling& tiling) const;
  void run_dots(const float* columns, const float* row, int64_t depth, int64_t column0,
                int64_t column1, float* c, bool add) const;
  void run_streams(const Item& item, const Buffers& buffers, const Place& packed,
                   const Block& block, int64_t panel0, int64_t panel1, float* c, int64_t ldc,
                   bool add) const;
  void run_tiles(const Item& item, const Buffers& buffers, const Place& packed, const Block& block,
                 int64_t row0, int64_t row1, int64_t panel0, int64_t panel1, float* c, int64_t ldc,
                 bool add, const FinishRows* finish) const;
  // Memory to fetch while a panel is multiplied: from one tile to the next, and lines per
  // kFetchStep.
  struct Fetch {
    const float* begin;
    int64_t step;
    int lines;
  };
  Fetch fetch_next(const Item& item, const Block& block, int64_t row1, int64_t panel0,
                   int64_t panel1, int64_t panel, int64_t tiles) const;
  Weights next_weights(const Item& item, const Block& block, bool last_rows, int64_t panel0,
                       int64_t panel1, int64_t panel) const;
  Weights panel_weights(const Item& item, const Block& block, int64_t panel) const;
  int panel_vectors(int64_t panel) const;
  int64_t panel_width(int64_t panel) const;
  const float* find_panel(const Item& item, const Buffers& buffers, const Place& packed,
                          const Block& block, int64_t panel, int64_t* panel_floats) const;
  void finish(const RunContext& context, const Item& item, const Buffers& buffers, int64_t row0,
              int64_t row1, int64_t panel0, int64_t panel1, const float* sums, int64_t ldc) const;

  const GemmKernels& kernels_;
  const TileKernels& tiles_;
  const BoundStage& stage_;
  size_t stage_index_;
  int row_value_ = -1, column_value_ = -1;  // the operands of the `dot`
  int factor_ = -1;  // what the columns are multiplied with
  Axis batch_, row_, column_, k_;
  int64_t batches_ = 1, rows_ = 1, columns_ = 1, depth_ = 1;
  int vectors_ = 1;  // of a panel
  int64_t width_ = 1;  // of a panel, in floats
  int64_t unit_ = 1;  // the last panel's width is a multiple of it
  int64_t tile_rows_ = 1;  // of a register tile
  int64_t panels_ = 1;
  bool transposed_ = false;  // stores are contiguous along the rows

  Side rows_side_, columns_side_;
  ColumnTables column_tables_;
  std::vector<PackGuard> column_guards_;
  bool along_k_ = false;
  int64_t row_step_ = 1, column_step_ = 1;  // direct: between one k and the next
  std::vector<float> padding_;  // direct rows outside a guard
  std::vector<Run> runs_;  // indexed rows: of k
  Lines lines_;  // indexed rows, if they are windows of lines
  std::vector<uint8_t> inside_;  // indexed rows: whether all k are

  std::vector<Piece> pieces_;
  std::vector<int64_t> depths_;  // of the pieces
  std::vector<Block> blocks_;
  int64_t row_block_ = 1, panel_block_ = 1;  // packed at once
  int64_t row_chunk_ = 1;  // accumulators held over the blocks of k
  int64_t strip_rows_ = 1, strip_panels_ = 1;  // carried through the epilogue at once
  int64_t row_floats_ = 0, column_floats_ = 0;  // of a task's buffers
  int64_t sum_floats_ = 0, turned_floats_ = 0;
  int64_t pointers_ = 0, border_floats_ = 0;  // of a task's rows
  size_t prologue_bytes_ = 0;
  bool streams_ = false;  // one or two rows: several panels at once
  bool finishes_ = false;  // tiles store their results themselves
  int64_t apart_ = 0;  // floats from each row to the next; 0: they differ

  std::unique_ptr<Epilogue> epilogue_;
  Successor successor_;
};

// If an operand is a load times something that depends on k alone, and the other one is constant:
// makes the operand that load and returns the other factor's value. Else, and in strict programs,
// -1.
int take_factor(const BoundProgram& bound, const BoundStage& stage, DotLetters* letters,
                const TensorView* constants, size_t count);

// The vectors of a panel that need the least time per row for all columns; the last one of all may
// be half a vector.
int choose_width(int64_t vectors, bool halved);

// out[(outer / panel) * depth * panel + k * panel + outer % panel]; absent ones are 0. The last
// panel is as narrow as whole units allow.
void pack_panels(const float* data, const OperandTables& tables, int64_t panel, int64_t unit,
                 float* out);

}  // namespace onnx_fusion::cpu
