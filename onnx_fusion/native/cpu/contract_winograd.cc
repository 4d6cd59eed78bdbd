#include "cpu/contract_winograd.h"

#include <algorithm>
#include <cmath>

#include "cpu/contract_kernels.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLeastChannels = 16;
constexpr int64_t kBlockFloats = 96 << 10;  // of a block's transformed inputs
constexpr int64_t kLeastBlock = 24, kMostBlock = 48;  // tiles
constexpr int64_t kGroupFilters = 64;  // through the epilogue at once
constexpr double kGain = 0.9;          // that a larger size must bring

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// How long a convolution takes, in products of one weight and one tile or pixel; size 0 is direct
// convolution. Measured on Zen 4 with weights that come from memory, and ones that do not:
//   a product in Winograd's planes takes 1.1, and fewer than 4 tiles fill no register tile;
//   transforming an element of a plane takes 5, for all filters or all channels together;
//   reading a weight takes 6 from memory or the third-level cache, less from the second.
double convolution_cost(int size, double images, double height, double width, double channels,
                        double filters) {
  if (size == 0) size = 1;
  const bool direct = size == 1;
  const double planes = (size + 2) * (size + 2);
  const double tiles = images * std::ceil(height / size) * std::ceil(width / size);
  const double bytes = planes * channels * filters * sizeof(float);
  const double read = bytes > 4e6 ? 6 : bytes > 5e5 ? 3 : 1;
  if (direct) return planes * (tiles + read);
  return planes * (std::max(tiles, 4.0) * (1.1 + 5 / filters + 5 / channels) + read);
}

void add_letter(const BoundStage& stage, int letter, Axis* axis) {
  if (letter >= 0 && stage.extents[letter] != 1) {
    axis->letters[axis->count++] = static_cast<uint8_t>(letter);
  }
}

}  // namespace

std::unique_ptr<WinogradPlan> WinogradPlan::make(const BoundProgram& bound, size_t stage,
                                                 const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  if (bound.program->strict) return nullptr;
  const DotLetters letters = dot_letters(s);
  if (letters.batch.count > 0 || letters.k.count != 3) return nullptr;
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded || w.own.count != 1) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    std::unique_ptr<WinogradPlan> plan(new WinogradPlan);
    plan->stage_ = &s;
    if (!plan->find_sides(s, x, w, letters.k)) continue;
    const int filter = w.own.letters[0];
    plan->filter_ = w.own;
    plan->filters_ = s.extents[filter];
    plan->input_ = x.tensor;
    plan->address_ = &x.map->address;
    plan->fill_ = x.fill;
    plan->transposed_ = letters.store->coef[filter] != 1 && plan->along_.letter >= 0 &&
                        letters.store->coef[plan->along_.letter] == 1;
    if (!plan->choose_size(gemm_kernels().lanes)) continue;
    if (!plan->pack(constants[w.tensor], *w.map)) continue;
    add_letter(s, plan->down_.letter, &plan->pixel_);
    add_letter(s, plan->along_.letter, &plan->pixel_);
    const Axis& rows = plan->transposed_ ? plan->filter_ : plan->pixel_;
    const Axis& columns = plan->transposed_ ? plan->pixel_ : plan->filter_;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, rows, columns);
    if (!plan->transposed_) plan->finish_ = Finish::make(s, find_dot(*s.stage), rows, columns);
    if (plan->finish_ != nullptr && plan->finish_->has_row_bias()) plan->finish_ = nullptr;
    // Other epilogues are faster on whole lines.
    if (plan->finish_ == nullptr && plan->along_.tiles <= plan->most_tiles_) {
      plan->unit_ = plan->along_.tiles;
    }
    return plan;
  }
  return nullptr;
}

// Two dims of the input are an output letter plus a tap letter of extent 3, a third the channel.
bool WinogradPlan::find_sides(const BoundStage& stage, const DotOperand& x, const DotOperand& w,
                              const Axis& k) {
  LetterSet own = 0, used = 0;
  for (int i = 0; i < x.own.count; ++i) own |= static_cast<LetterSet>(1u << x.own.letters[i]);
  Side sides[2];
  int found = 0;
  for (int i = 0; i < k.count; ++i) {
    const int letter = k.letters[i];
    if (stage.extents[letter] != 3) {
      if (channel_letter_ >= 0) return false;
      channel_letter_ = letter;
    } else if (found < 2) {
      sides[found++].tap = letter;
    } else {
      return false;
    }
  }
  if (found != 2 || channel_letter_ < 0 || !std::isfinite(x.fill)) return false;
  for (const BoundIndex& dim : x.map->dims) {
    Side* side = nullptr;
    int outputs = 0;
    for (int l = 0; l < kMaxLetters; ++l) {
      if (dim.form.coef[l] == 0 || stage.extents[l] == 1) continue;
      if (used >> l & 1) return false;  // a letter in two dims
      used |= static_cast<LetterSet>(1u << l);
      for (Side& s : sides) {
        if (s.tap == l) side = &s;
      }
      outputs += own >> l & 1;
    }
    if (side == nullptr) {
      if (dim.guarded) return false;
      continue;
    }
    if (outputs > 1) return false;
    for (int l = 0; l < kMaxLetters; ++l) {
      if (dim.form.coef[l] == 0 || stage.extents[l] == 1) continue;
      if (dim.form.coef[l] != 1 || !(l == side->tap || (own >> l & 1))) return false;
      if (l == side->tap) continue;
      side->letter = l;
      side->outputs = stage.extents[l];
    }
    side->inputs = dim.extent;
    side->first = dim.form.base;
    side->step = dim.stride;
  }
  if (sides[0].step <= 0 || sides[1].step <= 0) return false;
  down_ = sides[0];
  along_ = sides[1];
  if (down_.step < along_.step) std::swap(down_, along_);
  for (int i = 0; i < x.own.count; ++i) {
    const int letter = x.own.letters[i];
    if (letter != down_.letter && letter != along_.letter) add_letter(stage, letter, &image_);
  }
  images_ = axis_extent(stage, image_);
  channels_ = stage.extents[channel_letter_];
  channel_step_ = x.map->address.coef[channel_letter_];
  if (channel_step_ != 1 && (channel_step_ <= 0 || along_.step != 1)) return false;
  return channels_ >= kLeastChannels && stage.extents[w.own.letters[0]] >= kLeastChannels;
}

bool WinogradPlan::choose_size(int lanes) {
  const WinogradKernels& kernels = winograd_kernels();
  const int64_t vectors = round_up(filters_, lanes) / lanes;
  vectors_ = static_cast<int>(std::min<int64_t>(vectors, 2));
  if (vectors % 3 == 0 && vectors % 2 != 0 && kernels.max_vectors >= 3) vectors_ = 3;
  width_ = vectors_ * lanes;
  panels_ = round_up(filters_, width_) / width_;
  double least = 0;
  int best = 0;
  for (const int size : {0, 2, 4}) {
    const auto real = [](int64_t extent) { return static_cast<double>(extent); };
    const double cost =
        convolution_cost(size, real(images_), real(down_.outputs), real(along_.outputs),
                         real(round_up(channels_, lanes)), real(panels_ * width_));
    if (size != 0 && cost >= least * kGain) continue;
    least = cost;
    best = size;
  }
  if (best == 0) return false;
  size_ = best;
  planes_ = static_cast<int64_t>(size_ + 2) * (size_ + 2);
  // An odd number of cache lines, so that planes do not meet in the same sets.
  plane_ = (round_up(channels_, 16) / 16 | 1) * 16;
  for (Side* side : {&down_, &along_}) side->tiles = round_up(side->outputs, size_) / size_;
  tiles_ = images_ * down_.tiles * along_.tiles;
  most_tiles_ = std::min(kMostBlock, std::max(kLeastBlock, kBlockFloats / (planes_ * plane_)));
  most_tiles_ = std::min(most_tiles_, tiles_);
  group_panels_ = std::min(panels_, std::max<int64_t>(1, kGroupFilters / width_));
  outside_.assign(static_cast<size_t>(plane_), fill_);
  return true;
}

bool WinogradPlan::pack(const TensorView& weights, const BoundMap& map) {
  const Linear& at = map.address;
  const WinogradFilters filters{static_cast<const float*>(weights.data) + at.base,
                                channels_,
                                filters_,
                                at.coef[filter_.letters[0]],
                                at.coef[channel_letter_],
                                at.coef[down_.tap],
                                at.coef[along_.tap]};
  size_t bytes = sizeof(float);
  for (size_t i = 0; i < weights.rank; ++i) bytes *= static_cast<size_t>(weights.dims[i]);
  ContentHash key = hash_constant(weights.data, bytes);
  const int64_t layout[] = {size_,       width_,
                            channels_,   filters_,
                            at.base,     filters.filter_step,
                            filters.channel_step, filters.down_step,
                            filters.along_step};
  key.add("winograd", 8);
  key.add(layout, sizeof layout);
  const size_t floats = static_cast<size_t>(panels_ * width_ * planes_ * channels_);
  weights_ = share_weights(key, floats,
                           [&](float* out) { transform_filters(filters, size_, width_, out); });
  return weights_ != nullptr;
}

}  // namespace onnx_fusion::cpu
