"""Extents of what slides windows over its input, convolutions and pools (ONNX spec, Conv)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx_fusion.graph.model import Dim, Node
from onnx_fusion.passes.fold import read_constant

Extent = int | str | tuple[Any, ...] | None
Shape = tuple[Dim, ...]
POOLS = ("MaxPool", "AveragePool", "LpPool")


def windows(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of Conv and the pools: floor((x + pads - reach) / stride) + 1 or ceil."""
    x = shapes[0]
    weight = shapes[1] if len(shapes) > 1 else None
    kernel = node.attrs.get("kernel_shape") or (weight[2:] if weight is not None else None)
    if x is None or len(x) < 3 or kernel is None:
        return None
    if any(not isinstance(size, int) for size in kernel) or len(kernel) != len(x) - 2:
        return None
    rank = len(kernel)
    auto = node.attrs.get("auto_pad", "NOTSET")
    if is_disputed(node):
        return None
    pads = node.attrs.get("pads") if auto == "NOTSET" else None
    pads = pads or [0] * (2 * rank)
    strides = node.attrs.get("strides") or [1] * rank
    dilations = node.attrs.get("dilations") or [1] * rank
    out: list[Extent] = [x[0], x[1] if node.op_type in POOLS else None]
    for i in range(rank):
        shift = pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1
        if auto.startswith("SAME"):
            out.append(steps_of(x[2 + i], -1, strides[i]))
        elif node.attrs.get("ceil_mode", 0):
            out.append(_steps_up(x[2 + i], shift, strides[i], pads[i]))
        else:
            out.append(steps_of(x[2 + i], shift, strides[i]))
    return out


def is_disputed(node: Node) -> bool:
    """Return whether ONNX Runtime pads a pool less than ONNX says: it takes no heed of dilations
    where `auto_pad` is SAME."""
    same = node.attrs.get("auto_pad", "NOTSET").startswith("SAME")
    return same and node.op_type in POOLS and max(node.attrs.get("dilations") or [1]) > 1


def _steps_up(dim: Dim, shift: int, stride: int, begin: int) -> Extent:
    """Return ceil((dim + shift) / stride) + 1, less a window that starts in the end padding."""
    if stride == 1:
        return steps_of(dim, shift, 1)
    if isinstance(dim, str):
        return ("steps up", dim, shift, stride, begin)
    count = -(-(dim + shift) // stride) + 1
    return count - 1 if (count - 1) * stride >= dim + begin else count


def steps_of(dim: Dim, shift: int, stride: int) -> Extent:
    """Return (dim + shift) // stride + 1."""
    if isinstance(dim, int):
        return (dim + shift) // stride + 1
    return dim if (shift, stride) == (-1, 1) else ("steps", dim, shift, stride)


def shrinks(node: Node) -> bool:
    """Return whether the node may make an extent below 0 of those that are not, as onnx infers
    them.

    A window that steps over all it reaches beyond the padding finds room once too often, not too
    seldom. Of a Pad onnx knows constants only.
    """
    if node.op_type == "Pad":
        given = node.inputs[1] if len(node.inputs) > 1 else None
        made = given.producer if given is not None else None
        known = given.weight if given is not None else None
        if made is not None and made.op_type == "Constant":
            known = read_constant(made)
        pads = node.attrs.get("pads", ()) if known is None else known.array().reshape(-1)
        return any(int(pad) < 0 for pad in pads)
    if node.op_type not in (*POOLS, "Conv", "ConvTranspose"):
        return False
    weight = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    kernel = node.attrs.get("kernel_shape") or (weight or ())[2:]
    none = (1, 1, *(0 for _ in kernel))
    extents = (upsampled if node.op_type == "ConvTranspose" else windows)(node, [none, weight])
    return extents is None or any(isinstance(n, int) and n < 0 for n in extents[2:])


def upsampled(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return the extents of ConvTranspose: stride * (x - 1) + output_padding + reach - pads, or
    stride * x with `auto_pad` SAME."""
    x, weight = shapes[0], shapes[1]
    if x is None or weight is None or "output_shape" in node.attrs:
        return None
    kernel = node.attrs.get("kernel_shape") or weight[2:]
    if len(x) < 3 or any(not isinstance(size, int) for size in kernel):
        return None
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return None
    rank = len(x) - 2
    pads = node.attrs.get("pads") or [0] * (2 * rank)
    strides = node.attrs.get("strides") or [1] * rank
    dilations = node.attrs.get("dilations") or [1] * rank
    extra = node.attrs.get("output_padding") or [0] * rank
    made = weight[1]
    out: list[Extent] = [x[0], made * node.attrs.get("group", 1) if isinstance(made, int) else None]
    for i in range(rank):
        if auto != "NOTSET":
            out.append(_line(x[2 + i], strides[i], 0))
            continue
        reach = dilations[i] * (kernel[i] - 1) + 1
        shift = extra[i] + reach - pads[i] - pads[rank + i] - strides[i]
        out.append(_line(x[2 + i], strides[i], shift))
    return out


def _line(dim: Dim, factor: int, shift: int) -> Extent:
    if isinstance(dim, int):
        return factor * dim + shift
    return dim if (factor, shift) == (1, 0) else ("line", dim, factor, shift)
