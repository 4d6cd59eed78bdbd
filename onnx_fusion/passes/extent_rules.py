"""The extents of operators' outputs from those of their inputs, as far as symbols let one know.

A rule gives each extent as an int, a symbol, or a key: equal keys are equal extents. A wrong
equality would make a kernel refuse a valid run, so a rule that is not sure has no opinion (None).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from onnx_fusion.graph.model import MADE_UP, Dim, Node
from onnx_fusion.ops.pieces import slice_box
from onnx_fusion.passes.elements import elements
from onnx_fusion.passes.letters import is_uneven, lettered
from onnx_fusion.passes.windows import (
    POOLS,
    Extent,
    Shape,
    is_disputed,
    steps_of,
    upsampled,
    windows,
)

_CEIL_MODE_SETTLED = 22
_AXES_SETTLED = 11
_SLICE_UNSEEN = 10
_NO_END = (2**31 - 1, 2**63 - 1)
"""What ONNX Runtime reads as "no end" in a Slice, also where it steps back."""


def output_extents(node: Node) -> list[Extent] | None:
    """Return the extents of a node's first output by the rule for its operator, None if unknown."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return None
    shapes = [None if value is None else value.shape for value in node.inputs]
    try:
        return rule(node, shapes)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # attributes that make no sense are for shape inference to complain about


def broadcast_shapes(node: Node) -> list[Shape]:
    """Return the shapes that a node broadcasts against each other; none if it does not."""
    rule = _RULES.get(node.op_type)
    if rule is _broadcast:
        return [value.shape for value in node.inputs]
    if rule is _expanded:
        return [node.inputs[0].shape, tuple(elements(node.inputs[1]) or ())]
    return []


def _first(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    return list(shapes[0]) if shapes[0] is not None else None


def _broadcast(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of multidirectional broadcasting (ONNX spec, Broadcasting.md)."""
    if any(shape is None for shape in shapes) or not shapes:
        return None
    rank = max(map(len, shapes))
    out: list[Extent] = []
    for axis in range(-rank, 0):
        dims = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        known = [dim for dim in dims if isinstance(dim, int)]
        if len(dims) <= 1:
            out.append(next(iter(dims), 1))
        else:
            out.append(known[0] if len(known) == 1 else None)
    return out


def is_misjudged(node: Node, opset: int) -> bool:
    """True for a node whose extents onnx.shape_inference gets wrong: rules here are to be believed.

    Before opset 22 it counts a last window that starts in the end padding; ONNX Runtime and opset
    22 do not (ONNX spec, MaxPool, ceil_mode). In opset 10 a Slice keeps unknown extents; one that
    steps back ends the process on an axis of 0, and has another meaning of the largest end than in
    ONNX Runtime. Of an Einsum's letter it takes the first extent, which may be 1 where another is
    not; as more gets known of the inputs, such a node is found out. To a ConvTranspose with
    `auto_pad` SAME it adds output_padding, which ONNX Runtime cuts with the rest; to such a pool
    all that its dilations reach. Before opset 11 it takes no heed of a negative axis of Squeeze and
    Unsqueeze, which ONNX Runtime counts from the end as later opsets do.
    """
    if node.op_type == "Einsum" and not node.domain:
        return is_uneven(node)
    if node.op_type == "Slice" and not node.domain:
        return opset == _SLICE_UNSEEN or any(step < 0 for step in _constant(node, 4) or ())
    if node.op_type == "ConvTranspose" and not node.domain:
        if "output_shape" in node.attrs or not any(node.attrs.get("output_padding", ())):
            return False
        return node.attrs.get("auto_pad", "NOTSET").startswith("SAME")
    if node.op_type in ("Squeeze", "Unsqueeze") and not node.domain:
        return opset < _AXES_SETTLED and min(node.attrs.get("axes") or [0]) < 0
    if node.op_type not in POOLS or node.domain:
        return False
    early = opset < _CEIL_MODE_SETTLED and bool(node.attrs.get("ceil_mode", 0))
    return early or is_disputed(node)


def _concat(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    if any(shape is None for shape in shapes):
        return None
    rank = len(shapes[0])
    axis = node.attrs.get("axis", 1) % max(rank, 1)
    out: list[Extent] = []
    for i in range(rank):
        dims = [shape[i] for shape in shapes if len(shape) == rank]
        if i == axis:
            known = sum(dim for dim in dims if isinstance(dim, int))
            symbols = sorted(dim for dim in dims if isinstance(dim, str))
            out.append(("sum", known, *symbols) if symbols else known)
        else:
            sure = [dim for dim in dims if isinstance(dim, int)]
            out.append(sure[0] if sure else min(dims, key=_is_made_up_and_name))
    return out


def _is_made_up_and_name(dim: str) -> tuple[bool, str]:
    return dim.startswith(MADE_UP), dim


def _pad(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    pads = node.attrs.get("pads") if len(node.inputs) < 2 else _constant(node, 1)
    if shapes[0] is None or pads is None or len(pads) != 2 * len(shapes[0]):
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    rank = len(shapes[0])
    return [steps_of(dim, pads[i] + pads[rank + i] - 1, 1) for i, dim in enumerate(shapes[0])]


def _reshaped(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of Reshape as far as its target is known; -1, or one that is not known, is
    the product's rest."""
    target = elements(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("shape")
    if target is None:
        return None
    if target.count(None) == 1 and all(
        isinstance(d, int) and d > 0 for d in target if d is not None
    ):
        target = [-1 if dim is None else dim for dim in target]
    source = shapes[0]
    keeps = 0 if node.attrs.get("allowzero", 0) == 0 else None
    out: list[Extent] = list(target)
    for i, size in enumerate(target):
        if size == keeps and size is not None:
            out[i] = source[i] if source is not None and i < len(source) else None
    if -1 not in target:
        return out
    kept = [dim for dim in out if dim != -1]
    rest = list(source or ())
    for dim in [dim for dim in kept if isinstance(dim, str) and dim in rest]:
        rest.remove(dim)
        kept.remove(dim)
    sure = source is not None and 0 not in rest and all(isinstance(d, int) and d > 0 for d in kept)
    out[target.index(-1)] = product_of(rest, math.prod(kept)) if sure else None
    return out


def _expanded(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of Expand, which broadcasts its input and a target against each other."""
    target = elements(node.inputs[1])
    if shapes[0] is None or target is None or None in target:
        return None
    return _broadcast(node, [shapes[0], tuple(target)])


def _filled(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    return elements(node.inputs[0])


def _flatten(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    if shapes[0] is None:
        return None
    axis = node.attrs.get("axis", 1)
    axis += len(shapes[0]) if axis < 0 else 0
    return [product_of(list(shapes[0][:axis]), 1), product_of(list(shapes[0][axis:]), 1)]


def _squeezed(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    axes = node.attrs.get("axes") or _constant(node, 1)
    if shapes[0] is None or not axes:
        return None
    gone = {axis % len(shapes[0]) for axis in axes}
    return [dim for axis, dim in enumerate(shapes[0]) if axis not in gone]


def _unsqueezed(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    axes = node.attrs.get("axes") or _constant(node, 1)
    if shapes[0] is None or not axes:
        return None
    rank, dims = len(shapes[0]) + len(axes), iter(shapes[0])
    made = {axis % rank for axis in axes}
    return [1 if axis in made else next(dims, None) for axis in range(rank)]


def product_of(dims: list[Dim], divisor: int) -> Extent:
    """Return the product of `dims` over a divisor of it; None if it is none."""
    known = math.prod(dim for dim in dims if isinstance(dim, int))
    symbols = sorted(dim for dim in dims if isinstance(dim, str))
    if not symbols:
        return known // divisor if known % divisor == 0 else None
    shared = math.gcd(known, divisor)
    known, divisor = known // shared, divisor // shared
    if len(symbols) == 1 and known == divisor == 1:
        return symbols[0]
    return ("product", known, divisor, *symbols)


def _slice(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of Slice; equal cuts of equal extents are equal, [0:n] of k has min(n,
    k)."""
    if shapes[0] is None:
        return None
    if len(node.inputs) > 1:
        bounds = [elements(value) for value in node.inputs[1:]]
        if any(bound is None and node.inputs[i + 1] is not None for i, bound in enumerate(bounds)):
            return None
        starts, ends, axes, steps = (bounds + [None, None])[:4]
    else:
        starts, ends, axes = (node.attrs.get(name) for name in ("starts", "ends", "axes"))
        steps = None
    if starts is None or ends is None:
        return None
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    out: list[Extent] = list(shapes[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=False):
        dim = shapes[0][axis]
        if isinstance(end, str) and (start, step) == (0, 1) and end == dim:
            continue
        if isinstance(end, str) and isinstance(dim, int) and dim > 1 and (start, step) == (0, 1):
            out[axis] = ("min", end, dim)
        elif any(not isinstance(bound, int) for bound in (start, end, step)) or step == 0:
            out[axis] = None
        elif isinstance(dim, int):
            open_ = step < 0 and end in _NO_END
            out[axis] = slice_box(start, -(2**63) if open_ else end, step, dim)[1]
        elif not (start == 0 and step == 1 and _is_all(shapes[0], axis, end)):
            out[axis] = ("slice", dim, start, end, step)
    return out


def _is_all(shape: Shape, axis: int, end: int) -> bool:
    """Return whether no axis is longer: as the largest int32, or if the tensor had 2^40
    elements."""
    others = math.prod(dim for i, dim in enumerate(shape) if i != axis and isinstance(dim, int))
    return end >= 2**31 - 1 or end * others >= 2**40


def _resize(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of Resize and Upsample: the sizes, or with constant scales floor(x *
    scale)."""
    index = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        stretched = node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
        return elements(node.inputs[3]) if stretched and "axes" not in node.attrs else None
    if shapes[0] is None:
        return None
    scales = node.attrs.get("scales") or _constant(node, index)
    if not scales or len(scales) != len(shapes[0]) or "axes" in node.attrs:
        return None
    return [
        dim if scale == 1 else ("scale", dim, scale) if isinstance(dim, str) else None
        for dim, scale in zip(shapes[0], scales, strict=True)
    ]


def _range(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extent of Range from 0 in steps of 1: its limit, which is an extent itself."""
    start, limit, step = (elements(value) for value in node.inputs)
    fine = start == [0] and step == [1] and limit is not None and isinstance(limit[0], str)
    return limit if fine else None


def _matmul(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of MatMul of matrices, or stacks of them."""
    a, b = shapes
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    lead = _broadcast(node, [a[:-2], b[:-2]])
    return None if lead is None else [*lead, a[-2], b[-1]]


def _transposed(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    shape = shapes[0]
    return (
        None
        if shape is None
        else [shape[axis] for axis in node.attrs.get("perm") or reversed(range(len(shape)))]
    )


def _constant(node: Node, index: int) -> list[Any] | None:
    """Return a small constant input as a list, None if it is none."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.weight is None or value.weight.size > 64 or value.dtype is None:
        return None
    return value.weight.array().reshape(-1).tolist()


_RULES: dict[str, Callable[[Node, Sequence[Shape | None]], list[Extent] | None]] = {
    **dict.fromkeys(
        (
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Pow",
            "Mod",
            "Min",
            "Max",
            "Sum",
            "Mean",
            "And",
            "Or",
            "Xor",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Where",
            "BitShift",
            "BitwiseAnd",
            "BitwiseOr",
            "BitwiseXor",
        ),
        _broadcast,
    ),
    **dict.fromkeys(
        (
            "PRelu",
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "LayerNormalization",
            "RMSNormalization",
            "SimplifiedLayerNormalization",
            "Softmax",
            "LogSoftmax",
            "LRN",
        ),
        _first,
    ),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger"), windows),
    "ConvTranspose": upsampled,
    "MatMul": _matmul,
    "Einsum": lettered,
    "Transpose": _transposed,
    "Range": _range,
    "Concat": _concat,
    "Pad": _pad,
    "Reshape": _reshaped,
    "Expand": _expanded,
    "ConstantOfShape": _filled,
    "Flatten": _flatten,
    "Slice": _slice,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Resize": _resize,
    "Upsample": _resize,
}
