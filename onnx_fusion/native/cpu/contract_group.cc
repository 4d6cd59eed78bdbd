#include "cpu/contract_group.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract_axes.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostBlock = 64;        // channels of a pixel copied at once
constexpr int64_t kLines = 4096;          // floats of lines that stay near
constexpr int64_t kMostTapRows = 16;
constexpr int64_t kMostLines = 64 << 10;  // floats
constexpr int64_t kStripFloats = 1024;
constexpr int64_t kOverlap = 8;  // sums

}  // namespace

struct GroupPlan::Room {
  float* lines;  // [y % ring][column][channel]
  float* sums;
  char* scratch;
};

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
    if (letters.batch.count != 1 || w.own.count != 1) continue;
    if (x.map->guarded && x.fill != 0.0f) continue;
    Letters of{letters.batch.letters[0], w.own.letters[0], -1};
    for (int k = 0; k < letters.k.count; ++k) {
      const int letter = letters.k.letters[k];
      if (x.map->address.coef[letter] == 1) of.summed = letter;
    }
    if (of.summed < 0) continue;
    std::unique_ptr<GroupPlan> plan(new GroupPlan);
    plan->group_ = s.extents[of.made];
    plan->summed_ = s.extents[of.summed];
    plan->channels_ = s.extents[of.group] * plan->group_;
    plan->stage_index_ = stage;
    plan->kernels_ = &group_kernels();
    plan->input_ = x.tensor;
    plan->address_ = &x.map->address;
    if (x.map->address.coef[of.group] != plan->summed_) continue;
    if (letters.store->coef[of.made] != 1 || letters.store->coef[of.group] != plan->group_) continue;
    WindowSide sides[kMostSides];
    const LetterSet taps = static_cast<LetterSet>(over & ~(1u << of.summed));
    const int side_count = find_sides(s, *x.map, taps, sides);
    if (side_count != 1 && side_count != 2) continue;
    plan->columns_ = sides[side_count - 1];
    if (side_count == 2) plan->rows_ = sides[0];
    if (plan->rows_.letter == of.group || plan->columns_.letter == of.group) continue;
    if (!plan->choose_kind() || !plan->choose_lines()) continue;
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
    plan->column_.count = 2;
    plan->column_.letters[0] = static_cast<uint8_t>(of.group);
    plan->column_.letters[1] = static_cast<uint8_t>(of.made);
    if (!plan->pack(*w.map, of, constants[w.tensor])) continue;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->column_);
    return plan;
  }
  return nullptr;
}

bool GroupPlan::choose_kind() {
  const int64_t lanes = kernels_->lanes;
  // With more channels of a group products over its columns do as well.
  if (summed_ < 2 || summed_ > 2 * lanes) return false;
  if (group_ < lanes) {
    if (group_ != summed_ || (group_ != 2 && group_ != 4 && group_ != 8)) return false;
    kind_ = group_ == 2 ? kPairs : group_ == 4 ? kFours : kEights;
    unit_ = lanes;
  } else {
    if (group_ % lanes != 0) return false;
    kind_ = group_ % (2 * lanes) == 0 && kernels_->tiles[kTwo][0] > 0 ? kTwo : kAlone;
    unit_ = kind_ == kTwo ? 2 * lanes : lanes;
  }
  return kernels_->tiles[kind_][0] > 0;
}

bool GroupPlan::choose_lines() {
  if (columns_.taps != kGroupTaps || columns_.reach != 1 || columns_.letter < 0) return false;
  if (columns_.step != 1 && columns_.step != 2) return false;
  if (rows_.taps > kMostTapRows) return false;
  width_ = columns_.step * (columns_.outputs - 1) + kGroupTaps;
  ring_ = rows_.reach * (rows_.taps - 1) + 1;
  // Groups that fill a vector, and as many as the cache holds lines of.
  const int64_t least = std::max<int64_t>(1, kernels_->lanes / group_);
  int64_t groups = least;
  const auto fits = [&](int64_t more) {
    return more * summed_ <= kMostBlock && ring_ * width_ * more * summed_ <= kLines;
  };
  while (fits(2 * groups) && groups * group_ < channels_) groups *= 2;
  block_in_ = groups * summed_;
  block_out_ = groups * group_;
  blocks_ = ceil_div(channels_, block_out_);
  if (ring_ * width_ * block_in_ > kMostLines) return false;
  const int* tiles = kernels_->tiles[kind_];
  int64_t cheapest = 0;
  for (int k = 0; k < kGroupTiles && tiles[k] > 0; ++k) {
    if (tiles[k] > columns_.outputs) continue;
    // Fewer sums wait for each other.
    const int64_t vectors = unit_ / kernels_->lanes, sums = std::max(tiles[k] * vectors, kOverlap);
    const int64_t cost = ceil_div(columns_.outputs, tiles[k]) * (sums + vectors);
    if (cheapest != 0 && cost >= cheapest) continue;
    cheapest = cost;
    tile_ = k;
  }
  strip_ = std::max<int64_t>(1, kStripFloats / (columns_.outputs * block_out_));
  strip_ = std::min(strip_, rows_.outputs);
  return true;
}

bool GroupPlan::pack(const BoundMap& map, const Letters& letters, const TensorView& weights) {
  tap_row_ = summed_ * kGroupTaps * unit_;
  unit_floats_ = tap_row_ * rows_.taps;
  ContentHash key = hash_constant(weights);
  key.add("group", 5);
  for (const int64_t number : {map.address.base, int64_t{kind_}, unit_, block_out_, channels_,
                               summed_, group_, rows_.taps}) {
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
        for (int64_t s = 0; s < kGroupTaps; ++s) {
          const int64_t at = map.address.base + r * coef(rows_.tap) + c * coef(letters.summed) +
                             s * coef(columns_.tap);
          for (int64_t channel = first; channel < first + unit_; ++channel) {
            const int64_t of = channel / group_ * coef(letters.group);
            *out++ = channel < channels_ ? data[at + of + channel % group_ * coef(letters.made)] : 0.0f;
          }
        }
      }
    }
  }
}

// A line of the image, with what is outside, if the image has it. `x` is position (base, base) of the dims.
void GroupPlan::copy_line(const float* x, int64_t y, int64_t channels, const Room& room) const {
  if (!rows_.inside(y + rows_.base, 1, 0)) return;
  float* line = room.lines + y % ring_ * width_ * block_in_;
  int64_t begin = 0, end = width_;
  if (columns_.guarded) {
    begin = std::clamp<int64_t>(-columns_.base, 0, width_);
    end = std::clamp<int64_t>(columns_.extent - columns_.base, begin, width_);
  }
  const float* from = x + y * rows_.stride + begin * columns_.stride;
  std::fill(line, line + begin * block_in_, 0.0f);
  std::fill(line + end * block_in_, line + width_ * block_in_, 0.0f);
  if (channels == block_in_) {
    kernels_->copy(from, columns_.stride, end - begin, block_in_, line + begin * block_in_);
    return;
  }
  for (float* to = line + begin * block_in_; begin < end; ++begin, from += columns_.stride) {
    to = std::fill_n(std::copy(from, from + channels, to), block_in_ - channels, 0.0f);
  }
}

// A row of outputs; lines before *ready are in the room.
void GroupPlan::run_row(const float* x, int64_t row, int64_t block, const Room& room,
                        int64_t* ready, float* sums) const {
  const int64_t made = std::min(block_out_, channels_ - block * block_out_);
  const int64_t channels = made / group_ * summed_;
  const int64_t top = rows_.step * row, last = top + rows_.reach * (rows_.taps - 1);
  for (int64_t y = std::max(*ready, top); y <= last; ++y) copy_line(x, y, channels, room);
  *ready = std::max(*ready, last + 1);
  const float* lines[kMostTapRows];
  int64_t first = 0, count = 0;
  for (int64_t r = 0; r < rows_.taps; ++r) {
    const int64_t y = top + rows_.reach * r;
    if (!rows_.inside(y + rows_.base, 1, 0)) {
      first += count == 0 ? 1 : 0;
      continue;
    }
    lines[count++] = room.lines + y % ring_ * width_ * block_in_;
  }
  const int64_t pixels = kernels_->tiles[kind_][tile_], outputs = columns_.outputs;
  for (int64_t u = 0; u < made; u += unit_) {
    const float* at[kMostTapRows];
    GroupTile tile{};
    tile.lines = at;
    tile.pixel = block_in_;
    tile.count = static_cast<int>(count);
    tile.depth = summed_;
    tile.weights = weights_->data() + (block * block_out_ + u) / unit_ * unit_floats_ +
                   first * tap_row_;
    tile.out_pixel = block_out_;
    for (int64_t q = 0; q < outputs; q += pixels) {
      const int64_t begin = std::min(q, outputs - pixels);
      for (int64_t r = 0; r < count; ++r) {
        at[r] = lines[r] + begin * columns_.step * block_in_ + u / group_ * summed_;
      }
      tile.out = sums + begin * block_out_ + u;
      kernels_->run[kind_][columns_.step - 1][tile_](tile);
    }
  }
}

void GroupPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  const double work = static_cast<double>(outers_ * rows_.outputs * columns_.outputs) *
                      static_cast<double>(blocks_ * block_out_ / kernels_->lanes) *
                      static_cast<double>(rows_.taps * kGroupTaps * summed_);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);
  // Where blocks are not enough for all, their rows are shared out.
  int64_t bands = 1;
  if (outers_ * blocks_ < 2 * tasks) bands = std::min(rows_.outputs, ceil_div(2 * tasks, blocks_));
  const int64_t lines = ring_ * width_ * block_in_, row = columns_.outputs * block_out_;
  const size_t bytes = static_cast<size_t>(lines + strip_ * row) * sizeof(float) +
                       epilogue_->scratch_bytes() + 128;
  parallel_ranges(*context.parallel, outers_ * blocks_ * bands, tasks,
                  [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    Room room{};
    room.lines = reinterpret_cast<float*>(scratch.data());
    room.sums = room.lines + (lines + 15) / 16 * 16;
    room.scratch = reinterpret_cast<char*>(room.sums + (strip_ * row + 15) / 16 * 16);
    int64_t letters[kMaxLetters] = {};
    const int64_t fixed[kMaxLetters] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t outer = i / (blocks_ * bands), block = i / bands % blocks_, band = i % bands;
      locate(stage, outer_, outer, letters);
      const float* x = reinterpret_cast<const float*>(context.tensors[input_]) + address_->base +
                       block * block_in_;
      for (int k = 0; k < outer_.count; ++k) {
        x += address_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
      }
      const int64_t channel = block * block_out_;
      const int64_t channel1 = std::min(channels_, channel + block_out_);
      const int64_t row0 = rows_.outputs * band / bands, row1 = rows_.outputs * (band + 1) / bands;
      int64_t ready = 0;
      for (int64_t p = row0; p < row1; p += strip_) {
        const int64_t p1 = std::min(row1, p + strip_);
        for (int64_t q = p; q < p1; ++q) run_row(x, q, block, room, &ready, room.sums + (q - p) * row);
        const int64_t at = outer * rows_.outputs;
        epilogue_->run(context, fixed, (at + p) * columns_.outputs, (at + p1) * columns_.outputs,
                       channel, channel1, room.sums, block_out_, room.scratch);
      }
    }
  });
}

}  // namespace onnx_fusion::cpu
