// What index expressions are at the positions of a tile: as numbers, and as masks of conditions.
#include <algorithm>
#include <cstring>

#include "cpu/tile_program.h"
#include "cpu/tile_walk.h"

namespace onnx_fusion::cpu {

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
void TileRun::mask_run(const TileCond& cond, const Runs& runs, const int64_t* inside,
                       int64_t length, uint8_t* mask) const {
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

}  // namespace onnx_fusion::cpu
