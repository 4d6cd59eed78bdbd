// Reductions read straight from memory: window pooling, sums over an outer axis.
#include <algorithm>

#include "cpu/tile_program.h"
#include "cpu/tile_walk.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int kPoints = 256;       // positions of the window handled at once
constexpr int kBorders = 8;        // lanes at the borders whose points are listed
constexpr int kBorderPoints = 32;  // and how many points each

float nothing(int op) { return op == 0 ? 0.0f : op == 1 ? -__builtin_inff() : __builtin_inff(); }

float join(int op, float a, float b) {
  if (op == 0) return a + b;
  const bool first = op == 1 ? a > b : a < b;
  return first || a != a ? a : b;
}

// Some positions of a window, relative to its first one, and the lanes [lo, hi) that the guards
// which are the same for every run leave them.
struct Points {
  int count = 0;
  int64_t offset[kPoints];
  int64_t lo[kPoints], hi[kPoints];
  int64_t guard[kMaxWindowGuards][kPoints];
};

// Lists the next positions of the window from `at` on, without guards; false after the last.
bool list_points(const Linear& form, const int* axis, const int64_t* size, int reduced, int64_t* at,
                 Points* points) {
  const int last = reduced - 1;
  const int64_t step = reduced > 0 ? form.coef[axis[last]] : 0;
  bool more = true;
  while (more && points->count < kPoints) {
    int64_t offset = dot_axes(form, axis, at, reduced);
    if (reduced == 0) {
      points->offset[points->count++] = offset;
      return false;
    }
    const int64_t run = std::min<int64_t>(size[last] - at[last], kPoints - points->count);
    int64_t* const to = points->offset + points->count;
    for (int64_t k = 0; k < run; ++k) to[k] = offset + k * step;
    points->count += static_cast<int>(run);
    at[last] += run - 1;
    more = next_position(reduced, size, at);
  }
  return more;
}

// Of one run of lanes: the points with a lane inside, the lanes [lo, hi) for which all of them are,
// and for each other lane its own points.
struct Inside {
  int count = 0;
  int64_t lo = 0, hi = 0;
  int64_t offset[kPoints];
  int64_t from[kPoints], to[kPoints];
  int borders = 0;  // -1: too many to list
  int64_t lane[kBorders];
  int picked[kBorders];
  int64_t picks[kBorders][kBorderPoints];

  void add(int64_t at, int64_t first, int64_t last) {
    if (first >= last) return;
    offset[count] = at;
    from[count] = first;
    to[count++] = last;
    lo = std::max(lo, first);
    hi = std::min(hi, last);
  }

  void finish(int64_t lanes) {
    if (count == 0 || lo > hi) lo = hi = lanes;
    borders = 0;
    if (lo + lanes - hi > kBorders || count > kBorderPoints) {
      borders = -1;
      return;
    }
    for (int64_t j = lo == 0 ? hi : 0; j < lanes; j = j + 1 == lo ? hi : j + 1) {
      lane[borders] = j;
      int n = 0;
      for (int k = 0; k < count; ++k) {
        if (from[k] <= j && j < to[k]) picks[borders][n++] = offset[k];
      }
      picked[borders++] = n;
    }
  }

  void reduce_borders(int op, const float* base, int64_t stride, int64_t lanes, float* out) const {
    for (int b = 0; b < borders; ++b) {
      const float* const x = base + lane[b] * stride;
      float result = nothing(op);
      for (int k = 0; k < picked[b]; ++k) result = join(op, result, x[picks[b][k]]);
      out[lane[b]] = result;
    }
    if (borders >= 0) return;
    for (int64_t j = lo == 0 ? hi : 0; j < lanes; j = j + 1 == lo ? hi : j + 1) {
      float result = nothing(op);
      for (int k = 0; k < count; ++k) {
        if (from[k] <= j && j < to[k]) result = join(op, result, base[offset[k] + j * stride]);
      }
      out[j] = result;
    }
  }
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
  Inside all, some;  // of runs for which no other guard cuts a point off, and of one where some do
  int64_t window[kMaxLetters] = {};
  bool first = true;
  for (bool more = true; more; first = false) {
    points.count = 0;
    all.count = 0;
    all.lo = 0;
    all.hi = walk.length;
    int64_t lowest[kMaxWindowGuards], highest[kMaxWindowGuards];
    std::fill(lowest, lowest + kMaxWindowGuards, INT64_MAX);
    std::fill(highest, highest + kMaxWindowGuards, INT64_MIN);
    if (guards == 0) {
      more = list_points(load.address, axis, size, reduced, window, &points);
    } else {
      do {
        const size_t k = static_cast<size_t>(points.count++);
        points.offset[k] = dot_axes(load.address, axis, window, reduced);
        points.lo[k] = 0;
        points.hi[k] = walk.length;
        for (size_t g = 0; g < guards; ++g) {
          const int64_t step_in = dot_axes(load.guards[g].form, axis, window, reduced);
          points.guard[g][k] = step_in;
          lowest[g] = std::min(lowest[g], step_in);
          highest[g] = std::max(highest[g], step_in);
          if (same[g]) {
            clip_run(guard_start[g] + step_in, guard_step[g], load.guards[g].extent, &points.lo[k],
                     &points.hi[k]);
          }
        }
        all.add(points.offset[k], points.lo[k], points.hi[k]);
        more = next_position(reduced, size, window);
      } while (more && points.count < kPoints);
      all.finish(walk.length);
    }
    float* out = reinterpret_cast<float*>(pointers_[step.out]);
    int64_t inside[kMaxLetters] = {};
    do {
      const float* const base = start + dot_axes(load.address, runs.axis, inside, walk.outer);
      float* const target = first ? out : part;
      if (guards == 0) {
        pass(target, base, points.offset, points.count, walk.stride, walk.length);
      } else {
        int64_t at[kMaxWindowGuards];
        bool whole = true;
        for (size_t g = 0; g < guards; ++g) {
          if (same[g]) continue;
          const TileGuard& guard = load.guards[g];
          at[g] = guard_start[g] + dot_axes(guard.form, runs.axis, inside, walk.outer);
          const int64_t last = guard_step[g] * (walk.length - 1);
          whole = whole && at[g] + lowest[g] + std::min<int64_t>(last, 0) >= 0 &&
                  at[g] + highest[g] + std::max<int64_t>(last, 0) < guard.extent;
        }
        if (!whole) {
          some.count = 0;
          some.lo = 0;
          some.hi = walk.length;
          for (int k = 0; k < points.count; ++k) {
            int64_t from = points.lo[k], to = points.hi[k];
            for (size_t g = 0; g < guards && from < to; ++g) {
              if (same[g]) continue;
              clip_run(at[g] + points.guard[g][k], guard_step[g], load.guards[g].extent, &from,
                       &to);
            }
            some.add(points.offset[k], from, to);
          }
          some.finish(walk.length);
        }
        const Inside& found = whole ? all : some;
        if (found.lo < found.hi) {
          pass(target + found.lo, base + found.lo * walk.stride, found.offset, found.count,
               walk.stride, found.hi - found.lo);
        }
        found.reduce_borders(op, base, walk.stride, walk.length, target);
      }
      if (!first) step.reduce->join(out, part, walk.length);
      out += walk.length;
    } while (next_position(walk.outer, runs.size, inside));
  }
}

}  // namespace onnx_fusion::cpu
