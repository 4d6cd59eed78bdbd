#include "ort/kept.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "dtype.h"

namespace onnx_fusion::ort {
namespace {

constexpr int kMostChanges = 8;  // after so many, inputs are what they are called
constexpr size_t kMostInputs = 256;

std::vector<uint16_t> read_kept(const std::string& schedule, size_t count) {
  std::vector<uint16_t> kept;
  for (size_t at = 0; at < schedule.size();) {
    const size_t end = std::min(schedule.find(';', at), schedule.size());
    const std::string entry = schedule.substr(at, end - at);
    at = end + 1;
    if (entry.compare(0, 5, "kept=") != 0) continue;
    const char* text = entry.c_str() + 5;
    while (*text >= '0' && *text <= '9') {
      char* rest = nullptr;
      const unsigned long input = std::strtoul(text, &rest, 10);
      if (input < std::min(count, kMostInputs)) kept.push_back(static_cast<uint16_t>(input));
      text = *rest == ',' ? rest + 1 : rest;
    }
  }
  return kept;
}

}  // namespace

struct KeptInputs::Snapshot {
  std::vector<std::vector<char>> data;
  std::vector<std::vector<int64_t>> dims;
  std::unique_ptr<Kernel> kernel;
};

KeptInputs::KeptInputs(const std::string& schedule, const std::string& text,
                       const std::vector<TensorView>& constants)
    : text_(text), constants_(constants), kept_(read_kept(schedule, constants.size())) {
  const auto is_constant = [&](uint16_t input) { return constants_[input].data != nullptr; };
  kept_.erase(std::remove_if(kept_.begin(), kept_.end(), is_constant), kept_.end());
}

const KeptInputs::Snapshot* KeptInputs::take(const TensorView* inputs) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (owned_ != nullptr) return owned_.get();
  auto snapshot = std::make_shared<Snapshot>();
  std::vector<TensorView> constants = constants_;
  for (const uint16_t input : kept_) {
    const TensorView& view = inputs[input];
    const char* bytes = static_cast<const char*>(view.data);
    snapshot->data.emplace_back(bytes, bytes + bytes_of(view));
    snapshot->dims.emplace_back(view.dims, view.dims + view.rank);
    snapshot->data.back().reserve(1);  // never without an address
    constants[input] = {snapshot->data.back().data(), snapshot->dims.back().data(), view.rank,
                        view.dtype};
  }
  snapshot->kernel = Kernel::create(text_, constants.data(), constants.size());
  owned_ = std::move(snapshot);
  snapshot_.store(owned_.get());
  return owned_.get();
}

const Kernel* KeptInputs::find(const TensorView* inputs) const {
  if (kept_.empty() || changes_.load(std::memory_order_relaxed) >= kMostChanges) return nullptr;
  const Snapshot* snapshot = snapshot_.load();
  if (snapshot == nullptr) snapshot = take(inputs);
  for (size_t i = 0; i < kept_.size(); ++i) {
    const TensorView& view = inputs[kept_[i]];
    const std::vector<int64_t>& dims = snapshot->dims[i];
    const bool same =
        std::equal(dims.begin(), dims.end(), view.dims, view.dims + view.rank) &&
        std::memcmp(view.data, snapshot->data[i].data(), snapshot->data[i].size()) == 0;
    if (same) continue;
    changes_.fetch_add(1);
    return nullptr;
  }
  return snapshot->kernel.get();
}

}  // namespace onnx_fusion::ort
