"""Rows of contractions: MatMul, Gemm and Conv."""

from __future__ import annotations

import math

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import transpose
from onnx_fusion.ops.product import of_matrices, of_windows
from onnx_fusion.ops.row import Row, Site, align, broadcast, like, pointwise
from onnx_fusion.ops.rows import per_channel
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.ops.window import read_window, window_of
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref


def lower_matmul(site: Site) -> list[Tensor | None]:
    return [matmul(site.x(0), site.x(1))]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b as NumPy means it."""
    need(a, (DType.F32,))
    need(b, (DType.F32,))
    if a.rank == 0 or b.rank == 0:
        raise Refused("an operand of rank 0")
    inner = a.shape[-1]
    if inner != b.shape[-2 if b.rank > 1 else 0]:
        raise Refused("the inner extents are not known to be equal")
    batch = broadcast([a.shape[:-2], b.shape[:-2]])
    rows = a.shape[-2:-1] if a.rank > 1 else ()
    cols = b.shape[-1:] if b.rank > 1 else ()

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        k, letters = stage.axis((tensor.serial, 0), inner)
        lead = index[: len(batch)]
        i = index[len(batch) : len(batch) + len(rows)]
        j = index[len(batch) + len(rows) :]
        left = stage.factor(a, align(lead, a.shape[:-2]) + i + (k,))
        right = stage.factor(b, align(lead, b.shape[:-2]) + ((k,) + j if b.rank > 1 else (k,)))
        return stage.dot(tensor, left, right, letters)

    tensor = Tensor(DType.F32, batch + rows + cols, read, 1)
    return tensor


def lower_gemm(site: Site) -> list[Tensor | None]:
    """Return alpha * A' @ B' + beta * C."""
    a, b, c = site.x(0), site.x(1), site.maybe(2)
    if a.rank != 2 or b.rank != 2:
        raise Refused("operands that are not matrices")
    a = transpose(a, [1, 0]) if site.attr("transA", 0) else a
    b = transpose(b, [1, 0]) if site.attr("transB", 0) else b
    out = matmul(a, b)
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))

    def write(s: Stage, value: Ref, bias: Ref | None = None) -> Ref:
        if alpha != 1.0:
            value = s.apply("mul", value, like(s, value, alpha))
        if bias is None:
            return value
        if beta != 1.0:
            bias = s.apply("mul", bias, like(s, bias, beta))
        return s.apply("add", value, bias)

    operands = (out,) if c is None or beta == 0.0 else (out, c)
    return [pointwise(out.shape, DType.F32, operands, write)]


def lower_conv(site: Site) -> list[Tensor | None]:
    """Return Conv of any rank, with groups, strides, dilations and pads."""
    x, w, bias = site.x(0), site.x(1), site.maybe(2)
    need(x, (DType.F32,))
    need(w, (DType.F32,))
    if x.rank < 3 or w.rank != x.rank:
        raise Refused(f"an input of rank {x.rank} and weights of rank {w.rank}")
    window = window_of(site, w.shape[2:], x.shape[2:])
    groups = int(site.attr("group", 1))
    outputs, depth = w.shape[0], w.shape[1]
    if depth * groups != x.shape[1]:
        raise Refused("the channels of input and weights do not agree")
    known = ex.as_int(outputs)
    if groups != 1 and (known is None or known % groups):
        raise Refused("output channels are not a multiple of the groups")
    shape = (x.shape[0], outputs) + window.outputs(x.shape[2:])
    window, firsts = window.trimmed(x.shape[2:])

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(e, Ref) for e in index):
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        channel, inner = stage.axis((tensor.serial, 0), depth)
        taps, letters = [], list(inner)
        for axis, extent in enumerate(window.extents):
            tap, names = stage.axis((tensor.serial, 1 + axis), extent)
            taps.append(tap)
            letters += names
        source = channel
        if groups != 1:
            source = stage.simplify(index[1] // (known // groups)) * depth + channel
        at = window.at(index[2:], tuple(taps))
        left = read_window(stage, x, (index[0], source), at, window, 0.0)
        own = (tap + first for tap, first in zip(taps, firsts, strict=True))
        right = stage.factor(w, (index[1], channel, *own))
        return stage.dot(tensor, left, right, tuple(letters))

    tensor = Tensor(DType.F32, shape, read, 1)
    if bias is None:
        return [tensor]
    add = lambda s, a, b: s.apply("add", a, b)  # noqa: E731
    return [pointwise(shape, DType.F32, (tensor, per_channel(bias, x.rank)), add)]


def matmul_flops(node: Node) -> float:
    """Return two operations per multiplied pair; extents that are not known count as 128."""
    shape = node.inputs[0].shape or (128,)
    inner = shape[-2 if node.attrs.get("transA", 0) and len(shape) > 1 else -1]
    return 2.0 * (inner if isinstance(inner, int) else 128)


def conv_flops(node: Node) -> float:
    """Return two operations per tap and input channel of a group."""
    taps = [d if isinstance(d, int) else 1 for d in (node.inputs[1].shape or (1,))[1:]]
    return 2.0 * math.prod(taps)


def conv_role(node: Node) -> Role:
    """Return what kind of convolution it is; weights are [O, C / group, kernel...]."""
    weights = node.inputs[1].shape or ()
    if int(node.attrs.get("group", 1)) > 1 and len(weights) > 1 and weights[1] == 1:
        return Role.DEPTHWISE
    if len(weights) > 2 and all(d == 1 for d in weights[2:]):
        return Role.POINTWISE
    return Role.CONVOLUTION


M = MappingType.MANY_TO_MANY
ROWS = [
    Row("MatMul", M, lower_matmul, flops=matmul_flops, role=Role.PRODUCT, product=of_matrices),
    Row("Gemm", M, lower_gemm, flops=matmul_flops, role=Role.PRODUCT, product=of_matrices),
    Row("Conv", M, lower_conv, flops=conv_flops, role=conv_role, product=of_windows),
]
