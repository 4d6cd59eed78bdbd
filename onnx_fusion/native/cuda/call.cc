#include "cuda/call.h"

#include <algorithm>
#include <optional>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kAlignment = 16;  // of all pointers, in bytes: what the libraries are told

bool is_zero(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_const && nest.at(line).literal == 0;
}

// Which strides are larger than which, and which are 0 or 1.
void add_order(const std::vector<int64_t>& strides, std::vector<int64_t>* kind) {
  for (const int64_t stride : strides) {
    int64_t place = 0;
    for (const int64_t other : strides) place = 2 * place + (other < stride);
    kind->push_back(4 * place + std::min<int64_t>(stride, 2));
  }
}

std::vector<int64_t> kind_of(const Call& call) {
  std::vector<int64_t> kind{static_cast<int64_t>(call.operands),
                            static_cast<int64_t>(call.result),
                            call.tf32,
                            call.strict,
                            call.relu,
                            call.has_c,
                            call.has_bias};
  if (const auto* p = std::get_if<Matrices>(&call.sizes)) {
    for (const Strides* at : {&p->a, &p->b, &p->c, &p->d}) {
      add_order({at->batch, at->row, at->column}, &kind);
    }
    return kind;
  }
  const auto& p = std::get<Convolution>(call.sizes);
  for (const ImageStrides* at : {&p.a, &p.b, &p.c, &p.d}) {
    std::vector<int64_t> strides{at->image, at->channel};
    strides.insert(strides.end(), at->space, at->space + p.space);
    add_order(strides, &kind);
  }
  return kind;
}

Offer offer_of(size_t stage, const LibraryCall& found, bool sums) {
  Offer offer{stage, found.call.library(), found.parts > 1, sums, 1, {}, kind_of(found.call)};
  if (const auto* p = std::get_if<Matrices>(&found.call.sizes)) {
    offer.sizes = {p->m, p->n, p->k, p->batches};
    for (const int64_t size : offer.sizes) offer.multiplications *= size;
    return offer;
  }
  const auto& p = std::get<Convolution>(found.call.sizes);
  offer.sizes = {p.images, p.groups, p.channels, p.filters};
  for (size_t i = 0; i < p.space; ++i) {
    offer.sizes.push_back(p.out[i]);
    offer.sizes.push_back(p.taps[i]);
  }
  for (const int64_t size : offer.sizes) offer.multiplications *= size;
  for (size_t i = 0; i < p.space; ++i) {
    offer.sizes.insert(offer.sizes.end(), {p.step[i], p.dilation[i], p.before[i], p.after[i]});
  }
  return offer;
}

}  // namespace

bool is_aligned(DType dtype, int64_t start) {
  return start * static_cast<int64_t>(dtype_size(dtype)) % kAlignment == 0;
}

bool is_aligned(const Nest& nest, const Access& access) {
  return is_aligned(nest.bound.tensors[static_cast<size_t>(access.tensor)].dtype,
                    access.address.base);
}

int skip_cast(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_cast ? nest.needs(line)[0] : line;
}

const Access& access_of(const Nest& nest, int line) {
  return nest.access[static_cast<size_t>(line)];
}

bool find_rest(const Nest& nest, int dot, LibraryCall* found,
               const std::function<bool(const Access&)>& writes,
               const std::function<bool(const Access&)>& adds) {
  const int store = nest.stores[0];
  const Access& access = access_of(nest, store);
  Call& call = found->call;
  call.result = nest.dtype(store);
  if (nest.stores.size() > 1 || (call.result != call.operands && call.result != DType::f32) ||
      !writes(access)) {
    return false;
  }
  call.at_d = access.address.base;
  int line = skip_cast(nest, nest.needs(store)[0]);
  if (nest.dtype(line) != DType::f32) return false;
  if (nest.at(line).op == Op::op_max) {
    // cuBLASLt does not say what its ReLU makes of a NaN, which stays one here.
    if (call.library() == LibraryName::cublaslt || call.strict) return false;
    const std::vector<int> of = nest.needs(line);
    const bool first = is_zero(nest, of[0]);
    if (!first && !is_zero(nest, of[1])) return false;
    call.relu = true;
    line = of[first ? 1 : 0];
  }
  const auto added = [&](int value) {
    const int load = skip_cast(nest, value);
    return nest.at(load).op == Op::op_load && nest.dtype(load) == call.result &&
           adds(access_of(nest, load));
  };
  while (nest.at(line).op == Op::op_add) {
    const std::vector<int> of = nest.needs(line);
    const bool second = added(of[1]);
    if (!second && !added(of[0])) return false;
    line = of[second ? 0 : 1];
  }
  found->d = access.tensor;
  return line == dot;
}

void add_whole(Work& work, const LibraryCall& found) {
  const Program& program = *work.bound.program;
  const Call& call = found.call;
  const int workspace = work.buffer(static_cast<int64_t>(call.workspace_bytes));
  std::vector<Argument> arguments{argument_of(program, found.a),
                                  argument_of(program, found.b),
                                  argument_of(program, found.d),
                                  {Argument::Kind::workspace, workspace}};
  if (call.has_c) arguments.push_back(argument_of(program, found.c));
  if (call.has_bias) arguments.push_back(argument_of(program, found.bias));
  work.add(call, arguments);
}

Status plan_library(Work& work, size_t stage, const Nest& nest, const Product* product,
                    bool* called) {
  *called = false;
  if (!work.device.aligned || work.device.wide) return Status();
  LibraryCall found, sums;
  std::optional<Nest> apart;
  if (product == nullptr || !find_product_call(work, nest, *product, &found)) {
    product = nullptr;
    apart.emplace(work.bound, stage, nest.stores, true);
    if (!find_convolution(work, *apart, true, &found)) return Status();
  }
  const Call& call = found.call;
  const bool does_more = found.d >= 0 && (call.has_c || call.has_bias || call.relu);
  const bool has_sums = apart && does_more && find_convolution(work, *apart, false, &sums);
  const size_t number = work.offer(offer_of(stage, found, has_sums));
  if (number >= kMostMade || work.device.makers[number] == Maker::kernel) return Status();
  *called = true;
  const Maker maker = work.device.makers[number];
  LibraryCall& chosen = maker == Maker::library_sums && has_sums ? sums : found;
  chosen.call.offer = number;
  const size_t bytes = work.device.workspaces[number];
  chosen.call.workspace_bytes = bytes > 0 ? bytes : chosen.call.most_workspace;
  return apart ? plan_convolution(work, stage, *apart, chosen)
               : plan_product_call(work, stage, nest, *product, chosen,
                                   maker == Maker::library_by_parts);
}

}  // namespace onnx_fusion::cuda
