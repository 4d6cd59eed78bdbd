"""Conditions that shapes decide, and what an If does then.

    x[1, 128, 1] - Shape - Gather 2 - Equal 1 --> If: Squeeze, else Identity

Exporters write such an If where a program asks for a rank or an extent. The branch that is never
taken has another shape, so onnx says nothing about the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import onnx

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.passes.elements import elements

_DEPTH = 16
_SMALL = 1024
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "Equal": operator.eq, "Greater": operator.gt, "Less": operator.lt,
    "GreaterOrEqual": operator.ge, "LessOrEqual": operator.le}
_COMBINE: dict[str, Callable[[bool, bool], bool]] = {
    "And": operator.and_, "Or": operator.or_, "Xor": operator.xor}


def decide(value: Value | None, depth: int = _DEPTH) -> bool | None:
    """Return what a condition is in every run, None if that is not known."""
    if value is None or depth == 0:
        return None
    if value.weight is not None:
        single = value.weight.size == 1 and value.weight.dtype is not None
        return bool(value.weight.array().reshape(-1)[0]) if single else None
    node = value.producer
    if node is None or node.domain:
        return None
    if node.op_type in _COMPARE:
        pair = [elements(operand) for operand in node.inputs]
        if any(one is None or len(one) != 1 or not isinstance(one[0], int) for one in pair):
            return None
        return _COMPARE[node.op_type](pair[0][0], pair[1][0])
    if node.op_type in ("Not", "Cast", "Identity"):
        known = _truth(node.inputs[0], depth)
        return known if known is None or node.op_type != "Not" else not known
    if node.op_type in _COMBINE:
        known = [decide(operand, depth - 1) for operand in node.inputs]
        return None if None in known else _COMBINE[node.op_type](*known)
    return None


def _truth(value: Value, depth: int) -> bool | None:
    numbers = elements(value)
    if numbers is not None and len(numbers) == 1 and isinstance(numbers[0], int):
        return bool(numbers[0])
    return decide(value, depth - 1)


def taken(node: Node) -> onnx.NodeProto:
    """Return the node's proto as inference is to see it: an If that is decided has the branch that
    runs in both places, without what that declares of its results' shapes, and with the small
    constants from outside, which onnx does not look at otherwise."""
    known = decide(node.inputs[0]) if node.op_type == "If" and not node.domain else None
    if known is None:
        return node.proto
    branch = node.attrs["then_branch" if known else "else_branch"]
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    small = [value.weight.tensor(value.name, data=True) for value in node.captures
             if value.weight is not None and value.weight.nbytes <= _SMALL]
    for attribute in proto.attribute:
        attribute.g.CopyFrom(branch)
        attribute.g.initializer.extend(small)
        for info in attribute.g.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
    return proto
