"""Which windows read and write rows, since no other window is near: layouts are not chosen yet when
a stretch is estimated (fusion/layout.py)."""

from __future__ import annotations

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops import table
from onnx_fusion.ops.mapping import WINDOWS, MappingType, Role

FARTHEST = 4
"""Operators between two windows, beyond which neither is looked for."""


def stands_alone(node: Node) -> bool:
    """Return whether no window writes what `node` reads, or reads what it writes, through operators
    that keep axes where they are.

    Then the graph, or what reads rows, has it on both sides.
    """
    before, after = node.inputs[0], node.outputs[0]
    return not (_meets(before, False, FARTHEST) or _meets(after, True, FARTHEST))


def _meets(value: Value | None, ahead: bool, most: int) -> bool:
    if value is None or value.shape is None or most == 0:
        return False
    for node in value.consumers if ahead else [value.producer]:
        if node is None:
            continue
        row = table.find(node)
        role = row.role_of(node)
        if role in WINDOWS:
            return True
        moved = row.mapping_of(node) in (MappingType.REORGANIZE, MappingType.SHUFFLE)
        if moved or role is Role.PRODUCT or not node.inputs:
            continue
        if _meets(node.outputs[0] if ahead else node.inputs[0], ahead, most - 1):
            return True
    return False
