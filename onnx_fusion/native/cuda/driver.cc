#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>

namespace onnx_fusion::cuda {
namespace {

constexpr const char* kVariable = "ONNX_FUSION_LIBCUDA";
constexpr const char* kLibrary = "libcuda.so.1";

// CUdevice_attribute
enum Attribute {
  kMaxThreads = 1,
  kMaxBlockX = 2,
  kMaxGridX = 5,
  kMaxGridY = 6,
  kSharedDefault = 8,
  kProcessors = 16,
  kCacheBytes = 38,
  kMajor = 75,
  kMinor = 76,
  kSharedOptIn = 97,
};

std::string library_path() {
  const char* named = std::getenv(kVariable);
  return named != nullptr && *named != '\0' ? named : kLibrary;
}

std::unique_ptr<Driver> open() {
  auto driver = std::make_unique<Driver>();
  driver->path = library_path();
  void* library = dlopen(driver->path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw ProgramError(driver->path + ": the CUDA driver cannot be loaded: " + dlerror());
  }
#define X(member, name, ...)                                                            \
  driver->member = reinterpret_cast<decltype(driver->member)>(dlsym(library, name));    \
  if (driver->member == nullptr) {                                                      \
    throw ProgramError(driver->path + ": has no " name ": the CUDA driver is too old"); \
  }
  ONNX_FUSION_DRIVER(X)
#undef X
  driver->check("cuInit", driver->init(0));
  driver->check("cuDriverGetVersion", driver->version(&driver->release));
  return driver;
}

}  // namespace

const Driver& Driver::get() {
  // Never closed: modules and functions may outlive the statics here. A failure is tried again,
  // since the next session may come after a driver's update.
  static auto& mutex = *new std::mutex;
  static Driver* driver = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (driver == nullptr) driver = open().release();
  return *driver;
}

bool Driver::exists() { return dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr; }

std::string Driver::describe(const char* call, int code) const {
  const char* name = nullptr;
  const char* text = nullptr;
  error_name(code, &name);
  error_text(code, &text);
  return std::string(call) + ": " + (name != nullptr ? name : "error") + " (" +
         std::to_string(code) + ")" + (text != nullptr ? std::string(", ") + text : "");
}

void Driver::check(const char* call, int code) const {
  if (code != 0) throw ProgramError(describe(call, code));
}

std::string release_text(int release) {
  return std::to_string(release / 1000) + "." + std::to_string(release % 1000 / 10);
}

namespace {

int ask(const Driver& driver, int device, int attribute) {
  int value = 0;
  driver.check("cuDeviceGetAttribute", driver.attribute(&value, attribute, device));
  return value;
}

}  // namespace

Device find_device(const Driver& driver, int ordinal) {
  int device = 0;
  driver.check("cuDeviceGet", driver.device(&device, ordinal));
  Device numbers;
  numbers.arch = 10 * ask(driver, device, kMajor) + ask(driver, device, kMinor);
  numbers.processors = ask(driver, device, kProcessors);
  numbers.shared_bytes = ask(driver, device, kSharedOptIn);
  numbers.shared_default = ask(driver, device, kSharedDefault);
  numbers.cache_bytes = ask(driver, device, kCacheBytes);
  numbers.max_grid_x = ask(driver, device, kMaxGridX);
  numbers.max_grid_yz = ask(driver, device, kMaxGridY);
  return numbers;
}

Place find_place(const Driver& driver, int ordinal) {
  Place place;
  place.ordinal = ordinal;
  int device = 0;
  driver.check("cuDeviceGet", driver.device(&device, ordinal));
  int current_device = -1;
  driver.check("cuCtxGetCurrent", driver.current(&place.context));
  if (place.context != nullptr) {
    driver.check("cuCtxGetDevice", driver.device_of_current(&current_device));
  }
  if (current_device != device) {
    // Retained for good: ONNX Runtime keeps the primary context as long as the process lives, too.
    driver.check("cuDevicePrimaryCtxRetain", driver.retain_primary(&place.context, device));
  }
  place.device = find_device(driver, ordinal);
  char name[256] = "";
  driver.check("cuDeviceGetName", driver.device_name(name, sizeof name - 1, device));
  place.name = name;
  place.max_threads = ask(driver, device, kMaxThreads);
  for (int k = 0; k < 3; ++k) place.max_block[k] = ask(driver, device, kMaxBlockX + k);
  return place;
}

Entered::Entered(const Driver& driver, Context context) : driver_(driver) {
  Context current = nullptr;
  code_ = driver.current(&current);
  if (code_ != 0 || current == context) return;
  code_ = driver.push(context);
  pushed_ = code_ == 0;
}

Entered::~Entered() {
  Context popped = nullptr;
  if (pushed_) driver_.pop(&popped);
}

}  // namespace onnx_fusion::cuda
