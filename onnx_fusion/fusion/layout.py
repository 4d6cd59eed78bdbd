"""Which values lie channels-last in memory: those that windows read and write between regions.

A convolution reads whole vectors where the channels of a pixel lie side by side. What the model's
users and operators left alone see stays as ONNX has it, so the first kernel of a stretch reads rows
and the last one writes them; nothing else is reordered.

    x --[Conv Relu]== a ==[MaxPool]== b ==[Conv Add]== c ==[Mul]-- y      == channels-last
                      |                    |
                       `====================                              a, b, c: one stretch

Values that operators pass on axis by axis belong to one stretch, and a stretch is channels-last if
a window is in it. So an element-wise kernel has all its operands in one order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.sets import Sets
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.ops import table
from onnx_fusion.ops.mapping import WINDOWS, MappingType, Role

RULE = "layout"
ABOUT = "activations between convolutional regions are channels-last"
RANKS = (3, 4, 5)
"""Ranks of what windows over one to three axes of space read."""
LEAST_CHANNELS = 8
"""Fewer do not fill a vector; then rows of space do better."""
LEAST_INSIDE = 32
"""The same for what lies inside a region and takes at most this many bytes (LeNet-5)."""
SMALL_BYTES = 32 << 10
ONE_BY_ONE = frozenset((Role.POOL, Role.DEPTHWISE))
"""Roles whose channels do not meet: results have the order of what they are made of, if they
may."""

Order = tuple[int, ...]


def channels_last(rank: int) -> Order:
    """Return the order of dims in memory that puts axis 1 last."""
    return (0, *range(2, rank), 1)


def choose_layouts(home: Mapping[Node, Region], graph: Graph) -> dict[Value, Order]:
    """Return the order in memory of each value that is not a row, of those that regions write.

    `home` has the regions' nodes, those of other graphs too. Such a value is no graph output, no
    body captures it, and only regions read it. If it is its writer alone, the order counts where
    lowering stores the value. Takes linear time.
    """
    nodes = [node for node in graph.nodes if node in home]
    stretch = Sets()
    wanted: list[Value] = []
    vetoed: set[Value] = set()
    for node in nodes:
        row = table.find(node)
        role = row.role_of(node)
        if role in WINDOWS:
            wanted += _imagelike((*node.inputs[:1], *node.outputs[:1]))
        elif role is Role.PRODUCT:
            # It sums over the last axis, and reads that best where it is the last in memory.
            vetoed.update(v for v in (*node.inputs, *node.outputs) if v is not None)
        elif row.mapping_of(node) not in (MappingType.REORGANIZE, MappingType.SHUFFLE):
            for first, second in _carried(node):
                stretch.join(first, second)
    channels = {stretch.find(value) for value in wanted if has_channels(value, LEAST_CHANNELS)}
    orders: dict[Value, Order] = {}
    for node in nodes:
        follows = table.find(node).role_of(node) in ONE_BY_ONE and node.inputs[0] in orders
        for value in _imagelike(node.outputs):
            if (
                stretch.find(value) in channels
                and value not in vetoed
                and moves(value)
                and is_inner(value, home)
                and (follows or pays(value, home))
            ):
                orders[value] = channels_last(len(value.shape or ()))
    return orders


def has_channels(value: Value, least: int) -> bool:
    """Return whether there may be so many channels."""
    _, channels, *_ = value.shape or ()
    return not isinstance(channels, int) or channels >= least


def moves(value: Value) -> bool:
    """Return whether memory differs: with one channel, or one point of space, it is the same."""
    _, channels, *space = value.shape or ()
    return channels != 1 and any(extent != 1 for extent in space)


def is_inner(value: Value, home: Mapping[Node, Region]) -> bool:
    """Return whether only regions read a value that one of them writes."""
    if value.is_output or value.captured or not value.consumers or value.producer not in home:
        return False
    return all(consumer in home for consumer in value.consumers)


def pays(value: Value, home: Mapping[Node, Region]) -> bool:
    """Return whether an inner value is not too small for vectors of channels."""
    alone = all(home[consumer] is home[value.producer] for consumer in value.consumers)
    return not alone or irs_bytes(value) > SMALL_BYTES or has_channels(value, LEAST_INSIDE)


def _imagelike(values: Iterable[Value | None]) -> list[Value]:
    """Return those that are computed and have an axis of channels and one to three of space."""
    return [
        value
        for value in values
        if value is not None
        and value.weight is None
        and value.shape is not None
        and len(value.shape) in RANKS
    ]


def _carried(node: Node) -> list[tuple[Value, Value]]:
    """Return the pairs of values of one rank that an operator passes on axis by axis."""
    values = _imagelike((*node.outputs, *node.inputs))
    if not values:
        return []
    rank = len(values[0].shape or ())
    return [(values[0], v) for v in values[1:] if len(v.shape or ()) == rank]
