"""Which axes of its operands an operator passes on, or sums over, in whatever order they are.

    Conv   y[n, o, h] = sum of w[o, c] x[n, c, h] over c, + b[o]     (x, 1) (w, 1)
                                                               and   (w, 0) (b, 0) (y, 1)
    Add    y[n, c, h] = x[n, c, h] + b[c, 1]                         (x, 1) (b, 0) (y, 1)
    Conv, one group for each channel                                 (x, 1) (w, 0) (b, 0) (y, 1)

Permuted alike, the axes of a set leave every result as it is, but for the order of what is permuted
in it.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops import elementwise, table
from onnx_fusion.ops.row import constant
from onnx_fusion.ops.tensor import Refused

CHANNEL = 1
"""The axis of channels in a value that is not constant."""
Axes = list[tuple[Value, int]]


def shared_axes(node: Node) -> list[Axes]:
    """Return the sets of axes that may be permuted alike; none for an operator of which that is not
    known.

    Axes of extent 1 are in none. Of values that are not constant only CHANNEL is looked at.
    """
    if node.domain or any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs)):
        return []
    find = _FACTS.get(node.op_type)
    if find is None and table.find(node).mapping is elementwise.mapping:
        find = _of_elements
    return [axes for axes in find(node) if axes] if find is not None else []


def _extent(value: Value | None, axis: int) -> int:
    """Return the extent of an axis, 0 where it is not there or not a number."""
    shape = value.shape if value is not None else ()
    extent = shape[axis] if shape is not None and 0 <= axis < len(shape) else 0
    return extent if isinstance(extent, int) else 0


def _input(node: Node, position: int) -> Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _of_elements(node: Node) -> list[Axes]:
    output = node.outputs[0]
    channels, rank = _extent(output, CHANNEL), len(output.shape)
    axes = [(v, CHANNEL - rank + len(v.shape)) for v in node.inputs if v is not None]
    return [[(output, CHANNEL), *((v, k) for v, k in axes if k >= 0 and _extent(v, k) == channels)]]


def _of_planes(node: Node) -> list[Axes]:
    """Each channel by itself, without anything else that has one element for each."""
    x, y = node.inputs[0], node.outputs[0]
    if _extent(x, CHANNEL) != _extent(y, CHANNEL) or any(v is not None for v in node.outputs[1:]):
        return []
    return [[(x, CHANNEL), (y, CHANNEL)]]


def _of_norm(node: Node) -> list[Axes]:
    return [
        [*axes, *((v, 0) for v in node.inputs[1:] if v is not None)] for axes in _of_planes(node)
    ]


def _of_shape(node: Node) -> list[Axes]:
    x, y = node.inputs[0], node.outputs[0]
    return _of_planes(node) if x.shape[: CHANNEL + 1] == y.shape[: CHANNEL + 1] else []


def _of_reduction(node: Node) -> list[Axes]:
    x, y = node.inputs[0], node.outputs[0]
    try:
        given = node.attrs["axes"] if "axes" in node.attrs else constant(node, 1)
    except Refused:
        return []
    if given is None or x is None:
        return []
    reduced = {int(axis) % len(x.shape) for axis in given}
    if CHANNEL in reduced:
        return [[(x, CHANNEL)]]
    stays = node.attrs.get("keepdims", 1) or all(axis > CHANNEL for axis in reduced)
    return [[(x, CHANNEL), (y, CHANNEL)]] if stays else []


def _of_convolution(node: Node) -> list[Axes]:
    x, weight, bias, y = node.inputs[0], node.inputs[1], _input(node, 2), node.outputs[0]
    out = [(bias, 0), (y, CHANNEL)] if bias is not None else [(y, CHANNEL)]
    groups = node.attrs.get("group", 1)
    if groups == 1:
        first, second = (1, 0) if node.op_type == "ConvTranspose" else (0, 1)
        return [[(x, CHANNEL), (weight, second)], [(weight, first), *out]]
    alone = groups == _extent(x, CHANNEL) == _extent(y, CHANNEL) == _extent(weight, 0)
    return [[(x, CHANNEL), (weight, 0), *out]] if alone else []


def _of_product(node: Node) -> list[Axes]:
    x, weight, bias, y = node.inputs[0], node.inputs[1], _input(node, 2), node.outputs[0]
    if len(x.shape) != 2 or len(weight.shape) != 2 or node.attrs.get("transA", 0):
        return []
    summed = 1 if node.attrs.get("transB", 0) else 0
    out = [(weight, 1 - summed), (y, CHANNEL)]
    if bias is not None and 0 < _extent(bias, len(bias.shape) - 1) == _extent(y, CHANNEL):
        out.append((bias, len(bias.shape) - 1))
    return [[(x, CHANNEL), (weight, summed)], out]


_FACTS: dict[str, Callable[[Node], list[Axes]]] = {
    "Conv": _of_convolution, "ConvTranspose": _of_convolution,
    "Gemm": _of_product, "MatMul": _of_product,
    "BatchNormalization": _of_norm, "InstanceNormalization": _of_norm, "MaxPool": _of_planes,
    "AveragePool": _of_planes, "LpPool": _of_planes, "GlobalAveragePool": _of_planes,
    "GlobalMaxPool": _of_planes, "GlobalLpPool": _of_planes,
    "Resize": _of_planes, "Upsample": _of_planes, "Identity": _of_planes, "Dropout": _of_planes,
    "Reshape": _of_shape, "Flatten": _of_shape, "Squeeze": _of_shape, "Unsqueeze": _of_shape,
    "ReduceMean": _of_reduction, "ReduceSum": _of_reduction, "ReduceMax": _of_reduction,
    "ReduceMin": _of_reduction, "ReduceL1": _of_reduction,
    "ReduceL2": _of_reduction, "ReduceSumSquare": _of_reduction,
}  # fmt: skip
