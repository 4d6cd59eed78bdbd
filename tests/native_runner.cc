// Runs programs sent over stdin, for the tests of an ISA that only an emulator runs (scripts/neon.sh).
// Numbers are 64 bits wide, in the machine's order. Request: text; inputs, each with dtype,
// constant, dims, data; threads; from how many
// bytes on outputs are written past the caches; outputs, each an element size. Answer: a message,
// and if that is empty the outputs, each with dims, data. Texts, dims and data begin with their
// length.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct OnnxFusionArray {
  void* data;
  const int64_t* dims;
  uint64_t rank;
  int32_t dtype;
  int32_t constant;
};

extern "C" {
const char* onnx_fusion_isa();
void* onnx_fusion_create(const char*, size_t, const OnnxFusionArray*, uint64_t, char*, size_t);
void onnx_fusion_destroy(void*);
void onnx_fusion_set_past_cache(int64_t);
int onnx_fusion_shapes(const void*, const OnnxFusionArray*, uint64_t, int64_t*, uint64_t*, char*,
                       size_t);
int onnx_fusion_run(const void*, const OnnxFusionArray*, uint64_t, void* const*, int32_t, int32_t,
                    double*, char*, size_t);
}

namespace {

constexpr size_t kRank = 16;
constexpr size_t kGuard = 64;
constexpr unsigned char kRubbish = 0xA5;

void read(void* to, size_t bytes) {
  if (bytes != 0 && std::fread(to, 1, bytes, stdin) != bytes) std::exit(0);
}

uint64_t read_number() {
  uint64_t number;
  read(&number, sizeof number);
  return number;
}

template <class T>
T read_sized() {
  T out;
  out.resize(read_number());
  read(out.data(), out.size() * sizeof(out[0]));
  return out;
}

void write(const void* from, uint64_t count, size_t size) {
  std::fwrite(&count, sizeof count, 1, stdout);
  if (count != 0) std::fwrite(from, size, count, stdout);
}

struct Input {
  int32_t dtype, constant;
  std::vector<int64_t> dims;
  std::vector<char> data;
};

struct Output {
  std::vector<int64_t> dims;
  std::vector<unsigned char> memory;
  size_t bytes;
};

std::vector<OnnxFusionArray> arrays_of(std::vector<Input>& inputs) {
  std::vector<OnnxFusionArray> arrays;
  for (Input& i : inputs)
    arrays.push_back({i.data.data(), i.dims.data(), i.dims.size(), i.dtype, i.constant});
  return arrays;
}

// The message, empty if the outputs are there.
std::string run(const std::string& text, std::vector<Input>& inputs, int threads,
                const std::vector<uint64_t>& sizes, std::vector<Output>* outputs) {
  char error[400] = "";
  const std::vector<OnnxFusionArray> arrays = arrays_of(inputs);
  bool constant = false;
  for (const Input& i : inputs) constant |= i.constant != 0;
  void* kernel = onnx_fusion_create(text.data(), text.size(), arrays.data(),
                                    constant ? arrays.size() : 0, error, sizeof error);
  if (kernel == nullptr) return error;
  std::vector<int64_t> dims(kRank * sizes.size());
  std::vector<uint64_t> ranks(sizes.size());
  std::string said;
  if (onnx_fusion_shapes(kernel, arrays.data(), arrays.size(), dims.data(), ranks.data(), error,
                         sizeof error) != 0) {
    said = error;
  } else {
    std::vector<void*> pointers;
    for (size_t o = 0; o < sizes.size(); ++o) {
      Output one;
      one.dims.assign(&dims[kRank * o], &dims[kRank * o] + ranks[o]);
      one.bytes = sizes[o];
      for (const int64_t d : one.dims) one.bytes *= static_cast<size_t>(d);
      one.memory.assign(one.bytes + 2 * kGuard, kRubbish);
      outputs->push_back(std::move(one));
    }
    for (Output& one : *outputs) pointers.push_back(one.memory.data() + kGuard);
    double seconds;
    if (onnx_fusion_run(kernel, arrays.data(), arrays.size(), pointers.data(), threads, 1, &seconds,
                        error, sizeof error) != 0) {
      said = error;
    }
    for (const Output& one : *outputs) {
      for (size_t i = 0; i < kGuard; ++i) {
        if (one.memory[i] != kRubbish || one.memory[kGuard + one.bytes + i] != kRubbish)
          said = "memory around an output was written";
      }
    }
  }
  onnx_fusion_destroy(kernel);
  return said;
}

}  // namespace

int main() {
  const std::string isa = onnx_fusion_isa();
  write(isa.data(), isa.size(), 1);
  std::fflush(stdout);
  for (;;) {
    const std::string text = read_sized<std::string>();
    std::vector<Input> inputs(read_number());
    for (Input& i : inputs) {
      i.dtype = static_cast<int32_t>(read_number());
      i.constant = static_cast<int32_t>(read_number());
      i.dims = read_sized<std::vector<int64_t>>();
      i.data = read_sized<std::vector<char>>();
    }
    const int threads = static_cast<int>(read_number());
    onnx_fusion_set_past_cache(static_cast<int64_t>(read_number()));
    const auto sizes = read_sized<std::vector<uint64_t>>();
    std::vector<Output> outputs;
    const std::string said = run(text, inputs, threads, sizes, &outputs);
    write(said.data(), said.size(), 1);
    if (said.empty()) {
      for (const Output& one : outputs) {
        write(one.dims.data(), one.dims.size(), sizeof one.dims[0]);
        write(one.memory.data() + kGuard, one.bytes, 1);
      }
    }
    std::fflush(stdout);
  }
}
