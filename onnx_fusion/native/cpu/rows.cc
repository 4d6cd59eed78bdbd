// Rows stages. What runs along the lanes of a tile is decided by what is contiguous:
//
//   reduced letters   a tile is a few rows; a row too long for the cache is streamed, once for each
//                     reduction that waits for another
//   other letters     a tile is many columns; the reduced letters lie in the tile before them, or
//   are
//                     streamed a few positions at a time (window pooling, sums over rows)
#include <algorithm>

#include "cpu/compile.h"
#include "cpu/pool.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion {
namespace cpu {
namespace {

constexpr int64_t kTile = 1024;  // points of a tile that is free to choose
constexpr int64_t kUnbuffered = 16384;  // of one whose values are nowhere but in memory
constexpr int64_t kWholeRow = 65536;  // the longest row that is kept whole

enum class Schedule { rows, streamed_rows, lanes, streamed_lanes };

// How well an axis feeds vectors: its length, less where its elements lie apart.
double worth(int64_t extent, int64_t stride) {
  const double length = static_cast<double>(std::min<int64_t>(extent, 64));
  stride = stride < 0 ? -stride : stride;
  return stride == 0 ? 0 : stride == 1 ? length : stride <= 4 ? length / 2 : length / 10;
}

class RowsPlanner {
 public:
  RowsPlanner(const BoundProgram& bound, size_t index) : stage_(bound.stages[index]), slice_{} {
    slice_.bound = &bound;
    slice_.stage = index;
    slice_.stores = stores_of(stage_);
    for (size_t l = 0; l < stage_.stage->letters.size(); ++l) {
      slice_.box[l] = {0, std::max<int64_t>(stage_.extents[l], 1) - 1};
    }
    for (const Instruction& line : stage_.stage->body) {
      if (op_is_reduction(line.op)) slice_.reduced = line.over;
    }
  }

  std::unique_ptr<StagePlan> plan() {
    auto plan = std::make_unique<TilesPlan>();
    if (slice_.stores.empty()) return plan;
    choose();
    Compiler compiler(slice_);
    set_chunks(&compiler, kTile);
    const bool streams =
        schedule_ == Schedule::streamed_rows || schedule_ == Schedule::streamed_lanes;
    if (schedule_ == Schedule::streamed_lanes && compiler.reads_windows()) {
      plan->add(compiler.windows());
      return plan;
    }
    if (streams) {
      plan->add(compiler.streamed(schedule_ == Schedule::streamed_lanes));
      return plan;
    }
    std::unique_ptr<TileProgram> program = compiler.whole(schedule_ == Schedule::lanes);
    if (schedule_ == Schedule::rows && program->buffers <= 3 && program->tiles() > 4) {
      Compiler again(slice_);
      const bool unbuffered =
          program->has_past ? program->buffers <= 1 : program->buffers == 0 && !program->drains;
      set_chunks(&again, unbuffered ? kUnbuffered : kTile * 2);
      program = again.whole(false);
    }
    plan->add(std::move(program));
    return plan;
  }

 private:
  bool is_reduced(uint8_t l) const { return slice_.reduced >> l & 1; }

  // The load that reads most, and the store that writes most.
  Linear main_load() const {
    Linear form;
    int most = -1;
    for (size_t i = 0; i < stage_.stage->body.size(); ++i) {
      const Instruction& line = stage_.stage->body[i];
      if (line.op != Op::op_load || stage_.maps[i].dims.size() != line.map.size()) continue;
      int letters = 0;
      for (int l = 0; l < kMaxLetters; ++l)
        letters += (line.letters >> l & 1) && stage_.extents[l] > 1;
      if (letters > most && (line.letters & slice_.reduced)) {
        most = letters;
        form = stage_.maps[i].address;
      }
    }
    return form;
  }

  // Schedule and order of letters.
  void choose() {
    const Linear load = main_load();
    int64_t largest = -1;
    Linear store;
    for (int line : slice_.stores) {
      const size_t i = static_cast<size_t>(line);
      const int64_t size =
          slice_.bound->tensors[static_cast<size_t>(stage_.stage->body[i].tensor)].elements;
      if (size > largest) {
        largest = size;
        store = stage_.maps[i].address;
      }
    }
    std::vector<uint8_t> kept, reduced;
    for (uint8_t l : order_by(stage_, store)) {
      if (!is_reduced(l)) kept.push_back(l);
    }
    for (uint8_t l : order_by(stage_, load)) {
      if (is_reduced(l)) reduced.push_back(l);
    }
    int64_t points = 1;
    for (uint8_t l : reduced) points *= stage_.extents[l];
    // Contiguous reduced letters count as one.
    double best_row = 0, best_lane = 0;
    int64_t run = 1, stride = 1;
    for (size_t k = reduced.size(); k-- > 0;) {
      const uint8_t l = reduced[k];
      if (stage_.extents[l] == 1) continue;
      const bool joined = run > 1 && load.coef[l] == stride * run;
      if (!joined) {
        stride = load.coef[l];
        run = 1;
      }
      run *= stage_.extents[l];
      best_row = std::max(best_row, worth(run, stride));
    }
    int64_t lanes = 1;
    for (size_t k = kept.size(); k-- > 0;) {
      const uint8_t l = kept[k];
      if (stage_.extents[l] == 1) continue;
      lanes *= stage_.extents[l];
      best_lane = std::max(best_lane, worth(stage_.extents[l], load.coef[l]));
    }
    Compiler probe(slice_with(kept, reduced));
    const bool single = probe.levels() <= 1;
    slice_.order = kept;
    if (best_row >= best_lane || lanes < 8) {
      schedule_ = points <= kWholeRow ? Schedule::rows : Schedule::streamed_rows;
      slice_.order.insert(slice_.order.end(), reduced.begin(), reduced.end());
      return;
    }
    // Lanes: the kept letter that is contiguous in the load comes last.
    const auto fastest = std::min_element(kept.begin(), kept.end(), [&](uint8_t a, uint8_t b) {
      return lane_stride(load, a) < lane_stride(load, b);
    });
    if (fastest != kept.end() && lane_stride(load, *fastest) < lane_stride(load, kept.back())) {
      std::rotate(fastest, fastest + 1, kept.end());
    }
    schedule_ = !single && points * 16 <= kTile * 8 ? Schedule::lanes : Schedule::streamed_lanes;
    slice_.order = kept;
    if (schedule_ == Schedule::streamed_lanes) {
      slice_.order.insert(slice_.order.begin(), reduced.begin(), reduced.end());
    } else {
      // In the tile, every letter after the reduced ones is a lane.
      slice_.order.insert(slice_.order.end() - 1, reduced.begin(), reduced.end());
      slice_.apart[0] = static_cast<LetterSet>(1u << kept.back());
      lane_ = kept.back();
    }
  }

  int64_t lane_stride(const Linear& load, uint8_t l) const {
    const int64_t c = load.coef[l] < 0 ? -load.coef[l] : load.coef[l];
    return c == 0 || stage_.extents[l] < 8 ? INT64_MAX : c;
  }

  Slice slice_with(const std::vector<uint8_t>& kept, const std::vector<uint8_t>& reduced) const {
    Slice slice = slice_;
    slice.order = kept;
    slice.order.insert(slice.order.end(), reduced.begin(), reduced.end());
    return slice;
  }

  void set_chunks(Compiler* compiler, int64_t tile) const {
    std::vector<TileAxis>& axes = compiler->axes();
    int64_t row = 1;
    for (TileAxis& axis : axes) {
      if (axis.reduced) row *= axis.extent;
      axis.chunk = axis.reduced ? axis.extent : 1;
    }
    if (schedule_ == Schedule::streamed_rows) {
      int64_t rest = tile * 2;
      for (size_t a = axes.size(); a-- > 0;) {
        if (!axes[a].reduced) continue;
        axes[a].chunk = rest > 1 ? even_chunk(axes[a].extent, rest) : 1;
        rest /= axes[a].chunk;
      }
      return;
    }
    if (schedule_ == Schedule::streamed_lanes) {
      for (TileAxis& axis : axes) axis.chunk = 1;
      fill(&axes, true, fill(&axes, false, tile));
      return;
    }
    if (schedule_ == Schedule::rows) {
      fill(&axes, false, tile / row);
      return;
    }
    for (TileAxis& axis : axes) {
      if (axis.letters == 1 && axis.letter[0] == lane_) {
        axis.chunk = even_chunk(axis.extent, std::max<int64_t>(tile * 4 / row, 16));
      }
    }
  }

  // Chunks of the reduced axes or of the others, the innermost first; returns how often such a tile
  // goes into `rest`.
  static int64_t fill(std::vector<TileAxis>* axes, bool reduced, int64_t rest) {
    for (size_t a = axes->size(); a-- > 0 && rest > 1;) {
      TileAxis& axis = (*axes)[a];
      if (axis.reduced != reduced) continue;
      axis.chunk = even_chunk(axis.extent, rest);
      rest /= axis.chunk;
    }
    return rest;
  }

  const BoundStage& stage_;
  Slice slice_;
  Schedule schedule_ = Schedule::rows;
  int lane_ = -1;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<StagePlan> plan_rows(const BoundProgram& bound, size_t index) {
  const BoundStage& stage = bound.stages[index];
  for (const Instruction& line : stage.stage->body) {
    // Over no position, reductions are constants.
    if (op_is_reduction(line.op) && (line.over & stage.empty)) return plan_pointwise(bound, index);
  }
  auto pool = cpu::PoolPlan::make(bound, index);
  if (pool != nullptr) return pool;
  return cpu::RowsPlanner(bound, index).plan();
}

}  // namespace onnx_fusion
