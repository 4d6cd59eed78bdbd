"""Follows extents through the integer arithmetic that computes shapes at run time."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Dim, Node, Value

MAX_ELEMENTS = 64
_MAX_VALUES = 256

Elements = list[Dim | None]
"""Each element of an integer tensor of rank 0 or 1: known, a symbol's extent, or unknown."""

Seen = dict[Value, Elements | None]


def elements(value: Value | None, seen: Seen | None = None) -> Elements | None:
    """Return what is known of each element of `value`, None if it is no small integer tensor.

    `seen` holds what was found in this call already; it also bounds how far back it looks.
    """
    seen = {} if seen is None else seen
    if value is None or value.dtype not in (DType.I64, DType.I32):
        return None
    if value not in seen and len(seen) < _MAX_VALUES:
        seen[value] = None
        seen[value] = _find(value, seen)
    return seen.get(value)


def _find(value: Value, seen: Seen) -> Elements | None:
    if value.weight is not None:
        small = value.weight.size <= MAX_ELEMENTS and len(value.weight.shape) <= 1
        return value.weight.array().reshape(-1).tolist() if small else None
    node = value.producer
    if node is None or node.domain or node.outputs[0] is not value or node.op_type not in _RULES:
        return None
    found = _RULES[node.op_type](node, seen)
    if found is None or len(found) > MAX_ELEMENTS:
        return None
    rank = None if value.shape is None else len(value.shape)
    if rank not in (0, 1) or rank == 0 and len(found) != 1:
        return None
    limit = 1 << (8 * value.dtype.size - 1)
    return [dim if not isinstance(dim, int) or -limit <= dim < limit else None for dim in found]


def _shape(node: Node, seen: Seen) -> Elements | None:
    shape = node.inputs[0].shape
    return None if shape is None else list(
        shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))])


def _size(node: Node, seen: Seen) -> Elements | None:
    shape = node.inputs[0].shape
    static = shape is not None and all(isinstance(dim, int) for dim in shape)
    return [math.prod(shape)] if static else None


def _same(node: Node, seen: Seen) -> Elements | None:
    return elements(node.inputs[0], seen)


def _gather(node: Node, seen: Seen) -> Elements | None:
    source, index = elements(node.inputs[0], seen), elements(node.inputs[1], seen)
    if source is None or index is None or len(node.inputs[0].shape) != 1:
        return None
    if not all(isinstance(i, int) and -len(source) <= i < len(source) for i in index):
        return None
    return [source[i] for i in index]


def _slice(node: Node, seen: Seen) -> Elements | None:
    source = elements(node.inputs[0], seen)
    if len(node.inputs) == 1:
        starts, ends, steps = node.attrs.get("starts"), node.attrs.get("ends"), [1]
    else:
        starts, ends = elements(node.inputs[1], seen), elements(node.inputs[2], seen)
        steps = elements(node.inputs[4], seen) if len(node.inputs) > 4 else [1]
    bounds = (starts, ends, steps)
    if source is None or any(bound is None or len(bound) != 1 or not isinstance(bound[0], int)
                             for bound in bounds):
        return None
    start, end, step = (bound[0] for bound in bounds)
    if step <= 0:
        return None
    return source[start:end:step]


def _concat(node: Node, seen: Seen) -> Elements | None:
    pieces = [elements(value, seen) for value in node.inputs]
    return None if None in pieces else [element for piece in pieces for element in piece]


def _arithmetic(compute: Callable[[int, int], int]) -> Callable[[Node, Seen], Elements | None]:
    def apply(node: Node, seen: Seen) -> Elements | None:
        a, b = (elements(value, seen) for value in node.inputs)
        if a is None or b is None or len(a) != len(b) and 1 not in (len(a), len(b)):
            return None
        if not a or not b:
            return []
        size = max(len(a), len(b))
        pairs = zip(a * (size // len(a)), b * (size // len(b)), strict=True)
        return [compute(x, y) if isinstance(x, int) and isinstance(y, int) else _neutral(node, x, y)
                for x, y in pairs]

    return apply


def _neutral(node: Node, x: Dim | None, y: Dim | None) -> Dim | None:
    """Return the operand that the other one leaves as it is, None if there is none."""
    if y == {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}[node.op_type]:
        return x
    if x is not None and x == {"Add": 0, "Mul": 1}.get(node.op_type):
        return y
    return None


def _where(node: Node, seen: Seen) -> Elements | None:
    """Return the elements that decided conditions choose (ONNX spec, Where)."""
    condition = _conditions(node.inputs[0], seen)
    a, b = (elements(value, seen) for value in node.inputs[1:3])
    if condition is None or a is None or b is None:
        return None
    size = max(len(condition), len(a), len(b))
    if 0 in (len(condition), len(a), len(b)) or any(
            len(one) not in (1, size) for one in (condition, a, b)):
        return None
    condition, a, b = (one * (size // len(one)) for one in (condition, a, b))
    return [None if c is None else x if c else y
            for c, x, y in zip(condition, a, b, strict=True)]


def _conditions(value: Value, seen: Seen) -> list[bool | None] | None:
    """Return what Equal gives for each element: an extent is no negative number."""
    if value.weight is not None:
        small = value.weight.size <= MAX_ELEMENTS and len(value.weight.shape) <= 1
        return value.weight.array().astype(bool).reshape(-1).tolist() if small else None
    node = value.producer
    if node is None or node.domain or node.op_type != "Equal":
        return None
    a, b = (elements(operand, seen) for operand in node.inputs)
    if not a or not b or len(a) != len(b) and 1 not in (len(a), len(b)):
        return None
    size = max(len(a), len(b))
    return [_equal(x, y)
            for x, y in zip(a * (size // len(a)), b * (size // len(b)), strict=True)]


def _equal(x: Dim | None, y: Dim | None) -> bool | None:
    if x is None or y is None:
        return None
    if x == y or isinstance(x, int) and isinstance(y, int):
        return x == y
    number = x if isinstance(x, int) else y
    return False if isinstance(number, int) and number < 0 else None


def _divide(x: int, y: int) -> int:
    return 0 if y == 0 else int(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)


_RULES: dict[str, Callable[[Node, Seen], Elements | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Where": _where,
    **dict.fromkeys(("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"), _same),
    "Add": _arithmetic(lambda x, y: x + y),
    "Sub": _arithmetic(lambda x, y: x - y),
    "Mul": _arithmetic(lambda x, y: x * y),
    "Div": _arithmetic(_divide),
}
