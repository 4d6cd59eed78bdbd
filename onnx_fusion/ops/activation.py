"""Rows of the activations: element-wise operators that are several instructions."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx_fusion.ops.elementwise import EXPENSIVE, F, N, row
from onnx_fusion.ops.row import Site, like
from onnx_fusion.ops.stage import Stage
from onnx_fusion.program.model import Ref


def positive(s: Stage, a: Ref) -> Ref:
    """Write a > 0."""
    return s.apply("lt", like(s, a, 0), a)


def relu(s: Stage, site: Site, a: Ref) -> Ref:
    return s.apply("max", a, like(s, a, 0))


def leaky_relu(s: Stage, site: Site, a: Ref) -> Ref:
    scaled = s.apply("mul", a, like(s, a, site.attr("alpha", 0.01)))
    return s.apply("where", s.apply("lt", a, like(s, a, 0)), scaled, a)


def prelu(s: Stage, site: Site, a: Ref, slope: Ref) -> Ref:
    return s.apply("where", s.apply("lt", a, like(s, a, 0)), s.apply("mul", a, slope), a)


def elu(s: Stage, site: Site, a: Ref) -> Ref:
    grown = s.apply("sub", s.apply("exp", a), like(s, a, 1))
    grown = s.apply("mul", grown, like(s, a, site.attr("alpha", 1.0)))
    return s.apply("where", s.apply("lt", a, like(s, a, 0)), grown, a)


def selu(s: Stage, site: Site, a: Ref) -> Ref:
    alpha = site.attr("alpha", 1.67326319217681884765625)
    gamma = site.attr("gamma", 1.05070102214813232421875)
    grown = s.apply("mul", s.apply("sub", s.apply("exp", a), like(s, a, 1)), like(s, a, alpha))
    kept = s.apply("where", positive(s, a), a, grown)
    return s.apply("mul", kept, like(s, a, gamma))


def celu(s: Stage, site: Site, a: Ref) -> Ref:
    alpha = site.attr("alpha", 1.0)
    zero = like(s, a, 0)
    grown = s.apply("exp", s.apply("div", a, like(s, a, alpha)))
    grown = s.apply("mul", s.apply("sub", grown, like(s, a, 1)), like(s, a, alpha))
    return s.apply("add", s.apply("max", zero, a), s.apply("min", zero, grown))


def softplus(s: Stage, site: Site | None, a: Ref) -> Ref:
    """Write log(1 + exp(a)): exp does not overflow, and small results keep their digits."""
    tail = s.apply("exp", s.apply("neg", s.apply("abs", a)))
    return s.apply("add", s.apply("max", a, like(s, a, 0)), log_of_one_plus(s, tail))


def log_of_one_plus(s: Stage, a: Ref) -> Ref:
    """Write log(1 + a) for a >= 0: log(u) less what rounding u = 1 + a lost, relative to u."""
    one = like(s, a, 1)
    u = s.apply("add", a, one)
    lost = s.apply("div", s.apply("sub", s.apply("sub", u, one), a), u)
    return s.apply("sub", s.apply("log", u), lost)


def softsign(s: Stage, site: Site, a: Ref) -> Ref:
    return s.apply("div", a, s.apply("add", s.apply("abs", a), like(s, a, 1)))


def hard_sigmoid(s: Stage, a: Ref, alpha: float, beta: float) -> Ref:
    scaled = s.apply("add", s.apply("mul", a, like(s, a, alpha)), like(s, a, beta))
    return s.apply("min", s.apply("max", scaled, like(s, a, 0)), like(s, a, 1))


def gelu(s: Stage, site: Site, a: Ref) -> Ref:
    """ONNX Gelu, in the exact or the tanh form."""
    return gelu_tanh(s, a) if site.attr("approximate", "none") == "tanh" else gelu_erf(s, a)


def gelu_erf(s: Stage, a: Ref) -> Ref:
    half = s.apply("mul", a, like(s, a, 0.5))
    grown = s.apply("erf", s.apply("mul", a, like(s, a, math.sqrt(0.5))))
    return s.apply("mul", half, s.apply("add", grown, like(s, a, 1)))


def gelu_tanh(s: Stage, a: Ref) -> Ref:
    half = s.apply("mul", a, like(s, a, 0.5))
    cube = s.apply("mul", s.apply("mul", a, a), s.apply("mul", a, like(s, a, 0.044715)))
    inner = s.apply("mul", s.apply("add", a, cube), like(s, a, math.sqrt(2 / math.pi)))
    return s.apply("mul", half, s.apply("add", s.apply("tanh", inner), like(s, a, 1)))


def mish(s: Stage, site: Site, a: Ref) -> Ref:
    return s.apply("mul", a, s.apply("tanh", softplus(s, None, a)))


def swish(s: Stage, site: Site, a: Ref) -> Ref:
    scaled = s.apply("mul", a, like(s, a, site.attr("alpha", 1.0)))
    return s.apply("mul", a, s.apply("sigmoid", scaled))


def hard_swish(s: Stage, site: Site, a: Ref) -> Ref:
    return s.apply("mul", a, hard_sigmoid(s, a, 1 / 6, 0.5))


def thresholded_relu(s: Stage, site: Site, a: Ref) -> Ref:
    above = s.apply("lt", like(s, a, site.attr("alpha", 1.0)), a)
    return s.apply("where", above, a, like(s, a, 0))


def shrink(s: Stage, site: Site, a: Ref) -> Ref:
    bias, lambd = site.attr("bias", 0.0), site.attr("lambd", 0.5)
    up = s.apply("add", a, like(s, a, bias))
    down = s.apply("sub", a, like(s, a, bias))
    inner = s.apply("where", s.apply("lt", like(s, a, lambd), a), down, like(s, a, 0))
    return s.apply("where", s.apply("lt", a, like(s, a, -lambd)), up, inner)


def fused(function: Callable) -> Callable:
    return lambda s, site, a: function(s, a, site.attr("alpha", 0.2), site.attr("beta", 0.5))


ROWS = [
    row("Relu", N, relu),
    row("LeakyRelu", F, leaky_relu),
    row("PRelu", F, prelu),
    row("Elu", F, elu, flops=EXPENSIVE),
    row("Selu", F, selu, flops=EXPENSIVE),
    row("Celu", F, celu, flops=EXPENSIVE),
    row("Softplus", F, softplus, flops=2 * EXPENSIVE),
    row("Softsign", F, softsign),
    row("Gelu", F, gelu, flops=EXPENSIVE),
    row("Mish", F, mish, flops=3 * EXPENSIVE),
    row("Swish", F, swish, flops=EXPENSIVE),
    row("HardSwish", F, hard_swish),
    row("Shrink", F, shrink),
    row("HardSigmoid", F, fused(hard_sigmoid)),
    row("ThresholdedRelu", F, thresholded_relu),
]
