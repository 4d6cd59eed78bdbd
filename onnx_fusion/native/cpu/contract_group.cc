#include "cpu/contract_group.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract_axes.h"
#include "cpu/contract_kernels.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostBlock = 64;        // channels of a pixel copied at once
constexpr int64_t kMostSummed = 64, kMostAtOnce = 6;  // channels; with one tap
constexpr int64_t kMostOfWide = 32;  // of groups that fill two vectors, without planes
constexpr int64_t kLines = 4096;          // floats of lines that stay near
constexpr int64_t kMostLines = 64 << 10;  // floats
constexpr int64_t kStripFloats = 1024;
constexpr int64_t kOverlap = 8;  // sums

// The sides of windows of one tap that are nowhere outside: the two innermost letters.
int take_sides(const BoundStage& stage, const BoundMap& map, Axis own, int summed,
               WindowSide* sides) {
  if (summed != 1 || map.guarded) return 0;
  sort_axis(&own, map.address);
  const int count = std::min<int>(own.count, 2);
  for (int i = 0; i < count; ++i) {
    const int letter = own.letters[own.count - count + i];
    sides[i].letter = letter;
    sides[i].outputs = stage.extents[letter];
    sides[i].step = 1;
    sides[i].stride = map.address.coef[letter];
    if (sides[i].stride < 1) return 0;
  }
  return count;
}

}  // namespace

std::unique_ptr<GroupPlan> GroupPlan::make(const BoundProgram& bound, size_t stage,
                                           const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  const LetterSet over = s.stage->body[static_cast<size_t>(find_dot(*s.stage))].over;
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    if (letters.batch.count != 1 || w.own.count > 1) continue;
    if (x.map->guarded && x.fill != 0.0f) continue;
    Letters of{letters.batch.letters[0], w.own.count == 1 ? w.own.letters[0] : -1, -1};
    for (int k = 0; k < letters.k.count; ++k) {
      const int letter = letters.k.letters[k];
      if (x.map->address.coef[letter] == 1) of.summed = letter;
    }
    if (of.summed < 0) continue;
    std::unique_ptr<GroupPlan> plan(new GroupPlan);
    plan->group_ = of.made < 0 ? 1 : s.extents[of.made];
    plan->summed_ = s.extents[of.summed];
    plan->channels_ = s.extents[of.group] * plan->group_;
    plan->stage_index_ = stage;
    plan->kernels_ = &group_kernels();
    plan->input_ = x.tensor;
    plan->address_ = &x.map->address;
    if (x.map->address.coef[of.group] != plan->summed_) continue;
    if (of.made >= 0 && letters.store->coef[of.made] != 1) continue;
    if (letters.store->coef[of.group] != plan->group_) continue;
    WindowSide sides[kMostSides];
    const LetterSet taps = static_cast<LetterSet>(over & ~(1u << of.summed));
    int side_count = find_sides(s, *x.map, taps, sides);
    if (side_count == 0) side_count = take_sides(s, *x.map, x.own, letters.k.count, sides);
    if (side_count != 1 && side_count != 2) continue;
    plan->columns_ = sides[side_count - 1];
    if (side_count == 2) plan->rows_ = sides[0];
    if (plan->rows_.letter == of.group || plan->columns_.letter == of.group) continue;
    if (!plan->choose_kind() || !plan->choose_lines()) continue;
    if (plan->kind_ == kSpread && !plan->choose_spread(s.extents[of.group] * plan->summed_))
      continue;
    for (int k = 0; k < x.own.count; ++k) {
      const int letter = x.own.letters[k];
      if (letter == plan->rows_.letter || letter == plan->columns_.letter) continue;
      plan->outer_.letters[plan->outer_.count++] = static_cast<uint8_t>(letter);
    }
    plan->outers_ = axis_extent(s, plan->outer_);
    plan->pixel_ = plan->outer_;
    for (const int letter : {plan->rows_.letter, plan->columns_.letter}) {
      if (letter >= 0) plan->pixel_.letters[plan->pixel_.count++] = static_cast<uint8_t>(letter);
    }
    for (const int letter : {of.group, of.made}) {
      if (letter >= 0) plan->column_.letters[plan->column_.count++] = static_cast<uint8_t>(letter);
    }
    if (!plan->pack(*w.map, of, constants[w.tensor])) continue;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->column_);
    const Finish* finish = plan->epilogue_->finish();
    plan->finishes_ =
        finish != nullptr && finish->is_plain(false) && plan->channels_ % plan->unit_ == 0;
    return plan;
  }
  return nullptr;
}

bool GroupPlan::choose_kind() {
  const int64_t lanes = kernels_->lanes;
  const bool three = columns_.taps == kGroupTaps && columns_.reach == 1;
  // With more channels of wide groups products over their columns do as well.
  const bool wide = group_ >= 2 * lanes,
             copied = three && summed_ <= (wide ? kMostOfWide : 2 * lanes);
  if (summed_ < 2 || (!copied && summed_ > (wide ? 2 * lanes : kMostSummed))) return false;
  // Planes that a single tap reads are hardly worth it.
  if (rows_.taps * columns_.taps == 1 && summed_ > kMostAtOnce) return false;
  if (columns_.letter < 0 || (columns_.step != 1 && columns_.step != 2)) return false;
  if (group_ % lanes == 0) {
    const bool two = group_ % (2 * lanes) == 0;
    const bool threes = group_ % (3 * lanes) == 0 && kernels_->tiles[kThree][0] > 0;
    kind_ = copied ? (two ? kTwo : threes ? kThree : kAlone) : two ? kDouble : kSingle;
  } else if (three && group_ == summed_ && (group_ == 2 || group_ == 4 || group_ == 8)) {
    kind_ = group_ == 2 ? kPairs : group_ == 4 ? kFours : kEights;
  } else if (group_ < lanes) {
    kind_ = kSpread;
  } else {
    return false;
  }
  if (kernels_->tiles[kind_][0] == 0) kind_ = kSpread;
  planes_ = kind_ == kSpread || kind_ == kSingle || kind_ == kDouble;
  unit_ = kind_ == kThree ? 3 * lanes : kind_ == kTwo || kind_ == kDouble ? 2 * lanes : lanes;
  return true;
}

// Vectors of outputs to a block, or groups that are alone in theirs: as many as the cache holds
// lines of.
bool GroupPlan::choose_planes() {
  const int64_t lanes = kernels_->lanes;
  const int64_t least = kind_ == kSpread ? lanes : group_;
  plane_ = kind_ == kSpread ? width_ * lanes : round_up(width_, lanes);
  block_out_ = least;
  const auto floats = [&](int64_t made) { return made / least * summed_ * plane_; };
  while (ring_ * floats(2 * block_out_) <= kLines && 2 * block_out_ <= kMostBlock &&
         block_out_ < channels_) {
    block_out_ *= 2;
  }
  block_in_ = block_out_ / least * summed_;  // planes
  line_ = block_in_ * plane_;
  return ring_ * line_ <= kMostLines;
}

bool GroupPlan::choose_lines() {
  if (rows_.taps > kMostTapRows) return false;
  if (columns_.length(columns_.outputs) * rows_.length(1) > kMostLines) return false;
  width_ = columns_.step * (columns_.outputs - 1) + columns_.reach * (columns_.taps - 1) + 1;
  ring_ = rows_.reach * (rows_.taps - 1) + 1;
  if (planes_) {
    if (!choose_planes()) return false;
  } else {
    // Groups that fill a vector, and as many as the cache holds lines of.
    int64_t groups = std::max<int64_t>(1, kernels_->lanes / group_);
    const auto fits = [&](int64_t more) {
      return more * summed_ <= kMostBlock && ring_ * width_ * more * summed_ <= kLines;
    };
    while (fits(2 * groups) && groups * group_ < channels_) groups *= 2;
    block_in_ = groups * summed_;
    block_out_ = groups * group_;
    line_ = width_ * block_in_;
    if (ring_ * line_ > kMostLines) return false;
  }
  blocks_ = ceil_div(channels_, block_out_);
  choose_tile();
  strip_ = std::max<int64_t>(1, kStripFloats / (columns_.outputs * block_out_));
  strip_ = std::min(strip_, rows_.outputs);
  return true;
}

// A row is tiles of one size, and one of another for what is left, which may compute some again.
void GroupPlan::choose_tile() {
  const int* tiles = kernels_->tiles[kind_];
  const int64_t vectors = unit_ / kernels_->lanes;
  // Fewer sums wait for each other.
  const auto cost = [&](int k) { return std::max(tiles[k] * vectors, kOverlap) + vectors; };
  int64_t cheapest = 0;
  for (int k = 0; k < kGroupTiles && tiles[k] > 0; ++k) {
    if (tiles[k] > columns_.outputs) continue;
    const int64_t left = columns_.outputs % tiles[k];
    int rest = k;
    while (rest + 1 < kGroupTiles && tiles[rest + 1] >= std::max<int64_t>(left, 1)) ++rest;
    const int64_t all = columns_.outputs / tiles[k] * cost(k) + (left > 0 ? cost(rest) : 0);
    if (cheapest != 0 && all >= cheapest) continue;
    cheapest = all;
    tile_ = k;
    rest_ = rest;
  }
}

// Of every vector of outputs; false if its groups' channels are too far apart. Pixels have `end`
// channels.
bool GroupPlan::choose_spread(int64_t end) {
  const int64_t lanes = kernels_->lanes;
  for (int64_t u = 0; u < blocks_ * block_out_; u += lanes) {
    GroupSpread spread{};
    const int64_t group = std::min(u, channels_ - 1) / group_;
    spread.first = group * summed_;
    spread.end = end;
    for (int64_t l = 0; l < lanes; ++l) {
      const int64_t at = (std::min(u + l, channels_ - 1) / group_ - group) * summed_;
      const int64_t k = at / lanes;
      if (k >= kMostSpread) return false;
      spread.count = std::max(spread.count, static_cast<int>(k) + 1);
      spread.from[k][l] = static_cast<int32_t>(at % lanes);
      spread.picks[k][l] = -1;
    }
    spreads_.push_back(spread);
  }
  return true;
}

bool GroupPlan::pack(const BoundMap& map, const Letters& letters, const TensorView& weights) {
  tap_row_ = summed_ * columns_.taps * unit_;
  unit_floats_ = tap_row_ * rows_.taps;
  ContentHash key = hash_constant(weights);
  key.add("group", 5);
  for (const int64_t number : {map.address.base, int64_t{kind_}, unit_, block_out_, channels_,
                               summed_, group_, rows_.taps, columns_.taps}) {
    key.add(&number, sizeof number);
  }
  for (const int letter : {letters.group, letters.made, letters.summed, rows_.tap, columns_.tap}) {
    const int64_t number = letter < 0 ? 0 : map.address.coef[letter];
    key.add(&number, sizeof number);
  }
  const size_t floats = static_cast<size_t>(blocks_ * block_out_ / unit_ * unit_floats_);
  weights_ = share_weights(key, floats, [&](float* out) {
    pack_weights(map, letters, static_cast<const float*>(weights.data), out);
  });
  return weights_ != nullptr;
}

// [unit][tap row][channel][tap][lane]
void GroupPlan::pack_weights(const BoundMap& map, const Letters& letters, const float* data,
                             float* out) const {
  const auto coef = [&](int letter) { return letter < 0 ? 0 : map.address.coef[letter]; };
  for (int64_t first = 0; first < blocks_ * block_out_; first += unit_) {
    for (int64_t r = 0; r < rows_.taps; ++r) {
      for (int64_t c = 0; c < summed_; ++c) {
        for (int64_t s = 0; s < columns_.taps; ++s) {
          const int64_t at = map.address.base + r * coef(rows_.tap) + c * coef(letters.summed) +
                             s * coef(columns_.tap);
          for (int64_t channel = first; channel < first + unit_; ++channel) {
            const int64_t of = channel / group_ * coef(letters.group);
            *out++ =
                channel < channels_ ? data[at + of + channel % group_ * coef(letters.made)] : 0.0f;
          }
        }
      }
    }
  }
}

}  // namespace onnx_fusion::cpu
