// Pooling of images whose columns lie side by side: a task's rows go to isa/pool.cc in blocks.
#include <algorithm>

#include "cpu/contract_axes.h"
#include "cpu/parallel.h"
#include "cpu/pool.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostPlanes = 64;
constexpr int64_t kAligned = 16;           // floats
constexpr int64_t kLineFloats = 8192;      // buffered at once
constexpr int64_t kMostLines = 8;
constexpr int64_t kSums = 2048;            // carried through the epilogue at once
constexpr int64_t kBlockFloats = 16384;    // stored by one call

PoolSide side_of(const WindowSide& side) {
  PoolSide out{side.step, side.reach, side.taps, side.base, side.extent};
  if (side.letter < 0) out.step = 1;
  if (side.letter < 0 && side.tap < 0 && side.extent == 0) out.extent = 1;  // there is no such side
  return out;
}

}  // namespace

void PoolPlan::run_lines(const RunContext& context) const {
  const WindowSide &planes = planes_, &rows = rows_, &columns = columns_;
  const int64_t most = out_ >= 0 ? kBlockFloats : kSums;
  const int64_t block = std::clamp<int64_t>(most / columns.outputs, 1, rows.outputs);
  const int64_t blocks = (rows.outputs + block - 1) / block;
  const int64_t each = planes.taps * rows.taps * width_ + columns.taps * columns.outputs;
  const double work = static_cast<double>(outers_ * planes.outputs * rows.outputs * each);
  const int64_t tasks = task_count(*context.parallel, work * 0.08);
  PoolRows shared{};
  shared.line = rows.stride;
  shared.rows = side_of(rows);
  shared.columns = side_of(columns);
  shared.outputs = columns.outputs;
  shared.apart = divisor_.apart();
  shared.pitch = (width_ + kPoolSlack + 15) / 16 * 16;
  shared.buffer_lines = std::clamp<int64_t>(kLineFloats / shared.pitch, 1, kMostLines);
  const int64_t before = std::max<int64_t>(-columns.base, 0) % kAligned;
  const int64_t buffered = shared.pitch * shared.buffer_lines + kAligned;
  const int64_t summed = out_ >= 0 ? 0 : (block * columns.outputs + 15) / 16 * 16;
  const int64_t pointers = rows.outputs * static_cast<int64_t>(sizeof(float*));
  const size_t bytes = static_cast<size_t>(buffered + summed) * sizeof(float) +
                       static_cast<size_t>((pointers + 63) / 64 * 64) + epilogue_->scratch_bytes() +
                       64;

  parallel_ranges(
      *context.parallel, outers_ * planes.outputs * blocks, tasks,
      [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(bytes);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        PoolRows p = shared;
        float* const room = reinterpret_cast<float*>(scratch.data());
        p.buffer = room + (kAligned - before) % kAligned;  // what is inside begins at a cache line
        float* const sums = room + buffered;
        const float** const divisors = reinterpret_cast<const float**>(sums + summed);
        char* const rest = reinterpret_cast<char*>(divisors) + (pointers + 63) / 64 * 64;
        std::fill(room, sums, nothing_);
        int64_t offsets[kMostPlanes], letters[kMaxLetters] = {};
        p.planes = offsets;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t part = i % blocks, plane = i / blocks % planes.outputs;
          const int64_t outer = i / blocks / planes.outputs;
          locate(context.bound->stages[stage_index_], outer_, outer, letters);
          int64_t in = address_->base + planes.step * plane * planes.stride, to = store_->base;
          for (int k = 0; k < outer_.count; ++k) {
            in += address_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
            to += store_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
          }
          if (planes.letter >= 0) to += store_->coef[planes.letter] * plane;
          p.plane_count = 0;
          for (int64_t t = 0; t < planes.taps; ++t) {
            if (!planes.inside(planes.step * plane + planes.reach * t + planes.base, 1, 0))
              continue;
            offsets[p.plane_count++] = planes.reach * t * planes.stride;
          }
          p.x = reinterpret_cast<const float*>(context.tensors[input_]) + in;
          p.first = part * block;
          p.last = std::min(p.first + block, rows.outputs);
          p.out_row = out_ < 0 ? columns.outputs : rows.letter >= 0 ? store_->coef[rows.letter] : 0;
          p.out = sums;
          if (out_ >= 0) {
            p.out = reinterpret_cast<float*>(context.tensors[out_]) + to + p.first * p.out_row;
          }
          if (divisor_.line() >= 0) {
            for (int64_t r = p.first; r < p.last; ++r) divisors[r] = divisor_.row(plane, r);
            p.divisors = divisors;
          }
          lines_(p);
          if (out_ >= 0) continue;
          const int64_t fixed[kMaxLetters] = {};
          const int64_t row = (outer * planes.outputs + plane) * rows.outputs;
          epilogue_->run(context, fixed, row + p.first, row + p.last, 0, columns.outputs, sums,
                         columns.outputs, rest);
        }
      });
}

}  // namespace onnx_fusion::cpu
