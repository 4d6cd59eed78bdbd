#include "cpu/contract_depth.h"

#include <algorithm>

#include "cpu/contract_axes.h"
#include "cpu/contract_kernels.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kStripFloats = 2048;
constexpr int64_t kSetBytes = 2048;  // pixels a multiple apart share few sets of the L1 cache
constexpr int64_t kBlock = 128;      // channels that are then copied at once
constexpr int64_t kCopyFloats = 32768;

}  // namespace

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
    if (plan->rows_.taps * plan->columns_.taps > kMostDepthTaps || !plan->choose_shape()) continue;
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
  const bool wide = two && width <= kernels_->wide && outputs >= 7 &&
                    ceil_div(outputs, 7) * 7 <= ceil_div(outputs, 4) * 4;
  const bool pairs = two && step_ == 2 && width <= kernels_->paired;
  const bool seven = even && !pairs;
  shape_ = outputs < 4 ? kOne : wide ? kTwoBySeven : seven ? kSeven : two ? kTwoByFour : kFour;
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
  ContentHash key = hash_constant(*weights);
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

}  // namespace onnx_fusion::cpu
