#include "cuda/offline.h"

#include <algorithm>
#include <vector>

#include "cuda/cache.h"
#include "cuda/fuse.h"
#include "cuda/module.h"
#include "cuda/nvrtc.h"
#include "cuda/render.h"
#include "program/bind.h"

namespace onnx_fusion::cuda {
namespace {

// What unknown dims are tried as: many factors of two, and none.
constexpr int64_t kGuesses[] = {64, 61, 256};

struct Shapes {
  std::vector<std::vector<int64_t>> dims;
  std::vector<TensorView> views;
  bool guessed = false;
};

// The inputs' physical shapes: those given, or what the program's own expressions are where a name
// that nothing gives is `guess`. False if they cannot be found.
bool complete(const Program& program, const TensorView* given, int64_t guess, Shapes* shapes) {
  std::vector<int64_t> names(program.dims.size());
  shapes->dims.resize(program.inputs);
  for (size_t i = 0; i < program.inputs; ++i) {
    const Tensor& tensor = program.tensors[i];
    const auto known = [&](size_t logical) -> int64_t {
      const auto place = std::find(tensor.order.begin(), tensor.order.end(), logical);
      return given == nullptr ? -1 : given[i].dims[place - tensor.order.begin()];
    };
    std::vector<int64_t> logical(tensor.rank());
    for (size_t d = 0; d < tensor.rank(); ++d) {
      logical[d] = known(d);
      if (tensor.binds[d] >= 0) {
        shapes->guessed = shapes->guessed || logical[d] < 0;
        if (logical[d] < 0) logical[d] = guess;
        names[static_cast<size_t>(tensor.binds[d])] = logical[d];
        continue;
      }
      Interval range;
      if (!expr_range(program, names.data(), nullptr, tensor.shape[d], &range)) return false;
      logical[d] = range.lo;
    }
    for (const uint8_t place : tensor.order) shapes->dims[i].push_back(logical[place]);
    shapes->dims[i].push_back(0);  // never without an address
  }
  for (size_t i = 0; i < program.inputs; ++i) {
    shapes->views.push_back(
        {nullptr, shapes->dims[i].data(), program.tensors[i].rank(), program.tensors[i].dtype});
  }
  return true;
}

// The kernels of all plans that differ in who makes their products.
Status plan_all(const BoundProgram& bound, Device device, std::vector<Source>* sources) {
  for (const Maker maker : {Maker::kernel, Maker::library, Maker::library_by_parts}) {
    Plan plan;
    device.makers.fill(maker);
    const Status status = cuda::plan(bound, device, &plan);
    if (!status.ok()) return status;
    for (Source& source : plan.sources) {
      const bool known = std::any_of(sources->begin(), sources->end(), [&](const Source& other) {
        return other.entry == source.entry;
      });
      if (!known) sources->push_back(std::move(source));
    }
    if (plan.offers.empty()) break;
  }
  return Status();
}

}  // namespace

std::string host_refusal(const Program& program) {
  for (size_t i = 0; i < program.inputs; ++i) {
    if (program.tensors[i].contents.empty()) continue;
    return "input " + std::to_string(i) +
           " decides about shapes, so it is read on the host; 'optimize --target cuda' or 'both' "
           "leaves "
           "that outside";
  }
  return {};
}

std::string refusal(const Program& given) {
  if (const std::string reason = host_refusal(given); !reason.empty()) return reason;
  const Program program = fuse(given);
  std::string first;
  for (const int64_t guess : kGuesses) {
    Shapes shapes;
    BoundProgram bound;
    Plan plan;
    if (!complete(program, nullptr, guess, &shapes)) continue;
    if (!bind_program(program, shapes.views.data(), &bound).ok()) continue;
    const Status status = cuda::plan(bound, Device(), &plan);
    if (status.ok()) return {};
    if (first.empty()) first = status.message;
    if (!shapes.guessed) break;
  }
  return first;
}

std::string make_ptx(const Program& given, const TensorView* shapes, const std::string& nvrtc) {
  if (const std::string reason = host_refusal(given); !reason.empty()) throw ProgramError(reason);
  const Program program = fuse(given);
  std::string all, first;
  for (const int64_t guess : kGuesses) {
    Shapes filled;
    BoundProgram bound;
    if (!complete(program, shapes, guess, &filled)) continue;
    Status status = bind_program(program, filled.views.data(), &bound);
    for (const bool aligned : {true, false}) {
      Device device;
      std::vector<Source> sources;
      device.aligned = aligned;
      if (status.ok()) status = plan_all(bound, device, &sources);
      if (!status.ok()) {
        if (first.empty()) first = status.message;
        break;
      }
      if (sources.empty() || !find_ptx(all, sources).empty()) continue;
      const std::string text = unit(sources.data(), sources.size());
      all += kPtxMark;
      all += Compiler::get(nvrtc).compile(text, device.arch, Form::ptx, cache_folder());
    }
    if (!filled.guessed) break;
  }
  if (all.empty() && !first.empty()) throw ProgramError(first);
  return all;
}

}  // namespace onnx_fusion::cuda
