"""Values that fused nodes hand to each other in another order of dims: names, and the way back.

A name known from the input model never changes its shape, so such a value has a new one. If only
one side is a fused node that keeps the order, because the other is not written as one, a Transpose
stands between them.

    conv --a_channels_last--> FusedRegion --b_channels_last--> Transpose --b--> node left alone
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnx_fusion.graph import scope

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Dim, Value
    from onnx_fusion.lower import Lowered

    Names = Mapping[Value, str]

SUFFIX = "_channels_last"


def name_layouts(fused: Sequence[Lowered], taken: set[str]) -> dict[Value, str]:
    """Return a new name, which joins `taken`, for each value that a fused node has not as a row."""
    names: dict[Value, str] = {}
    for one in fused:
        for value in (*one.inputs, *one.outputs):
            if value in one.layouts and value not in names:
                names[value] = fresh(value.name + SUFFIX, taken)
    return names


def fresh(name: str, taken: set[str]) -> str:
    """Return a name like this one that is not taken, and take it."""
    free, count = name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def called(values: Iterable[Value], one: Lowered, names: Names) -> list[str]:
    """Return what a fused node calls these values."""
    return [names[value] if value in one.layouts else value.name for value in values]


def permuted(value: Value, order: Sequence[int]) -> tuple[Dim, ...] | None:
    """Return the shape of a value in memory."""
    return value.shape and tuple(value.shape[dim] for dim in order)


def transpose(source: str, target: str, order: Sequence[int]) -> onnx.NodeProto:
    """Return the node that puts a row's dims into this order."""
    return helper.make_node("Transpose", [source], [target], perm=list(order))


def transpose_back(source: str, target: str, order: Sequence[int]) -> onnx.NodeProto:
    """Return the node that makes a row of what has this order."""
    return transpose(source, target, sorted(range(len(order)), key=order.__getitem__))


def bridges(
    nodes: Sequence[onnx.NodeProto], fused: Sequence[Lowered], names: Names,
    results: Collection[str],
) -> list[onnx.NodeProto]:  # fmt: skip
    """Return the Transposes between `nodes` that have a value as a row and those that have not.

    `results` are the graph's outputs.
    """
    orders = {value: order for one in fused for value, order in one.layouts.items()}
    read = set(results).union(*map(scope.reads, nodes))
    made = {name for node in nodes for name in node.output}
    found = []
    for value, name in names.items():
        if name in made and value.name in read:
            found.append(transpose_back(name, value.name, orders[value]))
        elif name in read and name not in made:
            found.append(transpose(value.name, name, orders[value]))
    return found
