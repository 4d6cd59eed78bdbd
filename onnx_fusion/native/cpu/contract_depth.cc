#include "cpu/contract_depth.h"

#include <algorithm>
#include <numeric>

#include "cpu/contract_axes.h"
#include "cpu/contract_kernels.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kStripFloats = 2048;
constexpr int64_t kTurnedFloats = 8192;  // where stores lie along the pixels
constexpr int64_t kSetBytes = 2048;  // pixels a multiple apart share few sets of the L1 cache
constexpr int64_t kBlock = 128;  // channels that are copied, or turned, at once
constexpr int64_t kCopyFloats = 32768;
constexpr double kMostCopied = 1 << 22;
constexpr int64_t kFewWeights = 4096;

}  // namespace

std::unique_ptr<DepthPlan> DepthPlan::make(const BoundProgram& bound, size_t stage,
                                           const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (w.own.count > 1 || x.map == nullptr || w.map == nullptr || w.map->guarded) continue;
    if (is_constant(x, constants, count) || letters.batch.count != 1) continue;
    std::unique_ptr<DepthPlan> plan(new DepthPlan);
    const int channel = letters.batch.letters[0];
    plan->stage_index_ = stage;
    plan->channel_ = letters.batch;
    if (w.own.count > 0) plan->channel_.letters[plan->channel_.count++] = w.own.letters[0];
    plan->repeat_ = axis_extent(s, w.own);
    plan->channels_ = axis_extent(s, plan->channel_);
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
    if (side_count == 1) plan->find_columns(s, x.own);
    if (plan->rows_.letter == channel || plan->columns_.letter == channel) continue;
    plan->skips_ = x.map->guarded && x.fill == 0.0f;
    if (!plan->choose_shape() && !plan->choose_any(bound.tensors[w.tensor].elements)) continue;
    if (!plan->choose_copies()) continue;
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
    plan->fast_ = !bound.program->strict && find_depth_finish(s, plan->channel_, &plan->finish_);
    if (plan->finish_.end == DepthEnd::silu &&
        (plan->any_ || plan->columns_.taps > plan->kernels_->early)) {
      plan->finish_.end = DepthEnd::clamp;
      plan->finish_.late = true;
      plan->fast_ = plan->fast_ && !plan->finish_.scaled;
    }
    if (!plan->fast_ || plan->finish_.bias < 0) {
      plan->zero_bias_.assign(static_cast<size_t>(plan->channels_), 0.0f);
    }
    if (plan->fast_) return plan;
    plan->finish_ = DepthFinish();
    plan->finish_.low = -__builtin_inff();
    plan->finish_.high = __builtin_inff();
    int letter = 0;
    plan->transposed_ = letters.store->coef[plan->channel_.letters[w.own.count]] != 1 &&
                        least_step(s, plan->pixel_, *letters.store, &letter) == 1;
    if (plan->transposed_ && plan->copy_floats_ == 0) plan->choose_block();
    const int64_t floats = plan->transposed_ ? kTurnedFloats : kStripFloats;
    plan->strip_ = plan->spread_ > 1 ? plan->columns_.outputs
                                     : std::max<int64_t>(8, floats / plan->block_ / 4 * 4);
    plan->strip_ = std::min(plan->strip_, plan->columns_.outputs);
    plan->epilogue_ = plan->transposed_
                          ? std::make_unique<Epilogue>(bound, stage, plan->channel_, plan->pixel_)
                          : std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->channel_);
    return plan;
  }
  return nullptr;
}

// Where a window of one side moves along lines of neighbours, tiles lie along those.
void DepthPlan::find_columns(const BoundStage& stage, const Axis& own) {
  WindowSide line;
  for (int k = 0; k < own.count; ++k) {
    const int letter = own.letters[k];
    const int64_t stride = address_->coef[letter];
    if (letter == columns_.letter || stage.extents[letter] < 4) continue;
    if (stride < 1 || stride >= (line.letter < 0 ? columns_.stride : line.stride)) continue;
    line.letter = letter;
    line.stride = stride;
    line.outputs = line.extent = stage.extents[letter];
    line.step = 1;
  }
  if (line.letter < 0) return;
  rows_ = columns_;
  columns_ = line;
}

// The kernels of the window's width; false if there are none.
bool DepthPlan::choose_shape() {
  const int64_t width = columns_.taps;
  if (width != 1 && width != 3 && width != 5 && width != 7) return false;
  if (rows_.taps * width > kMostDepthTaps) return false;
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
  const bool two =
      width > 1 && rows_.taps == width && rows_.outputs > 1 && rows_.step == step_ * rows_.reach;
  const bool wide = two && width <= kernels_->wide && outputs >= 7 &&
                    ceil_div(outputs, 7) * 7 <= ceil_div(outputs, 4) * 4;
  const bool pairs = two && step_ == 2 && width <= kernels_->paired;
  const bool seven = even && !pairs;
  shape_ = outputs < 4 ? kOne : wide ? kTwoBySeven : seven ? kSeven : two ? kTwoByFour : kFour;
  return shape_ != kOne || spread_ == 1 || columns_.outputs < 4;
}

// Those of any width, whose taps and outputs may lie apart in columns as they like. False if taps
// share so many of the weights that packing each would be as large as it likes.
bool DepthPlan::choose_any(int64_t weights) {
  const double packed = static_cast<double>(rows_.taps) * static_cast<double>(columns_.taps) *
                        static_cast<double>(channels_);
  if (packed > 2.0 * static_cast<double>(std::max(weights, kFewWeights))) return false;
  any_ = true;
  spread_ = 1;
  if (columns_.outputs == 1 || columns_.taps == 1) {
    column_ = std::max<int64_t>(1, columns_.outputs == 1 ? columns_.reach : columns_.step);
  } else if (columns_.reach % columns_.step == 0 &&
             columns_.outputs / 4 >= columns_.reach / columns_.step) {
    column_ = columns_.reach;
    spread_ = columns_.reach / columns_.step;
  } else {
    column_ = std::gcd(columns_.step, columns_.reach);
    any_step_ = columns_.step / column_;
    any_reach_ = columns_.reach / column_;
  }
  step_ = any_reach_ == 1 && any_step_ <= 2 ? any_step_ : 0;
  const int64_t outputs = columns_.outputs / spread_;
  const bool seven = outputs >= 7 && ceil_div(outputs, 7) * 6 <= ceil_div(outputs, 4) * 4;
  shape_ = outputs < 4 ? kOne : seven ? kSeven : kFour;
  return true;
}

void DepthPlan::choose_block() {
  block_ = round_up(ceil_div(channels_, ceil_div(channels_, kBlock)), 16 * repeat_);
  const int64_t rest = channels_ % block_;
  if (block_ > channels_ || (rest > 0 && rest < kernels_->lanes)) block_ = channels_;
}

// Whether rows are copied first, and how many; false if they had to be and are too large.
bool DepthPlan::choose_copies() {
  const int64_t width = columns_.taps;
  block_ = channels_;
  band_ = rows_of(shape_);
  const int64_t apart = columns_.stride * static_cast<int64_t>(sizeof(float));
  const bool crowded = apart % kSetBytes == 0 && channels_ % kBlock == 0 && columns_.outputs > 1;
  if (repeat_ == 1 && !crowded) return true;
  // A window that reaches far makes them as large as it likes.
  choose_block();
  const double least =
      columns_.length(columns_.outputs) * rows_.length(5) * static_cast<double>(block_);
  if (least > kMostCopied) {
    block_ = channels_;
    return repeat_ == 1;
  }
  copied_columns_ = columns_.step * (columns_.outputs - 1) + columns_.reach * (width - 1) + 1;
  const int64_t line = copied_columns_ * block_, reach = rows_.reach * (rows_.taps - 1) + 1;
  const int64_t rows = rows_.step == 0 ? 1 : (kCopyFloats / line - reach) / rows_.step + 1;
  const int64_t whole = ceil_div(rows_.outputs, band_) * band_;
  band_ = std::min(std::max<int64_t>(rows, 4) / band_ * band_, whole);
  copy_floats_ = (rows_.step * (band_ - 1) + reach) * line;
  return true;
}

void DepthPlan::pack(const BoundMap& map, const TensorView* weights) {
  weight_address_ = map.address;
  weight_step_ = rows_.taps * columns_.taps * kernels_->lanes;
  if (weights == nullptr) return;
  ContentHash key = hash_constant(*weights);
  key.add("depth", 5);
  for (const int64_t number :
       {map.address.base, weight_step_, channels_, repeat_, rows_.taps, columns_.taps}) {
    key.add(&number, sizeof number);
  }
  const int made = channel_.count > 1 ? channel_.letters[1] : -1;
  for (const int letter : {static_cast<int>(channel_.letters[0]), made, rows_.tap, columns_.tap}) {
    const int64_t number = letter < 0 ? 0 : map.address.coef[letter];
    key.add(&number, sizeof number);
  }
  packed_ = share_weights(key, static_cast<size_t>(packed_floats()), [&](float* out) {
    pack_weights(static_cast<const float*>(weights->data), out);
  });
}

int64_t DepthPlan::packed_floats() const {
  return ceil_div(channels_, kernels_->lanes) * weight_step_;
}

// As [vector][line][tap][lane]; the last vector overlaps the one before.
void DepthPlan::pack_weights(const float* data, float* out) const {
  const auto coef = [&](int letter) { return letter < 0 ? 0 : weight_address_.coef[letter]; };
  const int64_t channel = coef(channel_.letters[0]);
  const int64_t made = coef(channel_.count > 1 ? channel_.letters[1] : -1);
  const int64_t lanes = kernels_->lanes;
  for (int64_t v = 0; v < ceil_div(channels_, lanes); ++v) {
    for (int64_t r = 0; r < rows_.taps; ++r) {
      for (int64_t s = 0; s < columns_.taps; ++s) {
        const int64_t at = weight_address_.base + r * coef(rows_.tap) + s * coef(columns_.tap);
        for (int64_t l = 0; l < lanes; ++l) {
          const int64_t c = std::min(v * lanes, channels_ - lanes) + l;
          *out++ = data[at + c / repeat_ * channel + c % repeat_ * made];
        }
      }
    }
  }
}

}  // namespace onnx_fusion::cpu
