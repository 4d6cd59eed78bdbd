#include <charconv>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>

#include "ort/op.h"

namespace onnx_fusion::ort {
namespace {

// How many numbered op types a session gets unless it says otherwise, and may ask for.
constexpr size_t kDefaultNames = 128;
constexpr size_t kMostNames = 1024;
constexpr const char* kNamesEntry = "onnx_fusion.names";

// The op types made for one ONNX Runtime, and the sets of them that sessions asked for.
struct Types {
  const Api* api;
  uint32_t version;
  std::deque<FusedRegion> ops;
  std::map<size_t, OrtCustomOpDomain*> domains;

  Types(const Api* table, uint32_t table_version) : api(table), version(table_version) {
    ops.emplace_back(api, version, kType);
  }

  OrtCustomOpDomain* domain(size_t names) {
    const auto found = domains.find(names);
    if (found != domains.end()) return found->second;
    while (ops.size() <= names) {
      const std::string number = std::to_string(ops.size() - 1);
      ops.emplace_back(api, version, std::string(kType) + "_" + number);
    }
    OrtCustomOpDomain* made = nullptr;
    check(create_domain(api, kDomain, &made));
    for (size_t i = 0; i <= names; ++i) check(add_op(api, made, &ops[i]));
    domains.emplace(names, made);
    return made;
  }
};

// Sessions keep pointers to all of this, and may outlive the statics here: it is never destroyed.
OrtCustomOpDomain* find_domain(const Api* api, uint32_t version, size_t names) {
  static auto& mutex = *new std::mutex;
  static auto& types = *new std::map<const Api*, Types>;
  std::lock_guard<std::mutex> lock(mutex);
  return types.try_emplace(api, api, version).first->second.domain(names);
}

size_t read_names(const Api* api, const OrtSessionOptions* options) {
  int has = 0;
  check(has_config_entry(api, options, kNamesEntry, &has));
  if (has == 0) return kDefaultNames;
  const std::string text = read_text(
      [&](char* out, size_t* size) { return config_entry(api, options, kNamesEntry, out, size); });
  size_t names = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, names);
  if (result.ec != std::errc() || result.ptr != end || names > kMostNames) {
    throw std::runtime_error(std::string("session config entry '") + kNamesEntry + "' is '" + text +
                             "'; it must be a number from 0 to " + std::to_string(kMostNames));
  }
  return names;
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
    check(add_domain(api, options, find_domain(api, version, read_names(api, options))));
    return nullptr;
  } catch (...) {
    return caught(api, "onnx_fusion");
  }
}
