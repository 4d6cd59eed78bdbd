// Loads and stores of a tile, run by run of an index map.
#include <algorithm>
#include <cstring>

#include "cpu/tile_program.h"
#include "cpu/tile_walk.h"

namespace onnx_fusion::cpu {
namespace {

uint16_t moving_axes(const TileLoad& load) {
  uint16_t axes = 0;
  for (const TileIndirect& indirect : load.indirects) axes |= indirect.axes;
  for (const TileExpr& expr : load.exprs) axes |= expr.axes;
  return axes;
}

bool has_axis(uint16_t axes, int axis) { return axes >> axis & 1; }

constexpr int64_t kFewRows = 8;
constexpr int64_t kOutside = -(int64_t{1} << 62);  // stays negative whatever is added

}  // namespace

// Which of the axes before a run is best copied by one call: a long one.
int TileRun::rows_of(const Runs& runs, int outer) {
  int best = outer - 1;
  if (runs.size[best] >= kFewRows) return best;
  for (int k = 0; k < outer; ++k) {
    if (runs.size[k] > runs.size[best]) best = k;
  }
  return best;
}

TileRun::Walk TileRun::collapse(const Runs& runs, const Linear& form, const TileLoad* load) const {
  Walk walk;
  if (runs.count == 0) return walk;
  int k = runs.count - 1;
  walk.inner = runs.axis[k];
  walk.length = runs.size[k];
  walk.stride = form.coef[walk.inner];
  const uint16_t moving = load != nullptr ? moving_axes(*load) : uint16_t{0};
  while (k > 0) {
    const int next = runs.axis[k - 1];
    bool joined = form.coef[next] == walk.stride * walk.length && !has_axis(moving, next) &&
                  !has_axis(moving, walk.inner);
    if (load != nullptr) {
      for (const TileGuard& guard : load->guards) {
        joined = joined && guard.form.coef[next] == guard.form.coef[walk.inner] * walk.length;
      }
    }
    if (!joined) break;
    walk.length *= runs.size[k - 1];
    --k;
  }
  walk.outer = k;
  return walk;
}

// Adds the indirect and computed indices of one point (or of a run along which they stay) to the
// address; true if one of them is outside.
bool TileRun::load_outside(const TileLoad& load, const int64_t* inside, const Runs& runs,
                           int64_t* address) {
  bool outside = false;
  for (const TileIndirect& indirect : load.indirects) {
    int64_t element = 0;
    if (indirect.width != Width::scalar) {
      for (int k = 0; k < runs.count; ++k) element += inside[k] * runs.step[k];
      if (indirect.width == Width::row && &runs == &this->runs(Width::full)) {
        element /= runs.total / this->runs(Width::row).total;  // one index for each row
      }
    }
    const char* values = pointers_[indirect.slot];
    const int64_t value = indirect.wide ? reinterpret_cast<const int64_t*>(values)[element]
                                        : reinterpret_cast<const int32_t*>(values)[element];
    if (value < 0 || value >= indirect.extent) {
      outside = true;
    } else {
      *address += value * indirect.stride;
    }
  }
  if (!load.exprs.empty()) {
    int64_t letters[kMaxLetters];
    std::copy(program_.letter_lo, program_.letter_lo + kMaxLetters, letters);
    letters_at(runs, inside, letters);
    for (const TileExpr& expr : load.exprs) {
      const int64_t value = value_at(expr.expr, expr.table, letters);
      if (value < 0 || value >= expr.extent) {
        outside = true;
      } else {
        *address += value * expr.stride;
      }
    }
  }
  if (outside && !load.has_else) fail(load.line);
  return outside;
}

void TileRun::run_load(const Step& step) {
  const TileLoad& load = program_.loads[static_cast<size_t>(step.ref)];
  if (load.once && loaded_[step.ref]) return;
  loaded_[step.ref] = load.once;
  const Runs& runs = this->runs(step.width);
  const bool leaf = load.tensor < 0;
  const Linear& form = leaf ? leaf_.address : load.address;
  const char* const source = leaf ? leaf_.data : context_.tensors[load.tensor];
  // A load whose value is stored as it is may go there at once (`place` has set the pointer).
  if (step.op != Op::op_store) {
    pointers_[step.out] = scratch_ + program_.slots[static_cast<size_t>(step.out)].offset;
  }
  char* const out = pointers_[step.out];
  const bool stays =
      step.op == Op::op_store && program_.slots[static_cast<size_t>(step.out)].pointed;
  const Walk walk = collapse(runs, form, &load);
  const bool computed = !load.indirects.empty() || !load.exprs.empty();
  if (walk.inner >= 0 && has_axis(moving_axes(load), walk.inner)) {
    return load_scattered(step, load, source, out);
  }
  const int64_t start = at(form);
  if (walk.outer > 0 && walk.stride != 0 && walk.stride != 1 && load.guards.empty() && !computed) {
    for (int k = 0; k < walk.outer; ++k) {
      if (form.coef[runs.axis[k]] == 1 && runs.size[k] >= 4) {
        return load_transposed(load, runs, walk, k, source, out);
      }
    }
  }
  int64_t inside[kMaxLetters] = {};
  const size_t bytes = load.bytes;
  if (walk.outer > 0 && load.guards.empty() && !computed) {
    const bool repeats = walk.stride == 0 && form.coef[runs.axis[walk.outer - 1]] == 1;
    const int among = repeats ? walk.outer - 1 : rows_of(runs, walk.outer);
    const int64_t rows = runs.size[among], step_in = form.coef[runs.axis[among]];
    int64_t size[kMaxLetters];
    std::copy(runs.size, runs.size + walk.outer, size);
    size[among] = 1;
    do {
      int64_t at_out = 0;
      for (int k = 0; k < walk.outer; ++k) at_out += inside[k] * runs.step[k];
      char* const to = out + at_out * static_cast<int64_t>(bytes);
      const int64_t address = start + dot_axes(form, runs.axis, inside, walk.outer);
      const char* const from = source + address * static_cast<int64_t>(bytes);
      if (repeats) {
        kernels_.repeat[load.size](to, from, rows, walk.length);
      } else {
        kernels_.copy[load.size](to, runs.step[among], 1, from, step_in, walk.stride, walk.length,
                                 rows);
      }
    } while (next_position(walk.outer, size, inside));
    return;
  }
  char* to = out;
  int64_t guard_at[kMaxRank];
  for (size_t g = 0; g < load.guards.size(); ++g) guard_at[g] = at(load.guards[g].form);
  do {
    int64_t address = start + dot_axes(form, runs.axis, inside, walk.outer);
    int64_t lo = 0, hi = walk.length;
    for (size_t g = 0; g < load.guards.size(); ++g) {
      const Linear& guard = load.guards[g].form;
      clip_run(guard_at[g] + dot_axes(guard, runs.axis, inside, walk.outer),
               walk.inner >= 0 ? guard.coef[walk.inner] : 0, load.guards[g].extent, &lo, &hi);
    }
    if (computed && load_outside(load, inside, runs, &address)) hi = lo;
    const int64_t n = hi - lo;
    const char* const from =
        n > 0 ? source + (address + lo * walk.stride) * static_cast<int64_t>(bytes) : nullptr;
    if (walk.outer == 0 && n == walk.length && (walk.stride == 1 || n == 1) && !stays) {
      pointers_[step.out] = const_cast<char*>(from);
      return;
    }
    if (lo > 0) kernels_.fill[load.size](to, &load.otherwise, lo);
    if (n > 0) {
      char* const begin = to + static_cast<size_t>(lo) * bytes;
      if (walk.stride == 1) {
        std::memcpy(begin, from, static_cast<size_t>(n) * bytes);
      } else if (walk.stride == 0) {
        kernels_.fill[load.size](begin, from, n);
      } else {
        kernels_.pick[load.size](begin, from, walk.stride, n);
      }
    }
    if (hi < walk.length) {
      kernels_.fill[load.size](to + static_cast<size_t>(hi) * bytes, &load.otherwise,
                               walk.length - hi);
    }
    to += static_cast<size_t>(walk.length) * bytes;
  } while (next_position(walk.outer, runs.size, inside));
}

// Axis `plane` is contiguous in memory, the run's is not: both are copied as a plane.
void TileRun::load_transposed(const TileLoad& load, const Runs& runs, const Walk& walk, int plane,
                              const char* source, char* out) const {
  const Linear& form = load.tensor < 0 ? leaf_.address : load.address;
  const int64_t start = at(form);
  int64_t inside[kMaxLetters] = {}, size[kMaxLetters];
  std::copy(runs.size, runs.size + walk.outer, size);
  size[plane] = 1;
  do {
    int64_t to = 0;
    for (int k = 0; k < walk.outer; ++k) to += inside[k] * runs.step[k];
    const int64_t from = start + dot_axes(form, runs.axis, inside, walk.outer);
    const int64_t bytes = static_cast<int64_t>(load.bytes);
    kernels_.transpose[load.size](out + to * bytes, runs.step[plane], source + from * bytes,
                                  walk.stride, walk.length, runs.size[plane]);
  } while (next_position(walk.outer, size, inside));
}

// Writes the addresses of `length` elements along the fastest axis, negative where one is outside.
bool TileRun::addresses(const TileLoad& load, const Runs& runs, const int64_t* inside,
                        int64_t first, int64_t element, int64_t length, int64_t* to) const {
  const int last = runs.count - 1;
  const int64_t step = load.address.coef[runs.axis[last]];
  for (int64_t i = 0; i < length; ++i) to[i] = first + i * step;
  for (const TileGuard& guard : load.guards) {
    int64_t lo = 0, hi = length;
    clip_run(at(guard.form) + dot_axes(guard.form, runs.axis, inside, runs.count),
             guard.form.coef[runs.axis[last]], guard.extent, &lo, &hi);
    std::fill(to, to + lo, kOutside);
    std::fill(to + hi, to + length, kOutside);
  }
  bool outside = false;
  for (const TileIndirect& indirect : load.indirects) {
    const char* const values = pointers_[indirect.slot];
    const auto add = [&](const auto* index, int64_t apart) {
      for (int64_t i = 0; i < length; ++i) {
        const int64_t value = index[i * apart];
        const bool is_inside = value >= 0 && value < indirect.extent;
        outside = outside || !is_inside;
        to[i] = is_inside ? to[i] + value * indirect.stride : kOutside;
      }
    };
    const int64_t begin = indirect.width == Width::scalar ? 0 : element;
    const int64_t apart = indirect.width == Width::scalar ? 0 : 1;
    if (indirect.wide) {
      add(reinterpret_cast<const int64_t*>(values) + begin, apart);
    } else {
      add(reinterpret_cast<const int32_t*>(values) + begin, apart);
    }
  }
  for (const TileExpr& expr : load.exprs) {
    int64_t letters[kMaxLetters];
    std::copy(program_.letter_lo, program_.letter_lo + kMaxLetters, letters);
    letters_at(runs, inside, letters);
    const TileAxis& axis = program_.axes[static_cast<size_t>(runs.axis[last])];
    const int64_t apart = axis.letters == 1 ? expr.table.place.coef[axis.letter[0]] : 0;
    const int64_t* const values = &expr.table.values[place_of(expr.table, letters)];
    for (int64_t i = 0; i < length; ++i) {
      const int64_t value = values[i * apart];
      const bool is_inside = value >= 0 && value < expr.extent;
      outside = outside || !is_inside;
      to[i] = is_inside ? to[i] + value * expr.stride : kOutside;
    }
  }
  return outside;
}

void TileRun::load_scattered(const Step& step, const TileLoad& load, const char* source,
                             char* out) {
  const Runs& runs = this->runs(step.width);
  const int64_t start = at(load.address);
  int64_t inside[kMaxLetters] = {};
  int64_t element = 0;
  bool by_runs = runs.count > 0;
  for (const TileExpr& expr : load.exprs) by_runs = by_runs && !expr.table.values.empty();
  for (const TileIndirect& indirect : load.indirects) {
    by_runs = by_runs && (indirect.width != Width::row || &runs != &this->runs(Width::full));
  }
  if (by_runs) {
    const int64_t length = runs.size[runs.count - 1];
    bool outside = false;
    do {
      const int64_t first = start + dot_axes(load.address, runs.axis, inside, runs.count);
      outside =
          addresses(load, runs, inside, first, element, length, offsets_ + element) || outside;
      element += length;
    } while (next_position(runs.count - 1, runs.size, inside));
    if (outside && !load.has_else) fail(load.line);
    kernels_.gather[load.size](out, source, offsets_, &load.otherwise, element);
    return;
  }
  do {
    int64_t address = start + dot_axes(load.address, runs.axis, inside, runs.count);
    bool outside = false;
    for (const TileGuard& guard : load.guards) {
      const int64_t index = at(guard.form) + dot_axes(guard.form, runs.axis, inside, runs.count);
      outside = outside || index < 0 || index >= guard.extent;
    }
    outside = load_outside(load, inside, runs, &address) || outside;
    offsets_[element++] = outside ? -1 : address;
  } while (next_position(runs.count, runs.size, inside));
  kernels_.gather[load.size](out, source, offsets_, &load.otherwise, element);
}

// Where a store's first element goes, over the axes that its map has.
char* TileRun::store_target(const TileStore& store, Walk* walk, Runs* found) const {
  const Runs& all = runs(store.width);
  found->count = 0;
  found->total = 1;
  for (int k = 0; k < all.count; ++k) {
    if (!has_axis(store.axes, all.axis[k])) continue;
    found->axis[found->count] = all.axis[k];
    found->size[found->count] = all.size[k];
    found->step[found->count] = all.step[k];
    found->total *= all.size[k];
    ++found->count;
  }
  const bool sink = store.tensor < 0;
  const Linear& form = sink ? sink_.address : store.address;
  *walk = collapse(*found, form, nullptr);
  if (found->total != all.total) {
    walk->outer = std::max(found->count - 1, 0);  // the value's elements are not all taken
    walk->length = found->count > 0 ? found->size[found->count - 1] : 1;
  }
  char* const base = sink ? sink_.data : context_.tensors[store.tensor];
  return base + at(form) * static_cast<int64_t>(store.bytes);
}

void TileRun::run_store(const TileStore& store) {
  Walk walk;
  Runs runs;
  char* const target = store_target(store, &walk, &runs);
  const char* const value = pointers_[store.slot];
  if (value == target) return;
  const Linear& form = store.tensor < 0 ? sink_.address : store.address;
  const int64_t bytes = static_cast<int64_t>(store.bytes);
  const int64_t step = runs.count > 0 ? runs.step[runs.count - 1] : 1;
  int64_t inside[kMaxLetters] = {}, size[kMaxLetters];
  std::copy(runs.size, runs.size + walk.outer, size);
  int plane = -1;
  if (walk.stride != 1 && step == 1) {
    for (int k = 0; k < walk.outer; ++k) {
      if (form.coef[runs.axis[k]] == 1 && runs.size[k] >= 4) plane = k;
    }
  }
  if (plane >= 0) size[plane] = 1;
  const int among = plane < 0 && walk.outer > 0 && step == 1 ? rows_of(runs, walk.outer) : -1;
  if (among >= 0) size[among] = 1;
  do {
    int64_t from = 0;
    for (int k = 0; k < walk.outer; ++k) from += inside[k] * runs.step[k];
    char* const to = target + dot_axes(form, runs.axis, inside, walk.outer) * bytes;
    const char* const in = value + from * bytes;
    if (store.past && walk.stride == 1 && walk.outer == 0 && step == 1) {
      kernels_.stream(to, in, walk.length * bytes);
    } else if (among >= 0) {
      kernels_.copy[store.size](to, form.coef[runs.axis[among]], walk.stride, in, runs.step[among],
                                1, walk.length, runs.size[among]);
    } else if (plane >= 0) {
      kernels_.transpose[store.size](to, walk.stride, in, runs.step[plane], runs.size[plane],
                                     walk.length);
    } else if (walk.length == 1 || (walk.stride == 1 && step == 1)) {
      std::memcpy(to, in, static_cast<size_t>(walk.length * bytes));
    } else if (step == 1) {
      kernels_.spread[store.size](to, walk.stride, in, walk.length);
    } else {
      for (int64_t i = 0; i < walk.length; ++i) {
        std::memcpy(to + i * walk.stride * bytes, in + i * step * bytes,
                    static_cast<size_t>(bytes));
      }
    }
  } while (next_position(walk.outer, size, inside));
}

}  // namespace onnx_fusion::cpu
