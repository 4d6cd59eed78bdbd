"""The shape of the products that a contraction sums, which decides how fast kernels run it.

rows  positions that share the weights        count  products like this one: groups, heads
depth products that are summed for each        columns  results for each position
"""

from __future__ import annotations

import dataclasses
import enum
import math

from onnx_fusion.graph.model import Node


class Kind(enum.Enum):
    """Which kernels run a contraction."""

    MATRIX = "matrix product"
    WINDOW = "windows that slide over an image"
    DEPTHWISE = "a window for each channel"
    TRANSPOSED = "windows that slide over the result"


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """`rows` x `depth` times `depth` x `columns`, `count` times.

    `window` are the taps along each axis of an image, `steps` says that it moves by more than 1 (or
    is dilated), `halves` that it moves by 2 along every axis and is not, `pixels` the extents of
    one image of the result. `constant`: the right side is known before the run, and is read from
    memory. `inside` is the share of what a dilated window reads that is no padding.
    """

    kind: Kind
    rows: float
    depth: float
    columns: float
    count: float = 1.0
    window: tuple[int, ...] = ()
    steps: bool = False
    halves: bool = False
    pixels: tuple[int, ...] = ()
    constant: bool = True
    inside: float = 1.0

    @property
    def flops(self) -> float:
        """Return two operations per multiplied pair."""
        return 2.0 * self.rows * self.depth * self.columns * self.count

    @property
    def taps(self) -> int:
        """Return how many elements of an image's channel a window covers."""
        return math.prod(self.window)

    @property
    def weight_bytes(self) -> float:
        """Return the size of the right side, in float32."""
        return 4.0 * self.depth * self.columns * self.count


def of_matrices(node: Node) -> Product | None:
    """Return MatMul's and Gemm's product, None if a shape is not known in numbers.

    Rows of a batch count together where the right side is one matrix.
    """
    left, right, made = _shape(node, 0), _shape(node, 1), _shape(node, None)
    if not left or not right or made is None:
        return None
    depth = left[-2 if node.attrs.get("transA", 0) and len(left) > 1 else -1]
    columns = made[-1] if made and len(right) > 1 else 1
    total = math.prod(made) / max(columns, 1)
    shared = len(right) <= 2
    rows = total if shared else (made[-2] if len(made) > 1 else 1)
    constant = node.inputs[1].weight is not None
    return Product(Kind.MATRIX, rows, depth, columns, total / max(rows, 1), constant=constant)


def of_windows(node: Node) -> Product | None:
    """Return a convolution's product, None if a shape is not known in numbers."""
    weights, made = _shape(node, 1), _shape(node, None)
    if weights is None or made is None or len(weights) < 3 or len(made) < 3:
        return None
    group = int(node.attrs.get("group", 1))
    strides = [int(step) for step in node.attrs.get("strides", ())]
    dilated = any(int(step) > 1 for step in node.attrs.get("dilations", ()))
    halves = not dilated and strides == [2] * (len(weights) - 2)
    kind = Kind.DEPTHWISE if group > 1 and weights[1] == 1 else Kind.WINDOW
    taps, inside = _reach(node, weights[2:], made[2:])
    return Product(
        kind, math.prod(made[2:]) * made[0], weights[1] * math.prod(taps), made[1] / group, group,
        taps, dilated or max(strides, default=1) > 1, halves, tuple(made[2:]),
        node.inputs[1].weight is not None, inside,
    )  # fmt: skip


def _reach(
    node: Node, extents: tuple[int, ...], made: tuple[int, ...]
) -> tuple[tuple[int, ...], float]:
    """Return how many taps of a dilated window are inside somewhere, by axis, and how often those
    are."""
    given, rank = _shape(node, 0), len(extents)
    steps = [int(step) for step in node.attrs.get("dilations", ())]
    pads = [int(pad) for pad in node.attrs.get("pads", ())]
    if given is None or max(steps, default=1) == 1 or len(pads) != 2 * rank:
        return tuple(extents), 1.0
    strides = [int(stride) for stride in node.attrs.get("strides", ()) or [1] * rank]
    taps, inside = [], 1.0
    for k, extent in enumerate(extents):
        first = range(-pads[k], -pads[k] + made[k] * strides[k], strides[k])
        hits = [sum(0 <= at + r * steps[k] < given[2 + k] for at in first) for r in range(extent)]
        taps.append(max(1, sum(hit > 0 for hit in hits)))
        inside *= sum(hits) / max(1, taps[-1] * made[k])
    return tuple(taps), inside


def of_transposed(node: Node) -> Product | None:
    """Return ConvTranspose's product: a matrix product of pixels that come in and taps that go
    out."""
    given, weights, made = _shape(node, 0), _shape(node, 1), _shape(node, None)
    if given is None or weights is None or made is None or len(weights) < 3 or len(given) < 3:
        return None
    group = int(node.attrs.get("group", 1))
    return Product(
        Kind.TRANSPOSED, math.prod(given[2:]) * given[0], weights[0] / group,
        math.prod(weights[1:]), group, tuple(weights[2:]), pixels=tuple(made[2:]),
        constant=node.inputs[1].weight is not None,
    )  # fmt: skip


def _shape(node: Node, position: int | None) -> tuple[int, ...] | None:
    """Return the shape of an input (None: of the result) if all of it is numbers."""
    value = node.outputs[0] if position is None else node.inputs[position]
    shape = value.shape if value is not None else None
    return shape if shape is not None and all(isinstance(d, int) for d in shape) else None
