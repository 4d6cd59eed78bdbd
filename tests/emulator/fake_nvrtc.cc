// A stand-in for NVRTC: what it "compiles" is the text itself, marked as machine code or PTX.
//
// FAKE_NVRTC_LOG: a file that each call's process is written to. FAKE_NVRTC_MS: how long a call takes.
// FAKE_NVRTC_FAILS: nothing compiles. FAKE_NVRTC_DIES: compilers' own processes end.
#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

struct Program {
  std::string source, log, arch;
};

constexpr int kArchs[] = {75, 80, 86, 87, 89, 90, 100, 120};
constexpr int kCompilation = 6;

// ".entry NAME(" for each kernel, as real PTX has it.
std::string entries(const std::string& source) {
  std::string lines;
  const std::string mark = "__launch_bounds__(";
  for (size_t at = source.find(mark); at != std::string::npos; at = source.find(mark, at + 1)) {
    const size_t start = source.find(')', at) + 2;
    lines += ".entry " + source.substr(start, source.find('(', start) - start) + "(\n";
  }
  return lines;
}

int copy(const std::string& text, char* out) {
  std::memcpy(out, text.c_str(), text.size() + 1);
  return 0;
}

std::string ptx(const Program& program) {
  return "//\n// made by a stand-in\n//\n\n.version 9.5\n.target " + program.arch + "\n" +
         entries(program.source) + "//TEXT\n" + program.source;
}

std::string cubin(const Program& program) {
  return "CUBIN " + program.arch + "\n" + entries(program.source) + "//TEXT\n" + program.source;
}

}  // namespace

extern "C" {

int fake_nvrtc_compiled = 0;

int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 5;
  return 0;
}
int nvrtcGetNumSupportedArchs(int* count) {
  *count = sizeof kArchs / sizeof *kArchs;
  return 0;
}
int nvrtcGetSupportedArchs(int* archs) {
  std::memcpy(archs, kArchs, sizeof kArchs);
  return 0;
}
int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*,
                       const char* const*) {
  *program = new Program{source, "", ""};
  return 0;
}
int nvrtcDestroyProgram(Program** program) {
  delete *program;
  return 0;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  for (int i = 0; i < count; ++i) {
    if (std::strncmp(options[i], "-arch=", 6) == 0) program->arch = options[i] + 6;
  }
  ++fake_nvrtc_compiled;
  if (const char* path = std::getenv("FAKE_NVRTC_LOG")) {
    const std::string line = std::to_string(getpid()) + "\n";
    std::ofstream(path, std::ios::app).write(line.data(), static_cast<std::streamsize>(line.size()));
  }
  if (const char* text = std::getenv("FAKE_NVRTC_MS")) usleep(1000 * std::atoi(text));
  if (std::getenv("FAKE_NVRTC_DIES") != nullptr && std::strcmp(program_invocation_short_name, "onnx_fusion_compiler") == 0) {
    std::_Exit(1);
  }
  if (std::getenv("FAKE_NVRTC_FAILS") == nullptr) return 0;
  program->log = "kernel.cu(3): error: identifier \"nothing\" is undefined\n\n1 error detected\n";
  return kCompilation;
}
int nvrtcGetPTXSize(Program* program, size_t* size) {
  *size = ptx(*program).size() + 1;
  return 0;
}
int nvrtcGetPTX(Program* program, char* out) { return copy(ptx(*program), out); }
int nvrtcGetCUBINSize(Program* program, size_t* size) {
  *size = cubin(*program).size() + 1;
  return 0;
}
int nvrtcGetCUBIN(Program* program, char* out) { return copy(cubin(*program), out); }
int nvrtcGetProgramLogSize(Program* program, size_t* size) {
  *size = program->log.size() + 1;
  return 0;
}
int nvrtcGetProgramLog(Program* program, char* out) { return copy(program->log, out); }

}  // extern "C"
