"""Rows of the operators that find, compare or look up positions: an index becomes a value."""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.ops.elementwise import F, N, need
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.movement import MOVABLE, number
from onnx_fusion.ops.row import Row, Site, axis_of, constant
from onnx_fusion.ops.rows import row_axes
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref

NOWHERE = 2**40
"""Larger than any position (tile programs, section 3)."""


def extreme_position(
    stage: Stage, x: Tensor, owner: Tensor, index: list[Index | None], axis: int,
    least: bool = False, last: bool = False,
) -> Ref:  # fmt: skip
    """Write where on `axis` the largest or `least` element is, the first or `last` of equals.

    A row with a NaN gives a position inside it.
    """
    full, letters = row_axes(stage, owner, index, [axis], x.shape)
    element = x.at(stage, full)
    best = stage.reduce(owner, "reduce_min" if least else "reduce_max", element, letters, x)
    worse = stage.apply("lt", *((best, element) if least else (element, best)))
    none = stage.const(DType.I64, -1 if last else NOWHERE)
    found = stage.apply("where", worse, none, stage.index(number(full[axis], owner)))
    return stage.reduce(owner, "reduce_max" if last else "reduce_min", found, letters, x)


def lower_arg(site: Site) -> list[Tensor | None]:
    """Return ArgMax or ArgMin."""
    x = site.x(0)
    need(x, N)
    axis = axis_of(site, x.rank, 0)
    if x.rank == 0 or ex.as_int(x.shape[axis]) == 0:
        raise Refused("no element to choose from")
    keepdims = bool(site.attr("keepdims", 1))
    kept = (ex.const(1),) if keepdims else ()
    least = site.node.op_type == "ArgMin"
    last = bool(site.attr("select_last_index", 0))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        at = [*index[:axis], None, *index[axis + len(kept) :]]
        return extreme_position(stage, x, tensor, at, axis, least, last)

    shape = x.shape[:axis] + kept + x.shape[axis + 1 :]
    tensor = Tensor(DType.I64, shape, read, x.steps + 4)
    return [tensor]


def lower_hardmax(site: Site) -> list[Tensor | None]:
    """Return 1 at the first largest element of each row along `axis`, 0 elsewhere."""
    x = site.x(0)
    need(x, F)
    axis = axis_of(site, x.rank, 1 if site.opset < 13 else -1)
    if x.rank == 0 or site.opset < 13 and axis != x.rank - 1:
        raise Refused("Hardmax over several axes")

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        found = extreme_position(stage, x, tensor, list(index), axis)
        here = stage.index(number(index[axis], tensor))
        one, zero = stage.const(x.dtype, 1), stage.const(x.dtype, 0)
        return stage.apply("where", stage.apply("eq", found, here), one, zero)

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 6)
    return [tensor]


def lower_trilu(site: Site) -> list[Tensor | None]:
    """Return the upper or lower triangle of the last two axes, 0 elsewhere."""
    x = site.x(0)
    if x.dtype not in MOVABLE:
        raise Refused(f"element type {x.dtype}")
    if x.rank < 2:
        raise Refused("no matrix")
    data = constant(site.node, 1)
    k = 0 if data is None else int(data.reshape(-1)[0])
    if abs(k) > NOWHERE:
        raise Refused(f"diagonal {k}")
    upper = bool(site.attr("upper", 1))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        line, column = (number(entry, tensor) for entry in index[-2:])
        inside = (
            Cond(line + k, "<=", column) if upper else Cond(column, "<=", line + k)
        )
        return stage.select((inside,), x.at(stage, index, guard), stage.const(x.dtype, 0))

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 1)
    return [tensor]


def lower_one_hot(site: Site) -> list[Tensor | None]:
    """Return values[1] where an index points along the new axis, values[0] elsewhere."""
    indices, values = site.x(0), site.x(2)
    need(indices, N)
    if values.dtype not in MOVABLE:
        raise Refused(f"element type {values.dtype}")
    depth = int(constant(site.node, 1).reshape(-1)[0])
    axis = axis_of(site, indices.rank + 1)

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        rest = index[:axis] + index[axis + 1 :]
        found = stage.cast(DType.I64, indices.at(stage, rest, guard))
        back = stage.apply("add", found, stage.index(depth))
        below = stage.apply("lt", found, stage.index(0))
        found = stage.apply("where", below, back, found)
        hit = stage.apply("eq", found, stage.index(number(index[axis], tensor)))
        off, on = (values.at(stage, (ex.const(which),)) for which in (0, 1))
        return stage.apply("where", hit, on, off)

    shape = indices.shape[:axis] + (ex.const(depth),) + indices.shape[axis:]
    tensor = Tensor(values.dtype, shape, read, indices.steps + 5)
    return [tensor]


def lower_gather_elements(site: Site) -> list[Tensor | None]:
    """Return GatherElements; an index outside fails the run."""
    x, indices = site.x(0), site.x(1)
    if x.dtype not in MOVABLE or indices.dtype not in (DType.I32, DType.I64):
        raise Refused(f"elements of type {x.dtype} by indices of type {indices.dtype}")
    if x.rank == 0 or x.rank != indices.rank:
        raise Refused("data and indices of different rank")
    axis = axis_of(site, x.rank, 0)
    for k, (extent, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
        has, reads = ex.as_int(extent), ex.as_int(wanted)
        fits = has is not None and reads is not None and reads <= has
        if k != axis and extent != wanted and not fits:
            raise Refused(f"cannot tell that the indices lie inside axis {k}")

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        found = stage.cast(DType.I64, indices.at(stage, index))
        back = stage.apply("add", found, stage.index(x.shape[axis]))
        below = stage.apply("lt", found, stage.index(0))
        at = stage.apply("where", below, back, found)
        return x.at(stage, index[:axis] + (at,) + index[axis + 1 :])

    tensor = Tensor(x.dtype, indices.shape, read, x.steps + indices.steps + 4)
    return [tensor]


def lower_gather_nd(site: Site) -> list[Tensor | None]:
    """Return GatherND: the last axis of `indices` holds positions on the axes behind the batch."""
    x, indices = site.x(0), site.x(1)
    if x.dtype not in MOVABLE or indices.dtype is not DType.I64:
        raise Refused(f"elements of type {x.dtype} by indices of type {indices.dtype}")
    batch = int(site.attr("batch_dims", 0))
    length = ex.as_int(indices.shape[-1]) if indices.rank else None
    if length is None or not 0 <= batch < min(x.rank, indices.rank) or batch + length > x.rank:
        raise Refused("index tuples that do not fit the data")
    if x.shape[:batch] != indices.shape[:batch]:
        raise Refused("cannot tell that the batches agree")
    lead = indices.rank - 1

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        at = []
        for k in range(length):
            found = indices.at(stage, index[:lead] + (ex.const(k),))
            back = stage.apply("add", found, stage.index(x.shape[batch + k]))
            below = stage.apply("lt", found, stage.index(0))
            at.append(stage.apply("where", below, back, found))
        return x.at(stage, (*index[:batch], *at, *index[lead:]))

    shape = indices.shape[:-1] + x.shape[batch + length :]
    tensor = Tensor(x.dtype, shape, read, x.steps + length * (indices.steps + 4))
    return [tensor]


M = MappingType
ROWS = [
    Row("ArgMax", M.MANY_TO_MANY, lower_arg, flops=2.0),
    Row("ArgMin", M.MANY_TO_MANY, lower_arg, flops=2.0),
    Row("Hardmax", M.MANY_TO_MANY, lower_hardmax, flops=3.0),
    Row("Trilu", M.ONE_TO_ONE, lower_trilu, flops=0),
    Row("OneHot", M.ONE_TO_MANY, lower_one_hot, flops=0),
    Row("GatherElements", M.ONE_TO_MANY, lower_gather_elements, flops=0),
    Row("GatherND", M.ONE_TO_MANY, lower_gather_nd, flops=0),
]
