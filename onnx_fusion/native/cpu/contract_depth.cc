#include "cpu/contract_depth.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract_axes.h"
#include "cpu/contract_kernels.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostTaps = 128;
constexpr int64_t kStripFloats = 2048;
constexpr int64_t kSetBytes = 2048;  // pixels a multiple apart share few sets of the L1 cache
constexpr int64_t kBlock = 128;      // channels that are then copied at once
constexpr int64_t kCopyFloats = 32768;
constexpr int kMostPointers = 32 * 32;

constexpr int64_t pixels_of(DepthShape shape) {
  return shape == kSeven ? 7 : shape == kOne ? 1 : 4;
}

constexpr int64_t rows_of(DepthShape shape) { return shape == kTwoByFour ? 2 : 1; }

float* tensor(const RunContext& context, int index) {
  return reinterpret_cast<float*>(context.tensors[index]);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// A block of channels of the image at one position of the outer letters.
struct DepthPlan::Block {
  const float* x;  // position (base, base) of the dims
  int64_t row, column;  // from a position to the next
  bool copied;          // with a border
  const float* weights;
  const float* bias;
  int64_t channel, channels;
  int64_t outer;
  float* out;  // fast: of output (0, 0)
};

struct DepthPlan::Room {
  float* sums;
  float* turned;
  float* copy;
  char* scratch;
};

std::unique_ptr<DepthPlan> DepthPlan::make(const BoundProgram& bound, size_t stage,
                                           const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (axis_extent(s, w.own) != 1 || x.map == nullptr || w.map == nullptr) continue;
    if (w.map->guarded) continue;
    if (is_constant(x, constants, count) || letters.batch.count != 1) continue;
    std::unique_ptr<DepthPlan> plan(new DepthPlan);
    const int channel = letters.batch.letters[0];
    plan->stage_index_ = stage;
    plan->channel_ = letters.batch;
    plan->channels_ = s.extents[channel];
    plan->input_ = x.tensor;
    plan->weight_ = w.tensor;
    plan->address_ = &x.map->address;
    plan->kernels_ = depth_kernels(plan->channels_);
    if (plan->kernels_ == nullptr || x.map->address.coef[channel] != 1) continue;
    const LetterSet taps = s.stage->body[static_cast<size_t>(find_dot(*s.stage))].over;
    WindowSide sides[kMostSides];
    const int side_count = find_sides(s, *x.map, taps, sides);
    if (side_count != 1 && side_count != 2) continue;
    plan->columns_ = sides[side_count - 1];
    if (side_count == 2) plan->rows_ = sides[0];
    if (plan->rows_.letter == channel || plan->columns_.letter == channel) continue;
    plan->skips_ = x.map->guarded && x.fill == 0.0f;
    if (plan->rows_.taps * plan->columns_.taps > kMostTaps || !plan->choose_shape()) continue;
    for (int k = 0; k < x.own.count; ++k) {
      const int letter = x.own.letters[k];
      if (letter == plan->rows_.letter || letter == plan->columns_.letter) continue;
      plan->outer_.letters[plan->outer_.count++] = static_cast<uint8_t>(letter);
    }
    sort_axis(&plan->outer_, *letters.store);
    plan->outers_ = axis_extent(s, plan->outer_);
    plan->pixel_ = plan->outer_;
    for (const int letter : {plan->rows_.letter, plan->columns_.letter}) {
      if (letter >= 0) plan->pixel_.letters[plan->pixel_.count++] = static_cast<uint8_t>(letter);
    }
    if (x.map->guarded) plan->outside_.assign(static_cast<size_t>(plan->channels_), x.fill);
    plan->pack(*w.map, is_constant(w, constants, count) ? &constants[w.tensor] : nullptr);
    plan->fast_ = !bound.program->strict && find_depth_finish(s, channel, &plan->finish_);
    if (plan->finish_.end == DepthEnd::silu && plan->columns_.taps > plan->kernels_->early) {
      plan->finish_.end = DepthEnd::clamp;
      plan->finish_.late = true;
    }
    if (!plan->fast_ || plan->finish_.bias < 0) {
      plan->zero_bias_.assign(static_cast<size_t>(plan->channels_), 0.0f);
    }
    if (plan->fast_) return plan;
    plan->finish_ = DepthFinish();
    plan->finish_.low = -__builtin_inff();
    plan->finish_.high = __builtin_inff();
    int letter = 0;
    plan->transposed_ = letters.store->coef[channel] != 1 &&
                        least_step(s, plan->pixel_, *letters.store, &letter) == 1;
    plan->strip_ = plan->spread_ > 1
                       ? plan->columns_.outputs
                       : std::max<int64_t>(8, kStripFloats / plan->block_ / 4 * 4);
    plan->strip_ = std::min(plan->strip_, plan->columns_.outputs);
    plan->epilogue_ =
        plan->transposed_ ? std::make_unique<Epilogue>(bound, stage, plan->channel_, plan->pixel_)
                          : std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->channel_);
    return plan;
  }
  return nullptr;
}

bool DepthPlan::choose_shape() {
  const int64_t width = columns_.taps;
  if (width != 1 && width != 3 && width != 5 && width != 7) return false;
  column_ = columns_.reach;
  if (width == 1) {
    column_ = columns_.step;
  } else if (columns_.outputs > 1) {
    if (columns_.step == 2 * columns_.reach) {
      step_ = 2;
    } else if (columns_.reach % columns_.step == 0) {
      spread_ = columns_.reach / columns_.step;
    } else {
      return false;
    }
  }
  const int64_t outputs = columns_.outputs / spread_;
  const bool even = outputs >= 7 && ceil_div(outputs, 7) * 7 < ceil_div(outputs, 4) * 4;
  const bool two = width > 1 && rows_.taps == width && rows_.outputs > 1 &&
                   rows_.step == step_ * rows_.reach;
  shape_ = outputs < 4 ? kOne : even ? kSeven : two ? kTwoByFour : kFour;
  block_ = channels_;
  band_ = rows_of(shape_);
  const int64_t apart = columns_.stride * static_cast<int64_t>(sizeof(float));
  copied_columns_ = columns_.step * (columns_.outputs - 1) + columns_.reach * (width - 1) + 1;
  if (apart % kSetBytes != 0 || channels_ % kBlock != 0 || columns_.outputs < 2) return true;
  block_ = kBlock;
  const int64_t line = copied_columns_ * kBlock, reach = rows_.reach * (rows_.taps - 1) + 1;
  const int64_t rows = rows_.step == 0 ? 1 : (kCopyFloats / line - reach) / rows_.step + 1;
  const int64_t whole = ceil_div(rows_.outputs, band_) * band_;
  band_ = std::min(std::max<int64_t>(rows, 4) / band_ * band_, whole);
  copy_floats_ = (rows_.step * (band_ - 1) + reach) * line;
  return true;
}

void DepthPlan::pack(const BoundMap& map, const TensorView* weights) {
  weight_address_ = map.address;
  weight_step_ = (channels_ + 15) / 16 * 16;
  if (weight_step_ * static_cast<int64_t>(sizeof(float)) % kSetBytes == 0) weight_step_ += 16;
  if (weights == nullptr) return;
  size_t bytes = sizeof(float);
  for (size_t i = 0; i < weights->rank; ++i) bytes *= static_cast<size_t>(weights->dims[i]);
  ContentHash key = hash_constant(weights->data, bytes);
  key.add("depth", 5);
  for (const int64_t number :
       {map.address.base, weight_step_, channels_, rows_.taps, columns_.taps}) {
    key.add(&number, sizeof number);
  }
  for (const int letter : {static_cast<int>(channel_.letters[0]), rows_.tap, columns_.tap}) {
    const int64_t number = letter < 0 ? 0 : map.address.coef[letter];
    key.add(&number, sizeof number);
  }
  packed_ = share_weights(key, static_cast<size_t>(weight_step_ * rows_.taps * columns_.taps),
                          [&](float* out) {
    pack_weights(static_cast<const float*>(weights->data), out);
  });
}

void DepthPlan::pack_weights(const float* data, float* out) const {
  const auto coef = [&](int letter) { return letter < 0 ? 0 : weight_address_.coef[letter]; };
  const int64_t channel = coef(channel_.letters[0]);
  for (int64_t r = 0; r < rows_.taps; ++r) {
    for (int64_t s = 0; s < columns_.taps; ++s, out += weight_step_) {
      const int64_t at = weight_address_.base + r * coef(rows_.tap) + s * coef(columns_.tap);
      for (int64_t c = 0; c < channels_; ++c) out[c] = data[at + c * channel];
      std::fill(out + channels_, out + weight_step_, 0.0f);
    }
  }
}

void DepthPlan::run_tile(const Block& block, DepthShape shape, int64_t row, int64_t pixel,
                         const Target& target) const {
  const int64_t pixels = pixels_of(shape);
  const int64_t step = columns_.taps == 1 ? 1 : step_;
  const int64_t columns = step * (pixels - 1) + columns_.taps;
  const int64_t lines = step * (rows_of(shape) - 1) + rows_.taps;
  const int64_t y = rows_.step * row + rows_.base;
  const int64_t x = columns_.step * pixel + columns_.base;
  const int64_t line = rows_.reach * block.row, column = column_ * block.column;
  const float* base =
      block.x + rows_.step * row * block.row + columns_.step * pixel * block.column;
  const bool inside = block.copied || (rows_.inside(y, lines, rows_.reach) &&
                                       columns_.inside(x, columns, column_));
  const float* in[kMostPointers];
  int64_t first = 0, last = lines;
  if (!inside) {
    while (skips_ && first < last && !rows_.inside(y + first * rows_.reach, 1, 0)) ++first;
    while (skips_ && last > first && !rows_.inside(y + (last - 1) * rows_.reach, 1, 0)) --last;
    const float** to = in + first * columns;
    for (int64_t i = first; i < last; ++i) {
      const bool line_inside = rows_.inside(y + i * rows_.reach, 1, 0);
      for (int64_t j = 0; j < columns; ++j) {
        *to++ = line_inside && columns_.inside(x + j * column_, 1, 0) ? base + i * line + j * column
                                                                      : outside_.data();
      }
    }
  }
  float* out = target.out + row * target.row + pixel * target.pixel;
  const DepthTile tile{base,
                       line,
                       column,
                       in,
                       static_cast<int32_t>(first),
                       static_cast<int32_t>(last),
                       block.weights,
                       weight_step_,
                       block.channels,
                       block.bias,
                       finish_.scale,
                       finish_.shift,
                       finish_.low,
                       finish_.high,
                       finish_.end,
                       out,
                       target.row,
                       target.pixel * spread_};
  kernels_->run[columns_.taps / 2][step - 1][shape][inside ? 0 : 1](tile);
  if (!finish_.late) return;
  const Pass silu = cpu::kernels().silu;
  const int64_t joined = tile.out_pixel == block.channels ? pixels : 1;  // pixels of a call
  for (int64_t r = 0; r < rows_of(shape); ++r) {
    for (int64_t i = 0; i < pixels; i += joined) {
      float* at = out + r * tile.out_row + i * tile.out_pixel;
      silu(at, at, nullptr, nullptr, block.channels * joined);
    }
  }
}

// Outputs [begin, end) of one row, or of two. The last tile overlaps the one before.
void DepthPlan::run_tiles(const Block& block, DepthShape shape, int64_t row, int64_t begin,
                          int64_t end, const Target& target) const {
  const int64_t rows = rows_of(shape);
  for (int64_t phase = 0; phase < spread_ && begin + phase < end; ++phase) {
    const int64_t count = ceil_div(end - begin - phase, spread_);
    const int64_t pixels = count < pixels_of(shape) ? 1 : pixels_of(shape);
    const DepthShape used = pixels == pixels_of(shape) ? shape : kOne;
    for (int64_t r = row; r < row + (used == shape ? 1 : rows); ++r) {
      for (int64_t i = 0; i < count; i += pixels) {
        run_tile(block, used, r, begin + phase + spread_ * std::min(i, count - pixels), target);
      }
    }
  }
}

// Rows [row0, row1) of outputs.
void DepthPlan::run_rows(const RunContext& context, const Block& block, int64_t row0, int64_t row1,
                         const Room& room) const {
  const int64_t height = rows_of(shape_), channels = block.channels;
  for (int64_t row = row0; row < row1; row += height) {
    const int64_t rows = std::min(height, row1 - row);
    const DepthShape shape = rows == height ? shape_ : kFour;
    if (fast_) {
      const auto step = [&](const WindowSide& side) {
        return side.letter < 0 ? 0 : finish_.store->coef[side.letter];
      };
      run_tiles(block, shape, row, 0, columns_.outputs, {block.out, step(rows_), step(columns_)});
      continue;
    }
    for (int64_t q = 0; q < columns_.outputs; q += strip_) {
      const int64_t q1 = std::min(columns_.outputs, q + strip_), line = (q1 - q) * channels;
      run_tiles(block, shape, row, q, q1, {room.sums - row * line - q * channels, line, channels});
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (block.outer * rows_.outputs + row + r) * columns_.outputs;
        finish_strip(context, block, at + q, at + q1, room.sums + r * line, room);
      }
    }
  }
}

// The positions that output rows [row0, row1) see, with what is outside, pixels close together.
void DepthPlan::copy_rows(int64_t row0, int64_t row1, float* out, Block* block) const {
  const int64_t lines = rows_.step * (row1 - row0 - 1) + rows_.reach * (rows_.taps - 1) + 1;
  const size_t bytes = static_cast<size_t>(block->channels) * sizeof(float);
  float* to = out;
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t y = rows_.step * row0 + i;
    const bool line_inside = rows_.inside(y + rows_.base, 1, 0);
    for (int64_t x = 0; x < copied_columns_; ++x, to += block->channels) {
      const bool inside = line_inside && columns_.inside(x + columns_.base, 1, 0);
      const float* from = block->x + y * block->row + x * block->column;
      std::memcpy(to, inside ? from : outside_.data(), bytes);
    }
  }
  block->row = copied_columns_ * block->channels;
  block->column = block->channels;
  block->x = out - rows_.step * row0 * block->row;
  block->copied = true;
}

void DepthPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  const int64_t bands = ceil_div(rows_.outputs, band_);
  const int64_t taps = rows_.taps * columns_.taps;
  const double work = static_cast<double>(outers_ * rows_.outputs * columns_.outputs) *
                      static_cast<double>(channels_) * static_cast<double>(taps + 4);
  const int64_t tasks =
      task_count(*context.parallel, work / static_cast<double>(kernels_->lanes) * 0.5);
  // Where few rows are not enough for all, their channels are shared out, a vector or more each.
  const int64_t vectors = channels_ / kernels_->lanes;
  int64_t blocks = ceil_div(channels_, block_);
  const bool shares = fast_ && copy_floats_ == 0 && vectors > 1 && outers_ * bands < tasks;
  if (shares) blocks = std::min(vectors, tasks);
  const auto channel_at = [&](int64_t k) {
    if (k == blocks) return channels_;
    return shares ? vectors * k / blocks * kernels_->lanes : k * block_;
  };
  const int64_t sums = fast_ ? 0 : (rows_of(shape_) * strip_ * block_ + 15) / 16 * 16;
  const int64_t own = packed_ == nullptr ? weight_step_ * taps : 0;
  const size_t bytes = static_cast<size_t>(2 * sums + own + copy_floats_) * sizeof(float) +
                       (fast_ ? 0 : epilogue_->scratch_bytes()) + 64;

  parallel_ranges(*context.parallel, outers_ * blocks * bands, tasks,
                  [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    float* weights = reinterpret_cast<float*>(scratch.data());
    float* const rest = weights + own + 2 * sums + copy_floats_;
    const Room room{weights + own, weights + own + sums, weights + own + 2 * sums,
                    reinterpret_cast<char*>(rest)};
    if (packed_ == nullptr) {
      pack_weights(reinterpret_cast<const float*>(context.tensors[weight_]), weights);
    }
    int64_t letters[kMaxLetters] = {};
    for (int64_t i = begin; i < end; ++i) {
      Block block{};
      block.outer = i / (blocks * bands);
      block.channel = channel_at(i / bands % blocks);
      block.channels = channel_at(i / bands % blocks + 1) - block.channel;
      block.weights = (packed_ == nullptr ? weights : packed_->data()) + block.channel;
      block.bias = block.channel + (finish_.bias < 0 ? zero_bias_.data()
                                                     : tensor(context, finish_.bias) +
                                                           finish_.bias_base);
      locate(stage, outer_, block.outer, letters);
      block.x = tensor(context, input_) + address_->base + block.channel;
      if (fast_) block.out = tensor(context, finish_.out) + finish_.store->base + block.channel;
      for (int k = 0; k < outer_.count; ++k) {
        const int letter = outer_.letters[k];
        block.x += address_->coef[letter] * letters[letter];
        if (fast_) block.out += finish_.store->coef[letter] * letters[letter];
      }
      block.row = rows_.stride;
      block.column = columns_.stride;
      const int64_t row = i % bands * band_, row1 = std::min(rows_.outputs, row + band_);
      if (copy_floats_ > 0) copy_rows(row, row1, room.copy, &block);
      run_rows(context, block, row, row1, room);
    }
  });
}

void DepthPlan::finish_strip(const RunContext& context, const Block& block, int64_t pixel0,
                             int64_t pixel1, const float* sums, const Room& room) const {
  const int64_t fixed[kMaxLetters] = {}, count = pixel1 - pixel0;
  const int64_t channel0 = block.channel, channel1 = channel0 + block.channels;
  if (!transposed_) {
    return epilogue_->run(context, fixed, pixel0, pixel1, channel0, channel1, sums, block.channels,
                          room.scratch);
  }
  gemm_kernels().transpose(sums, block.channels, count, block.channels, room.turned, count);
  epilogue_->run(context, fixed, channel0, channel1, pixel0, pixel1, room.turned, count,
                 room.scratch);
}

}  // namespace onnx_fusion::cpu
