// Products for cuBLASLt.
#include <algorithm>

#include "cuda/call.h"

namespace onnx_fusion::cuda {
namespace {

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
  return access.plain() && is_aligned(nest, access) &&
         flatten(nest, rows, access.address, &strides->row) &&
         flatten(nest, columns, access.address, &strides->column) &&
         flatten(nest, p.batch_order, access.address, &strides->batch);
}

// Do the elements of a row, or of a column, lie side by side, and the rows apart?
bool is_lined(const Strides& at, int64_t rows, int64_t columns) {
  return (at.column == 1 && at.row >= columns) || (at.row == 1 && at.column >= rows);
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
bool find_added(const Nest& nest, const Product& p, const Access& access, LibraryCall* found) {
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
  if (at.row < p.n || call.has_c || call.strict) return false;
  call.has_c = true;
  std::get<Matrices>(call.sizes).c = at;
  call.at_c = access.address.base;
  found->c = access.tensor;
  return true;
}

bool find_whole(const Nest& nest, const Product& p, LibraryCall* found) {
  Strides& d = std::get<Matrices>(found->call.sizes).d;
  return find_rest(
      nest, p.dot, found,
      [&](const Access& access) {
        return find_matrix(nest, p, access, p.a.own, p.b.own, &d) && d.column == 1 && d.row >= p.n;
      },
      [&](const Access& access) { return find_added(nest, p, access, found); });
}

}  // namespace

bool find_product_call(const Work& work, const Nest& nest, const Product& p, LibraryCall* found) {
  *found = LibraryCall();
  Call& call = found->call;
  Matrices sizes{p.m, p.n, p.k, p.batches, {}, {}, {}, {}};
  call.operands = find_operand(nest, p, p.a, true, &found->a, &sizes.a, &call.at_a);
  const DType other = find_operand(nest, p, p.b, false, &found->b, &sizes.b, &call.at_b);
  const DType type = p.unit == Unit::f16    ? DType::f16
                     : p.unit == Unit::bf16 ? DType::bf16
                                            : DType::f32;
  if (call.operands != type || other != type) return false;
  call.tf32 = p.unit == Unit::tf32;
  call.strict = work.bound.program->strict;
  call.most_workspace = work.device.arch >= 90 ? kHopperWorkspace : kWorkspace;
  call.sizes = sizes;
  LibraryCall whole = *found;
  if (find_whole(nest, p, &whole)) {
    *found = whole;
    return true;
  }
  call.result = DType::f32;
  std::get<Matrices>(call.sizes).d = {p.n, 1, p.m * p.n};
  const int64_t most = work.device.cache_bytes / 2 / (4 * p.n);
  if (p.batches == 1 && p.m > most) {
    found->rows = std::max(most / kPartRows * kPartRows, kPartRows);
    found->parts = (p.m + found->rows - 1) / found->rows;
    if (found->parts > kMostParts) found->parts = 1;
  }
  return true;
}

// The call and, unless it does all that follows the dot, a launch behind it that does, on float32
// sums.
Status plan_product_call(Work& work, size_t stage, const Nest& nest, const Product& product,
                         const LibraryCall& found, bool by_parts) {
  if (found.d >= 0) {
    add_whole(work, found);
    return Status();
  }
  const Program& program = *work.bound.program;
  const auto buffer = [](int number) { return Argument{Argument::Kind::workspace, number}; };
  const int workspace = work.buffer(static_cast<int64_t>(found.call.workspace_bytes));
  const int64_t rows = by_parts && found.parts > 1 ? found.rows : product.m;
  const int sums = work.buffer(4 * product.batches * rows * product.n);
  const std::vector<Argument> arguments{argument_of(program, found.a),
                                        argument_of(program, found.b), buffer(sums),
                                        buffer(workspace)};
  for (int64_t first = 0; first < product.m; first += rows) {
    Call call = found.call;
    Matrices& part = std::get<Matrices>(call.sizes);
    part.m = std::min(rows, product.m - first);
    call.at_a += first * part.a.row;
    work.add(call, arguments);
    const Status status = add_parts(work, stage, nest, product, {sums, 1, first, part.m});
    if (!status.ok()) return status;
  }
  return Status();
}

}  // namespace onnx_fusion::cuda
