// The sums around Strassen's products, in vector extensions.
#include "cpu/strassen_kernels.h"

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Calls body(at) for vectors that cover [0, count); the last one may begin before the others end.
template <typename Body>
void cover(int64_t count, const Body& body) {
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) body(at);
  if (at < count) body(count - kLanes);
}

void take(Ints* most, Floats x) {
  const Ints bits = (Ints)x & 0x7fffffff;
  *most = bits > *most ? bits : *most;
}

uint32_t most_of(Ints x) {
  uint32_t most = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t one = static_cast<uint32_t>(x[lane]);
    most = one > most ? one : most;
  }
  return most;
}

uint32_t largest(const float* row, int64_t count) {
  Ints most{};
  cover(count, [&](int64_t at) { take(&most, load(row + at)); });
  return most_of(most);
}

void sums(const float* const* rows, const float* const* next, int64_t half, int64_t count,
          float* out, int64_t step, uint32_t* most) {
  const float *a = rows[0], *b = rows[1];
  Ints of_a{}, of_b{};
  cover(count, [&](int64_t at) {
    for (int i = 0; i < 2; ++i) {
      __builtin_prefetch(next[i] + at);
      __builtin_prefetch(next[i] + half + at);
    }
    const Floats a1 = load(a + at), a2 = load(a + half + at);
    const Floats b1 = load(b + at), b2 = load(b + half + at);
    take(&of_a, a1);
    take(&of_a, a2);
    take(&of_b, b1);
    take(&of_b, b2);
    store(out + at, a1 + b2);
    store(out + step + at, b1 + b2);
    store(out + 2 * step + at, a1 + a2);
    store(out + 3 * step + at, b1 - a1);
    store(out + 4 * step + at, a2 - b2);
  });
  most[0] = most_of(of_a);
  most[1] = most_of(of_b);
}

void join(const StrassenJoin& j) {
  for (int64_t at = 0; at < j.columns; at += kLanes) {
    const auto product = [&](int i) { return load(j.products + i * j.product + at); };
    const Floats m0 = product(0), m1 = product(1), m2 = product(2), m3 = product(3);
    const Floats m4 = product(4);
    store(j.upper[0] + at, m0 + m3 + (product(6) - m4));
    store(j.upper[1] + at, m2 + m4);
    store(j.lower[0] + at, m1 + m3);
    store(j.lower[1] + at, m0 - m1 + (m2 + product(5)));
  }
}

void meet(const StrassenMeeting& j) {
  for (int64_t at = 0; at < j.columns; at += kLanes) {
    const auto product = [&](int i) { return j.products + i * j.product + at; };
    const auto more = [&](int i) {
      const int64_t left = j.more[i] == nullptr ? 0 : j.more_columns[i] - at;
      if (left >= kLanes) return load(j.more[i] + at);
      return left > 0 ? load_some(j.more[i] + at, static_cast<int>(left)) : Floats{};
    };
    const Floats m0 = load(product(0)), m1 = load(product(1)), m2 = load(product(2));
    const Floats m3 = load(product(3)), m4 = load(product(4));
    store(product(0), m0 + m3 - m4 + more(0));
    store(product(1), m0 - m1 + m2 + more(1));
    store(product(2), m2 + m4);
    store(product(3), m1 + m3);
  }
}

}  // namespace

extern const StrassenKernels strassen_kernels;
const StrassenKernels strassen_kernels = {largest, sums, join, meet};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
