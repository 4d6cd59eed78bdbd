"""Rows of the operators that take, join, repeat and pick pieces: index maps with bounds."""

from __future__ import annotations

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.movement import MOVABLE, Shape, given, moved, number
from onnx_fusion.ops.row import Row, Site, axis_of, broadcast, constant, ints
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor, is_one
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref, literal


def cut(x: Tensor, starts: dict[int, tuple[ex.Expr, int]], shape: Shape) -> Tensor:
    """Return a strided box of `x`: axis a reads from start + step * index."""

    def index_of(stage: Stage, index: tuple[Index, ...]) -> tuple[Index, ...]:
        return tuple(
            starts[k][0] + number(e, tensor) * starts[k][1] if k in starts else e
            for k, e in enumerate(index)
        )

    tensor = moved(x, shape, index_of)
    if all(step == 1 for _, step in starts.values()):
        tensor.begins = tuple(starts.get(k, (ex.const(0), 1))[0] for k in range(x.rank))
    return tensor


def lower_slice(site: Site) -> list[Tensor | None]:
    """Return Slice; steps back only on axes of known extent.

    An end that is not constant gives the extent that inference found, if the slice starts at 0.
    """
    x = site.x(0)
    if len(site.node.inputs) > 2 and site.node.inputs[2].weight is None:
        return [lead_in(site, x)]
    first = ints(site.node, "starts", 1)
    last = ints(site.node, "ends", 2)
    axes = ints(site.node, "axes", 3) or list(range(len(first)))
    steps = ints(site.node, "steps", 4) or [1] * len(first)
    shape, starts = list(x.shape), {}
    for start, end, axis, step in zip(first, last, axes, steps, strict=True):
        axis %= x.rank
        extent = ex.as_int(x.shape[axis])
        if step < 0 and end >= 2**31 - 1:
            # ONNX Runtime takes this end for "no end", ONNX's shape inference for the last element.
            raise Refused("a slice that steps back from its start to the end")
        if extent is None:
            if step < 0:
                raise Refused("a slice that steps back on an axis of unknown extent")
            begin = slice_bound(start, x.shape[axis])
            size = ex.maximum(slice_bound(end, x.shape[axis]) - begin + (step - 1), 0) // step
            shape[axis] = ex.simplify(size, {})
        else:
            begin, size = slice_box(start, end, step, extent)
            shape[axis] = ex.const(size)
            begin = ex.const(begin)
        starts[axis] = (begin, step if abs(step) < 2**31 else 1)
    return [cut(x, starts, tuple(shape))]


def lead_in(site: Site, x: Tensor) -> Tensor:
    """Return Slice from 0 in steps of 1 to an end known only at run time."""
    if any(ints(site.node, "starts", 1)) or set(ints(site.node, "steps", 4) or [1]) != {1}:
        raise Refused(f"input 2 ({site.node.inputs[2].name}) is not constant")
    return moved(x, given(site), lambda stage, index: index)


def slice_box(start: int, end: int, step: int, extent: int) -> tuple[int, int]:
    """Return a slice's first index and its number of elements (ONNX clamps, unlike Python)."""
    if extent == 0:
        return 0, 0
    lowest, highest = (0, extent) if step > 0 else (-1, extent - 1)
    start, end = (b + extent if b < 0 else b for b in (start, end))
    begin = min(max(start, 0), highest)
    stop = min(max(end, lowest), highest)
    return begin, max(0, -(-(stop - begin) // step))


def slice_bound(bound: int, extent: ex.Expr) -> ex.Expr:
    """Return where a bound of a slice that steps forward lies on an axis of unknown extent."""
    if bound < 0:
        return ex.simplify(ex.maximum(extent + max(bound, -(2**31)), 0), {})
    return extent if bound >= 2**31 - 1 else ex.simplify(ex.minimum(ex.const(bound), extent), {})


def lower_split(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    axis = axis_of(site, x.rank, 0)
    extent = ex.as_int(x.shape[axis])
    if extent is None:
        raise Refused("a split of an axis of unknown extent")
    sizes = ints(site.node, "split", 1)
    if sizes is None:
        count = int(site.attr("num_outputs", len(site.node.outputs)))
        size = -(-extent // count)
        sizes = [min(size, extent - k * size) for k in range(count)]
    outputs, start = [], 0
    for size in sizes:
        shape = tuple(ex.const(size) if k == axis else e for k, e in enumerate(x.shape))
        outputs.append(cut(x, {axis: (ex.const(start), 1)}, shape))
        start += size
    return outputs


def lower_concat(site: Site) -> list[Tensor | None]:
    """Return Concat."""
    pieces = [t for t in site.inputs if t is not None]
    axis = axis_of(site, pieces[0].rank, 1)
    return [rolled(pieces, axis) or joined(pieces, axis)]


def rolled(pieces: list[Tensor], axis: int) -> Tensor | None:
    """Return the end of a tensor before its beginning as that tensor read in a circle, else None.

    Not along the last axis, where a circle would be an index per element.
    """
    if len(pieces) != 2 or axis == pieces[0].rank - 1 or any(p.begins is None for p in pieces):
        return None
    (x, begin), (y, start) = ((p.origin, p.begins) for p in pieces)
    sizes = [ex.as_int(piece.shape[axis]) for piece in pieces]
    shift, extent = ex.as_int(begin[axis]), ex.as_int(x.shape[axis])
    if x is not y or None in (*sizes, shift, extent) or shift != sizes[1] or sum(sizes) != extent:
        return None
    others = (*begin[:axis], *begin[axis + 1 :], *start)
    shapes = [(*p.shape[:axis], *p.shape[axis + 1 :]) for p in (*pieces, x)]
    if any(ex.as_int(e) != 0 for e in others) or shapes[0] != shapes[2] or shapes[1] != shapes[2]:
        return None

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        where = stage.simplify(number(index[axis], tensor))
        borders = [ex.const(0), pieces[0].shape[axis], ex.const(extent)]
        only = stage.piece(where, borders) if guard is None else None
        if only is not None:
            inner = where + shift - extent * only
            return x.at(stage, (*index[:axis], inner, *index[axis + 1 :]))
        at = stage.simplify((where + shift) % extent)
        return x.chosen_at(stage, (*index[:axis], at, *index[axis + 1 :]), guard)

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 1)
    return tensor


def joined(pieces: list[Tensor], axis: int) -> Tensor:
    """Return the pieces one behind the other, chosen by index, each read at its own offset."""
    offsets, total = [], ex.const(0)
    for piece in pieces:
        offsets.append(total)
        total = total + piece.shape[axis]
        rest = [e for k, e in enumerate(piece.shape) if k != axis]
        if rest != [e for k, e in enumerate(pieces[0].shape) if k != axis]:
            raise Refused("its inputs are not known to agree on the other axes")
    if pieces[0].dtype not in MOVABLE:
        raise Refused(f"element type {pieces[0].dtype}")
    shape = tuple(total if k == axis else e for k, e in enumerate(pieces[0].shape))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        where = stage.simplify(number(index[axis], tensor))
        only = stage.piece(where, [*offsets, total]) if guard is None else None
        if only is not None:
            inner = tuple(where - offsets[only] if k == axis else e for k, e in enumerate(index))
            return pieces[only].at(stage, inner)
        refs = []
        for piece, offset in zip(pieces, offsets, strict=True):
            inner = tuple(where - offset if k == axis else e for k, e in enumerate(index))
            refs.append(piece.chosen_at(stage, inner, ANY if len(pieces) > 1 else guard))
        result = refs[-1]
        for ref, border in reversed(list(zip(refs[:-1], offsets[1:], strict=True))):
            result = stage.select((Cond(where, "<", border),), ref, result)
        return result

    tensor = Tensor(pieces[0].dtype, shape, read, sum(p.steps + 1 for p in pieces))
    return tensor


def lower_expand(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    value = site.node.inputs[1]
    if value.weight is not None:
        target = tuple(ex.const(int(v)) for v in np.atleast_1d(value.weight.array()))
        shape = broadcast([x.shape, target])
    else:
        shape = given(site)
    skip = len(shape) - x.rank
    keep = [not is_one(e) for e in x.shape]
    for k, wide in enumerate(keep):
        if wide and x.shape[k] != shape[skip + k]:
            raise Refused("cannot tell which axes are expanded")

    def index_of(stage: Stage, index: tuple[Index, ...]) -> tuple[Index, ...]:
        pairs = zip(index[skip:], keep, strict=True)
        return tuple(e if wide else ex.const(0) for e, wide in pairs)

    return [moved(x, shape, index_of)]


def lower_tile(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    repeats = constant(site.node, 1)
    if repeats is None or len(repeats) != x.rank:
        raise Refused("repeats does not give one number per axis")
    shape = tuple(e * int(r) for e, r in zip(x.shape, repeats, strict=True))

    def entry(stage: Stage, at: Index, extent: ex.Expr, times: int) -> Index:
        if is_one(extent):
            return ex.const(0)
        if times == 1 or ex.as_int(extent) == 0:
            return at
        return stage.simplify(number(at, tensor) % extent)

    def index_of(stage: Stage, index: tuple[Index, ...]) -> tuple[Index, ...]:
        axes = zip(index, x.shape, repeats, strict=True)
        return tuple(entry(stage, at, extent, int(times)) for at, extent, times in axes)

    tensor = moved(x, shape, index_of)
    return [tensor]


def lower_pad(site: Site) -> list[Tensor | None]:
    """Return Pad; a negative pad cuts."""
    x = site.x(0)
    mode = site.attr("mode", "constant")
    pads = ints(site.node, "pads", 1) or ints(site.node, "paddings", 1)
    axes = constant(site.node, 3)
    axes = list(range(x.rank)) if axes is None else [int(a) % x.rank for a in axes]
    fill = site.attr("value", 0.0)
    given_fill = site.maybe(2)
    if given_fill is not None:
        data = constant(site.node, 2)
        fill = data.reshape(-1)[0].item() if data.size else 0
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    shape = tuple(e + before.get(k, 0) + after.get(k, 0) for k, e in enumerate(x.shape))
    if x.dtype not in MOVABLE:
        raise Refused(f"element type {x.dtype}")
    if mode != "constant":
        return [mirrored(x, shape, mode, before, after)]
    fill = literal(x.dtype, fill)

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        inner = tuple(
            number(e, tensor) - before[k] if before.get(k) else e for k, e in enumerate(index)
        )
        if x.is_source and guard is None:
            return x.at(stage, inner, fill)
        conds = []
        for k, entry in enumerate(inner):
            if before.get(k, 0) > 0:
                conds.append(Cond(ex.const(0), "<=", number(entry, tensor)))
            if after.get(k, 0) > 0:
                conds.append(Cond(number(entry, tensor), "<", x.shape[k]))
        if not conds:
            return x.at(stage, inner, guard)
        element = x.at(stage, inner, ANY)
        if guard is None and (filled := stage.refill(element, tuple(conds), fill)) is not None:
            return filled
        return stage.select(tuple(conds), element, stage.const(x.dtype, fill))

    tensor = Tensor(x.dtype, shape, read, x.steps + 1)
    return [tensor]


def mirrored(
    x: Tensor, shape: Shape, mode: str, before: dict[int, int], after: dict[int, int]
) -> Tensor:
    """Return x padded with its own elements: the edge's, those reflected at it, or the other end's.

    Reflection is once at each end, so pads must be smaller than the axis; an axis of unknown extent
    may be shorter than what it is wrapped by, and is gone round as often as need be.
    """
    if mode not in ("edge", "reflect", "wrap"):
        raise Refused(f"Pad mode {mode}")
    padded = [k for k in before if before[k] or after[k]]
    for k in padded:
        extent = ex.as_int(x.shape[k])
        reach = max(before[k], after[k])
        least = {"edge": 1, "reflect": reach + 1, "wrap": reach}[mode]
        if min(before[k], after[k]) < 0 and mode != "edge":
            raise Refused(f"Pad mode {mode} with negative pads")
        if extent is None and mode == "edge":
            raise Refused("Pad mode edge on an axis of unknown extent")
        if extent is not None and extent < least:
            raise Refused(f"Pad mode {mode} by {reach} of an axis of {extent}")

    for k in padded:
        x = mirrored_axis(x, k, shape[k], mode, before[k], after[k])
    return x


def mirrored_axis(
    x: Tensor, k: int, extent: ex.Expr, mode: str, before: int, after: int
) -> Tensor:
    """Return x padded along one axis: up to three pieces, each read by a linear map."""
    size = x.shape[k]

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY):
            raise NeedsTemp(tensor)
        at = number(index[k], tensor) - before
        if mode == "wrap" and ex.as_int(size) is None:
            return x.at(stage, (*index[:k], stage.simplify(at % size), *index[k + 1 :]), ANY)
        head = {"edge": ex.const(0), "reflect": -at, "wrap": at + size}[mode]
        tail = {"edge": size - 1, "reflect": (size - 1) * 2 - at, "wrap": at - size}[mode]
        piece = lambda e: x.at(stage, (*index[:k], stage.simplify(e), *index[k + 1 :]), ANY)  # noqa: E731
        made = piece(at)
        if after > 0:
            made = stage.select((Cond(at, "<", size),), made, piece(tail))
        if before > 0:
            made = stage.select((Cond(at, "<", ex.const(0)),), piece(head), made)
        return made

    shape = (*x.shape[:k], extent, *x.shape[k + 1 :])
    tensor = Tensor(x.dtype, shape, read, 3 * x.steps + 2)
    return tensor


def lower_gather(site: Site) -> list[Tensor | None]:
    """Return Gather: one constant index is an offset, any other is indirect.

    Where a value outside does not matter (a branch of a Concat), a run must still fail for an index
    out of range, so only indices known to be inside are read there; others are gathered before.
    """
    x, indices = site.x(0), site.x(1)
    if x.rank == 0:
        raise Refused("data of rank 0")
    axis = axis_of(site, x.rank, 0)
    if indices.dtype not in (DType.I32, DType.I64):
        raise Refused(f"indices of type {indices.dtype}")
    if x.dtype not in MOVABLE:
        raise Refused(f"element type {x.dtype}")
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    value = site.node.inputs[1]
    known = value.weight.array() if value.weight is not None else None
    extent = ex.as_int(x.shape[axis])
    end = axis + indices.rank
    inside = False
    if known is not None and extent is not None:
        inside = bool(np.all((known >= -extent) & (known < extent)))
        if not inside:
            raise Refused(f"an index is outside [{-extent}, {extent - 1}]")
        if known.size == 1:
            fixed = ex.const(int(known.reshape(-1)[0]) % extent)
            return [moved(x, shape, lambda s, i: i[:axis] + (fixed,) + i[end:])]

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard not in (None, ANY) or (guard is ANY and not inside):
            raise NeedsTemp(tensor)
        found = stage.cast(DType.I64, indices.at(stage, index[axis:end], guard))
        back = stage.apply("add", found, stage.index(x.shape[axis]))
        below = stage.apply("lt", found, stage.index(0))
        at = stage.apply("where", below, back, found)
        return x.at(stage, index[:axis] + (at,) + index[end:], guard)

    tensor = Tensor(x.dtype, shape, read, x.steps + indices.steps + 4)
    return [tensor]


def gather_mapping(node: Node) -> MappingType:
    """Return one-to-one for one index (a slice), one-to-many otherwise (paper, Table 2)."""
    indices = node.inputs[1]
    single = (
        indices is not None and indices.shape is not None and all(d == 1 for d in indices.shape)
    )
    return MappingType.ONE_TO_ONE if single else MappingType.ONE_TO_MANY


def expand_mapping(node: Node) -> MappingType:
    """Return one-to-many, or one-to-one where nothing is repeated."""
    same = node.outputs[0].shape is not None and node.outputs[0].shape == node.inputs[0].shape
    return MappingType.ONE_TO_ONE if same else MappingType.ONE_TO_MANY


M = MappingType
ROWS = [
    Row("Slice", M.ONE_TO_ONE, lower_slice, flops=0),
    Row("Split", M.ONE_TO_ONE, lower_split, flops=0),
    Row("Concat", M.ONE_TO_ONE, lower_concat, flops=0),
    Row("Pad", M.ONE_TO_ONE, lower_pad, flops=0),
    Row("Expand", expand_mapping, lower_expand, flops=0, extents=(1,)),
    Row("Tile", expand_mapping, lower_tile, flops=0),
    Row("Gather", gather_mapping, lower_gather, flops=0),
]
