"""Rows of the less common normalizations, and of the p-norms."""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.ops.elementwise import EXPENSIVE, F, need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.row import Row, Site, axis_of, like, pointwise
from onnx_fusion.ops.rows import count, mean, reduced
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref


def to_power(s: Stage, a: Ref, p: int) -> Ref:
    """Write |a| ** p."""
    if p == 2:
        return s.apply("mul", a, a)
    grown = s.apply("abs", a)
    return grown if p == 1 else s.apply("pow", grown, like(s, a, p))


def root(s: Stage, a: Ref, p: int) -> Ref:
    """Write a ** (1 / p)."""
    if p == 1:
        return a
    return s.apply("sqrt", a) if p == 2 else s.apply("pow", a, like(s, a, 1 / p))


def p_norm(x: Tensor, axes: list[int], p: int) -> Tensor:
    """Return (sum |x| ** p) ** (1 / p) along `axes`, which stay as 1."""

    def finish(s: Stage, reduce) -> Ref:
        return root(s, reduce("reduce_sum", lambda a: to_power(s, a, p)), p)

    return reduced(x, axes, True, finish)


def lower_lp_normalization(site: Site) -> list[Tensor | None]:
    """Return x over its norm along `axis`; 0 where that is 0."""
    x = site.x(0)
    need(x, F)
    p = int(site.attr("p", 2))
    if p not in (1, 2) or x.rank == 0:
        raise Refused(f"LpNormalization with p={p} of rank {x.rank}")

    def write(s: Stage, a: Ref, size: Ref) -> Ref:
        nothing = s.apply("eq", size, like(s, a, 0))
        return s.apply("where", nothing, like(s, a, 0), s.apply("div", a, size))

    norm = p_norm(x, [axis_of(site, x.rank)], p)
    return [pointwise(x.shape, x.dtype, (x, norm), write)]


def lower_global_lp_pool(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    need(x, (DType.F32,))
    p = int(site.attr("p", 2))
    if p < 1 or x.rank < 3:
        raise Refused(f"GlobalLpPool with p={p} of rank {x.rank}")
    return [p_norm(x, list(range(2, x.rank)), p)]


MVN_AXES = [0, 2, 3]


def lower_mean_variance(site: Site) -> list[Tensor | None]:
    """Return (x - mean) / (sqrt(var) + 1e-9) along `axes` (ONNX's function body)."""
    x = site.x(0)
    need(x, (DType.F32,))
    given = [int(a) for a in site.attr("axes", MVN_AXES)]
    if any(not -x.rank <= a < x.rank for a in given):
        raise Refused(f"axes {given} are outside rank {x.rank}")
    axes = sorted({a % x.rank for a in given})

    def average(t: Tensor) -> Tensor:
        size = lambda s: count(s, t.shape, axes, t.dtype)  # noqa: E731
        return reduced(t, axes, True, lambda s, r: mean(s, r, lambda: size(s)))

    def scaled(s: Stage, a: Ref, variance: Ref) -> Ref:
        spread = s.apply("add", s.apply("sqrt", variance), like(s, a, 1e-9))
        return s.apply("div", a, spread)

    centre = pointwise(x.shape, x.dtype, (x, average(x)), lambda s, a, m: s.apply("sub", a, m))
    square = pointwise(x.shape, x.dtype, (centre,), lambda s, a: s.apply("mul", a, a))
    return [pointwise(x.shape, x.dtype, (centre, average(square)), scaled)]


def lower_lrn(site: Site) -> list[Tensor | None]:
    """Return x / (bias + alpha / size * sum of squares of the neighbouring channels) ** beta."""
    x = site.x(0)
    need(x, (DType.F32,))
    size = int(site.attr("size"))
    if size < 1 or x.rank < 2:
        raise Refused(f"LRN with size={size} of rank {x.rank}")
    alpha, beta = float(site.attr("alpha", 1e-4)), float(site.attr("beta", 0.75))
    bias = float(site.attr("bias", 1.0))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(entry, Ref) for entry in index):
            raise NeedsTemp(tensor)
        if not x.is_source and x not in stage.stored:
            raise NeedsTemp(x)
        stage.check_affine(tensor, index)
        tap, letters = stage.axis((tensor.serial, 0), ex.const(size))
        at = (index[0], index[1] + tap - (size - 1) // 2, *index[2:])
        near = x.at(stage, at, 0.0 if size > 1 else None)
        total = stage.reduce(tensor, "reduce_sum", stage.apply("mul", near, near), letters, x)
        scaled = stage.apply("mul", total, like(stage, total, alpha / size))
        base = stage.apply("add", scaled, like(stage, scaled, bias))
        return stage.apply(
            "div", x.at(stage, index), stage.apply("pow", base, like(stage, base, beta))
        )

    tensor = Tensor(DType.F32, x.shape, read, x.steps + 5)
    return [tensor]


M = MappingType.MANY_TO_MANY
ROWS = [
    Row("LpNormalization", M, lower_lp_normalization, flops=4.0, role=Role.NORM),
    Row("GlobalLpPool", M, lower_global_lp_pool, flops=2.0, role=Role.REDUCTION),
    Row("MeanVarianceNormalization", M, lower_mean_variance, flops=6.0, role=Role.NORM,
        stated=(("axes", MVN_AXES),)),
    Row("LRN", M, lower_lrn, flops=EXPENSIVE + 4.0, role=Role.NORM),
]  # fmt: skip
