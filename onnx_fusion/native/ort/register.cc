#include <charconv>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

#include "machine.h"
#include "ort/cuda_op.h"

namespace onnx_fusion::ort {
namespace {

// How many numbered op types a session gets unless it says otherwise, and may ask for.
constexpr size_t kDefaultNames = 128;
constexpr size_t kMostNames = 1024;
constexpr const char* kNamesEntry = "onnx_fusion.names";
// "1": there are CUDA kernels, and a fused node on the CPU is an error; "0": there are none. If it
// is not given, there are both kinds where the machine has a CUDA driver.
constexpr const char* kCudaEntry = "onnx_fusion.cuda";
constexpr const char* kProviderEntry = "onnx_fusion.cuda_provider";  // whom they are registered for
constexpr const char* kNvrtcEntry = "onnx_fusion.nvrtc";  // the compiler's path
constexpr const char* kPtxEntry = "onnx_fusion.cuda_ptx";  // "1": what models carry runs as it is
constexpr const char* kTf32Entry = "onnx_fusion.tf32";  // "1": products may use tf32
constexpr const char* kBlasEntry = "onnx_fusion.cuda_blas";  // "0": no products by cuBLASLt
constexpr const char* kDnnEntry = "onnx_fusion.cuda_dnn";  // "0": no convolutions by cuDNN
constexpr const char* kCpuProvider = "CPUExecutionProvider";

// What a session asked for.
struct Asked {
  size_t names = kDefaultNames;
  bool cuda = false, cuda_only = false;
  CudaOptions options;

  // The CPU's kernels make way only where the CUDA kernels take their provider.
  bool cpu() const { return !cuda || options.provider != kCpuProvider; }
  bool operator<(const Asked& other) const {
    const auto all = [](const Asked& a) {
      return std::tie(a.names, a.cuda, a.cuda_only, a.options.provider, a.options.nvrtc,
                      a.options.ptx, a.options.tf32, a.options.blas, a.options.dnn);
    };
    return all(*this) < all(other);
  }
};

// The op types made for one ONNX Runtime, and the sets of them that sessions asked for.
struct Types {
  const Api* api;
  uint32_t version;
  std::map<Asked, OrtCustomOpDomain*> domains;
  std::map<Asked, std::deque<FusedRegion>> cpu;  // by what their kind asks, names left out
  std::map<Asked, std::deque<CudaRegion>> cuda;

  Types(const Api* table, uint32_t table_version) : api(table), version(table_version) {}

  static std::string name_of(size_t i) {
    return i == 0 ? kType : std::string(kType) + "_" + std::to_string(i - 1);
  }

  OrtCustomOpDomain* domain(const Asked& asked) {
    const auto found = domains.find(asked);
    if (found != domains.end()) return found->second;
    Asked kind = asked;
    kind.names = 0;
    OrtCustomOpDomain* made = nullptr;
    check(create_domain(api, kDomain, &made));
    const CudaOptions* ahead = nullptr;
    if (asked.cuda) {
      std::deque<CudaRegion>& ops = cuda[kind];
      while (ops.size() <= asked.names) {
        ops.emplace_back(api, version, name_of(ops.size()), asked.options);
        ops.back().ahead = asked.cuda_only ? &ops.back().options : nullptr;
      }
      ahead = ops.front().ahead;
    }
    if (asked.cpu()) {
      std::deque<FusedRegion>& ops = cpu[kind];
      while (ops.size() <= asked.names) {
        ops.emplace_back(api, version, name_of(ops.size()));
        ops.back().cuda_only = asked.cuda_only;
        ops.back().ahead = ahead;
      }
      for (size_t i = 0; i <= asked.names; ++i) check(add_op(api, made, &ops[i]));
    }
    for (size_t i = 0; asked.cuda && i <= asked.names; ++i) {
      check(add_op(api, made, &cuda[kind][i]));
    }
    domains.emplace(asked, made);
    return made;
  }
};

// Sessions keep pointers to all of this, and may outlive the statics here: it is never destroyed.
OrtCustomOpDomain* find_domain(const Api* api, uint32_t version, const Asked& asked) {
  static auto& mutex = *new std::mutex;
  static auto& types = *new std::map<const Api*, Types>;
  std::lock_guard<std::mutex> lock(mutex);
  return types.try_emplace(api, api, version).first->second.domain(asked);
}

// A session config entry; false if there is none.
bool read_entry(const Api* api, const OrtSessionOptions* options, const char* name,
                std::string* text) {
  int has = 0;
  check(has_config_entry(api, options, name, &has));
  if (has == 0) return false;
  *text = read_text(
      [&](char* out, size_t* size) { return config_entry(api, options, name, out, size); });
  return true;
}

[[noreturn]] void refuse(const char* name, const std::string& text, const std::string& right) {
  throw std::runtime_error(std::string("session config entry '") + name + "' is '" + text +
                           "'; it must be " + right);
}

size_t read_names(const std::string& text) {
  size_t names = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, names);
  if (result.ec != std::errc() || result.ptr != end || names > kMostNames) {
    refuse(kNamesEntry, text, "a number from 0 to " + std::to_string(kMostNames));
  }
  return names;
}

Asked read_asked(const Api* api, const OrtSessionOptions* options) {
  Asked asked;
  std::string text;
  const auto entry = [&](const char* name) { return read_entry(api, options, name, &text); };
  const auto flag = [&](const char* name) {
    if (text != "0" && text != "1") refuse(name, text, "0 or 1");
    return text == "1";
  };
  if (entry(kNamesEntry)) asked.names = read_names(text);
  if (entry(kCudaEntry)) {
    asked.cuda = asked.cuda_only = flag(kCudaEntry);
  } else {
    asked.cuda = has_driver();
  }
  if (!asked.cuda) return asked;
  if (entry(kProviderEntry)) asked.options.provider = text;
  if (entry(kNvrtcEntry)) asked.options.nvrtc = text;
  if (entry(kPtxEntry)) asked.options.ptx = flag(kPtxEntry);
  if (entry(kTf32Entry)) asked.options.tf32 = flag(kTf32Entry);
  if (entry(kBlasEntry)) asked.options.blas = flag(kBlasEntry);
  if (entry(kDnnEntry)) asked.options.dnn = flag(kDnnEntry);
  return asked;
}

// "1.27.0" gives 27: the table's version is ONNX Runtime's minor version.
uint32_t minor_version(std::string_view text) {
  uint32_t minor = 0;
  if (text.substr(0, 2) == "1.") {
    std::from_chars(text.data() + 2, text.data() + text.size(), minor);
  }
  return minor;
}

}  // namespace
}  // namespace onnx_fusion::ort

// The entry point that ONNX Runtime calls when a session's options register this library.
extern "C" __attribute__((visibility("default"))) onnx_fusion::ort::OrtStatus* RegisterCustomOps(
    onnx_fusion::ort::OrtSessionOptions* options, const onnx_fusion::ort::ApiBase* base) noexcept {
  using namespace onnx_fusion::ort;
  const char* text = base->version_text();
  const uint32_t minor = minor_version(text);
  const uint32_t version = minor < kNewestApi ? minor : kNewestApi;
  const Api* api = version < kOldestApi ? nullptr : base->get_api(version);
  if (api == nullptr) {
    api = base->get_api(1);  // enough to say why
    if (api == nullptr) return nullptr;
    char message[128];
    std::snprintf(message, sizeof message,
                  "onnx_fusion needs ONNX Runtime 1.%u or newer, this is %s", kOldestApi, text);
    return create_status(api, kFail, message);
  }
  try {
    const std::string& wrong = onnx_fusion::isa_error();
    if (!wrong.empty()) throw std::runtime_error(wrong);
    check(add_domain(api, options, find_domain(api, version, read_asked(api, options))));
    return nullptr;
  } catch (...) {
    return caught(api, "onnx_fusion");
  }
}
