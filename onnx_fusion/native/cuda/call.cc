#include "cuda/call.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kAlignment = 16;  // of all pointers, in bytes: what the library is told
constexpr int64_t kPartRows = 128;  // parts have a multiple of so many rows, but for the last
constexpr int64_t kMostParts = 16;
// What cuBLAS allocates for itself, cuBLAS documentation, cublasSetWorkspace().
constexpr size_t kWorkspace = size_t{4} << 20, kHopperWorkspace = size_t{32} << 20;

// Do these letters, slowest first, run through memory by one stride?
bool flatten(const Nest& nest, const std::vector<int>& letters, const Linear& address,
             int64_t* stride) {
  *stride = letters.empty() ? 0 : address.coef[letters.back()];
  int64_t expected = *stride;
  for (auto l = letters.rbegin(); l != letters.rend(); ++l) {
    if (address.coef[*l] != expected) return false;
    expected *= nest.extents[*l];
  }
  return *stride >= 0;
}

bool find_matrix(const Nest& nest, const Product& p, const Access& access,
                 const std::vector<int>& rows, const std::vector<int>& columns, Strides* strides) {
  const int64_t size = static_cast<int64_t>(
      dtype_size(nest.bound.tensors[static_cast<size_t>(access.tensor)].dtype));
  return access.plain() && access.address.base * size % kAlignment == 0 &&
         flatten(nest, rows, access.address, &strides->row) &&
         flatten(nest, columns, access.address, &strides->column) &&
         flatten(nest, p.batch_order, access.address, &strides->batch);
}

// Do the elements of a row, or of a column, lie side by side, and the rows apart?
bool is_lined(const Strides& at, int64_t rows, int64_t columns) {
  return (at.column == 1 && at.row >= columns) || (at.row == 1 && at.column >= rows);
}

int skip_cast(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_cast ? nest.needs(line)[0] : line;
}

const Access& access_of(const Nest& nest, int line) {
  return nest.access[static_cast<size_t>(line)];
}

// The type of an operand that is read as it is; bool if it is computed.
DType find_operand(const Nest& nest, const Product& p, const Operand& operand, bool rows,
                   int* tensor, Strides* strides, int64_t* start) {
  const int line = skip_cast(nest, operand.line);
  if (nest.at(line).op != Op::op_load) return DType::boolean;
  const Access& access = access_of(nest, line);
  if (!find_matrix(nest, p, access, rows ? operand.own : operand.sum,
                   rows ? operand.sum : operand.own, strides) ||
      !is_lined(*strides, rows ? p.m : p.k, rows ? p.k : p.n)) {
    return DType::boolean;
  }
  *tensor = access.tensor;
  *start = access.address.base;
  return nest.dtype(line);
}

// What of an addition may the call add: a bias or a matrix, each once.
bool find_added(const Nest& nest, const Product& p, int line, LibraryProduct* found) {
  line = skip_cast(nest, line);
  if (nest.at(line).op != Op::op_load || nest.dtype(line) != found->call.result) return false;
  const Access& access = access_of(nest, line);
  Strides at;
  if (!find_matrix(nest, p, access, p.a.own, p.b.own, &at) || at.column != 1) return false;
  Call& call = found->call;
  if (at.row == 0 && at.batch == 0 && !call.has_bias) {
    call.has_bias = true;
    call.at_bias = access.address.base;
    found->bias = access.tensor;
    return true;
  }
  // A sum in another order than the program's.
  if (at.row < p.n || call.has_c || nest.bound.program->strict) return false;
  call.has_c = true;
  call.c = at;
  call.at_c = access.address.base;
  found->c = access.tensor;
  return true;
}

bool is_zero(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_const && nest.at(line).literal == 0;
}

// Can the call do all that follows the dot? Then says how.
bool find_rest(const Nest& nest, const Product& p, LibraryProduct* found) {
  const int store = nest.stores[0];
  const Access& access = access_of(nest, store);
  Call& call = found->call;
  call.result = nest.dtype(store);
  if (nest.stores.size() > 1 || (call.result != call.operands && call.result != DType::f32) ||
      !find_matrix(nest, p, access, p.a.own, p.b.own, &call.d) || call.d.column != 1 ||
      call.d.row < p.n) {
    return false;
  }
  call.at_d = access.address.base;
  int line = skip_cast(nest, nest.needs(store)[0]);
  if (nest.dtype(line) != DType::f32) return false;
  if (nest.at(line).op == Op::op_max) {
    const std::vector<int> of = nest.needs(line);
    const bool first = is_zero(nest, of[0]);
    if (!first && !is_zero(nest, of[1])) return false;
    call.relu = true;
    line = of[first ? 1 : 0];
  }
  while (nest.at(line).op == Op::op_add) {
    const std::vector<int> of = nest.needs(line);
    const bool second = find_added(nest, p, of[1], found);
    if (!second && !find_added(nest, p, of[0], found)) return false;
    line = of[second ? 0 : 1];
  }
  found->d = access.tensor;
  return line == p.dot;
}

}  // namespace

bool find_call(const Work& work, const Nest& nest, const Product& p, LibraryProduct* found) {
  *found = LibraryProduct();
  Call& call = found->call;
  if (!work.device.aligned) return false;
  call.operands = find_operand(nest, p, p.a, true, &found->a, &call.a, &call.at_a);
  const DType other = find_operand(nest, p, p.b, false, &found->b, &call.b, &call.at_b);
  const DType type = p.unit == Unit::f16    ? DType::f16
                     : p.unit == Unit::bf16 ? DType::bf16
                                            : DType::f32;
  if (call.operands != type || other != type) return false;
  call.tf32 = p.unit == Unit::tf32;
  call.m = p.m;
  call.n = p.n;
  call.k = p.k;
  call.batches = p.batches;
  call.workspace_bytes = work.device.arch >= 90 ? kHopperWorkspace : kWorkspace;
  LibraryProduct whole = *found;
  if (find_rest(nest, p, &whole)) {
    *found = whole;
    return true;
  }
  call.result = DType::f32;
  call.d = {p.n, 1, p.m * p.n};
  const int64_t most = work.device.cache_bytes / 2 / (4 * p.n);
  if (p.batches == 1 && p.m > most) {
    found->rows = std::max(most / kPartRows * kPartRows, kPartRows);
    found->parts = (p.m + found->rows - 1) / found->rows;
    if (found->parts > kMostParts) found->parts = 1;
  }
  return true;
}

Status plan_call(Work& work, size_t stage, const Nest& nest, const Product& product,
                 const LibraryProduct& found, bool by_parts) {
  const Program& program = *work.bound.program;
  const auto buffer = [](int number) { return Argument{Argument::Kind::workspace, number}; };
  const Argument workspace =
      buffer(work.buffer(static_cast<int64_t>(found.call.workspace_bytes)));
  std::vector<Argument> arguments{argument_of(program, found.a), argument_of(program, found.b)};
  if (found.d >= 0) {
    arguments.push_back(argument_of(program, found.d));
    arguments.push_back(workspace);
    if (found.call.has_c) arguments.push_back(argument_of(program, found.c));
    if (found.call.has_bias) arguments.push_back(argument_of(program, found.bias));
    Call call = found.call;
    call.stage = stage;
    work.add(call, arguments);
    return Status();
  }
  const int64_t rows = by_parts && found.parts > 1 ? found.rows : product.m;
  const int sums = work.buffer(4 * product.batches * rows * product.n);
  arguments.push_back(buffer(sums));
  arguments.push_back(workspace);
  for (int64_t first = 0; first < product.m; first += rows) {
    Call call = found.call;
    call.stage = stage;
    call.m = std::min(rows, product.m - first);
    call.at_a += first * call.a.row;
    work.add(call, arguments);
    const Status status = add_parts(work, stage, nest, product, {sums, 1, first, call.m});
    if (!status.ok()) return status;
  }
  return Status();
}

}  // namespace onnx_fusion::cuda
