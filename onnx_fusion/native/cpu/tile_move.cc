// Loads, stores and everything else of a tile that follows an index map, run by run.
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

size_t TileRun::place_of(const ExprTable& table, const int64_t* letters) const {
  int64_t place = table.place.base;
  for (size_t l = 0; l < program_.bound->stages[program_.stage].stage->letters.size(); ++l) {
    place += table.place.coef[l] * letters[l];
  }
  return static_cast<size_t>(place);
}

int64_t TileRun::value_at(ExprId expr, const ExprTable& table, const int64_t* letters) const {
  if (table.values.empty()) {
    return evaluate(*program_.bound->program, program_.bound->dims.data(), letters, expr);
  }
  return table.values[place_of(table, letters)];
}

void TileRun::letters_at(const Runs& runs, const int64_t* inside, int64_t* letters) const {
  for (size_t a = 0; a < program_.axes.size(); ++a) {
    const int l = program_.axes[a].letter[0];
    if (program_.axes[a].letters == 1) letters[l] = program_.letter_lo[l] + position_[a];
  }
  for (int k = 0; k < runs.count; ++k) {
    const TileAxis& axis = program_.axes[static_cast<size_t>(runs.axis[k])];
    if (axis.letters == 1) letters[axis.letter[0]] += inside[k];
  }
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
  const bool stays = step.op == Op::op_store && program_.slots[static_cast<size_t>(step.out)].pointed;
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
bool TileRun::addresses(const TileLoad& load, const Runs& runs, const int64_t* inside, int64_t first,
                        int64_t element, int64_t length, int64_t* to) const {
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
  return outside;
}

void TileRun::load_scattered(const Step& step, const TileLoad& load, const char* source, char* out) {
  const Runs& runs = this->runs(step.width);
  const int64_t start = at(load.address);
  int64_t inside[kMaxLetters] = {};
  int64_t element = 0;
  bool by_runs = load.exprs.empty() && runs.count > 0;
  for (const TileIndirect& indirect : load.indirects) {
    by_runs = by_runs && (indirect.width != Width::row || &runs != &this->runs(Width::full));
  }
  if (by_runs) {
    const int64_t length = runs.size[runs.count - 1];
    bool outside = false;
    do {
      const int64_t first = start + dot_axes(load.address, runs.axis, inside, runs.count);
      outside = addresses(load, runs, inside, first, element, length, offsets_ + element) || outside;
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

void TileRun::run_index(const Step& step) {
  const TileCond& cond = program_.conds[static_cast<size_t>(step.ref)][0];
  const Runs& runs = this->runs(step.width);
  int64_t* out = reinterpret_cast<int64_t*>(pointers_[step.out]);
  int64_t inside[kMaxLetters] = {};
  if (cond.linear) {
    const Walk walk = collapse(runs, cond.form, nullptr);
    const int64_t start = at(cond.form);
    do {
      kernels_.iota(out, start + dot_axes(cond.form, runs.axis, inside, walk.outer), walk.stride,
                    walk.length);
      out += walk.length;
    } while (next_position(walk.outer, runs.size, inside));
    return;
  }
  int64_t letters[kMaxLetters];
  const int outer = std::max(runs.count - 1, 0);  // the fastest axis is looked up along the table
  const bool tabled = runs.count > 0 && !cond.table.values.empty();
  do {
    std::copy(program_.letter_lo, program_.letter_lo + kMaxLetters, letters);
    letters_at(runs, inside, letters);
    if (!tabled) {
      *out++ = value_at(cond.a, cond.table, letters);
      continue;
    }
    const TileAxis& axis = program_.axes[static_cast<size_t>(runs.axis[outer])];
    const int64_t step = axis.letters == 1 ? cond.table.place.coef[axis.letter[0]] : 0;
    const int64_t* const values = &cond.table.values[place_of(cond.table, letters)];
    for (int64_t k = 0; k < runs.size[outer]; ++k) out[k] = values[k * step];
    out += runs.size[outer];
  } while (next_position(tabled ? outer : runs.count, runs.size, inside));
}

// Clears the mask of one run where a condition does not hold.
void TileRun::mask_run(const TileCond& cond, const Runs& runs, const int64_t* inside, int64_t length,
                       uint8_t* mask) const {
  if (cond.linear) {
    const int64_t first = at(cond.form) + dot_axes(cond.form, runs.axis, inside, runs.count);
    const int64_t step = runs.count > 0 ? cond.form.coef[runs.axis[runs.count - 1]] : 0;
    constexpr int64_t kFar = int64_t{1} << 61;
    int64_t lo = 0, hi = length;
    if (cond.op == CondOp::eq) {
      clip_run(first, step, 1, &lo, &hi);
    } else {
      clip_run((cond.op == CondOp::lt ? -first - 1 : -first), -step, kFar, &lo, &hi);
    }
    std::memset(mask, 0, static_cast<size_t>(lo));
    std::memset(mask + hi, 0, static_cast<size_t>(length - hi));
    return;
  }
  int64_t point[kMaxLetters], letters[kMaxLetters];
  std::copy(inside, inside + runs.count, point);
  const Program& program = *program_.bound->program;
  const int64_t* dims = program_.bound->dims.data();
  for (int64_t i = 0; i < length; ++i) {
    if (runs.count > 0) point[runs.count - 1] = i;
    std::copy(program_.letter_lo, program_.letter_lo + kMaxLetters, letters);
    letters_at(runs, point, letters);
    const int64_t a = evaluate(program, dims, letters, cond.a);
    const int64_t b = evaluate(program, dims, letters, cond.b);
    const bool holds = cond.op == CondOp::eq ? a == b : cond.op == CondOp::lt ? a < b : a <= b;
    mask[i] = mask[i] && holds;
  }
}

void TileRun::run_mask(const Step& step) {
  const Runs& runs = this->runs(step.width);
  const int64_t length = runs.count > 0 ? runs.size[runs.count - 1] : 1;
  uint8_t* mask = reinterpret_cast<uint8_t*>(pointers_[step.out]);
  std::memset(mask, 1, static_cast<size_t>(runs.total));
  int64_t inside[kMaxLetters] = {};
  do {
    for (const TileCond& cond : program_.conds[static_cast<size_t>(step.ref)]) {
      mask_run(cond, runs, inside, length, mask);
    }
    mask += length;
  } while (next_position(std::max(runs.count - 1, 0), runs.size, inside));
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
    if (among >= 0) {
      kernels_.copy[store.size](to, form.coef[runs.axis[among]], walk.stride, in, runs.step[among], 1,
                                walk.length, runs.size[among]);
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
