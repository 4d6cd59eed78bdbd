#include "cuda/contract.h"

#include <algorithm>
#include <cstdlib>

#include "cuda/fuse.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kThin = 8;  // fewer rows or columns are a tile's waste

// The load with the most positions that a value is made from, or -1.
int main_load(const Nest& nest, int line) {
  int best = -1;
  std::vector<int> open{line};
  while (!open.empty()) {
    const int at = open.back();
    open.pop_back();
    for (int from : nest.needs(at)) open.push_back(from);
    const size_t i = static_cast<size_t>(at);
    if (nest.at(at).op != Op::op_load) continue;
    if (best < 0 ||
        nest.points(nest.letters[i]) > nest.points(nest.letters[static_cast<size_t>(best)])) {
      best = at;
    }
  }
  return best;
}

DType half_of(const Nest& nest, int line) {
  if (nest.at(line).op != Op::op_cast) return DType::f32;
  const DType from = nest.dtype(nest.needs(line)[0]);
  return from == DType::f16 || from == DType::bf16 ? from : DType::f32;
}

Operand arrange(const Nest& nest, int line, LetterSet own, LetterSet sum, const Access& store) {
  Operand out;
  out.line = line;
  out.own = nest.order(own, store);
  const int load = main_load(nest, line);
  const Access& access = load >= 0 ? nest.access[static_cast<size_t>(load)] : store;
  out.sum = nest.order(sum, access);
  const auto step = [&](const std::vector<int>& letters) {
    if (letters.empty()) return INT64_MAX;
    const int64_t by = std::abs(access.address.coef[letters.back()]);
    return by == 0 ? INT64_MAX : by;
  };
  out.sum_fastest = step(out.sum) < step(out.own);
  return out;
}

}  // namespace

bool find_product(const Nest& nest, const Device& device, Product* product) {
  Product& p = *product;
  LetterSet kept = 0;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    if (!nest.reduces(line) || nest.nothing(line)) continue;
    if (nest.at(line).op != Op::op_dot || p.dot >= 0) return false;
    p.dot = line;
  }
  if (p.dot < 0 || nest.wide() || device.wide) return false;
  for (int line : nest.stores) kept |= nest.letters[static_cast<size_t>(line)];
  const size_t dot = static_cast<size_t>(p.dot);
  const std::vector<int> from = nest.needs(p.dot);
  LetterSet a = nest.letters[static_cast<size_t>(from[0])],
            b = nest.letters[static_cast<size_t>(from[1])];
  p.sum = nest.over[dot];
  if (kept != nest.letters[dot] || (a & b & p.sum) != p.sum) return false;
  const Access& store = nest.access[static_cast<size_t>(nest.stores[0])];
  const std::vector<int> order = nest.order(kept, store);
  const bool swap = !order.empty() && !((b & ~a) >> order.back() & 1);
  const int rows = from[swap ? 1 : 0], columns = from[swap ? 0 : 1];
  if (swap) std::swap(a, b);
  p.batch = static_cast<LetterSet>(a & b & ~p.sum);
  p.rows = static_cast<LetterSet>(a & ~b);
  p.columns = static_cast<LetterSet>(b & ~a);
  p.m = nest.points(p.rows);
  p.n = nest.points(p.columns);
  p.k = nest.points(p.sum);
  p.batches = nest.points(p.batch);
  if (p.m < kThin || p.n < kThin || p.k < kThin) return false;
  p.batch_order = nest.order(p.batch, store);
  p.a = arrange(nest, rows, p.rows, p.sum, store);
  p.b = arrange(nest, columns, p.columns, p.sum, store);
  // One order of the sum's letters serves both: that of the operand that reads along it.
  (p.a.sum_fastest || !p.b.sum_fastest ? p.b.sum : p.a.sum) =
      p.a.sum_fastest || !p.b.sum_fastest ? p.a.sum : p.b.sum;
  const DType own = half_of(nest, rows), other = half_of(nest, columns);
  const DType half = own == other && own != DType::f32 ? own : half_type(*nest.bound.program);
  if (half != DType::f32 && device.arch >= (half == DType::f16 ? 75 : 80)) {
    p.unit = half == DType::f16 ? Unit::f16 : Unit::bf16;
    if (own == half) p.a.line = nest.needs(rows)[0];
    if (other == half) p.b.line = nest.needs(columns)[0];
  } else if (device.tf32 && device.arch >= 80 && !nest.bound.program->strict) {
    p.unit = Unit::tf32;
  }
  return true;
}

std::string as_element(Unit unit, DType dtype, const std::string& value) {
  if (unit == Unit::tf32) return "float_to_tf32(" + value + ")";
  if (dtype != DType::f32 || unit == Unit::fmaf) return value;
  return (unit == Unit::f16 ? "float_to_half(" : "float_to_bf16(") + value + ")";
}

}  // namespace onnx_fusion::cuda
