#include "cuda/nvrtc.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>

#include "cuda/cache.h"

namespace onnx_fusion::cuda {
namespace {

using Code = struct CodeOpaque*;  // nvrtcProgram

constexpr const char* kVariable = "ONNX_FUSION_NVRTC";
constexpr const char* kNames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
// Beside this library, in the folder of Python packages, where NVIDIA's packages put theirs.
constexpr const char* kPackages[] = {"/../nvidia/cu13/lib/libnvrtc.so.13",
                                     "/../nvidia/cuda_nvrtc/lib/libnvrtc.so.12"};
constexpr const char* kToolkit = "/usr/local/cuda/lib64/libnvrtc.so";
constexpr const char* kAdvice =
    "; install onnx-fusion[cuda], or write the model with 'optimize --embed-ptx' and trust it";
constexpr const char* kBuiltins = "libnvrtc-builtins.so";

// The options every text is compiled with; `-default-device` is not needed, nor any header.
constexpr const char* kOptions[] = {"-std=c++17", "--fmad=true", "--extra-device-vectorization"};

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

// NVRTC 13.0 opens its builtins by name only, so they are opened where they lie.
void open_builtins(const std::string& folder) {
  DIR* entries = folder.empty() ? nullptr : opendir(folder.c_str());
  if (entries == nullptr) return;
  while (const dirent* entry = readdir(entries)) {
    if (std::strncmp(entry->d_name, kBuiltins, std::strlen(kBuiltins)) == 0) {
      dlopen((folder + "/" + entry->d_name).c_str(), RTLD_NOW | RTLD_GLOBAL);
    }
  }
  closedir(entries);
}

void* open(const std::string& path) {
  open_builtins(folder_of(path));
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

// The file that is asked for by name; empty if none is.
std::string named(const std::string& asked) {
  const char* variable = std::getenv(kVariable);
  return variable != nullptr && *variable != '\0' ? variable : asked;
}

// Where it may be otherwise, the first choice first.
std::vector<std::string> usual_places() {
  std::vector<std::string> places;
  const std::string folder = library_folder();
  for (const char* package : kPackages) places.push_back(folder + package);
  for (const char* name : kNames) places.push_back(name);
  places.push_back(kToolkit);
  return places;
}

// The library and the path it was found by.
void* find(const std::string& asked, std::string* path) {
  *path = named(asked);
  if (!path->empty()) {
    if (void* library = open(*path)) return library;
    throw NoCompiler(*path + ": NVRTC cannot be loaded: " + dlerror() + kAdvice);
  }
  for (const std::string& place : usual_places()) {
    *path = place;
    if (void* library = open(place)) return library;
  }
  throw NoCompiler(std::string("its CUDA kernels must be compiled, and there is no NVRTC "
                               "(libnvrtc.so.13 or .12, which ONNX_FUSION_NVRTC may name)") +
                   kAdvice);
}

// The first line of the log that says what is wrong, or the code.
std::string first_error(const std::string& log, int code) {
  size_t at = log.find("error");
  if (at == std::string::npos) return "NVRTC error " + std::to_string(code);
  const size_t start = log.rfind('\n', at) + 1;  // npos + 1 is 0
  std::string line = log.substr(start, log.find('\n', at) - start);
  return line;
}

}  // namespace

std::string library_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&folder_of), &info) == 0 || info.dli_fname == nullptr) {
    return {};
  }
  return folder_of(info.dli_fname);
}

bool stay_loaded() {
  Dl_info info;
  return dladdr(reinterpret_cast<void*>(&folder_of), &info) != 0 && info.dli_fname != nullptr &&
         dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
}

#define ONNX_FUSION_NVRTC_TABLE(X)                                                     \
  X(version, "nvrtcVersion", int(int*, int*))                                          \
  X(arch_count, "nvrtcGetNumSupportedArchs", int(int*))                                \
  X(archs, "nvrtcGetSupportedArchs", int(int*))                                        \
  X(create, "nvrtcCreateProgram",                                                      \
    int(Code*, const char*, const char*, int, const char* const*, const char* const*)) \
  X(destroy, "nvrtcDestroyProgram", int(Code*))                                        \
  X(compile, "nvrtcCompileProgram", int(Code, int, const char* const*))                \
  X(ptx_size, "nvrtcGetPTXSize", int(Code, size_t*))                                   \
  X(ptx, "nvrtcGetPTX", int(Code, char*))                                              \
  X(cubin_size, "nvrtcGetCUBINSize", int(Code, size_t*))                               \
  X(cubin, "nvrtcGetCUBIN", int(Code, char*))                                          \
  X(log_size, "nvrtcGetProgramLogSize", int(Code, size_t*))                            \
  X(log, "nvrtcGetProgramLog", int(Code, char*))

struct Compiler::Table {
#define X(member, name, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  ONNX_FUSION_NVRTC_TABLE(X)
#undef X
};

const Compiler& Compiler::get(const std::string& path) {
  // Never closed: NVRTC keeps threads and statics of its own.
  static auto& mutex = *new std::mutex;
  static auto& found = *new std::map<std::string, std::unique_ptr<Compiler>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Compiler>& entry = found[named(path)];
  if (entry == nullptr) entry.reset(new Compiler(path));
  return *entry;
}

Compiler::Compiler(const std::string& path) {
  void* library = find(path, &path_);
  auto table = std::make_unique<Table>();
#define X(member, name, ...)                                                       \
  table->member = reinterpret_cast<decltype(table->member)>(dlsym(library, name)); \
  if (table->member == nullptr) throw ProgramError(path_ + ": has no " name);
  ONNX_FUSION_NVRTC_TABLE(X)
#undef X
  int major = 0, minor = 0, count = 0;
  table->version(&major, &minor);
  version_ = std::to_string(major) + "." + std::to_string(minor);
  if (table->arch_count(&count) == 0 && count > 0) {
    archs_.resize(static_cast<size_t>(count));
    table->archs(archs_.data());
    std::sort(archs_.begin(), archs_.end());
  }
  table_ = table.release();
}

Compiler::~Compiler() { delete table_; }

std::string Compiler::identify(const std::string& path) {
  std::vector<std::string> places = usual_places();
  if (const std::string name = named(path); !name.empty()) places = {name};
  for (const std::string& place : places) {
    struct stat file;
    if (stat(place.c_str(), &file) != 0) continue;
    return place + " " + std::to_string(file.st_size) + " " + std::to_string(file.st_mtime);
  }
  return "the system's NVRTC";
}

std::string Compiler::options() {
  std::string all;
  for (const char* option : kOptions) all += std::string(option) + " ";
  return all;
}

int Compiler::target(int arch) const {
  int best = 0;
  for (const int known : archs_) {
    if (known <= arch) best = known;
  }
  if (best != 0) return best;
  const std::string range = archs_.empty() ? "nothing"
                                           : "sm_" + std::to_string(archs_.front()) + " to sm_" +
                                                 std::to_string(archs_.back());
  throw ProgramError("the device is sm_" + std::to_string(arch) + ", and NVRTC " + version_ +
                     " compiles for " + range);
}

std::string Compiler::compile(std::string_view text, int arch, Form form,
                              const std::string& folder) const {
  const std::string source(text);
  const std::string target =
      (form == Form::cubin ? "-arch=sm_" : "-arch=compute_") + std::to_string(arch);
  std::vector<const char*> options(std::begin(kOptions), std::end(kOptions));
  options.push_back(target.c_str());
  Code code = nullptr;
  int status = table_->create(&code, source.c_str(), "kernel.cu", 0, nullptr, nullptr);
  if (status != 0) throw ProgramError("NVRTC error " + std::to_string(status));
  struct Guard {
    const Table* table;
    Code* code;
    ~Guard() { table->destroy(code); }
  } guard{table_, &code};
  status = table_->compile(code, static_cast<int>(options.size()), options.data());
  size_t size = 0;
  if (status != 0) {
    std::string log;
    if (table_->log_size(code, &size) == 0 && size > 0) {
      log.resize(size);
      table_->log(code, log.data());
      log.resize(std::strlen(log.c_str()));
    }
    report(source, log, status, folder);
  }
  std::string made;
  status = form == Form::cubin ? table_->cubin_size(code, &size) : table_->ptx_size(code, &size);
  if (status == 0) {
    made.resize(size);
    status =
        form == Form::cubin ? table_->cubin(code, made.data()) : table_->ptx(code, made.data());
  }
  if (status != 0 || made.empty()) throw ProgramError("NVRTC error " + std::to_string(status));
  if (form == Form::cubin) return made;
  made.resize(std::strlen(made.c_str()));
  return lower_version(std::move(made));
}

void Compiler::report(const std::string& text, const std::string& log, int code,
                      const std::string& folder) const {
  std::string where = "nowhere, since no cache folder can be written";
  if (!folder.empty()) {
    const std::string path = folder + "/failed-" + digest(text) + ".cu";
    std::ofstream file(path);
    file << text << "\n/* NVRTC " << version_ << ":\n" << log << "*/\n";
    if (file.good()) where = path;
  }
  throw ProgramError("a generated kernel does not compile: " + first_error(log, code) +
                     "; the text and NVRTC's log are in " + where);
}

std::string lower_version(std::string ptx) {
  constexpr std::string_view kDirective = ".version ";
  constexpr std::string_view kOldest = "7.0";
  const size_t at = ptx.find(kDirective);
  if (at == std::string::npos) return ptx;
  const size_t start = at + kDirective.size();
  const size_t end = ptx.find_first_not_of("0123456789.", start);
  ptx.replace(start, (end == std::string::npos ? ptx.size() : end) - start, kOldest);
  return ptx;
}

}  // namespace onnx_fusion::cuda
