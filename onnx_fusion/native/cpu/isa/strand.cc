// The links of a strand: a block of eight vectors fills the registers that arguments travel in.
#include "cpu/isa/activation_math.h"
#include "cpu/isa/stream.h"
#include "cpu/strand_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Where a link begins within a line is a fifth of a chain's time.
#define ONNX_FUSION_LINK __attribute__((aligned(64)))

constexpr int kVectors = 8;
constexpr int64_t kBlock = int64_t{kVectors} * kLanes;

// `i`: the first element. The values come last, so that they are in registers.
using Block = void (*)(const StrandLink* link, int64_t i, Floats, Floats, Floats, Floats, Floats,
                       Floats, Floats, Floats);
using Part = void (*)(const StrandLink* link, int64_t i, int64_t count, Floats);

ONNX_FUSION_INLINE Floats rounded(Floats a, int how) {
#if defined(__AVX512F__)
  return (Floats)(how == 0   ? _mm512_maskz_roundscale_ps(0xffff, (__m512)a, 9)
                  : how == 1 ? _mm512_maskz_roundscale_ps(0xffff, (__m512)a, 10)
                             : _mm512_maskz_roundscale_ps(0xffff, (__m512)a, 8));
#else
  for (int l = 0; l < kLanes; ++l) {
    a[l] = how == 0 ? m_floor(a[l]) : how == 1 ? m_ceil(a[l]) : m_round(a[l]);
  }
  return a;
#endif
}

ONNX_FUSION_INLINE Floats root(Floats a) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(__AVX2__)
  return (Floats)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE__)
  return (Floats)_mm_sqrt_ps((__m128)a);
#else
  for (int l = 0; l < kLanes; ++l) a[l] = m_sqrt(a[l]);
  return a;
#endif
}

template <int Op>
ONNX_FUSION_INLINE Floats apply(Floats a, [[maybe_unused]] Floats b) {
  if constexpr (Op == kStrandAdd) return a + b;
  if constexpr (Op == kStrandSub) return a - b;
  if constexpr (Op == kStrandRsub) return b - a;
  if constexpr (Op == kStrandMul) return a * b;
  if constexpr (Op == kStrandDiv) return a / b;
  if constexpr (Op == kStrandRdiv) return b / a;
  if constexpr (Op == kStrandMin) return a != a ? a : least(a, b);
  if constexpr (Op == kStrandMax) return a != a ? a : most(a, b);
  if constexpr (Op == kStrandAtMost) return least(b, a);
  if constexpr (Op == kStrandAtLeast) return most(b, a);
  if constexpr (Op == kStrandSquare) return a * a;
  if constexpr (Op == kStrandNeg) return -a;
  if constexpr (Op == kStrandAbs) return v_abs(a);
  if constexpr (Op == kStrandSqrt) return root(a);
  if constexpr (Op == kStrandFloor) return rounded(a, 0);
  if constexpr (Op == kStrandCeil) return rounded(a, 1);
  if constexpr (Op == kStrandRound) return rounded(a, 2);
  if constexpr (Op == kStrandExp) return v_exp(a);
  if constexpr (Op == kStrandSigmoid) return v_sigmoid(a);
  if constexpr (Op == kStrandTanh) return v_tanh(a);
  if constexpr (Op == kStrandErf) return v_erf(a);
  if constexpr (Op == kStrandSilu) return v_silu(a);
  if constexpr (Op == kStrandSoftplus) return v_softplus(a);
  if constexpr (Op == kStrandTanhSoftplus) return v_tanh_softplus(a);
  if constexpr (Op == kStrandMish) return a * v_tanh_softplus(a);
}

ONNX_FUSION_INLINE void go_on(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                              Floats d, Floats e, Floats f, Floats g, Floats h) {
  reinterpret_cast<Block>(link[1].run.block)(link + 1, i, a, b, c, d, e, f, g, h);
}
ONNX_FUSION_INLINE void go_on(const StrandLink* link, int64_t i, int64_t count, Floats a) {
  reinterpret_cast<Part>(link[1].run.part)(link + 1, i, count, a);
}

template <class F>
ONNX_FUSION_INLINE void with(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                             Floats d, Floats e, Floats f, Floats g, Floats h, const F& of) {
  go_on(link, i, of(a, 0), of(b, 1), of(c, 2), of(d, 3), of(e, 4), of(f, 5), of(g, 6), of(h, 7));
}

template <int Op, bool Elements>
ONNX_FUSION_LINK void block(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                            Floats d, Floats e, Floats f, Floats g, Floats h) {
  if constexpr (Op >= kStrandSquare) {
    with(link, i, a, b, c, d, e, f, g, h,
         [](Floats x, int) __attribute__((always_inline)) { return apply<Op>(x, x); });
  } else if constexpr (Elements) {
    const float* const p = link->at + i;
    with(link, i, a, b, c, d, e, f, g, h, [p](Floats x, int v) __attribute__((always_inline)) {
      return apply<Op>(x, load(p + v * kLanes));
    });
  } else {
    const Floats y = broadcast(*link->at);
    with(link, i, a, b, c, d, e, f, g, h,
         [y](Floats x, int) __attribute__((always_inline)) { return apply<Op>(x, y); });
  }
}

ONNX_FUSION_INLINE Floats take(const float* p, int64_t count) {
  return count == kLanes ? load(p) : load_some(p, static_cast<int>(count));
}
ONNX_FUSION_INLINE void put_some(float* p, Floats a, int64_t count) {
  if (count == kLanes) {
    store(p, a);
  } else {
    store_some(p, a, static_cast<int>(count));
  }
}

template <int Op, bool Elements>
void part(const StrandLink* link, int64_t i, int64_t count, Floats a) {
  if constexpr (Op >= kStrandSquare) {
    go_on(link, i, count, apply<Op>(a, a));
  } else {
    go_on(link, i, count,
          apply<Op>(a, Elements ? take(link->at + i, count) : broadcast(*link->at)));
  }
}

ONNX_FUSION_INLINE Floats over(Floats a, const Divisor& by) {
  return by.divides ? a / by.d : by.quotient(a);
}
ONNX_FUSION_LINK void block_over(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                                 Floats d, Floats e, Floats f, Floats g, Floats h) {
  const Divisor by(*link->at);
  with(link, i, a, b, c, d, e, f, g, h,
       [&by](Floats x, int) __attribute__((always_inline)) { return over(x, by); });
}
void part_over(const StrandLink* link, int64_t i, int64_t count, Floats a) {
  go_on(link, i, count, over(a, Divisor(*link->at)));
}

template <bool Fetches>
ONNX_FUSION_LINK void block_take(const StrandLink* link, int64_t i, Floats, Floats, Floats, Floats,
                                 Floats, Floats, Floats, Floats) {
  const float* const p = link->at + i;
  if (Fetches) {
#pragma GCC unroll 8
    for (int l = 0; l < kBlock / kLineFloats; ++l) fetch(p + l * kLineFloats);
  }
  go_on(link, i, load(p), load(p + kLanes), load(p + 2 * kLanes), load(p + 3 * kLanes),
        load(p + 4 * kLanes), load(p + 5 * kLanes), load(p + 6 * kLanes), load(p + 7 * kLanes));
}
void part_take(const StrandLink* link, int64_t i, int64_t count, Floats) {
  go_on(link, i, count, take(link->at + i, count));
}

template <bool Past>
ONNX_FUSION_INLINE void put_all(float* p, Floats a, Floats b, Floats c, Floats d, Floats e,
                                Floats f, Floats g, Floats h) {
  put<Past>(p, a);
  put<Past>(p + kLanes, b);
  put<Past>(p + 2 * kLanes, c);
  put<Past>(p + 3 * kLanes, d);
  put<Past>(p + 4 * kLanes, e);
  put<Past>(p + 5 * kLanes, f);
  put<Past>(p + 6 * kLanes, g);
  put<Past>(p + 7 * kLanes, h);
}

template <bool Ends>
ONNX_FUSION_LINK void block_keep(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                                 Floats d, Floats e, Floats f, Floats g, Floats h) {
  put_all<false>(link->at + i, a, b, c, d, e, f, g, h);
  if constexpr (!Ends) go_on(link, i, a, b, c, d, e, f, g, h);
}
template <bool Ends>
void part_keep(const StrandLink* link, int64_t i, int64_t count, Floats a) {
  put_some(link->at + i, a, count);
  if constexpr (!Ends) go_on(link, i, count, a);
}

ONNX_FUSION_LINK void block_past(const StrandLink* link, int64_t i, Floats a, Floats b, Floats c,
                                 Floats d, Floats e, Floats f, Floats g, Floats h) {
  float* const p = link->at + i;
  if (begins_line(p)) {
    put_all<true>(p, a, b, c, d, e, f, g, h);
  } else {
    put_all<false>(p, a, b, c, d, e, f, g, h);
  }
}

void run(const StrandLink* links, int64_t n) {
  const Block whole = reinterpret_cast<Block>(links->run.block);
  const Part rest = reinterpret_cast<Part>(links->run.part);
  const Floats o{};
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) whole(links, i, o, o, o, o, o, o, o, o);
  for (; i < n; i += kLanes) rest(links, i, n - i < kLanes ? n - i : int64_t{kLanes}, o);
}

StrandFunction both(Block of_block, Part of_part) {
  return {reinterpret_cast<void (*)()>(of_block), reinterpret_cast<void (*)()>(of_part)};
}

template <int Op>
void set(StrandKernels* k) {
  k->links[Op][0] = both(block<Op, false>, part<Op, false>);
  k->links[Op][1] = both(block<Op, true>, part<Op, true>);
  if constexpr (Op + 1 < kStrandTake) set<Op + 1 == kStrandOver ? Op + 2 : Op + 1>(k);
}

}  // namespace

void fill_strands(StrandKernels* k) {
  set<0>(k);
  for (int elements = 0; elements < 2; ++elements) {
    k->links[kStrandOver][elements] = both(block_over, part_over);
    k->links[kStrandTake][elements] = both(block_take<false>, part_take);
    k->links[kStrandFetch][elements] = both(block_take<true>, part_take);
    k->links[kStrandKeep][elements] = both(block_keep<false>, part_keep<false>);
    k->links[kStrandLast][elements] = both(block_keep<true>, part_keep<true>);
    k->links[kStrandPast][elements] = both(block_past, part_keep<true>);
  }
  k->run = run;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
