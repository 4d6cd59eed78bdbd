// From a bound stage, or a slice of it over a box of letters, to a TileProgram.
#pragma once

#include <memory>
#include <vector>

#include "cpu/tile_program.h"

namespace onnx_fusion::cpu {

struct Slice {
  const BoundProgram* bound;
  size_t stage;
  Interval box[kMaxLetters];   // inclusive; not empty
  std::vector<int> stores;     // body lines
  int sink = -1;  // body line of a value to be written to the sink, instead of stores
  int leaf = -1;  // body line of a value that comes from the leaf
  std::vector<uint8_t> order;  // the letters, slowest first
  LetterSet reduced = 0;  // rows: the letters of the reductions
  LetterSet apart[3] = {};  // letters are merged only with others of the same sets
};

class Compiler {
 public:
  explicit Compiler(const Slice& slice);

  // After construction: the merged axes, chunks still whole. The caller sets the chunks.
  std::vector<TileAxis>& axes() const { return out_->axes; }
  // What decides about chunks: the addresses of loads and stores, over axes.
  const std::vector<TileLoad>& loads() const { return out_->loads; }
  const std::vector<TileStore>& stores() const { return out_->stores; }
  // The axes along which the indices that load `load` reads from tensors change.
  uint16_t index_axes(size_t load) const;
  size_t values() const;  // instructions that are computed
  uint16_t computed_axes() const { return axes_of(computed_letters_); }  // of indices not linear
  // Of positions that are values.
  uint16_t counted_axes() const { return axes_of(counted_letters_); }
  int levels() const;  // how many reductions follow one another

  // All reduced axes lie in the tile (or there are none): one segment.
  std::unique_ptr<TileProgram> whole(bool lanes_inner);
  // The reduced axes are looped over, once per level of reductions. Where lanes are inner, a tile
  // may be some positions of theirs; else one, or a piece of a single row.
  std::unique_ptr<TileProgram> streamed(bool lanes_inner);
  // Reductions of nothing but loads, read where they lie while the accumulators stay in registers.
  bool reads_windows() const;
  std::unique_ptr<TileProgram> windows();

 private:
  void resolve();
  bool decide(size_t line, int* taken) const;
  void mark(int line);
  void analyse(int line);
  ExprTable tabulate(ExprId expr, LetterSet letters) const;
  void merge();
  bool mergeable(size_t a, size_t b, const std::vector<const Linear*>& forms) const;
  Linear to_axes(const Linear& letters) const;
  uint16_t axes_of(LetterSet letters) const;
  int line_of(int value) const;
  const Instruction& at(int line) const { return stage_.body[static_cast<size_t>(line)]; }
  bool over_reduced(int line) const { return depends_[static_cast<size_t>(line)] & reduced_axes_; }

  void set_tile();
  Width width_of(uint16_t axes) const;
  int new_slot(DType dtype, Width width);
  int constant(DType dtype, uint64_t bits);
  int emit(int line);
  int emit_pass(int line, const Instruction& instruction);
  const int64_t* fixed_index(int line) const;
  int emit_select(int line, const Instruction& instruction);
  int emit_row_pass(const Instruction& instruction, const int* slots, int which);
  int emit_reduce(int line, const Instruction& instruction);
  bool is_nothing(int line) const;
  static uint64_t nothing_bits(const Instruction& instruction);
  int widen(int slot, Width width);
  void push(Step step);
  void emit_store(size_t index);
  void finish();
  void place_stores();
  bool writes_past(const TileStore& store, Step* producer);
  bool place_store(const Step& step, const std::vector<Step>& places, Segment* segment,
                   Step* place);
  void point_loads();
  bool lies_flat(const Linear& address, Width width, uint16_t over) const;
  bool lies_in_one_row(const TileLoad& load, const Step& loading) const;
  void point(Step* step, int tensor, size_t bytes, const Linear& address, bool writes);
  void estimate();

  const Slice slice_;
  const BoundProgram& bound_;
  const Stage& stage_;
  std::unique_ptr<TileProgram> out_;
  std::vector<int> taken_;  // per body line: the line its value is, after selects resolve
  std::vector<uint8_t> live_;
  std::vector<int> load_of_, cond_of_;
  std::vector<uint16_t> depends_;  // per body line: axes (after merging)
  std::vector<LetterSet> letters_;  // per body line: letters its value depends on, in this box
  std::vector<int> level_;
  std::vector<int> store_lines_;
  bool windowed_ = false;
  uint16_t reduced_axes_ = 0, computed_letters_ = 0, counted_letters_ = 0;
  std::vector<int> slot_of_;  // per body line, in the segment being emitted
  std::vector<int> widened_[3];  // per slot: the same value, wider
  std::vector<Step>* steps_ = nullptr;
};

// Joins cheap f32 steps two by two, where the first one's result goes nowhere else.
void join_steps(TileProgram* program);
// Turns passes that follow one another on f32 values into strands.
void join_strands(TileProgram* program);
// Gives buffers to slots, reusing those that are done with.
void place_slots(TileProgram* program);

}  // namespace onnx_fusion::cpu
