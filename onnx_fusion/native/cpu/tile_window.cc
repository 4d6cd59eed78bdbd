// Reductions read straight from memory: window pooling, sums over an outer axis.
#include <algorithm>

#include "cpu/tile_program.h"
#include "cpu/tile_walk.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int kPoints = 256;  // positions of the window handled at once

float nothing(int op) { return op == 0 ? 0.0f : op == 1 ? -__builtin_inff() : __builtin_inff(); }

// Some positions of a window, relative to its first one, and the lanes [lo, hi) that the guards which
// are the same for every run leave them.
struct Points {
  int count = 0;
  int64_t offset[kPoints];
  int64_t lo[kPoints], hi[kPoints];
  int64_t guard[kMaxWindowGuards][kPoints];
};

// Of one run of lanes: the points with a lane inside, and which lanes [lo, hi).
struct Inside {
  int count = 0;
  int64_t offset[kPoints];
  int64_t lo[kPoints], hi[kPoints];
};

}  // namespace

void TileRun::run_window(const Step& step) {
  const TileLoad& load = program_.loads[static_cast<size_t>(step.ref)];
  const Runs& runs = this->runs(step.width);
  const Walk walk = collapse(runs, load.address, &load);
  const float* const source = reinterpret_cast<const float*>(context_.tensors[load.tensor]);
  const int op = static_cast<int>(step.op) - static_cast<int>(Op::op_reduce_sum);
  const WindowPass pass = kernels_.window[op];
  int axis[kMaxLetters];
  int64_t size[kMaxLetters];
  int reduced = 0;
  for (size_t a = 0; a < program_.axes.size(); ++a) {
    if (!program_.axes[a].reduced) continue;
    axis[reduced] = static_cast<int>(a);
    size[reduced++] = program_.axes[a].extent;
  }
  const size_t guards = load.guards.size();
  int64_t guard_start[kMaxWindowGuards], guard_step[kMaxWindowGuards];
  bool same[kMaxWindowGuards];
  for (size_t g = 0; g < guards; ++g) {
    const Linear& form = load.guards[g].form;
    guard_start[g] = at(form);
    guard_step[g] = walk.inner >= 0 ? form.coef[walk.inner] : 0;
    same[g] = true;
    for (int k = 0; k < walk.outer; ++k) same[g] = same[g] && form.coef[runs.axis[k]] == 0;
  }
  const float* const start = source + at(load.address);
  float* const part = reinterpret_cast<float*>(pointers_[step.c]);
  Points points;
  Inside found;
  int64_t window[kMaxLetters] = {};
  bool first = true;
  for (bool more = true; more; first = false) {
    points.count = 0;
    do {
      const size_t k = static_cast<size_t>(points.count++);
      points.offset[k] = dot_axes(load.address, axis, window, reduced);
      points.lo[k] = 0;
      points.hi[k] = walk.length;
      for (size_t g = 0; g < guards; ++g) {
        const int64_t step_in = dot_axes(load.guards[g].form, axis, window, reduced);
        points.guard[g][k] = step_in;
        if (same[g]) {
          clip_run(guard_start[g] + step_in, guard_step[g], load.guards[g].extent, &points.lo[k],
                   &points.hi[k]);
        }
      }
      more = next_position(reduced, size, window);
    } while (more && points.count < kPoints);
    float* out = reinterpret_cast<float*>(pointers_[step.out]);
    int64_t inside[kMaxLetters] = {};
    do {
      const float* const base = start + dot_axes(load.address, runs.axis, inside, walk.outer);
      float* const target = first ? out : part;
      if (guards == 0) {
        pass(target, base, points.offset, points.count, walk.stride, walk.length);
      } else {
        int64_t at[kMaxWindowGuards];
        for (size_t g = 0; g < guards; ++g) {
          at[g] = guard_start[g] + dot_axes(load.guards[g].form, runs.axis, inside, walk.outer);
        }
        int64_t lo = 0, hi = walk.length;  // the lanes for which every point found is inside
        found.count = 0;
        for (int k = 0; k < points.count; ++k) {
          int64_t from = points.lo[k], to = points.hi[k];
          for (size_t g = 0; g < guards && from < to; ++g) {
            if (same[g]) continue;
            clip_run(at[g] + points.guard[g][k], guard_step[g], load.guards[g].extent, &from, &to);
          }
          if (from >= to) continue;
          found.offset[found.count] = points.offset[k];
          found.lo[found.count] = from;
          found.hi[found.count++] = to;
          lo = std::max(lo, from);
          hi = std::min(hi, to);
        }
        if (found.count == 0 || lo > hi) lo = hi = walk.length;
        if (lo < hi) {
          pass(target + lo, base + lo * walk.stride, found.offset, found.count, walk.stride, hi - lo);
        }
        for (int64_t j = lo == 0 ? hi : 0; j < walk.length; j = j + 1 == lo ? hi : j + 1) {
          int64_t picked[kPoints], count = 0;
          for (int k = 0; k < found.count; ++k) {
            if (found.lo[k] <= j && j < found.hi[k]) picked[count++] = found.offset[k];
          }
          if (count > 0) {
            pass(target + j, base + j * walk.stride, picked, count, 1, 1);
          } else {
            target[j] = nothing(op);
          }
        }
      }
      if (!first) step.reduce->join(out, part, walk.length);
      out += walk.length;
    } while (next_position(walk.outer, runs.size, inside));
  }
}

}  // namespace onnx_fusion::cpu
