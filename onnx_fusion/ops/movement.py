"""Rows of the operators that only move elements: each is an index map, and costs no instruction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import Row, Site, constant, ints
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor, is_one
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref, literal

Shape = tuple[ex.Expr, ...]
MOVABLE = frozenset(DType) - {DType.BF16, DType.F16}


def moved(
    source: Tensor,
    shape: Shape,
    index_of: Callable[[Stage, tuple[Index, ...]], tuple[Index, ...]],
    *,
    keeps_outside: bool = False,
) -> Tensor:
    """Return the tensor that reads `source` at `index_of(stage, index)`.

    `keeps_outside` says that an index outside maps to an index outside, so that a fill value passes
    through (a transpose does this, a reshape does not).
    """
    if source.dtype not in MOVABLE:
        raise Refused(f"element type {source.dtype}")

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY) and not keeps_outside:
            raise NeedsTemp(tensor)
        return source.at(stage, index_of(stage, index), guard)

    tensor = Tensor(
        source.dtype, shape, read, source.steps, source.is_source and keeps_outside, source
    )
    return tensor


def filled(dtype: DType, shape: Shape, value: float | int | bool) -> Tensor:
    """Return the tensor that is `value` everywhere."""

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY, literal(dtype, value)):
            raise NeedsTemp(tensor)
        return stage.const(dtype, value)

    tensor = Tensor(dtype, shape, read)
    return tensor


def number(entry: Index, tensor: Tensor) -> ex.Expr:
    """Return an index entry on which arithmetic is possible; store `tensor` first if it is data."""
    if isinstance(entry, Ref):
        raise NeedsTemp(tensor)
    return entry


def transpose(source: Tensor, perm: list[int]) -> Tensor:
    """Return `source` with permuted axes: axis k of the result is axis perm[k] of the source."""
    if sorted(perm) != list(range(source.rank)):
        raise Refused(f"perm {perm} is not a permutation of {source.rank} axes")
    shape = tuple(source.shape[p] for p in perm)
    back = [perm.index(axis) for axis in range(source.rank)]
    return moved(source, shape, lambda s, i: tuple(i[b] for b in back), keeps_outside=True)


def product(extents: Shape) -> ex.Expr:
    """Return the number of elements of a box."""
    total: ex.Expr = ex.const(1)
    for extent in extents:
        total = total * extent
    return total


def groups(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """Return the finest pairing of runs of axes of equal product.

    Reshaping [B, S, 12, 64] to [B, S, 768] pairs B with B, S with S and (12, 64) with 768, so that
    symbols need no division.
    """
    found = []
    a = b = 0
    while a < len(old) or b < len(new):
        start_a, start_b = a, b
        left, right = ex.const(1), ex.const(1)
        if a < len(old):
            left, a = old[a], a + 1
        if b < len(new):
            right, b = new[b], b + 1
        while left != right:
            size_l, size_r = ex.as_int(left), ex.as_int(right)
            grow_left = b >= len(new) or (
                a < len(old) and size_l is not None and (size_r is None or size_l < size_r)
            )
            if grow_left and a < len(old):
                left, a = left * old[a], a + 1
            elif b < len(new):
                right, b = right * new[b], b + 1
            elif a < len(old):
                left, a = left * old[a], a + 1
            else:
                return [(range(len(old)), range(len(new)))]
        found.append((range(start_a, a), range(start_b, b)))
    return found


def flatten(index: tuple[ex.Expr, ...], shape: Shape) -> ex.Expr:
    """Return the row-major position of `index` in a box of `shape`."""
    flat: ex.Expr = ex.const(0)
    for entry, extent in zip(index, shape, strict=True):
        flat = flat * extent + entry
    return flat


def unflatten(stage: Stage, flat: ex.Expr, shape: Shape) -> list[ex.Expr]:
    """Return the index of row-major position `flat` in a box of `shape`."""
    result: list[ex.Expr] = []
    below: ex.Expr = ex.const(1)
    for position in range(len(shape) - 1, -1, -1):
        extent = shape[position]
        if is_one(extent):
            result.append(ex.const(0))
            continue
        entry = stage.simplify(flat // below)
        if any(not is_one(e) for e in shape[:position]):
            entry = stage.simplify(entry % extent)
        result.append(entry)
        below = below * extent
    return result[::-1]


def reshape(source: Tensor, shape: Shape) -> Tensor:
    """Return `source` in another shape of as many elements, row-major."""
    if product(source.shape) != product(shape):
        raise Refused(
            f"cannot tell that {show(source.shape)} and {show(shape)} have as many elements"
        )
    nothing = next((k for k, e in enumerate(shape) if ex.as_int(e) == 0), None)
    if nothing is not None:
        return moved(source, shape, lambda s, i: tuple(
            i[nothing] if ex.as_int(e) == 0 else ex.const(0) for e in source.shape
        ))  # fmt: skip
    pairs = groups(source.shape, shape)

    def index_of(stage: Stage, index: tuple[Index, ...]) -> tuple[Index, ...]:
        result: list[Index] = []
        for old, new in pairs:
            inner = tuple(source.shape[k] for k in old)
            outer = tuple(shape[k] for k in new)
            wide_in = [k for k, e in enumerate(inner) if not is_one(e)]
            wide_out = [k for k, e in enumerate(outer) if not is_one(e)]
            entries = tuple(index[k] for k in new)
            if len(wide_in) == len(wide_out) == 1:
                result.extend(
                    entries[wide_out[0]] if k == wide_in[0] else ex.const(0)
                    for k in range(len(inner))
                )
            else:
                plain = tuple(number(e, tensor) for e in entries)
                result.extend(unflatten(stage, flatten(plain, outer), inner))
        return tuple(result)

    tensor = moved(source, shape, index_of)
    return tensor


def show(shape: Shape) -> str:
    """Return a shape as text."""
    return "[" + ", ".join(str(e) for e in shape) + "]"


def given(site: Site, position: int = 0) -> Shape:
    """Return the output's shape as inference knows it; refuse if it does not."""
    shape = site.given[position]
    if shape is None:
        raise Refused("its output shape depends on data")
    return shape


def lower_reshape(site: Site) -> list[Tensor | None]:
    """Return Reshape; a constant target is read with its 0 and -1, any other by inference."""
    x = site.x(0)
    if "shape" in site.node.attrs:
        target = [int(v) for v in site.attr("shape")]
    else:
        value = site.node.inputs[1]
        if value.weight is None:
            return [reshape(x, given(site))]
        target = [int(v) for v in np.atleast_1d(value.weight.array())]
    shape: list[ex.Expr] = []
    unknown = None
    for axis, extent in enumerate(target):
        if extent == -1:
            unknown = axis
            shape.append(ex.const(1))
        elif extent == 0 and not site.attr("allowzero", 0):
            if axis >= x.rank:
                raise Refused(f"dim {axis} of the target copies an axis that does not exist")
            shape.append(x.shape[axis])
        else:
            shape.append(ex.const(extent))
    if unknown is not None:
        rest, total = product(tuple(shape)), product(x.shape)
        if ex.as_int(rest) == 0:
            return [reshape(x, given(site))]
        quotient = ex.simplify(total // rest, {})
        if quotient * rest != total:
            quotient = given(site)[unknown]
        shape[unknown] = quotient
    return [reshape(x, tuple(shape))]


def lower_flatten(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    axis = int(site.attr("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return [reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))]


def lower_squeeze(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    axes = ints(site.node, "axes", 1)
    if axes is None:
        if any(ex.as_int(e) is None for e in x.shape):
            raise Refused("cannot tell which axes are 1")
        axes = [k for k, e in enumerate(x.shape) if is_one(e)]
    gone = {a % x.rank for a in axes}
    if any(not is_one(x.shape[a]) for a in gone):
        raise Refused("a squeezed axis is not known to be 1")
    return [reshape(x, tuple(e for k, e in enumerate(x.shape) if k not in gone))]


def lower_unsqueeze(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    axes = ints(site.node, "axes", 1) or []
    rank = x.rank + len(axes)
    new = {a % rank for a in axes}
    left = iter(x.shape)
    return [reshape(x, tuple(ex.const(1) if k in new else next(left) for k in range(rank)))]


def lower_transpose(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    perm = site.attr("perm")
    return [transpose(x, list(range(x.rank))[::-1] if perm is None else [int(p) for p in perm])]


def lower_identity(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    return [moved(x, x.shape, lambda s, i: i, keeps_outside=True)]


def lower_dropout(site: Site) -> list[Tensor | None]:
    """Return Dropout at inference: its input, and a mask that is true everywhere."""
    x = site.x(0)
    training = constant(site.node, 2)
    if training is not None and bool(training.reshape(-1)[0]):
        raise Refused("Dropout in training mode")
    kept = moved(x, x.shape, lambda s, i: i, keeps_outside=True)
    if not site.output_used(1):
        return [kept]
    dtype = site.node.outputs[1].dtype or DType.BOOL
    return [kept, filled(dtype, x.shape, 1)]


def lower_depth_to_space(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    size = int(site.attr("blocksize"))
    n, c, h, w = x.shape
    b = ex.const(size)
    depth = ex.simplify(c // (size * size), {})
    if depth * (size * size) != c:
        raise Refused("channels are not known to be a multiple of blocksize squared")
    if site.attr("mode", "DCR") == "DCR":
        wide = transpose(reshape(x, (n, b, b, depth, h, w)), [0, 3, 4, 1, 5, 2])
    else:
        wide = transpose(reshape(x, (n, depth, b, b, h, w)), [0, 1, 4, 2, 5, 3])
    return [reshape(wide, (n, depth, h * size, w * size))]


def lower_space_to_depth(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    size = int(site.attr("blocksize"))
    n, c, h, w = x.shape
    rows, cols = ex.simplify(h // size, {}), ex.simplify(w // size, {})
    if rows * size != h or cols * size != w:
        raise Refused("height and width are not known to be multiples of blocksize")
    b = ex.const(size)
    order = [0, 3, 5, 1, 2, 4] if site.attr("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    wide = transpose(reshape(x, (n, c, rows, b, cols, b)), order)
    return [reshape(wide, (n, c * (size * size), rows, cols))]


M = MappingType
ROWS = [
    Row("Reshape", M.REORGANIZE, lower_reshape, flops=0, extents=(1,)),
    Row("Flatten", M.REORGANIZE, lower_flatten, flops=0),
    Row("Squeeze", M.REORGANIZE, lower_squeeze, flops=0),
    Row("Unsqueeze", M.REORGANIZE, lower_unsqueeze, flops=0),
    Row("Transpose", M.SHUFFLE, lower_transpose, flops=0),
    Row("DepthToSpace", M.SHUFFLE, lower_depth_to_space, flops=0),
    Row("SpaceToDepth", M.SHUFFLE, lower_space_to_depth, flops=0),
    Row("Identity", M.ONE_TO_ONE, lower_identity, flops=0),
    Row("Dropout", M.ONE_TO_ONE, lower_dropout, flops=0),
]
