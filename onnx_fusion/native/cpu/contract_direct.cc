#include "cpu/contract_direct.h"

#include <algorithm>
#include <map>

#include "cpu/contract_axes.h"
#include "cpu/direct_kernels.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kStripFloats = 4096;
constexpr size_t kMostPlaces = 256;
constexpr double kLeastFull = 0.6;       // of the vectors' lanes
constexpr double kGain = 0.85;           // that channels must bring to pay for a transposition
constexpr int64_t kMostPages =
    32;       // input planes under way at once: what the first-level TLB holds
constexpr int64_t kPage = 4096;
constexpr int64_t kMostInput = 32 << 10; // bytes of input that a tile of pixels reads

}  // namespace

std::unique_ptr<DirectPlan> DirectPlan::make(const BoundProgram& bound, size_t stage,
                                             const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    std::unique_ptr<DirectPlan> plan(new DirectPlan);
    plan->stage_index_ = stage;
    plan->batch_ = letters.batch;
    plan->row_ = w.own;
    plan->pixel_ = x.own;
    plan->k_ = letters.k;
    sort_axis(&plan->batch_, *letters.store);
    sort_axis(&plan->row_, *letters.store);
    sort_axis(&plan->pixel_, *letters.store);
    sort_axis(&plan->k_, x.map->address);
    plan->batches_ = axis_extent(s, plan->batch_);
    plan->rows_ = axis_extent(s, plan->row_);
    plan->pixels_ = axis_extent(s, plan->pixel_);
    plan->depth_ = axis_extent(s, plan->k_);
    if (plan->rows_ < 2 || plan->pixels_ < 2 || plan->depth_ < 1) continue;
    int letter = 0;
    const int64_t step = least_step(s, plan->pixel_, x.map->address, &letter);
    if (step != 1 && step != 2) continue;
    if (least_step(s, plan->pixel_, *letters.store, &letter) != 1) continue;
    plan->step_ = static_cast<int>(step);
    plan->input_ = x.tensor;
    if (!build_tables(s, *x.map, x.fill, plan->batch_, plan->pixel_, plan->k_, &plan->x_) ||
        !build_tables(s, *w.map, 0.0f, plan->batch_, plan->row_, plan->k_, &plan->w_)) {
      continue;
    }
    const int64_t elements = bound.tensors[static_cast<size_t>(x.tensor)].elements;
    if (!plan->plan_vectors(gemm_kernels().lanes, elements)) continue;
    if (!plan->plan_weights(constants[w.tensor])) continue;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, plan->row_, plan->pixel_);
    return plan;
  }
  return nullptr;
}

// False where packing is expected to be faster: short rows, or an input spread over many pages.
bool DirectPlan::plan_vectors(int lanes, int64_t elements) {
  const std::vector<int64_t>&outer = x_.outer, &inner = x_.inner;
  int64_t pages = 1, bytes = 0;
  std::vector<int64_t> sorted = inner;
  std::sort(sorted.begin(), sorted.end());
  for (size_t k = 1; k < sorted.size(); ++k) {
    const int64_t gap = (sorted[k] - sorted[k - 1]) * static_cast<int64_t>(sizeof(float));
    pages += gap >= kPage ? 1 : 0;
    bytes += gap >= 64 ? 128 : 0;
  }
  if (pages > kMostPages || bytes > kMostInput) return false;

  std::map<std::vector<int32_t>, uint16_t> seen;
  std::vector<int64_t> shown;  // a k of each place
  if (!x_.guards.empty()) {
    for (int64_t k = 0; k < depth_; ++k) {
      std::vector<int32_t> at;
      for (const TableGuard& guard : x_.guards) at.push_back(guard.inner[k]);
      const auto [it, fresh] = seen.emplace(at, static_cast<uint16_t>(seen.size()));
      if (fresh) shown.push_back(k);
      if (seen.size() > kMostPlaces) return false;
      place_.push_back(it->second);
    }
  }
  places_ = static_cast<int64_t>(shown.size());

  // Lanes that do not exist are read too, where that is inside the tensor.
  const int64_t reach =
      *std::max_element(x_.batch.begin(), x_.batch.end()) + sorted.back() + step_ * (lanes - 1);
  strips_.push_back(0);
  const int64_t most = std::max<int64_t>(kStripFloats / std::min<int64_t>(rows_, 64), 4 * lanes);
  int64_t begin = 0;
  for (int64_t at = 0; at < pixels_;) {
    int64_t end = at + 1;
    while (end < pixels_ && end < at + lanes && outer[end] - outer[end - 1] == step_) ++end;
    if (end - begin > most) {
      strips_.push_back(static_cast<int64_t>(vectors_.size()));
      strip_pixels_ = std::max(strip_pixels_, at - begin);
      begin = at;
    }
    const uint32_t exists = static_cast<uint32_t>((uint64_t{1} << (end - at)) - 1);
    bool whole = end - at == lanes || outer[at] + reach < elements;
    for (const int64_t k : shown) {
      uint32_t mask = 0;
      for (int64_t p = at; p < end; ++p) {
        mask |= (is_inside(x_, p, k) ? 1u : 0u) << (p - at);
      }
      whole = whole && mask == exists;
      masks_.push_back(static_cast<uint16_t>(mask));
    }
    vectors_.push_back({outer[at], static_cast<int32_t>(at), static_cast<int16_t>(end - at),
                        static_cast<int16_t>(whole ? 1 : 0)});
    at = end;
  }
  strips_.push_back(static_cast<int64_t>(vectors_.size()));
  strip_pixels_ = std::max(strip_pixels_, pixels_ - begin);
  const double vectors = static_cast<double>(vectors_.size());
  const double channels = static_cast<double>((rows_ + lanes - 1) / lanes);
  by_channel_ = x_.guards.empty() && static_cast<double>(pixels_) * channels <
                                         kGain * vectors * static_cast<double>(rows_);
  const double used = static_cast<double>(pixels_) / (vectors * lanes);
  return by_channel_ || used >= kLeastFull;
}

bool DirectPlan::plan_weights(const TensorView& weights) {
  const DirectKernels& kernels = direct_kernels();
  const int64_t lanes = gemm_kernels().lanes;
  const int64_t most = by_channel_ ? kernels.vectors * lanes : kernels.rows;
  const int64_t unit = by_channel_ ? lanes : kernels.unit;
  const int64_t tiles = (rows_ + most - 1) / most;
  tile_rows_ = std::min(most, ((rows_ + tiles - 1) / tiles + unit - 1) / unit * unit);
  const int64_t padded = (rows_ + tile_rows_ - 1) / tile_rows_ * tile_rows_;
  const std::vector<int64_t> begins = number_slots(w_, padded * depth_, &slot_);
  ContentHash key = hash_constant(weights);
  key.add("direct", 6);
  key.add(&tile_rows_, sizeof tile_rows_);
  key.add_values(w_.batch);
  key.add_values(w_.outer);
  key.add_values(w_.inner);
  const float* data = static_cast<const float*>(weights.data);
  const size_t floats = begins.size() * static_cast<size_t>(padded * depth_);
  weights_ = share_weights(key, floats, [&](float* out) {
    for (const int64_t begin : begins) {
      for (int64_t row = 0; row < padded; row += tile_rows_) {
        for (int64_t k = 0; k < depth_; ++k) {
          for (int64_t i = row; i < row + tile_rows_; ++i) {
            *out++ = i < rows_ ? data[begin + w_.outer[i] + w_.inner[k]] : 0.0f;
          }
        }
      }
    }
  });
  return weights_ != nullptr;
}

void DirectPlan::run(const RunContext& context) const {
  if (by_channel_) {
    run_channels(context);
  } else {
    run_rows(context);
  }
}

void DirectPlan::run_channels(const RunContext& context) const {
  const DirectKernels& kernels = direct_kernels();
  const int64_t lanes = gemm_kernels().lanes;
  const int64_t tiles = (rows_ + tile_rows_ - 1) / tile_rows_;
  const int64_t strip = std::min(pixels_, kStripFloats / tile_rows_ / 2);
  const int64_t strips = (pixels_ + strip - 1) / strip;
  const int64_t floats = (tile_rows_ * strip + 15) / 16 * 16;
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]);
  const double work = static_cast<double>(batches_ * tiles * tile_rows_ / lanes) *
                      static_cast<double>(pixels_) * static_cast<double>(depth_);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);

  parallel_ranges(
      *context.parallel, batches_ * strips * tiles, tasks,
      [&](int64_t first, int64_t last, int64_t) {
        const Scratch scratch(static_cast<size_t>(2 * floats) * sizeof(float) +
                              epilogue_->scratch_bytes() + 64);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* sums = reinterpret_cast<float*>(scratch.data());
        float* turned = sums + floats;
        char* rest = reinterpret_cast<char*>(turned + floats);
        int64_t fixed[kMaxLetters] = {};
        for (int64_t i = first; i < last; ++i) {
          const int64_t batch = i / (strips * tiles), strip_at = i / tiles % strips, t = i % tiles;
          const int64_t pixel0 = strip_at * strip, pixel1 = std::min(pixels_, pixel0 + strip);
          const int64_t row0 = t * tile_rows_, row1 = std::min(rows_, row0 + tile_rows_);
          locate(context.bound->stages[stage_index_], batch_, batch, fixed);
          const ChannelTile tile{x + x_.batch[batch], x_.outer.data(), x_.inner.data(), depth_,
                                 weights_->data() + slot_[batch] + row0 * depth_};
          kernels.channels(tile, static_cast<int>(tile_rows_ / lanes), pixel0, pixel1, sums,
                           tile_rows_);
          gemm_kernels().transpose(sums, tile_rows_, pixel1 - pixel0, row1 - row0, turned, strip);
          epilogue_->run(context, fixed, row0, row1, pixel0, pixel1, turned, strip, rest);
        }
      });
}

void DirectPlan::run_rows(const RunContext& context) const {
  const DirectKernels& kernels = direct_kernels();
  const int64_t lanes = gemm_kernels().lanes;
  const int64_t strips = static_cast<int64_t>(strips_.size()) - 1;
  const int64_t tiles = (rows_ + tile_rows_ - 1) / tile_rows_;
  const int64_t ld = (strip_pixels_ + lanes + 15) / 16 * 16;
  // A few tiles of rows share a strip's sums, so that the epilogue sees enough points at once.
  const int64_t group = std::max<int64_t>(1, std::min(tiles, kStripFloats / (ld * tile_rows_)));
  const int64_t groups = (tiles + group - 1) / group;
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]);
  const double work = static_cast<double>(batches_ * tiles * tile_rows_) *
                      static_cast<double>(vectors_.size()) * static_cast<double>(depth_);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);

  parallel_ranges(
      *context.parallel, batches_ * strips * groups, tasks,
      [&](int64_t first, int64_t last, int64_t) {
        const Scratch scratch(static_cast<size_t>(group * tile_rows_ * ld) * sizeof(float) +
                              epilogue_->scratch_bytes() + 64);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* sums = reinterpret_cast<float*>(scratch.data());
        char* rest = scratch.data() + group * tile_rows_ * ld * static_cast<int64_t>(sizeof(float));
        int64_t fixed[kMaxLetters] = {};
        for (int64_t i = first; i < last; ++i) {
          const int64_t batch = i / (strips * groups);
          const int64_t strip = i / groups % strips;
          const int64_t tile0 = i % groups * group, tile1 = std::min(tiles, tile0 + group);
          const int64_t vector0 = strips_[strip], vector1 = strips_[strip + 1];
          const int64_t column0 = vectors_[vector0].column;
          const int64_t column1 = vectors_[vector1 - 1].column + vectors_[vector1 - 1].lanes;
          locate(context.bound->stages[stage_index_], batch_, batch, fixed);
          DirectTile tile{x + x_.batch[batch],
                          vectors_.data(),
                          masks_.data(),
                          places_,
                          place_.empty() ? nullptr : place_.data(),
                          x_.inner.data(),
                          depth_,
                          nullptr,
                          step_,
                          x_.fill};
          for (int64_t t = tile0; t < tile1; ++t) {
            tile.weights = weights_->data() + slot_[batch] + t * tile_rows_ * depth_;
            kernels.run(tile, static_cast<int>(tile_rows_), vector0, vector1,
                        sums + (t - tile0) * tile_rows_ * ld - column0, ld);
          }
          epilogue_->run(context, fixed, tile0 * tile_rows_, std::min(rows_, tile1 * tile_rows_),
                         column0, column1, sums, ld, rest);
        }
      });
}

}  // namespace onnx_fusion::cpu
