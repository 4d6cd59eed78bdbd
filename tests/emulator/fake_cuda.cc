// A stand-in for libcuda: device memory is the host's, and a module is the kernels' text compiled for the
// host, with the emulator that the kernels' own tests use.
//
// FAKE_CUDA_ARCH (90), FAKE_CUDA_RELEASE (13000): the device and the driver. FAKE_CUDA_BUILD: a command
// that compiles the file "$1" to the library "$2". FAKE_CUDA_DIR: where. FAKE_CUDA_MS (8): what a product's
// kernel takes, by a clock that events read; others take 1. FAKE_CUDA_CAPTURING: streams are being captured.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace {

enum { kOk = 0, kInvalidValue = 1, kInvalidImage = 200, kNoBinary = 209, kUnsupportedPtx = 222,
       kNotFound = 500, kLaunchFailed = 719 };

using Run = int (*)(const unsigned* grid, const unsigned* block, unsigned shared, void** arguments);

struct Kernel {
  Run run;
  int shared = 48 << 10;
  bool product = false;
};

struct Module {
  void* library;
  std::map<std::string, Kernel> kernels;
};

auto& mutex = *new std::mutex;  // never destroyed: sessions end when the process does
auto& calls = *new std::map<std::string, int>;
void* last_stream = nullptr;
std::atomic<float> now{0};  // milliseconds of work
char primary;
thread_local void* current = nullptr;

void count(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  ++calls[name];
}

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : otherwise;
}

// The text, and for each kernel a function that runs a grid of it.
std::string host_text(const std::string& image) {
  std::string text = "#include \"emulator.h\"\n" + image.substr(image.find("//TEXT\n"));
  const std::string mark = ".entry ";
  for (size_t at = image.find(mark); at != std::string::npos; at = image.find(mark, at + 1)) {
    const size_t start = at + mark.size();
    const std::string name = image.substr(start, image.find('(', start) - start);
    text += "extern \"C\" __attribute__((visibility(\"default\"))) int run_" + name +
            "(const unsigned* grid, const unsigned* block, unsigned shared, void** arguments) {\n"
            "  return emulator::launch(" + name + ", arguments, grid, block, shared, 7) != nullptr;\n}\n";
  }
  return text;
}

int build(const std::string& image, Module* module) {
  const std::string text = host_text(image);
  const std::string folder = std::getenv("FAKE_CUDA_DIR");
  const std::string base = folder + "/" + std::to_string(std::hash<std::string>()(text));
  const std::string library = base + ".so";
  if (access(library.c_str(), R_OK) != 0) {
    const std::string own = base + "-" + std::to_string(getpid());
    std::ofstream(own + ".cc") << text;
    const std::string command = std::string("set -- ") + own + ".cc " + own + ".so; " +
                                std::getenv("FAKE_CUDA_BUILD");
    const int status = std::system(command.c_str());
    if (status != 0 || std::rename((own + ".so").c_str(), library.c_str()) != 0) return kInvalidImage;
  }
  module->library = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module->library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  return module->library != nullptr ? kOk : kInvalidImage;
}

}  // namespace

extern "C" {

int fake_cuda_calls(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  return calls[name];
}
void* fake_cuda_last_stream() { return last_stream; }
void fake_cuda_tick(float ms) { now = now + ms; }

int cuInit(unsigned) { return kOk; }
int cuDriverGetVersion(int* release) {
  *release = number("FAKE_CUDA_RELEASE", 13000);
  return kOk;
}
int cuGetErrorName(int code, const char** name) {
  *name = code == kLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_UNKNOWN";
  return kOk;
}
int cuGetErrorString(int, const char** text) {
  *text = "a stand-in's error";
  return kOk;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? kOk : 101;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int arch = number("FAKE_CUDA_ARCH", 90);
  const std::map<int, int> values = {
      {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},      {5, number("FAKE_CUDA_GRID", 2147483647)},
      {6, 65535}, {8, 48 << 10}, {16, 4}, {75, arch / 10}, {76, arch % 10},
      {38, number("FAKE_CUDA_CACHE", 50 << 20)}, {97, number("FAKE_CUDA_SHARED", 227 << 10)}};
  const auto found = values.find(attribute);
  if (found == values.end()) return kInvalidValue;
  *value = found->second;
  return kOk;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  count("retain");
  *context = &primary;
  return kOk;
}
int cuCtxGetCurrent(void** context) {
  *context = current;
  return kOk;
}
int cuCtxGetDevice(int* device) {
  *device = 0;
  return kOk;
}
int cuCtxPushCurrent_v2(void* context) {
  current = context;
  return kOk;
}
int cuCtxPopCurrent_v2(void** context) {
  *context = current;
  current = nullptr;
  return kOk;
}
int cuModuleLoadDataEx(Module** module, const void* image, unsigned, int*, void**) {
  count("load");
  const std::string text = static_cast<const char*>(image);
  if (text.find("//TEXT\n") == std::string::npos) return kInvalidImage;
  const int arch = number("FAKE_CUDA_ARCH", 90);
  int made_for = 0;
  if (std::sscanf(text.c_str(), "CUBIN sm_%d", &made_for) == 1) {
    if (made_for / 10 != arch / 10 || made_for > arch) return kNoBinary;
    if (std::getenv("FAKE_CUDA_NO_CUBIN") != nullptr) return kNoBinary;
  } else {
    int major = 0, minor = 0;
    std::sscanf(text.c_str() + text.find(".version"), ".version %d.%d", &major, &minor);
    if (major * 10 + minor > number("FAKE_CUDA_PTX", 90)) return kUnsupportedPtx;
    count("jit");
  }
  *module = new Module;
  const int code = build(text, *module);
  if (code != kOk) delete *module;
  return code;
}
int cuModuleUnload(Module* module) {
  count("unload");
  delete module;
  return kOk;
}
int cuModuleGetFunction(Kernel** kernel, Module* module, const char* name) {
  auto* run = reinterpret_cast<Run>(dlsym(module->library, (std::string("run_") + name).c_str()));
  if (run == nullptr) return kNotFound;
  *kernel = &module->kernels[name];
  (*kernel)->run = run;
  (*kernel)->product = std::strncmp(name, "product", 7) == 0;
  return kOk;
}
int cuFuncGetAttribute(int* value, int attribute, Kernel* kernel) {
  *value = attribute == 0 ? number("FAKE_CUDA_THREADS", 1024) : kernel->shared;
  return kOk;
}
int cuFuncSetAttribute(Kernel* kernel, int attribute, int value) {
  if (attribute == 8) kernel->shared = value;
  return kOk;
}
int cuLaunchKernel(Kernel* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
  count("launch");
  if (current == nullptr) return 201;
  if (gx == 0 || gy == 0 || gz == 0 || static_cast<int>(shared) > kernel->shared) return kInvalidValue;
  const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
  std::lock_guard<std::mutex> lock(mutex);  // one kernel at a time
  last_stream = stream;
  now = now + static_cast<float>(kernel->product ? number("FAKE_CUDA_MS", 8) : 1);
  return kernel->run(grid, block, shared, arguments) == 0 ? kOk : kLaunchFailed;
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  count("host_alloc");
  *memory = std::malloc(bytes);
  return kOk;
}
int cuMemFreeHost(void* memory) {
  std::free(memory);
  return kOk;
}
int cuMemHostGetDevicePointer_v2(unsigned long long* address, void* memory, unsigned) {
  *address = reinterpret_cast<unsigned long long>(memory);
  return kOk;
}

int cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, static_cast<size_t>(length), "a stand-in");
  return kOk;
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void*) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return kOk;
}
int cuMemsetD8Async(unsigned long long at, unsigned char value, size_t bytes, void*) {
  std::memset(reinterpret_cast<void*>(at), value, bytes);
  return kOk;
}
int cuStreamSynchronize(void*) {
  count("wait");
  return kOk;
}
int cuStreamIsCapturing(void*, int* status) {
  *status = number("FAKE_CUDA_CAPTURING", 0);
  return kOk;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  thread_local int current = 0;
  const int before = current;
  current = *mode;
  *mode = before;
  return kOk;
}
int cuEventCreate(float** event, unsigned) {
  count("event");
  *event = new float(-1);
  return kOk;
}
int cuEventDestroy_v2(float* event) {
  delete event;
  return kOk;
}
int cuEventRecord(float* event, void*) {
  *event = now;
  return kOk;
}
int cuEventSynchronize(float*) { return kOk; }
int cuEventElapsedTime(float* ms, float* begin, float* end) {
  *ms = *end - *begin;
  return kOk;
}

}  // extern "C"
