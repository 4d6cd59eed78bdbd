#include "cuda/module.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "cuda/ahead.h"
#include "cuda/cache.h"
#include "cuda/nvrtc.h"

namespace onnx_fusion::cuda {
namespace {

// The PTX that every device from here on takes.
constexpr int kPtxArch = 80;
constexpr int kPtxRelease = 11000;  // the first driver that reads PTX 7.0
constexpr size_t kLogBytes = 4096;
constexpr int kErrorLog = 5, kErrorLogBytes = 6;  // CUjit_option

// 0, or why the driver does not take this image; `log` is what it says of it.
int try_load(const Driver& driver, const std::string& image, Module* module, std::string* log) {
  char text[kLogBytes] = "";
  int options[] = {kErrorLog, kErrorLogBytes};
  void* values[] = {text, reinterpret_cast<void*>(kLogBytes)};
  const int code = driver.load_module(module, image.c_str(), 2, options, values);
  text[kLogBytes - 1] = '\0';
  *log = std::string(text, std::strcspn(text, "\n"));
  return code;
}

Module load_ptx(const Driver& driver, const std::string& ptx) {
  Module module = nullptr;
  std::string log;
  const int code = try_load(driver, ptx, &module, &log);
  if (code == 0) return module;
  if (code == kUnsupportedPtx || driver.release < kPtxRelease) {
    throw ProgramError("the driver knows CUDA " + release_text(driver.release) +
                       ", the kernels' PTX (.version 7.0) needs " + release_text(kPtxRelease) +
                       "; update the driver");
  }
  throw ProgramError("the driver does not take the kernels' PTX: " +
                     driver.describe("cuModuleLoadDataEx", code) + (log.empty() ? "" : ": " + log));
}

// A module compiled from a text, or from the cache. What a driver does not take of NVRTC's machine
// code (a newer release's, say) it makes itself from PTX.
Module load_compiled(const Driver& driver, const Place& place, const Compiled& wanted,
                     const std::string& nvrtc) {
  const std::string folder = cache_folder();
  const std::string &key = wanted.key, &text = wanted.text;
  await_ahead(folder, key);
  Module module = nullptr;
  std::string image, log;
  if (load(folder, key, &image)) {
    if (try_load(driver, image, &module, &log) == 0) return module;
    forget(folder, key);
  }
  const Compiler& compiler = Compiler::get(nvrtc);
  const int target = compiler.target(place.device.arch);
  int code = kNoBinary;
  if (target / 10 == place.device.arch / 10) {
    image = compiler.compile(text, target, Form::cubin, folder);
    code = try_load(driver, image, &module, &log);
  }
  if (code != 0) {
    image = compiler.compile(text, std::min(target, kPtxArch), Form::ptx, folder);
    module = load_ptx(driver, image);
  }
  save(folder, key, image);
  return module;
}

}  // namespace

Compiled describe_compiled(const Driver& driver, int arch, const std::vector<Source>& sources,
                           const std::string& nvrtc) {
  Compiled found;
  found.text = unit(sources.data(), sources.size());
  found.key = std::string("onnx_fusion ") + ONNX_FUSION_VERSION + "\nsm_" + std::to_string(arch) +
              "\ndriver " + std::to_string(driver.release) + "\n" + Compiler::identify(nvrtc) +
              "\n" + Compiler::options() + "\n" + found.text;
  return found;
}

std::string_view find_ptx(std::string_view embedded, const std::vector<Source>& sources) {
  for (size_t at = embedded.find(kPtxMark); at != std::string_view::npos;) {
    const size_t start = at + kPtxMark.size();
    at = embedded.find(kPtxMark, start);
    const std::string_view text =
        embedded.substr(start, at == std::string_view::npos ? at : at - start);
    const auto has = [&](const Source& source) {
      return text.find(".entry " + source.entry + "(") != std::string_view::npos;
    };
    if (std::all_of(sources.begin(), sources.end(), has)) return text;
  }
  return {};
}

Kernels::~Kernels() {
  const Entered entered(driver_, context_);
  if (entered.code() == 0) driver_.unload_module(module_);
}

Function Kernels::find(const std::string& entry) const {
  const Entered entered(driver_, context_);
  Function function = nullptr;
  driver_.check(("cuModuleGetFunction " + entry).c_str(),
                driver_.function(&function, module_, entry.c_str()));
  return function;
}

std::shared_ptr<const Kernels> load_kernels(const Driver& driver, const Place& place,
                                            const std::vector<Source>& sources,
                                            std::string_view embedded, const std::string& nvrtc) {
  using Key = std::tuple<Context, bool, std::string>;
  // Never destroyed: sessions may outlive the statics here.
  static auto& mutex = *new std::mutex;
  static auto& loaded = *new std::map<Key, std::weak_ptr<const Kernels>>;
  const std::string ptx(find_ptx(embedded, sources));
  const Compiled wanted = describe_compiled(driver, place.device.arch, sources, nvrtc);
  const Key key{place.context, !ptx.empty(), ptx.empty() ? wanted.text : ptx};
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = loaded.begin(); it != loaded.end();) {
    it = it->second.expired() && it->first != key ? loaded.erase(it) : std::next(it);
  }
  std::weak_ptr<const Kernels>& entry = loaded[key];
  if (auto found = entry.lock()) return found;
  const Entered entered(driver, place.context);
  driver.check("cuCtxPushCurrent", entered.code());
  const Module module =
      ptx.empty() ? load_compiled(driver, place, wanted, nvrtc) : load_ptx(driver, ptx);
  auto made = std::make_shared<const Kernels>(driver, place.context, module);
  entry = made;
  return made;
}

}  // namespace onnx_fusion::cuda
