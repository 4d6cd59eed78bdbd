"""When a choice made from floats may differ: the margin it was made by is within the tolerance.

Used where the floats themselves cannot be compared, since one model computes them inside a region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from onnx_fusion.runtime.gate import tolerance
from onnx_fusion.runtime.inputs import attribute

KEEPS_ORDER = frozenset(("Identity", "Cast", "Not", "Reshape", "Squeeze", "Unsqueeze", "Flatten"))
"""Operators whose output has the input's elements, changed or not, in the same order."""


def comparison(node: onnx.NodeProto, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return where two operands are too close to tell apart."""
    left, right = values
    return np.abs(left - right) <= tolerance(left) + tolerance(right)


def rounding(node: onnx.NodeProto, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return where a float is too close to an integer to say which side it is on."""
    (value,) = values
    return np.abs(value - np.round(value)) <= tolerance(value)


def winner(node: onnx.NodeProto, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return where the best and the second best along the axis are too close to tell apart."""
    (value,) = values
    axis = attribute(node, "axis", 0)
    value = -value if node.op_type == "ArgMin" else value
    if value.shape[axis] < 2:
        return np.zeros(np.take(value, [0], axis).shape, bool)
    ordered = np.sort(value, axis=axis)
    top, second = np.take(ordered, [-1], axis), np.take(ordered, [-2], axis)
    return top - second <= 2 * np.take(np.sort(tolerance(value), axis=axis), [-1], axis)


UNSURE: dict[str, Callable[[onnx.NodeProto, Sequence[np.ndarray]], np.ndarray]] = {
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"), comparison),
    **dict.fromkeys(("ArgMax", "ArgMin"), winner),
    "Cast": rounding,
}


def behind(model: onnx.ModelProto, output: str) -> onnx.NodeProto | None:
    """Return the decision whose elements an output shows in order, None if there is none."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None:
        before = producers.get(node.input[0]) if node.input else None
        later = before is not None and (before.op_type in UNSURE or before.op_type in KEEPS_ORDER)
        if node.op_type in KEEPS_ORDER and later:
            node = before
            continue
        return node if node.op_type in UNSURE else None
    return None


def excused(
    node: onnx.NodeProto,
    values: Sequence[np.ndarray],
    reference: np.ndarray,
    other: np.ndarray,
) -> bool:
    """Return whether two results of a decision differ only where its margin does not decide."""
    if reference.shape != other.shape:
        return False
    unsure = UNSURE[node.op_type](node, [np.asarray(v, np.float64) for v in values]).ravel()
    if unsure.size != reference.size:
        return False
    return not np.any((reference != other).ravel() & ~unsure)


def resolution(model: onnx.ModelProto, output: str) -> float:
    """Return the absolute error that ONNX Runtime's own kernel may make of exact inputs, 0 if it is
    relative.

    Its Sigmoid is 1/2 plus a quotient, so results near 0 are off by up to a unit in the last place
    of 1: where all of them are that small, its error on one run says nothing of the next.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in KEEPS_ORDER | {"Transpose"} and node.input:
        node = producers.get(node.input[0])
    absolute = node is not None and node.op_type == "Sigmoid"
    return float(np.finfo(np.float32).eps) if absolute else 0.0
