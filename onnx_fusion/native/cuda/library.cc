#include "cuda/library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/nvrtc.h"

namespace onnx_fusion::cuda {
namespace {

// How a library is found: the file that the variable names, else what is loaded already, by ONNX
// Runtime's provider perhaps, or lies where NVIDIA's packages put it, or the system.
struct Places {
  const char* variable;
  std::vector<const char*> names;
  std::vector<const char*> packages;  // from our own library's folder
  const char* toolkit;
};

const Places kPlaces[kLibraries] = {
    {"ONNX_FUSION_CUBLASLT",
     {"libcublasLt.so.13", "libcublasLt.so.12"},
     {"/../nvidia/cu13/lib/libcublasLt.so.13", "/../nvidia/cublas/lib/libcublasLt.so.12"},
     "/usr/local/cuda/lib64/libcublasLt.so"},
    {"ONNX_FUSION_CUDNN",
     {"libcudnn.so.9"},
     {"/../nvidia/cudnn/lib/libcudnn.so.9"},
     "/usr/local/cuda/lib64/libcudnn.so.9"},
};

void* find_file(const Places& places, const char* named) {
  if (named != nullptr) {
    return *named == '\0' ? nullptr : dlopen(named, RTLD_NOW | RTLD_LOCAL);
  }
  for (const char* name : places.names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return library;
  }
  std::vector<std::string> files;
  for (const char* package : places.packages) files.push_back(library_folder() + package);
  files.insert(files.end(), places.names.begin(), places.names.end());
  files.push_back(places.toolkit);
  for (const std::string& file : files) {
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

}  // namespace

const Library* Library::get(LibraryName name) {
  // Never closed: they keep threads and statics of their own.
  static auto& mutex = *new std::mutex;
  static auto& found = *new std::map<std::string, std::unique_ptr<const Library>>;
  const auto which = static_cast<size_t>(name);
  const char* named = std::getenv(kPlaces[which].variable);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, is_new] = found.try_emplace(
      std::to_string(which) + (named == nullptr ? "" : std::string("=") + named), nullptr);
  if (is_new) {
    void* const file = find_file(kPlaces[which], named);
    if (file != nullptr) {
      place->second = name == LibraryName::cublaslt ? open_blas(file) : open_dnn(file);
    }
  }
  return place->second.get();
}

void Library::judge(int right, int wrong) const {
  const bool before = is_trusted();
  right_ += right;
  wrong_ += wrong;
  if (before && !is_trusted()) {
    std::fprintf(stderr, "onnx_fusion: %s is not used any more by this process\n",
                 version_.c_str());
  }
}

Library::Handle* Library::find_handle(const Place& place, bool may_make) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = handles_.find(place);
  if (found != handles_.end()) return found->second.get();
  // ONNX Runtime unloads this library with its last session, and would lose the handles with it.
  if (!may_make || (place.second && streams_ >= kMostStreams) || !stay_loaded()) return nullptr;
  const Uncaptured uncaptured(Driver::get());
  auto made = std::make_unique<Handle>();
  if (create_handle(&made->handle, place.second ? &*place.second : nullptr) != 0) return nullptr;
  streams_ += place.second.has_value();
  return handles_.emplace(place, std::move(made)).first->second.get();
}

}  // namespace onnx_fusion::cuda
