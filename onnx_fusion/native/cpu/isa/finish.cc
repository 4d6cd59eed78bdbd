// Scale, bias, residual, clamp and activation of a rectangle of accumulators.
#include "cpu/finish.h"

#include "cpu/isa/activation_math.h"
#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <Activation A>
inline Floats activate(Floats x, const float* p) {
  switch (A) {
    case Activation::none: return x;
    case Activation::gate: return x * clamp(x * p[0] + p[1], broadcast(p[2]), broadcast(p[3]));
    case Activation::ramp: return clamp(x * p[0] + p[1], broadcast(p[2]), broadcast(p[3]));
    case Activation::leaky: return x < Floats{} ? x * p[0] : x;
    case Activation::prelu: return x;  // in activate_rows
    case Activation::sigmoid: return v_sigmoid(x);
    case Activation::tanh: return v_tanh(x);
    case Activation::silu: return v_silu(x);
    case Activation::mish: return x * v_tanh_softplus(x);
    case Activation::gelu: return v_gelu(x, p[0], p[1]);
    case Activation::gelu_tanh: return x * p[0] * (v_tanh((x + x * x * (x * p[1])) * p[2]) + 1.0f);
  }
  return x;
}

// body(at, count, whole) for each vector of a row; `count` lanes of it exist.
template <typename Body>
inline void each_part(int64_t columns, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) body(c, kLanes, true);
  if (c < columns) body(c, static_cast<int>(columns - c), false);
}

// x * gain + bias of these columns; the bias may be missing.
inline __attribute__((always_inline)) Floats amplify(Floats x, const float* gain, const float* bias,
                                                     int64_t c, int count, bool whole) {
  x *= whole ? load(gain + c) : load_some(gain + c, count);
  if (bias == nullptr) return x;
  return x + (whole ? load(bias + c) : load_some(bias + c, count));
}

template <Activation A, bool Late>
void activate_rows(const FinishRows& rows) {
  const FinishRows f = rows;  // which no store to `out` can change
  for (int64_t r = 0; r < f.rows; ++r) {
    float* out = f.out + r * f.out_ld;
    const float* more = Late ? f.residual + r * f.residual_ld : nullptr;
    const float* slope = A == Activation::prelu ? f.slope + r * f.slope_row : nullptr;
    each_part(f.columns, [&](int64_t c, int count, bool whole) {
      Floats x = whole ? load(out + c) : load_some(out + c, count);
      x = activate<A>(x, f.p);
      if (A == Activation::prelu) {
        const Floats by = f.slope_column == 0 ? broadcast(slope[0])
                          : whole             ? load(slope + c)
                                              : load_some(slope + c, count);
        x = x < Floats{} ? x * by : x;
      }
      if (A != Activation::none && f.scaled) x = x * f.after[0] + f.after[1];
      if (f.late_gain != nullptr) x = amplify(x, f.late_gain, f.late_bias, c, count, whole);
      if (Late) x += whole ? load(more + c) : load_some(more + c, count);
      if (whole) {
        store(out + c, x);
      } else {
        store_some(out + c, x, count);
      }
    });
  }
}

template <Activation A>
void activate_late(const FinishRows& f) {
  if (f.late) return activate_rows<A, true>(f);
  if (A != Activation::none || f.late_gain != nullptr) activate_rows<A, false>(f);
}

void run_activate(const FinishRows& f) {
  switch (f.activation) {
    case Activation::none:
    case Activation::gate: return activate_late<Activation::none>(f);
    case Activation::ramp: return activate_late<Activation::ramp>(f);
    case Activation::leaky: return activate_late<Activation::leaky>(f);
    case Activation::prelu: return activate_late<Activation::prelu>(f);
    case Activation::sigmoid: return activate_late<Activation::sigmoid>(f);
    case Activation::tanh: return activate_late<Activation::tanh>(f);
    case Activation::silu: return activate_late<Activation::silu>(f);
    case Activation::mish: return activate_late<Activation::mish>(f);
    case Activation::gelu: return activate_late<Activation::gelu>(f);
    case Activation::gelu_tanh: return activate_late<Activation::gelu_tanh>(f);
  }
}

template <bool ColumnBias, bool Residual, bool Clamp>
void affine_row(const FinishRows& f, int64_t r) {
  const Floats low = broadcast(f.low), high = broadcast(f.high);
  const float* a = f.accumulators + r * f.ld;
  const float* more = Residual ? f.residual + r * f.residual_ld : nullptr;
  float* out = f.out + r * f.out_ld;
  const bool shifts = f.shift != 0.0f, plain = f.row_bias == nullptr && !shifts;
  const Floats bias =
      broadcast((f.row_bias == nullptr ? 0.0f : f.row_bias[r * f.row_step]) + f.shift);
  each_part(f.columns, [&](int64_t c, int count, bool whole) {
    Floats x = (whole ? load(a + c) : load_some(a + c, count)) * f.scale;
    if (ColumnBias) {
      x += whole ? load(f.column_bias + c) : load_some(f.column_bias + c, count);
      if (shifts) x += f.shift;
    } else if (!plain) {
      x += bias;
    }
    const auto gain = [&] { x = amplify(x, f.gain, f.gain_bias, c, count, whole); };
    if (f.gain != nullptr && f.gain_first) gain();
    if (Residual) x += whole ? load(more + c) : load_some(more + c, count);
    if (f.gain != nullptr && !f.gain_first) gain();
    if (Clamp) x = clamp(x, low, high);
    if (f.activation == Activation::gate) x = activate<Activation::gate>(x, f.p);
    if (f.scaled && f.activation <= Activation::gate) x = x * f.after[0] + f.after[1];
    if (whole) {
      store(out + c, x);
    } else {
      store_some(out + c, x, count);
    }
  });
}

template <bool ColumnBias, bool Residual, bool Clamp>
void finish(const FinishRows& f) {
  FinishRows row = f;
  row.rows = 1;
  for (int64_t r = 0; r < f.rows; ++r) {
    affine_row<ColumnBias, Residual, Clamp>(f, r);
    if (!f.again()) continue;
    row.out = f.out + r * f.out_ld;
    if (f.slope != nullptr) row.slope = f.slope + r * f.slope_row;
    if (f.late) row.residual = f.residual + r * f.residual_ld;
    run_activate(row);
  }
}

constexpr int64_t kRowsAtOnce = 16;

// x * gain + bias between low and high of so many vectors, or of `count` lanes of one.
// Gains and biases stay in registers while rows go through.
template <int Vectors, bool Whole>
inline void scale_columns(const FinishRows& f, int64_t row, int64_t rows, int64_t column,
                          int count) {
  const auto read = [count](const float* p) { return Whole ? load(p) : load_some(p, count); };
  Floats gain[Vectors], bias[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    const int64_t at = column + v * kLanes;
    gain[v] = read(f.gain + at);
    bias[v] = f.gain_bias == nullptr ? Floats{} : read(f.gain_bias + at);
  }
  const Floats low = broadcast(f.low), high = broadcast(f.high);
  const float* x = f.accumulators + row * f.ld + column;
  float* out = f.out + row * f.out_ld + column;
  for (int64_t r = 0; r < rows; ++r, x += f.ld, out += f.out_ld) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const Floats y = clamp(read(x + v * kLanes) * gain[v] + bias[v], low, high);
      if (Whole) {
        store(out + v * kLanes, y);
      } else {
        store_some(out + v * kLanes, y, count);
      }
    }
  }
}

// Nothing but a gain, its bias and a clamp.
bool is_scaling(const FinishRows& f) {
  return f.gain != nullptr && f.column_bias == nullptr && f.row_bias == nullptr &&
         f.residual == nullptr && f.scale == 1.0f && f.shift == 0.0f && !f.again() && !f.scaled &&
         f.activation == Activation::none;
}

void scale_rows(const FinishRows& given) {
  FinishRows f = given;  // which no store to `out` can change
  if (!f.clamps) {
    f.low = -__builtin_inff();
    f.high = __builtin_inff();
  }
  for (int64_t r = 0; r < f.rows; r += kRowsAtOnce) {
    const int64_t rows = f.rows - r < kRowsAtOnce ? f.rows - r : kRowsAtOnce;
    int64_t c = 0;
    for (; c + 4 * kLanes <= f.columns; c += 4 * kLanes) {
      scale_columns<4, true>(f, r, rows, c, kLanes);
    }
    for (; c + kLanes <= f.columns; c += kLanes) scale_columns<1, true>(f, r, rows, c, kLanes);
    if (c < f.columns) scale_columns<1, false>(f, r, rows, c, static_cast<int>(f.columns - c));
  }
}

void run_finish(const FinishRows& f) {
  if (is_scaling(f)) return scale_rows(f);
  const bool residual = f.residual != nullptr && !f.late;
  switch ((f.column_bias != nullptr ? 4 : 0) + (residual ? 2 : 0) + (f.clamps ? 1 : 0)) {
    case 0: return finish<false, false, false>(f);
    case 1: return finish<false, false, true>(f);
    case 2: return finish<false, true, false>(f);
    case 3: return finish<false, true, true>(f);
    case 4: return finish<true, false, false>(f);
    case 5: return finish<true, false, true>(f);
    case 6: return finish<true, true, false>(f);
    default: return finish<true, true, true>(f);
  }
}

}  // namespace

extern const FinishPasses finish_passes;
const FinishPasses finish_passes = {run_finish, run_activate};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
