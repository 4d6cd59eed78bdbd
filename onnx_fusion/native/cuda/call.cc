#include "cuda/call.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kAlignment = 16;  // of all pointers, in bytes: what the libraries are told

bool is_zero(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_const && nest.at(line).literal == 0;
}

Offer offer_of(size_t stage, const LibraryCall& found) {
  Offer offer{stage, found.call.library(), found.parts > 1, 1, {}};
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

void add_whole(Work& work, size_t stage, const LibraryCall& found) {
  const Program& program = *work.bound.program;
  Call call = found.call;
  call.stage = stage;
  const int workspace = work.buffer(static_cast<int64_t>(call.workspace_bytes));
  std::vector<Argument> arguments{argument_of(program, found.a), argument_of(program, found.b),
                                  argument_of(program, found.d),
                                  {Argument::Kind::workspace, workspace}};
  if (call.has_c) arguments.push_back(argument_of(program, found.c));
  if (call.has_bias) arguments.push_back(argument_of(program, found.bias));
  work.add(call, arguments);
}

Status plan_library(Work& work, size_t stage, const Nest& nest, const Product* product,
                    bool* called) {
  *called = false;
  if (stage >= kMostMade || !work.device.aligned || work.device.wide) return Status();
  const Maker maker = work.device.makers[stage];
  LibraryCall found;
  if (product != nullptr && find_product_call(work, nest, *product, &found)) {
    work.offer(offer_of(stage, found));
    *called = maker != Maker::kernel;
    return *called ? plan_product_call(work, stage, nest, *product, found,
                                       maker == Maker::library_by_parts)
                   : Status();
  }
  const Nest apart(work.bound, stage, nest.stores, true);
  if (!find_convolution(work, apart, &found)) return Status();
  work.offer(offer_of(stage, found));
  *called = maker != Maker::kernel;
  return *called ? plan_convolution(work, stage, apart, found) : Status();
}

}  // namespace onnx_fusion::cuda
