"""Rules that find activations that exporters wrote as primitives.

Where the opset lacks the operator, its parts stand for it in the portable function.
"""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.passes.rewrite.model import Exactness, Rule
from onnx_fusion.passes.rewrite.pattern import rule

_F = (DType.F32, DType.F64)
_ERF = ("Div(x, ~1.4142135623730951)", "Mul(x, ~0.7071067811865476)")
_CUBES = ("Pow(x, 3)", "Mul(Mul(x, x), x)", "Mul(x, Mul(x, x))")
_TANH = "Tanh(Mul(Add(x, Mul({}, ~0.044715)), ~0.7978845608028654))"
_SIX = "Clip(Add(x, 3), 0, 6)"


def _gelu(inner: str) -> list[str]:
    """Return the ways to write 0.5 x (1 + inner)."""
    grown = f"Add({inner}, 1)"
    return [f"Mul(Mul(x, {grown}), 0.5)", f"Mul(Mul(x, 0.5), {grown})",
            f"Mul(x, Mul({grown}, 0.5))"]


def _several(name: str, forms: list[str], after: str, about: str, **more) -> list[Rule]:
    """Return one rule for each way to write an activation; they share the name."""
    return [rule(name, form, after, about, dtypes=_F, **more) for form in forms]



RULES = [
    *_several("gelu", [form for inner in _ERF for form in _gelu(f"Erf({inner})")],
              "Gelu(x)", "0.5 x (1 + erf(x / sqrt 2)) is Gelu"),
    *_several("gelu-tanh", [form for cube in _CUBES for form in _gelu(_TANH.format(cube))],
              "Gelu(x, approximate='tanh')",
              "0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) is Gelu"),
    *_several("quick-gelu", ["Mul(x, Sigmoid(Mul(x, ~1.702)))"], "Swish(x, alpha=1.702)",
              "x . sigmoid(1.702 x) is Swish"),
    *_several("hard-swish", [
        f"Mul(x, Div({_SIX}, 6))", f"Div(Mul(x, {_SIX}), 6)", f"Mul(x, Mul({_SIX}, ~{1 / 6}))",
        f"Mul(Mul(x, {_SIX}), ~{1 / 6})", f"Mul(Mul(x, ~{1 / 6}), {_SIX})"],
        "HardSwish(x)", "x . clip(x + 3, 0, 6) / 6 is HardSwish"),
    *_several("hard-sigmoid", [f"Div({_SIX}, 6)", f"Mul({_SIX}, ~{1 / 6})"],
              f"HardSigmoid(x, alpha={1 / 6}, beta=0.5)",
              "clip(x + 3, 0, 6) / 6 is HardSigmoid"),
    *_several("softplus", ["Log(Add(Exp(x), 1))"], "Softplus(x)",
              "log(1 + exp x) is Softplus, which does not overflow"),
    *_several("mish", ["Mul(x, Tanh(Softplus(x)))"], "Mish(x)", "x . tanh(softplus x) is Mish"),
    *_several("sigmoid", ["Reciprocal(Add(Exp(Neg(x)), 1))", "Div(1, Add(Exp(Neg(x)), 1))"],
              "Sigmoid(x)", "1 / (1 + exp(-x)) is Sigmoid"),
    *_several("softsign", ["Div(x, Add(Abs(x), 1))"], "Softsign(x)", "x / (1 + |x|) is Softsign"),
    *_several("relu-clip", ["Clip(Relu(x), 0, kk)"], "Clip(x, 0, kk)",
              "a Clip from zero needs no Relu before it", exactness=Exactness.EXACT,
              when=lambda found: found["kk"].shape == ()),
]
