// Pointwise stages: the box of letters is cut where selects and guards change sides, each piece is
// compiled on its own, and becomes tiles.
#include <algorithm>

#include "cpu/affine.h"
#include "cpu/compile.h"
#include "cpu/mix.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion {
namespace cpu {
namespace {

constexpr size_t kMaxPieces = 160;
constexpr int64_t kUnrolled = 4;      // positions of a letter that are pieces of their own
constexpr int64_t kMinPiece = 2048;  // points; smaller stages are not cut

// Where one-letter forms cross zero: `cuts[l]` holds positions at which a new piece begins.
class Cutter {
 public:
  Cutter(const BoundProgram& bound, size_t index) : stage_(bound.stages[index]) {
    const BoundStage& stage = stage_;
    for (size_t i = 0; i < stage.stage->body.size(); ++i) {
      if (stage.stage->body[i].letters & stage.empty) continue;
      for (size_t c = 0; c < stage.conds[i].size(); ++c) {
        const BoundCond& cond = stage.conds[i][c];
        if (!cond.linear) continue;
        const CondOp op = stage.stage->body[i].conds[c].op;
        // a - b changes sign between the last position below and the first not below.
        cut(cond.form, op == CondOp::le ? -1 : 0);
        if (op == CondOp::eq) cut(cond.form, -1);
      }
    }
    for (size_t i = 0; i < stage.stage->body.size(); ++i) {
      if (stage.stage->body[i].op != Op::op_load) continue;
      for (const BoundIndex& index : stage.maps[i].dims) {
        if (!index.guarded || !index.linear) continue;
        cut(index.form, 0);
        Linear past = index.form;
        past.base -= index.extent;
        cut(past, 0);
      }
    }
    cut_computed(bound);
  }

  // All pieces as boxes.
  std::vector<std::vector<Interval>> pieces() {
    int64_t points = 1;
    for (size_t l = 0; l < stage_.stage->letters.size(); ++l) {
      points *= std::max<int64_t>(stage_.extents[l], 1);
    }
    std::vector<std::vector<Interval>> boxes(1);
    for (int l = 0; l < kMaxLetters; ++l) {
      std::vector<int64_t> begins{0};
      std::sort(cuts_[l].begin(), cuts_[l].end());
      for (int64_t at : cuts_[l]) {
        if (at > begins.back() && at < stage_.extents[l]) begins.push_back(at);
      }
      if (boxes.size() * begins.size() > kMaxPieces || points < kMinPiece) begins.resize(1);
      std::vector<std::vector<Interval>> more;
      for (const std::vector<Interval>& box : boxes) {
        for (size_t b = 0; b < begins.size(); ++b) {
          const int64_t end = b + 1 < begins.size() ? begins[b + 1] : stage_.extents[l];
          more.push_back(box);
          more.back().push_back({begins[b], std::max(end - 1, begins[b])});
        }
      }
      boxes = std::move(more);
    }
    return boxes;
  }

 private:
  // Indices of Resize are linear away from the border, for each position of a small letter.
  void cut_computed(const BoundProgram& bound) {
    const Stage& stage = *stage_.stage;
    std::vector<ExprId> computed;
    LetterSet letters = 0;
    for (size_t i = 0; i < stage.body.size(); ++i) {
      if (stage.body[i].letters & stage_.empty) continue;
      if (stage.body[i].op == Op::op_index && !stage_.is_linear[i]) {
        computed.push_back(stage.body[i].expr);
      }
      if (stage.body[i].op != Op::op_load) continue;
      for (const BoundIndex& index : stage_.maps[i].dims) {
        if (index.value < 0 && !index.linear) computed.push_back(index.expr);
      }
    }
    Interval box[kMaxLetters];
    for (ExprId expr : computed) letters |= expr_letters(*bound.program, expr);
    for (size_t l = 0; l < stage.letters.size(); ++l) {
      const int64_t last = std::max<int64_t>(stage_.extents[l], 1) - 1;
      box[l] = {0, last};
      if (!(letters >> l & 1)) continue;
      box[l] = last < kUnrolled ? Interval{0, 0} : Interval{1, last - 1};
    }
    for (ExprId expr : computed) {
      Linear form;
      if (!expr_linear(*bound.program, bound.dims.data(), box, expr, &form)) return;
    }
    for (size_t l = 0; l < stage.letters.size(); ++l) {
      if (!(letters >> l & 1)) continue;
      const int64_t extent = stage_.extents[l];
      for (int64_t at = 1; at < extent; at = extent <= kUnrolled || at > 1 ? at + 1 : extent - 1) {
        cuts_[l].push_back(at);
      }
    }
  }

  // The first position of the only letter at which form + offset >= 0 changes.
  void cut(const Linear& form, int64_t offset) {
    int letter = -1;
    for (int l = 0; l < kMaxLetters; ++l) {
      if (form.coef[l] == 0) continue;
      if (letter >= 0) return;
      letter = l;
    }
    if (letter < 0) return;
    const int64_t c = form.coef[letter], base = form.base + offset;
    const int64_t step = c > 0 ? c : -c;
    // c > 0: the first l with c*l + base >= 0; c < 0: the first with c*l + base < 0.
    const int64_t need = c > 0 ? -base : base + 1;
    const int64_t at = need <= 0 ? 0 : (need + step - 1) / step;
    cuts_[letter].push_back(at);
  }

  const BoundStage& stage_;
  std::vector<int64_t> cuts_[kMaxLetters];
};

constexpr int64_t kLeastOthers = 8;
constexpr int64_t kFewPhases = 16;  // positions of an axis, each of which may be a tile's only one
constexpr int64_t kLeastBesides = 128;  // points that must be left for such a tile
constexpr int64_t kTile = 1024;  // points, where values between steps are to stay in L1
constexpr int64_t kUnbuffered = 16384;  // where there are none: memory to memory

// Tiles of about `budget` points, long along memory; where a load runs across, a plane of both.
void choose_chunks(Compiler* compiler, int64_t budget) {
  std::vector<TileAxis>& axes = compiler->axes();
  if (axes.empty()) return;
  const size_t last = axes.size() - 1;
  for (TileAxis& axis : axes) axis.chunk = 1;
  // Indices that are no linear form are computed once per tile, if enough of it is left without
  // them.
  uint16_t computed = compiler->computed_axes();
  int64_t others = 1;
  for (size_t a = 0; a < axes.size(); ++a) {
    if (!(computed >> a & 1)) others *= axes[a].extent;
  }
  if (others < kLeastOthers) computed = 0;
  // What is computed from the position on a short axis (how two neighbours are weighed) is a scalar
  // of a tile that has one position there.
  uint16_t counted = 0;
  int64_t besides = 1;
  for (size_t a = 0; a < axes.size(); ++a) {
    const bool few = axes[a].extent <= kFewPhases && (compiler->counted_axes() >> a & 1);
    if (few) counted |= static_cast<uint16_t>(1u << a);
    if (!few && !(computed >> a & 1)) besides *= axes[a].extent;
  }
  if (besides >= kLeastBesides) computed |= counted;
  int across = -1;
  const auto look = [&](const Linear& address) {
    if (address.coef[last] == 0 || address.coef[last] == 1) return;
    for (size_t a = 0; a < last; ++a) {
      if (address.coef[a] == 1 && axes[a].extent >= 4) across = static_cast<int>(a);
    }
  };
  for (const TileLoad& load : compiler->loads()) look(load.address);
  for (const TileStore& store : compiler->stores()) look(store.address);
  int64_t rest = budget;
  const auto take = [&](size_t a, int64_t most) {
    if (computed >> a & 1) return;
    axes[a].chunk = even_chunk(axes[a].extent, most);
    rest /= axes[a].chunk;
  };
  if (across >= 0) {
    take(last, 32);
    take(static_cast<size_t>(across), rest);
  }
  for (size_t a = axes.size(); a-- > 0 && rest > 1;) {
    if (axes[a].chunk == 1) take(a, rest);
  }
}

// Gathered rows: the innermost axis is treated as a reduction's, so that the rows' indices are
// computed once for each and not for every element.
bool gathers_rows(const Compiler& compiler, Slice* slice) {
  const std::vector<TileAxis>& axes = compiler.axes();
  if (axes.size() < 2 || axes.back().extent < 8 || axes.back().extent > kUnbuffered / 2)
    return false;
  const uint16_t last = static_cast<uint16_t>(1u << (axes.size() - 1));
  bool found = false;
  for (size_t i = 0; i < compiler.loads().size(); ++i) {
    const uint16_t moving = compiler.index_axes(i);
    if (moving & last) return false;
    found = found || moving != 0;
  }
  for (int k = 0; found && k < axes.back().letters; ++k) {
    slice->reduced |= static_cast<LetterSet>(1u << axes.back().letter[k]);
  }
  return found;
}

std::unique_ptr<TileProgram> tile_rows(const Slice& slice, int64_t budget) {
  Compiler compiler(slice);
  std::vector<TileAxis>& axes = compiler.axes();
  for (TileAxis& axis : axes) axis.chunk = axis.reduced ? axis.extent : 1;
  for (size_t a = axes.size() - 1; a-- > 0;) {
    budget /= axes[a + 1].chunk;
    if (budget > 1) axes[a].chunk = even_chunk(axes[a].extent, budget);
  }
  return compiler.whole(false);
}

std::unique_ptr<TileProgram> tile(const Slice& slice) {
  Compiler compiler(slice);
  Slice rows = slice;
  if (gathers_rows(compiler, &rows)) {
    std::unique_ptr<TileProgram> program = tile_rows(rows, kUnbuffered);
    return program->buffers == 0 ? std::move(program) : tile_rows(rows, kTile);
  }
  choose_chunks(&compiler, compiler.values() > 24 ? kTile / 2 : kTile);
  std::unique_ptr<TileProgram> program = compiler.whole(false);
  if (program->buffers > 0 || program->drains || program->tiles() < 4) return program;
  Compiler again(slice);
  choose_chunks(&again, kUnbuffered);
  std::unique_ptr<TileProgram> longer = again.whole(false);
  if (longer->buffers == 0) return longer;
  // What is one for each row (a bias of channels) is one for a tile that is no more than a row.
  Compiler row(slice);
  for (TileAxis& axis : row.axes()) axis.chunk = 1;
  row.axes().back().chunk = even_chunk(row.axes().back().extent, kUnbuffered);
  longer = row.whole(false);
  return longer->buffers == 0 && longer->tiles() < program->tiles() ? std::move(longer)
                                                                    : std::move(program);
}

}  // namespace
}  // namespace cpu

std::unique_ptr<StagePlan> plan_pointwise(const BoundProgram& bound, size_t index) {
  const BoundStage& stage = bound.stages[index];
  if (std::unique_ptr<cpu::MixPlan> mix = cpu::MixPlan::make(bound, index)) return mix;
  if (auto affine = cpu::AffinePlan::make(bound, index)) return affine;
  auto plan = std::make_unique<cpu::TilesPlan>();
  cpu::Slice slice{};
  slice.bound = &bound;
  slice.stage = index;
  slice.stores = cpu::stores_of(stage);
  if (slice.stores.empty()) return plan;
  const auto size = [&](int line) {
    return bound.tensors[static_cast<size_t>(stage.stage->body[static_cast<size_t>(line)].tensor)]
        .elements;
  };
  const int largest = *std::max_element(slice.stores.begin(), slice.stores.end(),
                                        [&](int a, int b) { return size(a) < size(b); });
  slice.order = cpu::order_by(stage, stage.maps[static_cast<size_t>(largest)].address);
  for (const std::vector<Interval>& box : cpu::Cutter(bound, index).pieces()) {
    std::copy(box.begin(), box.end(), slice.box);
    std::unique_ptr<cpu::TileProgram> program = cpu::tile(slice);
    std::vector<std::unique_ptr<cpu::Copy>> copies = cpu::Copy::split(*program);
    for (std::unique_ptr<cpu::Copy>& copy : copies) plan->add(std::move(copy));
    if (copies.empty()) plan->add(std::move(program));
  }
  return plan;
}

}  // namespace onnx_fusion
