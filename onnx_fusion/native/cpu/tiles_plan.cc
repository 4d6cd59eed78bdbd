#include "cpu/tiles_plan.h"

#include <algorithm>

#include "cpu/parallel.h"

namespace onnx_fusion::cpu {

void TilesPlan::add(std::unique_ptr<TileProgram> program) {
  const int64_t begin = tiles_;
  tiles_ += program->tiles();
  nanoseconds_ += program->nanoseconds();
  scratch_bytes_ = std::max(scratch_bytes_, program->scratch_bytes);
  parts_.push_back({std::move(program), nullptr, begin, tiles_});
}

void TilesPlan::add(std::unique_ptr<Copy> copy) {
  const int64_t begin = tiles_;
  tiles_ += copy->tiles();
  nanoseconds_ += copy->nanoseconds();
  parts_.push_back({nullptr, std::move(copy), begin, tiles_});
}

void TilesPlan::run(const RunContext& context) const {
  const int64_t tasks = task_count(*context.parallel, nanoseconds_);
  parallel_ranges(*context.parallel, tiles_, tasks, [&](int64_t begin, int64_t end, int64_t) {
    Scratch scratch(scratch_bytes_);
    if (scratch.data() == nullptr && scratch_bytes_ > 0) {
      context.failed_line->store(-1, std::memory_order_relaxed);
      return;
    }
    for (const Part& part : parts_) {
      if (part.end <= begin || part.begin >= end) continue;
      const int64_t first = std::max(begin, part.begin) - part.begin;
      const int64_t last = std::min(end, part.end) - part.begin;
      if (part.copy != nullptr) {
        part.copy->run(context, first, last);
      } else {
        TileRun(*part.program, context, scratch.data()).run_tiles(first, last);
      }
    }
  });
}

std::vector<int> stores_of(const BoundStage& stage) {
  std::vector<int> stores;
  for (size_t i = 0; i < stage.stage->body.size(); ++i) {
    const Instruction& line = stage.stage->body[i];
    if (line.op == Op::op_store && !(line.letters & stage.empty)) {
      stores.push_back(static_cast<int>(i));
    }
  }
  return stores;
}

std::vector<uint8_t> order_by(const BoundStage& stage, const Linear& address) {
  std::vector<uint8_t> order;
  for (size_t l = 0; l < stage.stage->letters.size(); ++l) order.push_back(static_cast<uint8_t>(l));
  const auto stride = [&](uint8_t l) {
    const int64_t coefficient = address.coef[l];
    return coefficient == 0 ? INT64_MAX : coefficient < 0 ? -coefficient : coefficient;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint8_t a, uint8_t b) { return stride(a) > stride(b); });
  return order;
}

int64_t even_chunk(int64_t extent, int64_t most) {
  if (extent <= most) return extent;
  const int64_t pieces = (extent + most - 1) / most;
  const int64_t chunk = (extent + pieces - 1) / pieces;
  return most >= 128 ? std::min(most, (chunk + 15) / 16 * 16) : chunk;
}

}  // namespace onnx_fusion::cpu
