#include "cpu/band.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/band_parts.h"
#include "cpu/parallel.h"

namespace onnx_fusion {
namespace {

constexpr size_t kMostVariants = 8;  // plans of one stage
constexpr int64_t kRoom = 2;         // for so many times the lines that a band needs
constexpr int64_t kSlack = 256;
constexpr size_t kMostTensors = 256 + 256 + 64;  // of a program

// One plan of a part: so many lines, of which the first is `first` if the image's border is near.
struct Variant {
  int64_t lines, first;
  bool border;
  std::unique_ptr<BoundProgram> bound;
  std::unique_ptr<StagePlan> plan;
};

class BandPlan final : public StagePlan {
 public:
  // Null if there are too many plans, or one does not like to be cut.
  static std::unique_ptr<BandPlan> make(const BoundProgram& bound, std::vector<Part> parts,
                                        int64_t height, const PlanStage& plan);
  void run(const RunContext& context) const override;

 private:
  // What a band does to one part: keeps lines [need.begin, ...) of its image and makes those up to
  // need.end, from `begin` on; the first band of a task makes all.
  struct Step {
    Lines need;
    int64_t begin;
    int variant, whole;  // -1: nothing to make
  };

  int variant(const BoundProgram& bound, size_t part, int64_t begin, int64_t end,
              const PlanStage& plan);
  void run_part(const RunContext& context, size_t part, const Variant& variant, int64_t begin,
                char* const* images, char** tensors) const;

  std::vector<Part> parts_;
  std::vector<std::vector<Variant>> variants_;
  std::vector<Step> steps_;  // [band][part]
  std::vector<int64_t> places_;  // of the images in a task's memory
  std::vector<int64_t> room_;    // for lines of them
  int64_t bands_ = 0, bytes_ = 0;
  size_t tensors_ = 0;
};

int BandPlan::variant(const BoundProgram& bound, size_t part, int64_t begin, int64_t end,
                      const PlanStage& plan) {
  if (begin >= end) return -1;
  std::vector<Variant>& all = variants_[part];
  const bool border = is_border(bound, parts_[part], begin, end - begin);
  for (size_t i = 0; i < all.size(); ++i) {
    const bool same = all[i].border == border && (!border || all[i].first == begin);
    if (same && all[i].lines == end - begin) return static_cast<int>(i);
  }
  std::unique_ptr<BoundProgram> own = cut(bound, parts_[part], begin, end - begin);
  std::unique_ptr<StagePlan> made =
      all.size() == kMostVariants ? nullptr : plan(*own, parts_[part].stage);
  if (made != nullptr && !made->may_be_cut()) made = nullptr;
  all.push_back({end - begin, begin, border, std::move(own), std::move(made)});
  return static_cast<int>(all.size()) - 1;
}

std::unique_ptr<BandPlan> BandPlan::make(const BoundProgram& bound, std::vector<Part> parts,
                                         int64_t height, const PlanStage& plan) {
  std::unique_ptr<BandPlan> made(new BandPlan);
  int64_t heights[kMostParts];
  find_heights(parts, height, heights);
  made->parts_ = std::move(parts);
  made->variants_.resize(made->parts_.size());
  made->tensors_ = bound.tensors.size();
  const std::vector<Part>& all = made->parts_;
  for (size_t k = 0; k < all.size(); ++k) {
    if (k + 1 == all.size()) break;
    made->places_.push_back(made->bytes_);
    made->room_.push_back(std::min(heights[k] * kRoom, all[k].image_lines));
    made->bytes_ += (made->room_.back() * all[k].line_bytes + kSlack + 63) / 64 * 64;
  }
  int64_t done[kMostParts] = {};
  // Two threads have as many lines each: bands end where half of them are done.
  const int64_t lines = all.back().lines, half = (lines / 2 + 1) / 2 * 2;
  for (int64_t at = 0, end = 0; at < lines; at = end, ++made->bands_) {
    end = std::min(at < half ? half : lines, at + height);
    Lines needs[kMostParts];
    find_needs(all, at, end, needs);
    for (size_t k = 0; k < all.size(); ++k) {
      Step step{needs[k], std::max(needs[k].begin, done[k]), -1, -1};
      step.variant = made->variant(bound, k, step.begin, step.need.end, plan);
      step.whole = made->variant(bound, k, step.need.begin, step.need.end, plan);
      for (const int used : {step.variant, step.whole}) {
        const bool none =
            used >= 0 && made->variants_[k][static_cast<size_t>(used)].plan == nullptr;
        if (none) return nullptr;
      }
      done[k] = std::max(done[k], step.need.end);
      made->steps_.push_back(step);
    }
  }
  return made;
}

// `images` are where line 0 of the parts' images would be.
void BandPlan::run_part(const RunContext& context, size_t part, const Variant& variant,
                        int64_t begin, char* const* images, char** tensors) const {
  const auto base = [&](size_t tensor) {
    if (part > 0 && parts_[part - 1].image == tensor) return images[part - 1];
    return part + 1 < parts_.size() && parts_[part].image == tensor ? images[part]
                                                                    : context.tensors[tensor];
  };
  for (const Part::Move& move : parts_[part].moves) {
    tensors[move.tensor] = base(move.tensor) + move.bytes * (begin - variant.first);
  }
  const Parallel alone{nullptr, 1, nullptr};
  variant.plan->run({variant.bound.get(), tensors, &alone, context.failed_line});
  for (const Part::Move& move : parts_[part].moves) {
    tensors[move.tensor] = context.tensors[move.tensor];
  }
}

void BandPlan::run(const RunContext& context) const {
  const int64_t tasks = std::max(1, context.parallel->threads);
  parallel_ranges(*context.parallel, bands_, tasks, [&](int64_t band0, int64_t band1, int64_t) {
    const Scratch scratch(static_cast<size_t>(bytes_));
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    char* tensors[kMostTensors];
    std::copy_n(context.tensors, tensors_, tensors);
    char* images[kMostParts] = {};
    int64_t first[kMostParts] = {};  // line in the memory of each image
    for (int64_t band = band0; band < band1; ++band) {
      for (size_t k = 0; k < parts_.size(); ++k) {
        const Step& step = steps_[static_cast<size_t>(band) * parts_.size() + k];
        const bool fresh = band == band0;
        const int64_t begin = fresh ? step.need.begin : step.begin;
        if (k + 1 < parts_.size()) {
          char* const memory = scratch.data() + places_[k];
          const int64_t bytes = parts_[k].line_bytes;
          if (fresh || step.need.end - first[k] > room_[k]) {
            const int64_t kept = std::max<int64_t>(begin - step.need.begin, 0);
            if (!fresh && kept > 0) {
              std::memmove(memory, memory + (step.need.begin - first[k]) * bytes,
                           static_cast<size_t>(kept * bytes));
            }
            first[k] = step.need.begin;
          }
          images[k] = memory - first[k] * bytes;
        }
        const int used = fresh ? step.whole : step.variant;
        if (used < 0) continue;
        const Variant& variant = variants_[k][static_cast<size_t>(used)];
        run_part(context, k, variant, begin, images, tensors);
        if (context.failed_line->load(std::memory_order_relaxed) != 0) return;
      }
    }
  });
}

}  // namespace

std::unique_ptr<StagePlan> plan_bands(const BoundProgram& bound, size_t stage,
                                      const TensorView* constants, size_t count,
                                      const PlanStage& plan, size_t* taken) {
  std::vector<Part> parts = find_parts(bound, stage, constants, count);
  if (parts.size() < 2) return nullptr;
  const int64_t height = choose_height(parts);
  if (height == 0 || height >= parts.back().lines) return nullptr;
  *taken = parts.size();
  return BandPlan::make(bound, std::move(parts), height, plan);
}

}  // namespace onnx_fusion
