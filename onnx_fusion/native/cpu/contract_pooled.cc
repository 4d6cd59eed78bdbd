#include "cpu/contract_pooled.h"

#include <algorithm>
#include <cmath>

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostChannels = 16;

bool find_letters(const BoundStage& stage, const DotOperand& x, const Axis& k,
                  PooledStages* found) {
  LetterSet taps = 0;
  for (int i = 0; i < k.count; ++i) {
    const int letter = k.letters[i];
    int sharing = 0;  // letters of its dims
    for (const BoundIndex& dim : x.map->dims) {
      if (dim.form.coef[letter] == 0) continue;
      for (int l = 0; l < kMaxLetters; ++l) {
        sharing += dim.form.coef[l] != 0 && stage.extents[l] > 1;
      }
    }
    if (sharing != 1) {
      taps |= static_cast<LetterSet>(1u << letter);
    } else if (found->channel >= 0) {
      return false;
    } else {
      found->channel = letter;
    }
  }
  WindowSide sides[kMostSides];
  if (find_sides(stage, *x.map, taps, sides) != 2) return false;
  for (const WindowSide* side : {&sides[0], &sides[1]}) {
    if (side->letter < 0 || side->tap < 0 || side->step != 1 || side->reach != 1) return false;
  }
  found->down = sides[0];
  found->along = sides[1];
  for (int i = 0; i < x.own.count; ++i) {
    const int letter = x.own.letters[i];
    if (letter == sides[0].letter || letter == sides[1].letter) continue;
    if (found->image >= 0) return false;
    found->image = letter;
    found->images = stage.extents[letter];
  }
  if (found->channel >= 0) {
    found->channels = stage.extents[found->channel];
    found->channel_step = x.map->address.coef[found->channel];
  }
  return sides[1].stride == 1 && (found->channel < 0 || found->channel_step > 1) &&
         found->channels <= kMostChannels;
}

bool find_stages(const BoundProgram& bound, size_t stage, const TensorView* constants, size_t count,
                 PooledStages* found) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  if (letters.batch.count > 0) return false;
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded || w.own.count != 1) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    *found = PooledStages();
    if (!find_letters(s, x, letters.k, found)) continue;
    found->filter = w.own.letters[0];
    found->filters = s.extents[found->filter];
    found->input = x.tensor;
    found->address = &x.map->address;
    found->fill = x.fill;
    found->weights = constants[w.tensor];
    found->weights_at = &w.map->address;
    if (!find_pool_after(bound, stage, found->image, found->filter, found->down.letter,
                         found->along.letter, &found->pool)) {
      continue;
    }
    const Axis pixels{
        2, {static_cast<uint8_t>(found->down.letter), static_cast<uint8_t>(found->along.letter)}};
    for (const bool along_rows : {true, false}) {
      const Axis &rows = along_rows ? w.own : pixels, &columns = along_rows ? pixels : w.own;
      found->finish = Finish::make(s, find_dot(*s.stage), rows, columns);
      if (found->finish != nullptr && found->finish->is_plain(along_rows)) return true;
    }
  }
  return false;
}

}  // namespace

void PooledStages::inside(int64_t count, int64_t* begin, int64_t* end) const {
  *begin = std::clamp<int64_t>(-along.base, 0, count);
  *end = std::clamp<int64_t>(along.extent - along.base, *begin, count);
}

FinishRows PooledStages::limits(const RunContext& context, int64_t image_index, int64_t count,
                                float* bias) const {
  int64_t fixed[kMaxLetters] = {};
  if (image >= 0) fixed[image] = image_index;
  const FinishRows rows = finish->rows(context, fixed, 0, 1, 0, 1, nullptr, 0);
  const float* const from = rows.row_bias != nullptr ? rows.row_bias : rows.column_bias;
  const int64_t step = rows.row_bias != nullptr ? rows.row_step : 1;
  for (int64_t f = 0; f < count; ++f) {
    bias[f] = (from != nullptr && f < filters ? from[f * step] : 0.0f) + rows.shift;
  }
  return rows;
}

std::unique_ptr<StagePlan> plan_pooled(const BoundProgram& bound, size_t stage,
                                       const TensorView* constants, size_t count) {
  PooledStages stages;
  if (bound.stages[stage].empty) return nullptr;
  if (!find_stages(bound, stage, constants, count, &stages)) return nullptr;
  const bool strict = bound.program->strict;
  const double tiles = PooledTilesPlan::cost(stages, strict);
  const double lines = PooledLinesPlan::cost(stages, strict);
  if (tiles == kNever && lines == kNever) return nullptr;
  if (tiles < lines) return PooledTilesPlan::make(std::move(stages));
  return PooledLinesPlan::make(std::move(stages), strict);
}

}  // namespace onnx_fusion::cpu
