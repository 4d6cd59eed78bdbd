"""Rows of the element-wise operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnx_fusion import dtypes
from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import Row, Site, broadcast, like, pointwise
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

F = (DType.F32, DType.F64)
N = (DType.F32, DType.F64, DType.I32, DType.I64)
B = (DType.BOOL,)
NB = N + B


def mapping(node: Node) -> MappingType:
    """Return one-to-one, or one-to-many if an activation is broadcast (dnnfusion.md, appendix A).

    Broadcasting a constant is what the kernel pays, and changes nothing in how outputs depend on
    activations.
    """
    out = node.outputs[0]
    if out is None or out.shape is None:
        return MappingType.ONE_TO_ONE
    for value in node.inputs:
        if value is None or value.weight is not None or value.shape is None:
            continue
        if value.shape != out.shape and elements(value.shape) != 1:
            return MappingType.ONE_TO_MANY
    return MappingType.ONE_TO_ONE


def elements(shape: tuple) -> int | None:
    """Return the number of elements, None if it depends on symbols."""
    return math.prod(shape) if all(isinstance(d, int) for d in shape) else None


def need(tensor: Tensor, allowed: tuple[DType, ...]) -> None:
    """Refuse an element type that there is no instruction for."""
    if tensor.dtype not in allowed:
        raise Refused(f"element type {tensor.dtype} has no such instruction")


def row(
    op_type: str,
    allowed: tuple[DType, ...],
    write: Callable,
    *,
    result: DType | None = None,
    flops: float = 1.0,
    steps: int = 1,
    same: bool = True,
    sample: tuple[float, float] = (-4.0, 4.0),
) -> Row:
    """Return the row of an operator that is `write(stage, site, *elements)` on broadcast inputs."""

    def lower(site: Site) -> list[Tensor | None]:
        tensors = tuple(t for t in site.inputs if t is not None)
        for tensor in tensors if same else tensors[:1]:
            need(tensor, allowed)
        if same and len({t.dtype for t in tensors}) > 1:
            raise Refused("its inputs differ in element type")
        shape = broadcast((t.shape for t in tensors), doubtful=True)
        dtype = result or tensors[0].dtype
        return [pointwise(shape, dtype, tensors, lambda s, *r: write(s, site, *r), steps)]

    return Row(op_type, mapping, lower, flops=flops, sample=sample)


def unary(
    op_type: str,
    op: str,
    allowed: tuple[DType, ...] = F,
    flops: float = 1.0,
    sample: tuple[float, float] = (-4.0, 4.0),
) -> Row:
    """Return the row of an operator that is one instruction of one input."""
    result = DType.BOOL if op in ("is_nan", "is_inf") else None
    write = lambda s, site, a: s.apply(op, a)  # noqa: E731
    return row(op_type, allowed, write, result=result, flops=flops, sample=sample)


def binary(
    op_type: str, op: str, allowed: tuple[DType, ...] = N, result: DType | None = None
) -> Row:
    """Return the row of an operator that is one instruction of two inputs."""
    write = lambda s, site, a, b: s.apply(op, a, b)  # noqa: E731
    return row(op_type, allowed, write, result=result)


def variadic(op_type: str, op: str, after: Callable | None = None) -> Row:
    """Return the row of an operator that folds one instruction over all its inputs."""

    def write(s: Stage, site: Site, *refs: Ref) -> Ref:
        total = refs[0]
        for ref in refs[1:]:
            total = s.apply(op, total, ref)
        return after(s, total, len(refs)) if after else total

    return row(op_type, N, write)


def reciprocal(s: Stage, site: Site, a: Ref) -> Ref:
    return s.apply("div", like(s, a, 1), a)


def is_inf(s: Stage, site: Site, a: Ref) -> Ref:
    found = s.apply("is_inf", a)
    if not site.attr("detect_positive", 1):
        found = s.apply("and", found, s.apply("lt", a, like(s, a, 0)))
    if not site.attr("detect_negative", 1):
        found = s.apply("and", found, s.apply("lt", like(s, a, 0), a))
    return found


def swapped(op: str) -> Callable:
    return lambda s, site, a, b: s.apply(op, b, a)


def modulo(s: Stage, site: Site, a: Ref, b: Ref) -> Ref:
    if s.type_of(a) in F and not site.attr("fmod", 0):
        raise Refused("Mod of floats needs fmod=1 (ONNX Mod)")
    return s.apply("fmod" if site.attr("fmod", 0) else "mod", a, b)


def mean(s: Stage, total: Ref, count: int) -> Ref:
    return s.apply("div", total, like(s, total, count))


def lower_pow(site: Site) -> list[Tensor | None]:
    """Return Pow; a constant exponent of one element may become cheaper instructions.

    Where the types differ, or are integers, ONNX Runtime computes in double and converts back.
    """
    base, exponent = site.x(0), site.x(1)
    need(base, N)
    need(exponent, N)
    shape = broadcast([base.shape, exponent.shape])
    value = site.node.inputs[1]
    known = None
    if value.weight is not None and value.weight.size == 1:
        known = float(value.weight.array().reshape(()))
    wide = base.dtype if base.dtype is exponent.dtype and base.dtype in F else DType.F64

    def power(s: Stage, a: Ref, b: Ref | None = None) -> Ref:
        if b is None:
            return power_of(s, a, known)
        raised = s.apply("pow", s.cast(wide, a), s.cast(wide, b))
        return s.cast(base.dtype, raised)

    if known in (CHEAP_POWERS if base.dtype in F else WHOLE_POWERS):
        return [pointwise(shape, base.dtype, (base,), power)]
    return [pointwise(shape, base.dtype, (base, exponent), power)]


WHOLE_POWERS = (1.0, 2.0, 3.0)
CHEAP_POWERS = (*WHOLE_POWERS, 0.5, -1.0)


def power_of(s: Stage, a: Ref, exponent: float) -> Ref:
    """Write a ** exponent, one of CHEAP_POWERS; C's pow(-inf, 0.5) is inf, pow(-0.0, 0.5) 0.0."""
    if exponent == 1.0:
        return a
    if exponent == -1.0:
        return s.apply("div", like(s, a, 1), a)
    if exponent == 0.5:
        root = s.apply("sqrt", s.apply("add", a, like(s, a, 0)))
        endless = s.apply("eq", a, like(s, a, float("-inf")))
        return s.apply("where", endless, like(s, a, float("inf")), root)
    square = s.apply("mul", a, a)
    return square if exponent == 2.0 else s.apply("mul", square, a)


def lower_clip(site: Site) -> list[Tensor | None]:
    """Return Clip: bounds are attributes below opset 11, inputs from then on.

    A missing bound of floats is the largest finite number, so that infinities are cut (ONNX Clip).
    """
    x = site.x(0)
    need(x, N)
    low, high = site.maybe(1), site.maybe(2)
    extra = tuple(t for t in (low, high) if t is not None)
    limit = float(np.finfo(x.dtype.numpy).max) if x.dtype in F else None
    least = site.attr("min", None if limit is None else -limit)
    most = site.attr("max", limit)

    def write(s: Stage, a: Ref, *bounds: Ref) -> Ref:
        left = list(bounds)
        for op, given, default in (("max", low, least), ("min", high, most)):
            if given is not None:
                a = s.apply(op, a, left.pop(0))
            elif default is not None:
                a = s.apply(op, a, like(s, a, default))
        return a

    return [pointwise(x.shape, x.dtype, (x, *map(flatten_scalar, extra)), write, 2)]


def flatten_scalar(tensor: Tensor) -> Tensor:
    """Return a one-element tensor as a scalar."""
    if any(ex.as_int(d) != 1 for d in tensor.shape):
        raise Refused("a bound that is not a scalar")
    zeros = tuple(ex.const(0) for _ in tensor.shape)
    return Tensor(tensor.dtype, (), lambda s, i, g: tensor.at(s, zeros, g), tensor.steps)


MOVABLE = tuple(d for d in DType if d not in (DType.BF16, DType.F16))


def lower_cast(site: Site) -> list[Tensor | None]:
    """Return Cast and CastLike."""
    x = site.x(0)
    if site.node.op_type == "CastLike":
        to = site.x(1).dtype
    else:
        to = dtypes.from_onnx(int(site.attr("to", 0)))
    if to not in MOVABLE or x.dtype not in MOVABLE:
        raise Refused(f"no cast from {x.dtype} to {to}")
    return [pointwise(x.shape, to, (x,), lambda s, a: s.cast(to, a))]


def lower_where(site: Site) -> list[Tensor | None]:
    """Return Where."""
    cond, a, b = site.x(0), site.x(1), site.x(2)
    need(a, MOVABLE)
    shape = broadcast([cond.shape, a.shape, b.shape])
    write = lambda s, c, x, y: s.apply("where", c, x, y)  # noqa: E731
    return [pointwise(shape, a.dtype, (cond, a, b), write)]


def is_scale_and_shift(norm: Node) -> bool:
    """Return whether a BatchNormalization is at inference, of mean 0 and variance 1, with nothing
    added to the variance."""
    if norm.attrs.get("training_mode", 0) or not norm.attrs.get("spatial", 1):
        return False
    if any(value is not None for value in norm.outputs[1:]):
        return False
    mean, variance = (v.weight if v is not None else None for v in norm.inputs[3:5])
    if norm.attrs.get("epsilon", 1e-5) != 0.0 or mean is None or variance is None:
        return False
    return not mean.array().any() and bool((variance.array() == 1).all())


def lower_batchnorm(site: Site) -> list[Tensor | None]:
    """Return BatchNormalization at inference: (x - mean) / sqrt(var + epsilon) * scale + bias."""
    if site.attr("training_mode", 0) or any(site.output_used(i) for i in (1, 2, 3, 4)):
        raise Refused("BatchNormalization in training mode")
    if not site.attr("spatial", 1):
        raise Refused("BatchNormalization with spatial=0")
    x = site.x(0)
    if {t.dtype for t in site.inputs} != {DType.F32}:
        raise Refused("element types other than f32")
    epsilon = site.attr("epsilon", 1e-5)
    scale, bias, mean_, var = (site.x(i) for i in (1, 2, 3, 4))
    plain = is_scale_and_shift(site.node)

    def read(stage: Stage, index: tuple, guard: object) -> Ref:
        channel = (index[1] if x.rank > 1 else ex.const(0),)
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        s, b = scale.at(stage, channel, guard), bias.at(stage, channel, guard)
        if plain:
            return stage.apply("add", stage.apply("mul", x.at(stage, index, guard), s), b)
        m, v = mean_.at(stage, channel, guard), var.at(stage, channel, guard)
        spread = stage.apply("sqrt", stage.apply("add", v, like(stage, v, epsilon)))
        factor = stage.apply("div", s, spread)
        centred = stage.apply("sub", x.at(stage, index, guard), m)
        return stage.apply("add", stage.apply("mul", centred, factor), b)

    tensor = Tensor(DType.F32, x.shape, read, x.steps + 3)
    return [tensor]


EXPENSIVE = 8.0

ROWS = [
    unary("Abs", "abs", N),
    unary("Neg", "neg", N),
    unary("Sign", "sign", N),
    unary("Sqrt", "sqrt", sample=(0.0, 9.0)),
    unary("Exp", "exp", flops=EXPENSIVE),
    unary("Log", "log", flops=EXPENSIVE, sample=(0.01, 9.0)),
    unary("Sin", "sin", flops=EXPENSIVE),
    unary("Cos", "cos", flops=EXPENSIVE),
    unary("Tan", "tan", flops=EXPENSIVE, sample=(-1.4, 1.4)),
    unary("Asin", "asin", flops=EXPENSIVE, sample=(-1.0, 1.0)),
    unary("Acos", "acos", flops=EXPENSIVE, sample=(-1.0, 1.0)),
    unary("Atan", "atan", flops=EXPENSIVE),
    unary("Sinh", "sinh", flops=EXPENSIVE),
    unary("Cosh", "cosh", flops=EXPENSIVE),
    unary("Tanh", "tanh", flops=EXPENSIVE),
    unary("Asinh", "asinh", flops=EXPENSIVE),
    unary("Acosh", "acosh", flops=EXPENSIVE, sample=(1.1, 9.0)),
    unary("Atanh", "atanh", flops=EXPENSIVE, sample=(-0.95, 0.95)),
    unary("Erf", "erf", flops=EXPENSIVE),
    unary("Sigmoid", "sigmoid", flops=EXPENSIVE),
    unary("Floor", "floor"),
    unary("Ceil", "ceil"),
    unary("Round", "round"),
    unary("IsNaN", "is_nan"),
    unary("Not", "not", B),
    unary("BitwiseNot", "not", (DType.I32, DType.I64)),
    row("IsInf", F, is_inf, result=DType.BOOL),
    row("Reciprocal", F, reciprocal, sample=(0.1, 4.0)),
    binary("Add", "add"),
    binary("Sub", "sub"),
    binary("Mul", "mul"),
    binary("Div", "div"),
    row("Mod", N, modulo),
    variadic("Min", "min"),
    variadic("Max", "max"),
    variadic("Sum", "add"),
    variadic("Mean", "add", mean),
    binary("And", "and", B),
    binary("Or", "or", B),
    binary("Xor", "xor", B),
    binary("BitwiseAnd", "and", (DType.I32, DType.I64)),
    binary("BitwiseOr", "or", (DType.I32, DType.I64)),
    binary("BitwiseXor", "xor", (DType.I32, DType.I64)),
    binary("Equal", "eq", NB, DType.BOOL),
    binary("Less", "lt", N, DType.BOOL),
    binary("LessOrEqual", "le", N, DType.BOOL),
    row("Greater", N, swapped("lt"), result=DType.BOOL),
    row("GreaterOrEqual", N, swapped("le"), result=DType.BOOL),
    Row("Pow", mapping, lower_pow, flops=EXPENSIVE, sample=(0.1, 4.0)),
    Row("Clip", mapping, lower_clip),
    Row("Cast", mapping, lower_cast),
    Row("CastLike", mapping, lower_cast),
    Row("Where", mapping, lower_where),
    Row("BatchNormalization", MappingType.ONE_TO_ONE, lower_batchnorm, flops=4.0),
]
