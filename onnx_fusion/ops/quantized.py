"""Rows of the operators between floats and 8- or 16-bit integers.

The instructions compute in f32 and i32; what is stored is rounded half to even and cut to the
type's range first, as ONNX Runtime does.
"""

from __future__ import annotations

import numpy as np

from onnx_fusion import dtypes
from onnx_fusion.dtypes import DType
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.movement import number
from onnx_fusion.ops.row import Row, Site, axis_of, pointwise
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

NARROW = (DType.I8, DType.U8, DType.I16, DType.U16)


def spread(site: Site, x: Tensor, parameter: Tensor) -> Tensor:
    """Return a scale or zero point in x's shape: one for all, per axis, or per block."""
    if parameter.rank == 0 or (parameter.rank == 1 and ex.as_int(parameter.shape[0]) == 1):
        at = (ex.const(0),) * parameter.rank
        index_of = lambda index: at  # noqa: E731
    elif parameter.rank == 1:
        axis = axis_of(site, x.rank, 1)
        if parameter.shape[0] != x.shape[axis]:
            raise Refused("cannot tell that there is one scale for each element of the axis")
        index_of = lambda index: (index[axis],)  # noqa: E731
    else:
        axis, size = axis_of(site, x.rank, 1), int(site.attr("block_size", 0))
        rest = [k for k in range(x.rank) if k != axis]
        if size < 1 or parameter.rank != x.rank or any(
            parameter.shape[k] != x.shape[k] for k in rest
        ) or parameter.shape[axis] * size != x.shape[axis]:
            raise Refused("scales that are not one for each whole block")
        index_of = lambda index: tuple(  # noqa: E731
            number(e, tensor) // size if k == axis else e for k, e in enumerate(index)
        )

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        at = index_of(index)
        at = tuple(stage.simplify(e) if isinstance(e, ex.Expr) else e for e in at)
        return parameter.at(stage, at, guard)

    tensor = Tensor(parameter.dtype, x.shape, read, parameter.steps)
    return tensor


def lower_dequantize(site: Site) -> list[Tensor | None]:
    """Return (x - zero point) * scale."""
    x, scale, zero = site.x(0), site.x(1), site.maybe(2)
    need(x, (*NARROW, DType.I32))
    need(scale, (DType.F32,))
    operands = [x, spread(site, x, scale), *([] if zero is None else [spread(site, x, zero)])]

    def write(s: Stage, a: Ref, factor: Ref, base: Ref | None = None) -> Ref:
        a = s.cast(DType.I32, a)
        if base is not None:
            a = s.apply("sub", a, s.cast(DType.I32, base))
        return s.apply("mul", s.cast(DType.F32, a), factor)

    return [pointwise(x.shape, DType.F32, tuple(operands), write, 3)]


def lower_quantize(site: Site) -> list[Tensor | None]:
    """Return x / scale rounded half to even, plus the zero point, cut to the type's range."""
    x, scale, zero = site.x(0), site.x(1), site.maybe(2)
    need(x, (DType.F32,))
    need(scale, (DType.F32,))
    to = zero.dtype if zero is not None else DType.U8
    if zero is None and site.attr("output_dtype", 0):
        to = dtypes.from_onnx(int(site.attr("output_dtype")))
    if to not in NARROW:
        raise Refused(f"no rounding to {to}")
    limits = np.iinfo(to.numpy)
    operands = [x, spread(site, x, scale), *([] if zero is None else [spread(site, x, zero)])]

    def write(s: Stage, a: Ref, factor: Ref, base: Ref | None = None) -> Ref:
        a = s.apply("round", s.apply("div", a, factor))
        if base is not None:
            a = s.apply("add", a, s.cast(DType.F32, base))
        a = s.apply("max", a, s.const(DType.F32, int(limits.min)))
        a = s.apply("min", a, s.const(DType.F32, int(limits.max)))
        return s.cast(to, a)

    return [pointwise(x.shape, to, tuple(operands), write, 5)]


ROWS = [
    Row("QuantizeLinear", MappingType.ONE_TO_ONE, lower_quantize, flops=5.0),
    Row("DequantizeLinear", MappingType.ONE_TO_ONE, lower_dequantize, flops=2.0),
]
