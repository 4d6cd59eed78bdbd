// A stage, or a slice of one, compiled for tiles: boxes of letters whose values fit the cache.
//
// The letters become axes, in an order of memory, neighbours merged where every map allows. A tile
// covers `chunk` positions of each axis; a value is as wide as the axes of the tile it depends on:
//
//   full    all axes of the tile
//   row     those that are not reduced        (rows stages)
//   scalar  none: one element
//
// A program is a list of segments of steps. A segment that loops runs once per tile of the reduced
// axes, the others once (rows stages that stream; everything else has one segment).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/stage.h"
#include "cpu/strand.h"

namespace onnx_fusion::cpu {

inline constexpr size_t kMaxWindowGuards = 4;

enum class Width : uint8_t { scalar, row, full };

struct TileAxis {
  int64_t extent = 1;
  int64_t chunk = 1;
  bool reduced = false;
  int letters = 0;  // how many, slowest first
  uint8_t letter[kMaxLetters] = {};
};

struct TileGuard {
  Linear form;  // over axes
  int64_t extent;
};

struct TileIndirect {
  int slot;
  bool wide;    // i64, else i32
  Width width;  // of the index value
  uint16_t axes;
  int64_t stride, extent;
};

// An expression's values over its letters, where they are few: values[place].
struct ExprTable {
  std::vector<int64_t> values;
  Linear place;  // over letters
};

struct TileExpr {
  ExprId expr;
  uint16_t axes;
  int64_t stride, extent;
  ExprTable table;
};

struct TileLoad {
  int tensor = -1;  // -1: the leaf (accumulators of a contraction)
  int size = 2;     // index of the element's size
  size_t bytes = 4;
  Linear address;  // over axes
  std::vector<TileGuard> guards;
  std::vector<TileIndirect> indirects;
  std::vector<TileExpr> exprs;
  uint64_t otherwise = 0;
  bool has_else = false;
  bool once = false;  // the same for every tile of the same size
  int line = 0;
};

struct TileStore {
  int tensor;  // -1: the sink (a panel)
  int size;
  size_t bytes;
  Linear address;
  uint16_t axes;  // of the map; over others the same element would be stored again
  int slot;
  Width width;
  bool past = false;  // the caches
};

struct TileCond {
  bool linear;
  Linear form;  // a - b over axes
  ExprId a, b;
  CondOp op;
  ExprTable table;  // of a, for `index`
};

// Memory of a tensor that is the tile as it lies there, at every position and whatever part of a
// chunk remains.
struct TilePoint {
  int tensor;
  int64_t bytes;   // of an element
  Linear address;  // over axes
  bool writes;
};

enum class StepKind : uint8_t {
  pass,     // out = pass(a, b, c)
  strand,   // strands[ref], a row of passes
  point,    // slot `out` points to points[ref]
  load,     // out = loads[ref]
  index,    // out = conds[ref][0].form or expression
  mask,     // out = conds[ref] all hold
  row_pass, // a pass of which one operand (number `ref`) is a row, taken row by row
  choose,   // out = a (one bool) ? b : c, of equal width
  fill,     // out = a (scalar)
  repeat,   // out (full) = a (row)
  reduce,   // out (row or scalar) = reduction of a (full), whole in the tile
  idiom,    // out = idiom(a, b, c, d, e) over the rows of the tile
  window,   // out = reduction, over all reduced positions, of loads[ref]; c is room for a part
  gather,   // block `out` joined with the reduction of a; now and then b = accumulator with the
            // block
  finish,   // out = a joined with b
  place,    // slot of stores[ref] points to where it is stored, if that is contiguous
  store     // stores[ref]
};

struct Step {
  StepKind kind;
  Width width = Width::full;
  int out = -1, a = -1, b = -1, c = -1, d = -1, e = -1;
  int ref = -1;
  Op op = Op::count;
  Pass pass = nullptr;
  const ReducePasses* reduce = nullptr;
  Idiom idiom = nullptr;
  Width from = Width::full;  // reduce, gather: of the operand
};

struct Slot {
  size_t bytes;  // of an element
  Width width;
  size_t offset = 0;   // in the tile's scratch
  uint64_t constant = 0;
  bool is_constant = false;
  bool pointed = false;  // never in the scratch
};

struct Segment {
  bool loops = false;
  std::vector<Step> steps;
};

class TileProgram {
 public:
  const BoundProgram* bound = nullptr;
  size_t stage = 0;
  std::vector<TileAxis> axes;
  int64_t letter_lo[kMaxLetters] = {};  // where the box of letters begins
  std::vector<int> full_axes, row_axes;  // those in a tile, slowest first
  bool lanes_inner = false;              // the reduced axes of a tile come before the others
  std::vector<Segment> segments;
  std::vector<TileLoad> loads;
  std::vector<TileStore> stores;
  std::vector<TilePoint> points;
  std::vector<Strand> strands;
  std::vector<std::vector<TileCond>> conds;
  std::vector<Slot> slots;
  int64_t full_capacity = 1, row_capacity = 1;  // elements
  size_t pointers_offset = 0, offsets_offset = 0, joined_offset = 0, loaded_offset = 0;
  size_t scratch_bytes = 0;
  int buffers = 0;  // of full width
  bool has_past = false;  // kernels that write past the caches themselves
  bool drains = false;  // something is written past the caches
  double cost = 0;  // estimated nanoseconds per point

  int64_t tiles() const;  // over the axes that no segment loops
  double nanoseconds() const;
};

// Memory outside the program's tensors: a contraction's accumulators, or a panel to fill.
struct Leaf {
  char* data = nullptr;
  Linear address;  // over axes
};

// Runs tiles of a program; one per thread, on scratch of program.scratch_bytes.
class TileRun {
 public:
  TileRun(const TileProgram& program, const RunContext& context, char* scratch);
  void set_leaf(const Leaf& leaf) { leaf_ = leaf; }
  void set_sink(const Leaf& sink) { sink_ = sink; }

  // Tiles [begin, end) of the program's own division.
  void run_tiles(int64_t begin, int64_t end);
  // One box of positions, at most a chunk of each axis.
  void run_box(const int64_t* position, const int64_t* size);

 private:
  // The axes of a tile that have more than one position, slowest first.
  struct Runs {
    int count = 0;
    int64_t total = 1;
    int axis[kMaxLetters];
    int64_t size[kMaxLetters];
    int64_t step[kMaxLetters];  // elements from one position to the next in the tile
  };
  // Where a map's runs begin: axes [0, outer) are walked, the rest is one run.
  struct Walk {
    int outer = 0;
    int64_t length = 1, stride = 1;
    int inner = -1;  // the run's fastest axis
  };

  const Runs& runs(Width width) const { return runs_[static_cast<int>(width)]; }
  void set_runs(const std::vector<int>& axes, Runs* runs) const;
  void resize(size_t axis, int64_t size);
  void measure();
  int64_t at(const Linear& form) const;
  Walk collapse(const Runs& runs, const Linear& form, const TileLoad* load) const;
  void run_segments();
  void run_steps(const std::vector<Step>& steps);
  void run_load(const Step& step);
  bool load_outside(const TileLoad& load, const int64_t* inside, const Runs& runs,
                    int64_t* address);
  void load_transposed(const TileLoad& load, const Runs& runs, const Walk& walk, int plane,
                       const char* source, char* out) const;
  bool addresses(const TileLoad& load, const Runs& runs, const int64_t* inside, int64_t first,
                 int64_t element, int64_t length, int64_t* to) const;
  static int rows_of(const Runs& runs, int outer);
  void load_scattered(const Step& step, const TileLoad& load, const char* source, char* out);
  char* store_target(const TileStore& store, Walk* walk, Runs* runs) const;
  void run_store(const TileStore& store);
  void run_index(const Step& step);
  void run_mask(const Step& step);
  void mask_run(const TileCond& cond, const Runs& runs, const int64_t* inside, int64_t length,
                uint8_t* mask) const;
  void run_gather(const Step& step);
  void run_row_pass(const Step& step);
  void run_window(const Step& step);
  int64_t value_at(ExprId expr, const ExprTable& table, const int64_t* letters) const;
  size_t place_of(const ExprTable& table, const int64_t* letters) const;
  void letters_at(const Runs& runs, const int64_t* inside, int64_t* letters) const;
  void fail(int line) const;

  const TileProgram& program_;
  const RunContext& context_;
  const Kernels& kernels_;
  char* scratch_;
  char** pointers_;
  int64_t* offsets_;
  int64_t* joined_;
  char* loaded_;  // per load: it has been, and stays
  Leaf leaf_, sink_;
  int64_t position_[kMaxLetters] = {};
  int64_t size_[kMaxLetters] = {};
  Runs runs_[3];
  bool resized_ = true;
};

}  // namespace onnx_fusion::cpu
