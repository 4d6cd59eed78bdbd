// Prologues and epilogues of contractions, on tile programs.
#include "cpu/tile.h"

#include <algorithm>

#include "cpu/compile.h"
#include "cpu/finish.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion {

int64_t axis_extent(const BoundStage& stage, const Axis& axis) {
  int64_t extent = 1;
  for (int k = 0; k < axis.count; ++k) extent *= stage.extents[axis.letters[k]];
  return extent;
}

namespace cpu {
namespace {

LetterSet set_of(const Axis& axis) {
  LetterSet set = 0;
  for (int k = 0; k < axis.count; ++k) set |= static_cast<LetterSet>(1u << axis.letters[k]);
  return set;
}

// The two axes of a contraction over a tile program: rectangles of them become boxes of its axes.
struct Plane {
  std::unique_ptr<TileProgram> program;
  std::vector<int> groups[2];  // the program's axes of rows and of columns, slowest first
  std::vector<int64_t> weights[2];        // positions in the flattened axis that one step is
  // A program's axis, and the letter that is fixed per call.
  std::vector<std::pair<int, int>> fixed;

  void build(Slice slice, const Axis& rows, const Axis& columns, const BoundStage& stage) {
    const LetterSet sets[2] = {set_of(rows), set_of(columns)};
    slice.apart[0] = sets[0];
    slice.apart[1] = sets[1];
    for (size_t l = 0; l < stage.stage->letters.size(); ++l) {
      slice.box[l] = {0, std::max<int64_t>(stage.extents[l], 1) - 1};
      if (!((sets[0] | sets[1]) >> l & 1)) slice.order.push_back(static_cast<uint8_t>(l));
    }
    bool odd = false;  // neighbours of different parity do not merge
    for (uint8_t l : slice.order) {
      if (stage.extents[l] <= 1) continue;
      if (odd) slice.apart[2] |= static_cast<LetterSet>(1u << l);
      odd = !odd;
    }
    for (int k = 0; k < rows.count; ++k) slice.order.push_back(rows.letters[k]);
    for (int k = 0; k < columns.count; ++k) slice.order.push_back(columns.letters[k]);
    Compiler compiler(slice);
    std::vector<TileAxis>& axes = compiler.axes();
    int64_t rest = 2048;
    for (size_t a = axes.size(); a-- > 0;) {
      const bool in_axis = (sets[0] | sets[1]) >> axes[a].letter[0] & 1;
      axes[a].chunk = in_axis && rest > 1 ? std::min(axes[a].extent, rest) : 1;
      rest /= axes[a].chunk;
    }
    program = compiler.whole(false);
    for (size_t a = 0; a < program->axes.size(); ++a) {
      const TileAxis& axis = program->axes[a];
      const int letter = axis.letter[axis.letters - 1];
      bool found = false;
      const Axis* const both[2] = {&rows, &columns};
      for (int g = 0; g < 2; ++g) {
        int64_t weight = 1;
        for (int k = both[g]->count; k-- > 0;) {
          if (both[g]->letters[k] == letter) {
            groups[g].push_back(static_cast<int>(a));
            weights[g].push_back(weight);
            found = true;
          }
          weight *= stage.extents[both[g]->letters[k]];
        }
      }
      if (!found) fixed.push_back({static_cast<int>(a), letter});
    }
  }

  // data[(r - r0) * row_stride + (c - c0) * column_stride] over the program's axes.
  Leaf leaf(char* data, int64_t r0, int64_t c0, int64_t row_stride, int64_t column_stride) const {
    Leaf leaf;
    leaf.data = data;
    leaf.address.base = -r0 * row_stride - c0 * column_stride;
    const int64_t strides[2] = {row_stride, column_stride};
    for (int g = 0; g < 2; ++g) {
      for (size_t k = 0; k < groups[g].size(); ++k) {
        leaf.address.coef[groups[g][k]] = weights[g][k] * strides[g];
      }
    }
    return leaf;
  }

  // A flattened range [lo, hi) of group g's axes from `level` on as boxes; `next` runs inside each.
  template <typename Next>
  void ranges(int g, size_t level, int64_t lo, int64_t hi, int64_t* position, int64_t* size,
              const Next& next) const {
    if (lo >= hi) return;
    if (level == groups[g].size()) return next();
    const int a = groups[g][level];
    const int64_t weight = weights[g][level];
    if (weight == 1 || level + 1 == groups[g].size()) {
      position[a] = lo / weight;
      size[a] = (hi - lo) / weight;
      return next();
    }
    const int64_t first = lo / weight, last = (hi - 1) / weight;
    if (first == last) {
      position[a] = first;
      size[a] = 1;
      return ranges(g, level + 1, lo - first * weight, hi - first * weight, position, size, next);
    }
    int64_t begin = first, end = last + 1;
    if (lo > first * weight) {
      position[a] = first;
      size[a] = 1;
      ranges(g, level + 1, lo - first * weight, weight, position, size, next);
      ++begin;
    }
    if (hi < (last + 1) * weight) --end;
    if (begin < end) {
      position[a] = begin;
      size[a] = end - begin;
      ranges(g, level + 1, 0, weight, position, size, next);
    }
    if (hi < (last + 1) * weight && last > first) {
      position[a] = last;
      size[a] = 1;
      ranges(g, level + 1, 0, hi - last * weight, position, size, next);
    }
  }

  // Tiles of one box.
  void tiles(TileRun* run, const int64_t* position, const int64_t* size) const {
    const std::vector<TileAxis>& axes = program->axes;
    int64_t at[kMaxLetters], chunk[kMaxLetters];
    for (size_t a = 0; a < axes.size(); ++a) at[a] = position[a];
    for (bool more = true; more;) {
      for (size_t a = 0; a < axes.size(); ++a) {
        chunk[a] = std::min(axes[a].chunk, position[a] + size[a] - at[a]);
      }
      run->run_box(at, chunk);
      more = false;
      for (size_t a = axes.size(); a-- > 0 && !more;) {
        at[a] += axes[a].chunk;
        more = at[a] < position[a] + size[a];
        if (!more) at[a] = position[a];
      }
    }
  }

  void rectangle(TileRun* run, const int64_t* letters, int64_t r0, int64_t r1, int64_t c0,
                 int64_t c1) const {
    int64_t position[kMaxLetters] = {}, size[kMaxLetters];
    std::fill(size, size + kMaxLetters, 1);
    for (const auto& [axis, letter] : fixed) position[axis] = letters[letter];
    ranges(0, 0, r0, r1, position, size,
           [&] { ranges(1, 0, c0, c1, position, size, [&] { tiles(run, position, size); }); });
  }
};

}  // namespace
}  // namespace cpu

struct Prologue::Plan {
  cpu::Plane plane;
  const BoundMap* load = nullptr;
  int tensor = -1;
};

Prologue::Prologue(const BoundProgram& bound, size_t stage, int value, const Axis& rows,
                   const Axis& columns)
    : plan_(std::make_unique<Plan>()) {
  const BoundStage& s = bound.stages[stage];
  const size_t line = static_cast<size_t>(s.stage->values[static_cast<size_t>(value)]);
  if (s.stage->body[line].op == Op::op_load) {
    plan_->load = &s.maps[line];
    plan_->tensor = s.stage->body[line].tensor;
  }
  cpu::Slice slice{};
  slice.bound = &bound;
  slice.stage = stage;
  slice.sink = static_cast<int>(line);
  plan_->plane.build(slice, rows, columns, s);
}

Prologue::~Prologue() = default;

const BoundMap* Prologue::load(int* tensor) const {
  *tensor = plan_->tensor;
  return plan_->load;
}

size_t Prologue::scratch_bytes() const { return plan_->plane.program->scratch_bytes; }

void Prologue::run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                   int64_t c0, int64_t c1, float* dst, int64_t row_stride, int64_t column_stride,
                   char* scratch) const {
  cpu::TileRun run(*plan_->plane.program, context, scratch);
  run.set_sink(plan_->plane.leaf(reinterpret_cast<char*>(dst), r0, c0, row_stride, column_stride));
  plan_->plane.rectangle(&run, fixed, r0, r1, c0, c1);
}

struct Relay::Plan {
  cpu::Plane plane;
};

Relay::Relay(const BoundProgram& bound, size_t stage, int from, int to, const Axis& rows,
             const Axis& columns)
    : plan_(std::make_unique<Plan>()) {
  cpu::Slice slice{};
  slice.bound = &bound;
  slice.stage = stage;
  slice.leaf = from;
  slice.sink = to;
  plan_->plane.build(slice, rows, columns, bound.stages[stage]);
}

Relay::~Relay() = default;

size_t Relay::scratch_bytes() const { return plan_->plane.program->scratch_bytes; }

void Relay::run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, int64_t c0,
                int64_t c1, const float* in, float* out, int64_t ld, char* scratch) const {
  cpu::TileRun run(*plan_->plane.program, context, scratch);
  char* const from = reinterpret_cast<char*>(const_cast<float*>(in));
  run.set_leaf(plan_->plane.leaf(from, r0, c0, ld, 1));
  run.set_sink(plan_->plane.leaf(reinterpret_cast<char*>(out), r0, c0, ld, 1));
  plan_->plane.rectangle(&run, fixed, r0, r1, c0, c1);
}

struct Epilogue::Plan {
  cpu::Plane plane;
  std::unique_ptr<cpu::Finish> finish;
  const BoundMap* store = nullptr;
  int tensor = -1;
};

Epilogue::Epilogue(const BoundProgram& bound, size_t stage, const Axis& rows, const Axis& columns,
                   int from)
    : plan_(std::make_unique<Plan>()) {
  const BoundStage& s = bound.stages[stage];
  cpu::Slice slice{};
  slice.bound = &bound;
  slice.stage = stage;
  slice.stores = cpu::stores_of(s);
  for (size_t i = 0; i < s.stage->body.size(); ++i) {
    const Op op = s.stage->body[i].op;
    if (op == Op::op_dot || op_is_reduction(op)) slice.leaf = static_cast<int>(i);
  }
  if (from >= 0) slice.leaf = from;
  if (slice.stores.size() == 1) {
    const size_t line = static_cast<size_t>(slice.stores[0]);
    const int value = s.stage->body[line].args[0];
    if (s.stage->values[static_cast<size_t>(value)] == slice.leaf) {
      plan_->store = &s.maps[line];
      plan_->tensor = s.stage->body[line].tensor;
    }
  }
  plan_->plane.build(slice, rows, columns, s);
  plan_->finish = cpu::Finish::make(s, slice.leaf, rows, columns);
}

Epilogue::~Epilogue() = default;

const BoundMap* Epilogue::plain_store(int* tensor) const {
  *tensor = plan_->tensor;
  return plan_->store;
}

size_t Epilogue::scratch_bytes() const { return plan_->plane.program->scratch_bytes; }

const cpu::Finish* Epilogue::finish() const { return plan_->finish.get(); }

void Epilogue::run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                   int64_t c0, int64_t c1, const float* accumulators, int64_t ld,
                   char* scratch) const {
  if (plan_->finish != nullptr) {
    plan_->finish->run(context, fixed, r0, r1, c0, c1, accumulators, ld);
    return;
  }
  cpu::TileRun run(*plan_->plane.program, context, scratch);
  char* const data = reinterpret_cast<char*>(const_cast<float*>(accumulators));
  run.set_leaf(plan_->plane.leaf(data, r0, c0, ld, 1));
  plan_->plane.rectangle(&run, fixed, r0, r1, c0, c1);
}

}  // namespace onnx_fusion
