// Copies of many short rows, and transposes of planes.
#include "cpu/isa/lanes.h"
#include "cpu/isa/math.h"
#include "cpu/isa/stream.h"
#include "cpu/kernels.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kVector = kLanes * 4;

// Rows of `bytes` in [B, 2B]: the first B and the last B.
template <int B>
void copy_ends(char* __restrict out, int64_t out_step, const char* __restrict in, int64_t in_step,
               int64_t bytes, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r, out += out_step, in += in_step) {
    char first[B], last[B];
    __builtin_memcpy(first, in, B);
    __builtin_memcpy(last, in + bytes - B, B);
    __builtin_memcpy(out, first, B);
    __builtin_memcpy(out + bytes - B, last, B);
  }
}

inline void copy_vector(char* out, const char* in) {
  typedef char Bytes __attribute__((vector_size(kVector), aligned(1), may_alias));
  *reinterpret_cast<Bytes*>(out) = *reinterpret_cast<const Bytes*>(in);
}

inline Floats load_bytes(const char* p) {
  typedef Floats Loose __attribute__((aligned(1), may_alias));
  return *reinterpret_cast<const Loose*>(p);
}

// At least one vector: whole ones, the last of them again covering the rest.
void copy_vectors(char* __restrict out, int64_t out_step, const char* __restrict in,
                  int64_t in_step, int64_t bytes, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r, out += out_step, in += in_step) {
    for (int64_t i = 0; i < bytes - kVector; i += kVector) copy_vector(out + i, in + i);
    copy_vector(out + bytes - kVector, in + bytes - kVector);
  }
}

void copy_rows(char* out, int64_t out_step, const char* in, int64_t in_step, int64_t bytes,
               int64_t rows) {
  if (bytes > 2048 || (rows == 1 && bytes >= kVector)) {
    for (int64_t r = 0; r < rows; ++r, out += out_step, in += in_step) {
      __builtin_memcpy(out, in, static_cast<size_t>(bytes));
    }
  } else if (bytes >= kVector) {
    copy_vectors(out, out_step, in, in_step, bytes, rows);
  } else if (bytes >= 32) {
    copy_ends<32>(out, out_step, in, in_step, bytes, rows);
  } else if (bytes >= 16) {
    copy_ends<16>(out, out_step, in, in_step, bytes, rows);
  } else if (bytes >= 8) {
    copy_ends<8>(out, out_step, in, in_step, bytes, rows);
  } else if (bytes >= 4) {
    copy_ends<4>(out, out_step, in, in_step, bytes, rows);
  } else if (bytes >= 2) {
    copy_ends<2>(out, out_step, in, in_step, bytes, rows);
  } else if (bytes == 1) {
    copy_ends<1>(out, out_step, in, in_step, bytes, rows);
  }
}

template <class T>
void copy(void* out, int64_t out_step, int64_t out_stride, const void* in, int64_t in_step,
          int64_t in_stride, int64_t n, int64_t rows) {
  constexpr int64_t kBytes = static_cast<int64_t>(sizeof(T));
  T* __restrict o = static_cast<T*>(out);
  const T* __restrict x = static_cast<const T*>(in);
  if (in_stride == 1 && out_stride == 1) {
    return copy_rows(static_cast<char*>(out), out_step * kBytes, static_cast<const char*>(in),
                     in_step * kBytes, n * kBytes, rows);
  }
  for (int64_t r = 0; r < rows; ++r, o += out_step, x += in_step) {
    if (in_stride == 0 && out_stride == 1) {
      const T v = *x;
      for (int64_t i = 0; i < n; ++i) o[i] = v;
    } else if (in_stride == 2 && out_stride == 1) {
      for (int64_t i = 0; i < n; ++i) o[i] = x[2 * i];
    } else {
      for (int64_t i = 0; i < n; ++i) o[i * out_stride] = x[i * in_stride];
    }
  }
}

void stream(void* out, const void* in, int64_t bytes) {
  char* o = static_cast<char*>(out);
  const char* x = static_cast<const char*>(in);
  const int64_t ahead = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(o) % kLine);
  const int64_t head = bytes < ahead ? bytes : ahead;
  __builtin_memcpy(o, x, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + kLine <= bytes; i += kLine) {
    Floats line[kLine / kVector];
#pragma GCC unroll 4
    for (int v = 0; v < kLine / kVector; ++v) line[v] = load_bytes(x + i + v * kVector);
#pragma GCC unroll 4
    for (int v = 0; v < kLine / kVector; ++v) {
      put<true>(reinterpret_cast<float*>(o + i + v * kVector), line[v]);
    }
  }
  __builtin_memcpy(o + i, x + i, static_cast<size_t>(bytes - i));
}

void drain() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// A few rows become the parts of pixels.
template <class T, int Rows>
void weave(T* __restrict o, int64_t out_stride, const T* __restrict x, int64_t in_stride,
           int64_t columns) {
  if (out_stride == Rows) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int k = 0; k < Rows; ++k) o[c * Rows + k] = x[k * in_stride + c];
    }
    return;
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int k = 0; k < Rows; ++k) o[c * out_stride + k] = x[k * in_stride + c];
  }
}

template <class T, int Columns>
void unweave(T* __restrict o, int64_t out_stride, const T* __restrict x, int64_t in_stride,
             int64_t rows) {
  if (in_stride == Columns) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int k = 0; k < Columns; ++k) o[k * out_stride + r] = x[r * Columns + k];
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int k = 0; k < Columns; ++k) o[k * out_stride + r] = x[r * in_stride + k];
  }
}

// One block, B x B words.
template <int B>
struct Block;

#if defined(__AVX512F__)
template <>
struct Block<16> {
  static void transpose(float* o, int64_t out_stride, const float* x, int64_t in_stride) {
#pragma GCC unroll 4
    for (int g = 0; g < 16; g += 4) {
      // Lane l of row i holds row i + 4l of the block.
      __m512 row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float* const p = x + i * in_stride + g;
        __m512 v = _mm512_zextps128_ps512(_mm_loadu_ps(p));
        v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 4 * in_stride), 1);
        v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 8 * in_stride), 2);
        row[i] = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 12 * in_stride), 3);
      }
      const __m512d low = (__m512d)_mm512_maskz_unpacklo_ps(0xffff, row[0], row[1]);
      const __m512d high = (__m512d)_mm512_maskz_unpackhi_ps(0xffff, row[0], row[1]);
      const __m512d low2 = (__m512d)_mm512_maskz_unpacklo_ps(0xffff, row[2], row[3]);
      const __m512d high2 = (__m512d)_mm512_maskz_unpackhi_ps(0xffff, row[2], row[3]);
      float* const to = o + g * out_stride;
      _mm512_storeu_ps(to, (__m512)_mm512_maskz_unpacklo_pd(0xff, low, low2));
      _mm512_storeu_ps(to + out_stride, (__m512)_mm512_maskz_unpackhi_pd(0xff, low, low2));
      _mm512_storeu_ps(to + 2 * out_stride, (__m512)_mm512_maskz_unpacklo_pd(0xff, high, high2));
      _mm512_storeu_ps(to + 3 * out_stride, (__m512)_mm512_maskz_unpackhi_pd(0xff, high, high2));
    }
  }
};
#endif

#if defined(__AVX2__)
template <>
struct Block<8> {
  static void transpose(float* o, int64_t out_stride, const float* x, int64_t in_stride) {
#pragma GCC unroll 2
    for (int g = 0; g < 8; g += 4) {
      __m256 row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float* const p = x + i * in_stride + g;
        row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)),
                                      _mm_loadu_ps(p + 4 * in_stride), 1);
      }
      const __m256d low = (__m256d)_mm256_unpacklo_ps(row[0], row[1]);
      const __m256d high = (__m256d)_mm256_unpackhi_ps(row[0], row[1]);
      const __m256d low2 = (__m256d)_mm256_unpacklo_ps(row[2], row[3]);
      const __m256d high2 = (__m256d)_mm256_unpackhi_ps(row[2], row[3]);
      float* const to = o + g * out_stride;
      _mm256_storeu_ps(to, (__m256)_mm256_unpacklo_pd(low, low2));
      _mm256_storeu_ps(to + out_stride, (__m256)_mm256_unpackhi_pd(low, low2));
      _mm256_storeu_ps(to + 2 * out_stride, (__m256)_mm256_unpacklo_pd(high, high2));
      _mm256_storeu_ps(to + 3 * out_stride, (__m256)_mm256_unpackhi_pd(high, high2));
    }
  }
};
#endif

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

template <>
struct Block<4> {
  static void transpose(float* o, int64_t out_stride, const float* x, int64_t in_stride) {
    Four row[4];
    for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], x + i * in_stride, sizeof(Four));
    const Four a = __builtin_shuffle(row[0], row[1], FourInts{0, 4, 1, 5});
    const Four b = __builtin_shuffle(row[0], row[1], FourInts{2, 6, 3, 7});
    const Four c = __builtin_shuffle(row[2], row[3], FourInts{0, 4, 1, 5});
    const Four d = __builtin_shuffle(row[2], row[3], FourInts{2, 6, 3, 7});
    row[0] = __builtin_shuffle(a, c, FourInts{0, 1, 4, 5});
    row[1] = __builtin_shuffle(a, c, FourInts{2, 3, 6, 7});
    row[2] = __builtin_shuffle(b, d, FourInts{0, 1, 4, 5});
    row[3] = __builtin_shuffle(b, d, FourInts{2, 3, 6, 7});
    for (int i = 0; i < 4; ++i) __builtin_memcpy(o + i * out_stride, &row[i], sizeof(Four));
  }
};

// Whole blocks, the last of a row or column of them again covering what does not fill one.
template <int B>
void transpose_blocks(float* o, int64_t out_stride, const float* x, int64_t in_stride, int64_t rows,
                      int64_t columns) {
  for (int64_t r = 0; r < rows; r += B) {
    if (r > rows - B) r = rows - B;
    for (int64_t c = 0; c < columns; c += B) {
      if (c > columns - B) c = columns - B;
      Block<B>::transpose(o + c * out_stride + r, out_stride, x + r * in_stride + c, in_stride);
    }
  }
}

// What is left beside the blocks of B is done in narrower ones where they cover it.
template <int B>
void transpose_words(float* o, int64_t out_stride, const float* x, int64_t in_stride, int64_t rows,
                     int64_t columns) {
  const int64_t left = columns % B, below = rows % B;
  const bool narrow = B > 4 && left > 0 && left <= B / 2,
             flat = B > 4 && below > 0 && below <= B / 2;
  const int64_t whole_columns = narrow ? columns - left : columns;
  const int64_t whole_rows = flat ? rows - below : rows;
  transpose_blocks<B>(o, out_stride, x, in_stride, whole_rows, whole_columns);
  constexpr int kHalf = B > 4 ? B / 2 : 4;
  const auto strip = [&](int64_t r, int64_t c, int64_t height, int64_t width) {
    if (kHalf > 4 && (height < kHalf || width < kHalf || height == 4 || width == 4)) {
      transpose_blocks<4>(o + c * out_stride + r, out_stride, x + r * in_stride + c, in_stride,
                          height, width);
    } else {
      transpose_blocks<kHalf>(o + c * out_stride + r, out_stride, x + r * in_stride + c, in_stride,
                              height, width);
    }
  };
  const int64_t width = left <= 4 ? 4 : kHalf, height = below <= 4 ? 4 : kHalf;
  if (narrow) strip(0, columns - width, rows, width);
  if (flat) strip(rows - height, 0, height, whole_columns);
}

template <class T>
void transpose_small(T* o, int64_t out_stride, const T* x, int64_t in_stride, int64_t rows,
                     int64_t columns) {
  if (rows == 1) return weave<T, 1>(o, out_stride, x, in_stride, columns);
  if (rows == 2) return weave<T, 2>(o, out_stride, x, in_stride, columns);
  if (rows == 3) return weave<T, 3>(o, out_stride, x, in_stride, columns);
  if (columns == 1) return unweave<T, 1>(o, out_stride, x, in_stride, rows);
  if (columns == 2) return unweave<T, 2>(o, out_stride, x, in_stride, rows);
  if (columns == 3) return unweave<T, 3>(o, out_stride, x, in_stride, rows);
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t k = 0; k < 8; ++k) o[c * out_stride + r + k] = x[(r + k) * in_stride + c];
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) o[c * out_stride + r] = x[r * in_stride + c];
  }
}

template <class T>
void transpose(void* out, int64_t out_stride, const void* in, int64_t in_stride, int64_t rows,
               int64_t columns) {
  T* const o = static_cast<T*>(out);
  const T* const x = static_cast<const T*>(in);
  if constexpr (sizeof(T) == 4) {
    float* const to = static_cast<float*>(out);
    const float* const from = static_cast<const float*>(in);
    const int64_t least = rows < columns ? rows : columns;
#if defined(__AVX512F__)
    if (least >= 16) return transpose_words<16>(to, out_stride, from, in_stride, rows, columns);
#endif
#if defined(__AVX2__)
    if (least >= 8) return transpose_words<8>(to, out_stride, from, in_stride, rows, columns);
#endif
    if (least >= 4) return transpose_blocks<4>(to, out_stride, from, in_stride, rows, columns);
  }
  transpose_small<T>(o, out_stride, x, in_stride, rows, columns);
}

template <class T>
void set(Kernels* k, int size) {
  k->copy[size] = copy<T>;
  k->transpose[size] = transpose<T>;
}

}  // namespace

void fill_copy(Kernels* k) {
  set<uint8_t>(k, 0);
  set<uint16_t>(k, 1);
  set<uint32_t>(k, 2);
  set<uint64_t>(k, 3);
  k->stream = stream;
  k->drain = drain;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
