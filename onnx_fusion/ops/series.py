"""Rows of the operators that count: what an element is follows from its position."""

from __future__ import annotations

from onnx_fusion import dtypes
from onnx_fusion.ops.elementwise import N, need
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.movement import given, number
from onnx_fusion.ops.row import Row, Site, constant, like
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref

LONGEST = 512
"""A running sum is summed anew for each element; on longer axes a scan is better."""


def lower_cumsum(site: Site) -> list[Tensor | None]:
    """Return CumSum along a short axis, as a sum of what is not behind each element."""
    x = site.x(0)
    need(x, N)
    axis = int(constant(site.node, 1).reshape(-1)[0])
    if x.rank == 0 or not -x.rank <= axis < x.rank:
        raise Refused(f"axis {axis} of rank {x.rank}")
    axis %= x.rank
    extent = ex.as_int(x.shape[axis])
    if extent is None or extent > LONGEST:
        raise Refused(f"a running sum over {x.shape[axis]} elements")
    own, back = bool(site.attr("exclusive", 0)), bool(site.attr("reverse", 0))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or isinstance(index[axis], Ref):
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        along, letters = stage.axis((tensor.serial, 0), x.shape[axis])
        element = stage.operand(x, (*index[:axis], along, *index[axis + 1 :]))
        near, far = (index[axis], along) if back else (along, index[axis])
        kept = stage.select(
            (Cond(near, "<" if own else "<=", far),), element, like(stage, element, 0)
        )
        return stage.reduce(tensor, "reduce_sum", kept, letters, x)

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 2)
    return [tensor]


def lower_eye_like(site: Site) -> list[Tensor | None]:
    """Return 1 on a diagonal and 0 elsewhere, in the shape of the input."""
    x = site.x(0)
    if x.rank != 2:
        raise Refused("no matrix")
    code = int(site.attr("dtype", 0))
    dtype = dtypes.from_onnx(code) if code else x.dtype
    if dtype not in N:
        raise Refused(f"element type {dtype}")
    k = int(site.attr("k", 0))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        line, column = (number(entry, tensor) for entry in index)
        one, zero = (stage.const(dtype, value) for value in (1, 0))
        return stage.select((Cond(column, "==", line + k),), one, zero)

    tensor = Tensor(dtype, x.shape, read, 1)
    return [tensor]


def lower_range(site: Site) -> list[Tensor | None]:
    """Return start + i * step; the length is an extent that inference found."""
    start, step = site.x(0), site.x(2)
    need(start, N)
    shape = given(site)

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        first, by = (t.at(stage, (ex.const(0),) * t.rank) for t in (start, step))
        at = stage.cast(start.dtype, stage.index(number(index[0], tensor)))
        return stage.apply("add", first, stage.apply("mul", at, by))

    tensor = Tensor(start.dtype, shape, read, 3)
    return [tensor]


M = MappingType
ROWS = [
    Row("CumSum", M.MANY_TO_MANY, lower_cumsum, flops=64.0),
    Row("EyeLike", M.ONE_TO_ONE, lower_eye_like, flops=0),
    Row("Range", M.ONE_TO_ONE, lower_range, flops=0),
]
