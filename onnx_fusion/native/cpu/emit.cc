// Emission: the live instructions of a slice as steps over slots.
#include <algorithm>
#include <cstring>

#include "cpu/compile.h"

namespace onnx_fusion::cpu {

void Compiler::set_tile() {
  out_->full_axes.clear();
  out_->row_axes.clear();
  out_->full_capacity = out_->row_capacity = 1;
  for (size_t a = 0; a < out_->axes.size(); ++a) {
    const TileAxis& axis = out_->axes[a];
    if (axis.chunk == 1) continue;
    out_->full_axes.push_back(static_cast<int>(a));
    out_->full_capacity *= axis.chunk;
    if (axis.reduced) continue;
    out_->row_axes.push_back(static_cast<int>(a));
    out_->row_capacity *= axis.chunk;
  }
}

Width Compiler::width_of(uint16_t axes) const {
  bool full = false, row = false;
  for (int a : out_->full_axes) {
    if (!(axes >> a & 1)) continue;
    (out_->axes[static_cast<size_t>(a)].reduced ? full : row) = true;
  }
  if (full) return Width::full;
  if (!row) return Width::scalar;
  return out_->row_axes.size() == out_->full_axes.size() ? Width::full : Width::row;
}

int Compiler::new_slot(DType dtype, Width width) {
  Slot slot;
  slot.bytes = dtype_size(dtype);
  slot.width = width;
  out_->slots.push_back(slot);
  for (std::vector<int>& widened : widened_) widened.push_back(-1);
  return static_cast<int>(out_->slots.size()) - 1;
}

int Compiler::constant(DType dtype, uint64_t bits) {
  const int slot = new_slot(dtype, Width::scalar);
  out_->slots.back().is_constant = true;
  out_->slots.back().constant = bits;
  return slot;
}

void Compiler::push(Step step) { steps_->push_back(step); }

// The slot's value over a wider set of axes.
int Compiler::widen(int slot, Width width) {
  const Slot from = out_->slots[static_cast<size_t>(slot)];
  if (from.width == width) return slot;
  int& known = widened_[static_cast<int>(width)][static_cast<size_t>(slot)];
  if (known >= 0) return known;
  Step step;
  step.kind = from.width == Width::row ? StepKind::repeat : StepKind::fill;
  step.width = width;
  step.a = slot;
  step.ref = from.bytes == 1 ? 0 : from.bytes == 2 ? 1 : from.bytes == 4 ? 2 : 3;
  const DType same_size = from.bytes == 1   ? DType::u8
                          : from.bytes == 2 ? DType::u16
                          : from.bytes == 4 ? DType::u32
                                            : DType::u64;
  step.out = new_slot(same_size, width);
  push(step);
  widened_[static_cast<int>(width)][static_cast<size_t>(slot)] = step.out;
  return step.out;
}

int Compiler::emit(int line) {
  const size_t i = static_cast<size_t>(line);
  if (slot_of_[i] >= 0) return slot_of_[i];
  const Instruction& instruction = at(line);
  int slot;
  Step step;
  step.width = width_of(depends_[i]);
  if (line == slice_.leaf || instruction.op == Op::op_load) {
    size_t ref = static_cast<size_t>(load_of_[i]), k = 0;
    if (!out_->loads[ref].indirects.empty()) {  // one for each loop, with slots of its own
      TileLoad own = out_->loads[ref];
      ref = out_->loads.size();
      out_->loads.push_back(std::move(own));
    }
    for (const Index& index : instruction.map) {
      if (index.value < 0 || line == slice_.leaf) continue;
      const int source = line_of(index.value);
      int of = emit(source);
      const uint16_t axes = depends_[static_cast<size_t>(source)];
      const Width width = out_->slots[static_cast<size_t>(of)].width;
      const bool by_row = width == Width::row && !out_->lanes_inner;
      if (width != Width::scalar && !by_row) of = widen(of, step.width);
      TileIndirect& indirect = out_->loads[ref].indirects[k++];
      indirect.slot = of;
      indirect.width = out_->slots[static_cast<size_t>(of)].width;
      indirect.axes = indirect.width == Width::scalar ? uint16_t{0} : axes;
    }
    step.kind = StepKind::load;
    step.ref = static_cast<int>(ref);
    step.out = slot = new_slot(instruction.dtype, step.width);
    push(step);
  } else if (instruction.op == Op::op_const) {
    slot = constant(instruction.dtype, instruction.literal);
  } else if (const int64_t* const index = fixed_index(line); index != nullptr) {
    slot = constant(DType::i64, static_cast<uint64_t>(*index));
  } else if (instruction.op == Op::op_index) {
    step.kind = StepKind::index;
    step.ref = cond_of_[i];
    step.out = slot = new_slot(DType::i64, step.width);
    push(step);
  } else if (instruction.op == Op::op_select) {
    slot = emit_select(line, instruction);
  } else if (op_is_reduction(instruction.op) || instruction.op == Op::op_dot) {
    slot = emit_reduce(line, instruction);
  } else {
    slot = emit_pass(line, instruction);
  }
  slot_of_[i] = slot;
  return slot;
}

// The value of an index that is the same everywhere, or null.
const int64_t* Compiler::fixed_index(int line) const {
  if (at(line).op != Op::op_index) return nullptr;
  const TileCond& cond = out_->conds[static_cast<size_t>(cond_of_[static_cast<size_t>(line)])][0];
  const Linear& form = cond.form;
  const auto still = [](int64_t c) { return c == 0; };
  return cond.linear && std::all_of(form.coef, form.coef + kMaxLetters, still) ? &form.base
                                                                               : nullptr;
}

int Compiler::emit_select(int line, const Instruction& instruction) {
  int a = emit(line_of(instruction.args[0])), b = emit(line_of(instruction.args[1]));
  Step mask;
  mask.kind = StepKind::mask;
  mask.ref = cond_of_[static_cast<size_t>(line)];
  uint16_t axes = 0;
  for (const TileCond& cond : out_->conds[static_cast<size_t>(mask.ref)]) {
    LetterSet letters = expr_letters(*bound_.program, cond.a);
    letters |= expr_letters(*bound_.program, cond.b);
    axes |= axes_of(letters);
  }
  mask.width = width_of(axes);
  mask.out = new_slot(DType::boolean, mask.width);
  push(mask);
  Step step;
  step.width = width_of(depends_[static_cast<size_t>(line)]);
  step.out = -1;
  if (mask.width == Width::scalar) {
    step.kind = StepKind::choose;
    step.a = mask.out;
    step.b = widen(a, step.width);
    step.c = widen(b, step.width);
  } else {
    step.kind = StepKind::pass;
    const bool first = out_->slots[static_cast<size_t>(a)].width == Width::scalar;
    const bool second = out_->slots[static_cast<size_t>(b)].width == Width::scalar;
    step.pass = kernels().where[size_index(instruction.dtype)][first + 2 * second];
    step.a = widen(mask.out, step.width);
    step.b = first ? a : widen(a, step.width);
    step.c = second ? b : widen(b, step.width);
  }
  step.out = new_slot(instruction.dtype, step.width);
  push(step);
  return step.out;
}

int Compiler::emit_pass(int line, const Instruction& instruction) {
  const Kernels& k = kernels();
  int slots[3] = {-1, -1, -1};
  Width widths[3] = {Width::scalar, Width::scalar, Width::scalar};
  Width width = Width::scalar;
  bool constants = true;
  for (int i = 0; i < instruction.arg_count; ++i) {
    slots[i] = emit(line_of(instruction.args[i]));
    const Slot& slot = out_->slots[static_cast<size_t>(slots[i])];
    widths[i] = slot.width;
    width = std::max(width, slot.width);
    constants = constants && slot.is_constant;
  }
  (void)line;
  Step step;
  step.kind = StepKind::pass;
  step.op = instruction.op;
  step.width = width;
  const DType type = at(line_of(instruction.args[instruction.op == Op::op_where ? 1 : 0])).dtype;
  if (instruction.op == Op::op_cast) {
    step.pass = k.cast[static_cast<int>(type)][static_cast<int>(instruction.dtype)];
  } else if (instruction.op == Op::op_where) {
    slots[0] = widen(slots[0], width);
    int splats = 0;
    for (int i = 1; i < 3; ++i) {
      if (widths[i] == Width::scalar && width != Width::scalar) {
        splats |= i;
      } else {
        slots[i] = widen(slots[i], width);
      }
    }
    step.pass = k.where[size_index(instruction.dtype)][splats];
  } else if (instruction.arg_count == 1) {
    step.pass = k.unary[static_cast<int>(instruction.op)][compute_type(type)];
  } else {
    int splat = kSplatNone;
    for (int i = 0; i < 2; ++i) {
      if (widths[i] == Width::scalar && width != Width::scalar) {
        splat = i == 0 ? kSplatFirst : kSplatSecond;
      }
    }
    // A scalar exponent is looked at once per pass, also where everything is scalar.
    if (instruction.op == Op::op_pow && widths[1] == Width::scalar) splat = kSplatSecond;
    if (instruction.op == Op::op_pow && splat == kSplatSecond && widths[0] == Width::scalar) {
      splat = width == Width::scalar ? kSplatSecond : kSplatNone;
    }
    step.pass = k.binary[static_cast<int>(instruction.op)][compute_type(type)][splat];
  }
  if (instruction.arg_count == 2 && width == Width::full &&
      (widths[0] == Width::row || widths[1] == Width::row) && widths[0] != widths[1] &&
      widths[0] != Width::scalar && widths[1] != Width::scalar) {
    return emit_row_pass(instruction, slots, widths[0] == Width::row ? 0 : 1);
  }
  if (instruction.op != Op::op_where) {
    for (int i = 0; i < instruction.arg_count; ++i) {
      if (widths[i] != Width::scalar || width == Width::scalar) slots[i] = widen(slots[i], width);
    }
  }
  step.a = slots[0];
  step.b = slots[1] >= 0 ? slots[1] : slots[0];
  step.c = slots[2] >= 0 ? slots[2] : slots[0];
  if (constants) {
    const auto value = [&](int slot) { return &out_->slots[static_cast<size_t>(slot)].constant; };
    uint64_t bits = 0;
    step.pass(&bits, value(step.a), value(step.b), value(step.c), 1);
    return constant(instruction.dtype, bits);
  }
  step.out = new_slot(instruction.dtype, width);
  push(step);
  return step.out;
}

// One operand is a row: each of its elements meets a whole row of the other's, or the other way
// round.
int Compiler::emit_row_pass(const Instruction& instruction, const int* slots, int which) {
  const DType type = at(line_of(instruction.args[0])).dtype;
  const int splat = out_->lanes_inner ? kSplatNone : which == 0 ? kSplatFirst : kSplatSecond;
  Step step;
  step.kind = StepKind::row_pass;
  step.op = instruction.op;
  step.pass = kernels().binary[static_cast<int>(instruction.op)][compute_type(type)][splat];
  step.a = slots[0];
  step.b = slots[1];
  step.ref = which;
  step.out = new_slot(instruction.dtype, Width::full);
  push(step);
  return step.out;
}

// What a reduction gives over no element, as bits.
uint64_t Compiler::nothing_bits(const Instruction& instruction) {
  const bool is_max = instruction.op == Op::op_reduce_max,
             is_min = instruction.op == Op::op_reduce_min;
  const bool one = instruction.op == Op::op_reduce_prod;
  switch (instruction.dtype) {
    case DType::f32: return is_max ? 0xff800000u : is_min ? 0x7f800000u : one ? 0x3f800000u : 0;
    case DType::f64:
      return is_max   ? 0xfff0000000000000u
             : is_min ? 0x7ff0000000000000u
             : one    ? 0x3ff0000000000000u
                      : 0;
    case DType::i32: return is_max ? 0x80000000u : is_min ? 0x7fffffffu : one;
    default: return is_max ? 0x8000000000000000u : is_min ? 0x7fffffffffffffffu : one;
  }
}

int Compiler::emit_reduce(int line, const Instruction& instruction) {
  if (is_nothing(line)) return constant(instruction.dtype, nothing_bits(instruction));
  Step step;
  step.width = width_of(depends_[static_cast<size_t>(line)]);
  const int operand = windowed_ ? -1 : emit(line_of(instruction.args[0]));
  step.kind = StepKind::reduce;
  step.op = instruction.op;
  step.reduce =
      &kernels().reduce[static_cast<int>(instruction.op) - static_cast<int>(Op::op_reduce_sum)]
                       [compute_type(instruction.dtype)];
  if (windowed_) {
    step.kind = StepKind::window;
    step.ref = load_of_[static_cast<size_t>(line_of(instruction.args[0]))];
    step.c = new_slot(instruction.dtype, step.width);
  } else {
    step.a = widen(operand, Width::full);
  }
  step.out = new_slot(instruction.dtype, step.width);
  push(step);
  return step.out;
}

void Compiler::emit_store(size_t index) {
  TileStore& store = out_->stores[index];
  const int slot = emit(line_of(at(store_lines_[index]).args[0]));
  const Width width = std::max(width_of(store.axes), out_->slots[static_cast<size_t>(slot)].width);
  const int wide = widen(slot, width);
  out_->stores[index].slot = wide;
  out_->stores[index].width = width;
  Step step;
  step.kind = StepKind::store;
  step.width = width;
  step.a = wide;
  step.ref = static_cast<int>(index);
  push(step);
}

}  // namespace onnx_fusion::cpu
