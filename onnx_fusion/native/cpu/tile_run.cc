// Running tiles: segments, steps, and the arithmetic of one element's width.
#include <algorithm>
#include <cstring>

#include "cpu/tile_program.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kBlock = 64;  // tiles that join a block before it joins the whole

}  // namespace

int64_t TileProgram::tiles() const {
  int64_t count = 1;
  for (const TileAxis& axis : axes) {
    if (!axis.reduced) count *= (axis.extent + axis.chunk - 1) / axis.chunk;
  }
  return count;
}

double TileProgram::nanoseconds() const {
  double points = 1;
  for (const TileAxis& axis : axes) points *= static_cast<double>(axis.extent);
  return points * cost + static_cast<double>(tiles()) * 30.0;
}

TileRun::TileRun(const TileProgram& program, const RunContext& context, char* scratch)
    : program_(program),
      context_(context),
      kernels_(kernels()),
      scratch_(scratch),
      pointers_(reinterpret_cast<char**>(scratch + program.pointers_offset)),
      offsets_(reinterpret_cast<int64_t*>(scratch + program.offsets_offset)),
      joined_(reinterpret_cast<int64_t*>(scratch + program.joined_offset)),
      loaded_(scratch + program.loaded_offset) {
  for (size_t i = 0; i < program.slots.size(); ++i) {
    const Slot& slot = program.slots[i];
    pointers_[i] = scratch + slot.offset;
    if (slot.is_constant) std::memcpy(pointers_[i], &slot.constant, sizeof slot.constant);
  }
  std::memset(joined_, 0, program.offsets_offset - program.joined_offset);
  for (size_t a = 0; a < program.axes.size(); ++a) {
    size_[a] = std::min(program.axes[a].extent, program.axes[a].chunk);
  }
}

void TileRun::set_runs(const std::vector<int>& axes, Runs* runs) const {
  runs->count = 0;
  runs->total = 1;
  for (int a : axes) {
    if (size_[a] == 1) continue;
    runs->axis[runs->count] = a;
    runs->size[runs->count] = size_[a];
    ++runs->count;
    runs->total *= size_[a];
  }
  int64_t step = 1;
  for (int k = runs->count; k-- > 0;) {
    runs->step[k] = step;
    step *= runs->size[k];
  }
}

int64_t TileRun::at(const Linear& form) const {
  int64_t value = form.base;
  for (size_t a = 0; a < program_.axes.size(); ++a) value += form.coef[a] * position_[a];
  return value;
}

void TileRun::fail(int line) const { context_.failed_line->store(line, std::memory_order_relaxed); }

void TileRun::run_tiles(int64_t begin, int64_t end) {
  const std::vector<TileAxis>& axes = program_.axes;
  int64_t index = begin;
  for (size_t a = axes.size(); a-- > 0;) {
    const TileAxis& axis = axes[a];
    if (axis.reduced) continue;
    const int64_t chunks = (axis.extent + axis.chunk - 1) / axis.chunk;
    position_[a] = index % chunks * axis.chunk;
    index /= chunks;
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    for (size_t a = 0; a < axes.size(); ++a) {
      resize(a, std::min(axes[a].chunk, axes[a].extent - position_[a]));
    }
    run_segments();
    for (size_t a = axes.size(); a-- > 0;) {
      if (axes[a].reduced) continue;
      position_[a] += axes[a].chunk;
      if (position_[a] < axes[a].extent) break;
      position_[a] = 0;
    }
  }
  if (program_.drains) kernels_.drain();
}

void TileRun::run_box(const int64_t* position, const int64_t* size) {
  for (size_t a = 0; a < program_.axes.size(); ++a) {
    position_[a] = position[a];
    resize(a, size[a]);
  }
  run_segments();
}

void TileRun::resize(size_t axis, int64_t size) {
  resized_ = resized_ || size_[axis] != size;
  size_[axis] = size;
}

void TileRun::measure() {
  if (!resized_) return;
  resized_ = false;
  std::memset(loaded_, 0, program_.loads.size());
  set_runs(program_.full_axes, &runs_[static_cast<int>(Width::full)]);
  if (program_.full_axes.size() != program_.row_axes.size()) {
    set_runs(program_.row_axes, &runs_[static_cast<int>(Width::row)]);
  } else {
    runs_[static_cast<int>(Width::row)] = runs_[static_cast<int>(Width::full)];
  }
}

void TileRun::run_segments() {
  const std::vector<TileAxis>& axes = program_.axes;
  measure();
  for (const Segment& segment : program_.segments) {
    if (!segment.loops) {
      run_steps(segment.steps);
      continue;
    }
    for (size_t a = 0; a < axes.size(); ++a) {
      if (axes[a].reduced) position_[a] = 0;
    }
    for (bool more = true; more;) {
      for (size_t a = 0; a < axes.size(); ++a) {
        if (axes[a].reduced) resize(a, std::min(axes[a].chunk, axes[a].extent - position_[a]));
      }
      measure();
      run_steps(segment.steps);
      more = false;
      for (size_t a = axes.size(); a-- > 0 && !more;) {
        if (!axes[a].reduced) continue;
        position_[a] += axes[a].chunk;
        more = position_[a] < axes[a].extent;
        if (!more) position_[a] = 0;
      }
    }
  }
}

void TileRun::run_steps(const std::vector<Step>& steps) {
  char** const p = pointers_;
  const auto buffer = [&](int slot) {
    return scratch_ + program_.slots[static_cast<size_t>(slot)].offset;
  };
  for (const Step& step : steps) {
    const int64_t n = runs(step.width).total;
    switch (step.kind) {
      case StepKind::pass: step.pass(p[step.out], p[step.a], p[step.b], p[step.c], n); break;
      case StepKind::strand: {
        StrandLink links[kMostLinks];
        size_t count = 0;
        for (const Strand::Link& link : program_.strands[static_cast<size_t>(step.ref)].links) {
          links[count++] = {link.run,
                            link.slot < 0 ? nullptr : reinterpret_cast<float*>(p[link.slot])};
        }
        strand_kernels().run(links, n);
        break;
      }
      case StepKind::point: {
        const TilePoint& point = program_.points[static_cast<size_t>(step.ref)];
        p[step.out] = context_.tensors[point.tensor] + at(point.address) * point.bytes;
        break;
      }
      case StepKind::load: run_load(step); break;
      case StepKind::index: run_index(step); break;
      case StepKind::mask: run_mask(step); break;
      case StepKind::choose: {
        const Slot& slot = program_.slots[static_cast<size_t>(step.out)];
        const char* from = *reinterpret_cast<const uint8_t*>(p[step.a]) ? p[step.b] : p[step.c];
        if (from != p[step.out]) {
          std::memmove(p[step.out], from, static_cast<size_t>(n) * slot.bytes);
        }
        break;
      }
      case StepKind::fill: kernels_.fill[step.ref](p[step.out], p[step.a], n); break;
      case StepKind::repeat: {
        const int64_t rows = runs(Width::row).total;
        if (program_.lanes_inner) {
          const size_t bytes =
              static_cast<size_t>(rows) * program_.slots[static_cast<size_t>(step.out)].bytes;
          for (int64_t r = 0; r < n / rows; ++r) {
            std::memcpy(p[step.out] + static_cast<size_t>(r) * bytes, p[step.a], bytes);
          }
        } else {
          kernels_.repeat[step.ref](p[step.out], p[step.a], rows, n / rows);
        }
        break;
      }
      case StepKind::reduce: {
        const int64_t rows = runs(Width::row).total, length = runs(Width::full).total / rows;
        if (program_.lanes_inner) {
          step.reduce->lanes(p[step.out], p[step.a], length, rows);
        } else {
          step.reduce->rows(p[step.out], p[step.a], rows, length);
        }
        break;
      }
      case StepKind::idiom: {
        const int64_t rows = runs(Width::row).total;
        step.idiom(p[step.out], p[step.a], p[step.b], p[step.c], p[step.d], p[step.e], rows,
                   runs(Width::full).total / rows);
        break;
      }
      case StepKind::row_pass: run_row_pass(step); break;
      case StepKind::window: run_window(step); break;
      case StepKind::gather: run_gather(step); break;
      case StepKind::finish: {
        std::memcpy(p[step.out], p[step.a],
                    static_cast<size_t>(n) * program_.slots[static_cast<size_t>(step.out)].bytes);
        if (joined_[step.ref] > kBlock) step.reduce->join(p[step.out], p[step.b], n);
        joined_[step.ref] = 0;
        break;
      }
      case StepKind::place: {
        const TileStore& store = program_.stores[static_cast<size_t>(step.ref)];
        Walk walk;
        Runs found;
        char* target = store_target(store, &walk, &found);
        const bool whole = walk.outer == 0 && walk.stride == 1 && found.total == n;
        p[store.slot] = whole ? target : buffer(store.slot);
        break;
      }
      case StepKind::store: run_store(program_.stores[static_cast<size_t>(step.ref)]); break;
    }
  }
}

void TileRun::run_row_pass(const Step& step) {
  const int64_t rows = runs(Width::row).total, n = runs(Width::full).total / rows;
  const size_t out_bytes = program_.slots[static_cast<size_t>(step.out)].bytes;
  const size_t bytes = program_.slots[static_cast<size_t>(step.a)].bytes;
  char* out = pointers_[step.out];
  const char* a = pointers_[step.a];
  const char* b = pointers_[step.b];
  const bool lanes = program_.lanes_inner;
  const size_t count = static_cast<size_t>(lanes ? n : rows);
  const size_t length = static_cast<size_t>(lanes ? rows : n);
  const size_t row_step = lanes ? 0 : bytes;
  for (size_t r = 0; r < count; ++r) {
    step.pass(out, a, b, b, static_cast<int64_t>(length));
    out += length * out_bytes;
    a += step.ref == 0 ? row_step : length * bytes;
    b += step.ref == 1 ? row_step : length * bytes;
  }
}

// Streams: the operand of one tile joins a block, and after kBlock tiles the block joins the whole,
// so that a sum's error does not grow with its length.
void TileRun::run_gather(const Step& step) {
  const int64_t n = runs(step.width).total;
  const char* operand = pointers_[step.a];
  if (step.from == Width::full && program_.full_axes.size() != program_.row_axes.size()) {
    const int64_t length = runs(Width::full).total;
    if (program_.lanes_inner) {
      step.reduce->lanes(pointers_[step.c], operand, length / n, n);
    } else {
      step.reduce->rows(pointers_[step.c], operand, 1, length);
    }
    operand = pointers_[step.c];
  }
  const size_t bytes = static_cast<size_t>(n) * program_.slots[static_cast<size_t>(step.out)].bytes;
  int64_t& joined = joined_[step.ref];
  if (joined % kBlock == 0) {
    if (joined == kBlock) {
      std::memcpy(pointers_[step.b], pointers_[step.out], bytes);
    } else if (joined > 0) {
      step.reduce->join(pointers_[step.b], pointers_[step.out], n);
    }
    std::memcpy(pointers_[step.out], operand, bytes);
  } else {
    step.reduce->join(pointers_[step.out], operand, n);
  }
  ++joined;
}

}  // namespace onnx_fusion::cpu
