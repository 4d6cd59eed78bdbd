#include "cpu/contract_winograd.h"

#include <algorithm>
#include <cmath>

#include "cpu/contract_kernels.h"
#include "cpu/sizes.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLeastChannels = 8, kLeastInRows = 16;  // rows: neither side is channels-last
constexpr int64_t kBlockFloats = 96 << 10;  // of a block's transformed inputs
constexpr int64_t kLeastBlock = 24, kMostBlock = 48;  // tiles
constexpr int64_t kGroupFilters = 64;  // through the epilogue at once
constexpr double kGain = 0.9, kNextGain = 0.95;  // that planes must bring, and a larger size
constexpr double kApartGain = 0.8, kWideGain = 0.75;  // at step 2; wide: of 16 lanes, not measured
constexpr int64_t kMostDepth = 4096;  // of a long window
constexpr int64_t kMostListed = 1 << 18;  // of any: places in a block have 32 bits

// How long a convolution takes, in products of one weight and one tile; direct convolution has
// tiles of one output. Measured on Zen 4 with weights that come from memory, and ones that do not:
//   a product in Winograd's planes takes 1.1, and fewer than 4 tiles fill no register tile;
//   transforming an element of a plane takes 6, for all filters or the whole depth together;
//   reading a weight takes 8 from memory or the third-level cache, less from the second, of which a
//   quarter is left where products take longer: they wait for weights, or weights for them. At step
//   2, where less is gained, they are taken to come from memory, as on Zen 3 (12).
double convolution_cost(const WinogradSize& size, double images, int64_t height, int64_t width,
                        double depth, double filters) {
  const double planes = size.weights();
  const int64_t down = planes_of_line(height, size.lines, size.reach_lines, size.apart);
  const int64_t along = planes_of_line(width, size.pixels, size.reach_pixels, size.apart);
  const double tiles = images * static_cast<double>(down * along) / planes;  // that share a weight
  const double bytes = planes * depth * filters * sizeof(float);
  const double read = size.apart > 1 ? 12 : bytes > 1.6e7 ? 8 : bytes > 5e5 ? 4 : 1;
  const auto beside = [&](double products) {
    return std::max(products, read) + std::min(products, read) / 4;
  };
  if (size.pixels == 1) return planes * beside(tiles);
  const double some = std::max(tiles, 4.0);
  return planes * (beside(some * 1.1) + some * (6 / filters + 6 / depth));
}

// The parts that a long line is cut to: of 5 taps (2 products an output) or of 3 (4/3).
int64_t part_of(int64_t taps) { return 2 * ((taps + 4) / 5) * 3 <= 4 * ((taps + 2) / 3) ? 5 : 3; }

void add_letter(const BoundStage& stage, int letter, Axis* axis) {
  if (letter >= 0 && stage.extents[letter] != 1) {
    axis->letters[axis->count++] = static_cast<uint8_t>(letter);
  }
}

}  // namespace

std::unique_ptr<WinogradPlan> WinogradPlan::make(const BoundProgram& bound, size_t stage,
                                                 const TensorView* constants, size_t count) {
  auto whole = make(bound, stage, constants, count, false);
  auto cut = make(bound, stage, constants, count, true);
  return cut != nullptr && (whole == nullptr || cut->cost_ < whole->cost_) ? std::move(cut)
                                                                           : std::move(whole);
}

std::unique_ptr<WinogradPlan> WinogradPlan::make(const BoundProgram& bound, size_t stage,
                                                 const TensorView* constants, size_t count,
                                                 bool cut) {
  const BoundStage& s = bound.stages[stage];
  if (bound.program->strict) return nullptr;
  const DotLetters letters = dot_letters(s);
  if (letters.batch.count > 0) return nullptr;
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded || w.own.count != 1) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    std::unique_ptr<WinogradPlan> plan(new WinogradPlan);
    plan->stage_ = &s;
    if (!plan->find_sides(s, x, letters.k, cut)) continue;
    const int filter = w.own.letters[0];
    plan->filter_ = w.own;
    plan->filters_ = s.extents[filter];
    plan->input_ = x.tensor;
    plan->address_ = &x.map->address;
    plan->fill_ = x.fill;
    plan->transposed_ = letters.store->coef[filter] != 1 && plan->along_.letter >= 0 &&
                        letters.store->coef[plan->along_.letter] == 1;
    const int64_t least =
        plan->channel_step_ != 1 && plan->transposed_ ? kLeastInRows : kLeastChannels;
    if (std::min(plan->channels_, plan->filters_) < least) continue;
    plan->kernels_ = &winograd_kernels(plan->filters_);
    if (!plan->choose_shape(plan->kernels_->lanes)) continue;
    if (!plan->pack(constants[w.tensor], *w.map)) continue;
    add_letter(s, plan->down_.letter, &plan->pixel_);
    add_letter(s, plan->along_.letter, &plan->pixel_);
    const Axis& rows = plan->transposed_ ? plan->filter_ : plan->pixel_;
    const Axis& columns = plan->transposed_ ? plan->pixel_ : plan->filter_;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, rows, columns);
    if (!plan->transposed_) plan->finish_ = Finish::make(s, find_dot(*s.stage), rows, columns);
    const Finish* finish = plan->finish_.get();
    if (finish != nullptr && (finish->has_row_bias() || finish->has_gain() || !finish->whole())) {
      plan->finish_ = nullptr;
    }
    // Other epilogues are faster on whole lines.
    if (plan->finish_ == nullptr && plan->along_.tiles <= plan->most_tiles_) {
      plan->unit_ = plan->along_.tiles;
    }
    return plan;
  }
  return nullptr;
}

// A dim of the input is a tap letter and at most one output letter; or the channel; or has only
// letters of images.
bool WinogradPlan::find_sides(const BoundStage& stage, const DotOperand& x, const Axis& k,
                              bool cut) {
  Side sides[3];
  int count = 0, uses[kMaxLetters] = {};
  int64_t part = 0;  // taps of a part of a long window
  bool has_long = false;
  LetterSet own = 0, summed = 0;
  for (int i = 0; i < x.own.count; ++i) own |= static_cast<LetterSet>(1u << x.own.letters[i]);
  for (int i = 0; i < k.count; ++i) summed |= static_cast<LetterSet>(1u << k.letters[i]);
  frames_.inputs = 1;
  for (const BoundIndex& dim : x.map->dims) {
    int tap = -1, output = -1, letters = 0;
    for (int l = 0; l < kMaxLetters; ++l) {
      if (dim.form.coef[l] == 0 || stage.extents[l] == 1) continue;
      ++letters;
      ++uses[l];
      if (own >> l & 1) output = l;
      if (!(summed >> l & 1)) continue;
      if (tap >= 0) return false;
      tap = l;
    }
    if (tap < 0) {
      if (dim.guarded) return false;
      continue;
    }
    if (letters == 1 && !dim.guarded && stage.extents[tap] >= kLeastChannels) {
      if (channel_letter_ >= 0) return false;
      channel_letter_ = tap;
      continue;
    }
    if (letters > 2 || (letters == 2 && output < 0)) return false;
    const int64_t taps = stage.extents[tap], apart = output < 0 ? 1 : dim.form.coef[output];
    const bool plain = dim.form.coef[tap] == 1 && (apart == 1 || (apart == 2 && taps == 3));
    const bool is_long = cut && taps > 5;
    if (plain && (taps == 3 || taps == 5 || is_long) && dim.stride > 0 && count < 3) {
      Side& side = sides[count++];
      side.taps = is_long ? 0 : taps;
      side.all_taps = taps;
      has_long = has_long || is_long;
      if (!is_long && (part == 0 || taps < part)) part = taps;
      side.letter = output;
      side.apart = apart;
      side.tap = tap;
      side.outputs = output < 0 ? 1 : stage.extents[output];
      side.inputs = dim.extent;
      side.first = dim.form.base;
      side.step = dim.stride;
      side.form = &dim.form;
      continue;
    }
    if (frames_.tap >= 0) return false;
    frames_ = {tap, stage.extents[tap], dim.extent, dim.form};
  }
  if (cut && !has_long) return false;
  for (int i = 0; i < count; ++i) {
    Side& side = sides[i];
    if (side.taps == 0) side.taps = part != 0 ? part : count == 1 ? part_of(side.all_taps) : 3;
    side.parts = (side.all_taps + side.taps - 1) / side.taps;
  }
  for (int i = 1; i < count; ++i) {
    for (int j = i; j > 0 && sides[j].step < sides[j - 1].step; --j)
      std::swap(sides[j], sides[j - 1]);
  }
  if (count == 0 || channel_letter_ < 0 || !std::isfinite(x.fill)) return false;
  // A square has two sides of the same length and step; else one with step 1 is transformed, the
  // shorter.
  if (count == 3 && sides[0].is_like(sides[2])) std::swap(sides[1], sides[2]);
  if (count == 3 && !sides[0].is_like(sides[1])) std::swap(sides[0], sides[2]);
  const auto is_after = [](const Side& a, const Side& b) {
    return a.apart != b.apart ? a.apart > b.apart : a.taps > b.taps;
  };
  if (count == 2 && is_after(sides[0], sides[1])) std::swap(sides[0], sides[1]);
  along_ = sides[0];
  const bool square = count > 1 && sides[1].is_like(along_);
  if (!square && along_.apart > 1) return false;
  if (square) down_ = sides[1];
  for (int i = square ? 2 : 1; i < count; ++i) {
    if (frames_.tap >= 0) return false;
    frames_ = {sides[i].tap, sides[i].all_taps, sides[i].inputs, *sides[i].form};
  }
  for (int i = 0; i < k.count; ++i) {
    if (uses[k.letters[i]] != 1) return false;
  }
  for (int i = 0; i < x.own.count; ++i) {
    const int letter = x.own.letters[i];
    if (letter != down_.letter && letter != along_.letter) {
      add_letter(stage, letter, &image_);
    } else if (uses[letter] != 1) {
      return false;
    }
  }
  images_ = axis_extent(stage, image_);
  channels_ = stage.extents[channel_letter_];
  channel_step_ = x.map->address.coef[channel_letter_];
  return channel_step_ == 1 || (channel_step_ > 0 && along_.step == 1);
}

bool WinogradPlan::choose_shape(int lanes) {
  const int64_t vectors = round_up(filters_, lanes) / lanes;
  vectors_ = static_cast<int>(std::min<int64_t>(vectors, 2));
  if (vectors % 3 == 0 && vectors % 2 != 0 && kernels_->max_vectors >= 3) vectors_ = 3;
  width_ = vectors_ * lanes;
  panels_ = round_up(filters_, width_) / width_;
  const int64_t parts = frames_.taps * down_.parts * along_.parts;
  depth_ = parts * channels_;
  if (depth_ > (down_.parts * along_.parts > 1 ? kMostDepth : kMostListed)) return false;
  const auto cost_of = [&](const WinogradSize& size) {
    const auto real = [](int64_t extent) { return static_cast<double>(extent); };
    return convolution_cost(size, real(images_), down_.outputs, along_.outputs,
                            real(round_up(depth_, lanes)), real(panels_ * width_));
  };
  const bool line = down_.tap < 0;
  const int taps = static_cast<int>(along_.taps);
  const double padded = static_cast<double>(taps * along_.parts * (line ? 1 : taps * down_.parts));
  double least = cost_of({1, 1, line ? 1 : taps, taps}) / padded *
                 static_cast<double>(along_.all_taps * down_.all_taps);
  bool better = false;
  for (const WinogradShape shape :
       {WinogradShape::line4, WinogradShape::square2, WinogradShape::oblong, WinogradShape::square4,
        WinogradShape::line6, WinogradShape::line2_of_5, WinogradShape::line4_of_5,
        WinogradShape::square2_of_5, WinogradShape::apart4}) {
    const WinogradSize size = winograd_size(shape);
    if ((size.lines == 1) != line || size.taps() != taps || size.apart != along_.apart) continue;
    const double cost = cost_of(size);
    const double gain = better ? kNextGain : kGain;
    if (cost >= least * (size.apart == 1 ? gain : lanes > 8 ? kWideGain : kApartGain)) continue;
    least = cost;
    shape_ = shape;
    better = true;
  }
  if (!better) return false;
  cost_ = least * static_cast<double>(depth_);
  size_ = winograd_size(shape_);
  planes_ = size_.planes();
  // An odd number of cache lines, so that planes do not meet in the same sets; the last frame's
  // channels are written in whole lines.
  plane_ = (round_up((parts - 1) * channels_ + round_up(channels_, 16), 16) / 16 | 1) * 16;
  down_.tiles = round_up(down_.outputs, size_.lines) / size_.lines;
  along_.tiles = round_up(along_.outputs, size_.pixels) / size_.pixels;
  tiles_ = images_ * down_.tiles * along_.tiles;
  most_tiles_ = std::min(
      kMostBlock * 36 / planes_,
      std::max(kLeastBlock * size_.weights() / planes_, kBlockFloats / (planes_ * plane_)));
  most_tiles_ = std::min(most_tiles_, tiles_);
  group_panels_ = std::min(panels_, std::max<int64_t>(1, kGroupFilters / width_));
  outside_.assign(static_cast<size_t>(channels_), fill_);
  return true;
}

bool WinogradPlan::pack(const TensorView& weights, const BoundMap& map) {
  const Linear& at = map.address;
  const auto step = [&](int letter) { return letter < 0 ? 0 : at.coef[letter]; };
  const WinogradFilters filters{static_cast<const float*>(weights.data) + at.base,
                                filters_,
                                channels_,
                                frames_.taps,
                                step(filter_.letters[0]),
                                step(channel_letter_),
                                step(frames_.tap),
                                step(down_.tap),
                                step(along_.tap),
                                down_.parts,
                                along_.parts,
                                down_.all_taps,
                                along_.all_taps};
  ContentHash key = hash_constant(weights);
  const int64_t layout[] = {static_cast<int64_t>(shape_),
                            width_,
                            at.base,
                            filters_,
                            channels_,
                            frames_.taps,
                            filters.filter_step,
                            filters.channel_step,
                            filters.frame_step,
                            filters.down_step,
                            filters.along_step,
                            filters.down_parts,
                            filters.along_parts,
                            filters.down_taps,
                            filters.along_taps};
  key.add("winograd", 8);
  key.add(layout, sizeof layout);
  const size_t floats = static_cast<size_t>(panels_ * width_ * size_.weights() * depth_);
  weights_ = share_weights(key, floats,
                           [&](float* out) { transform_filters(filters, shape_, width_, out); });
  return weights_ != nullptr;
}

}  // namespace onnx_fusion::cpu
