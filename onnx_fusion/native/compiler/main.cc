// onnx_fusion_compiler LIBRARY NVRTC ARCH FOLDER: started by the library to compile CUDA kernels
// beside it.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>

int main(int count, char** words) {
  if (count != 5) {
    std::fprintf(stderr, "onnx_fusion_compiler is started by libonnx_fusion.so\n");
    return 2;
  }
  void* library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  using Serve = int (*)(int, const char*, const char*, const char*);
  const auto serve = library == nullptr
                         ? nullptr
                         : reinterpret_cast<Serve>(dlsym(library, "onnx_fusion_serve_compiler"));
  if (serve == nullptr) return 1;
  // Not by return: the compiler's own threads and statics have nothing to finish.
  _exit(serve(STDIN_FILENO, words[2], words[3], words[4]));
}
