"""The portable function: a fused node's own operators, run where the native library is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from onnx_fusion.emit.order import Item, order
from onnx_fusion.errors import OnnxFusionError

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Node, Value
    from onnx_fusion.graph.weights import Weight
    from onnx_fusion.lower import Lowered

FUNCTION_IR = 8
"""The first IR version with model-local functions."""

ANY_CONSTANT_OPSET = 9
"""The first opset whose Constant may have any element type."""

LARGEST_CONSTANT = 4096
"""Bytes; anything larger belongs to the inputs, where functions and sessions can share it."""


def build_function(lowered: Lowered, opsets: Mapping[str, int]) -> onnx.FunctionProto:
    """Return the region's operators as a function without a name.

    Its inputs and outputs are the fused node's, in order. Every value is renamed by position and
    nodes carry neither names nor documentation, so equal regions give equal functions. What the
    program holds as constants becomes Constant nodes. Raises OnnxFusionError if the operators do
    not compute the outputs from the inputs, or a constant is too large.
    """
    inputs = [value.name for value in lowered.inputs]
    outputs = [value.name for value in lowered.outputs]
    nodes, constants = _select(lowered, inputs, outputs)
    names = {name: f"i{k}" for k, name in enumerate(inputs)}
    names.update((name, f"o{k}") for k, name in enumerate(outputs))
    for k, name in enumerate(constants):
        names.setdefault(name, f"c{k}")
    inner = (value.name for node in nodes for value in node.outputs if value is not None)
    for k, name in enumerate(name for name in dict.fromkeys(inner) if name not in names):
        names[name] = f"v{k}"
    body = [node for name, weight in constants.items()
            for node in _constant(names[name], weight, opsets.get("", ANY_CONSTANT_OPSET))]
    body += [_renamed(node, names) for node in nodes]
    function = onnx.FunctionProto(input=[f"i{k}" for k in range(len(inputs))],
                                  output=[f"o{k}" for k in range(len(outputs))], node=body)
    for domain in sorted({plain_domain(node.domain) for node in body}):
        function.opset_import.append(helper.make_opsetid(domain, opsets[domain]))
    return function


def plain_domain(domain: str) -> str:
    """Return the domain with ONNX's own under one name (the specification allows two)."""
    return "" if domain == "ai.onnx" else domain


def node_proto(node: Node) -> onnx.NodeProto:
    """Return the node as it is in the graph: its proto where it has one, else a new one."""
    inputs = [value.name if value is not None else "" for value in node.inputs]
    outputs = [value.name if value is not None else "" for value in node.outputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    if node.proto is None:
        proto = helper.make_node(node.op_type, inputs, outputs, node.name, domain=node.domain)
        proto.attribute.extend(_attribute(key, value) for key, value in sorted(node.attrs.items()))
        return proto
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    del proto.output[:]
    proto.input.extend(inputs)
    proto.output.extend(outputs)
    return proto


def written_nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield the nodes that stand for these in a function: themselves, or their parts."""
    for node in nodes:
        if node.parts and node.body_is_parts:
            yield from written_nodes(node.parts)
        else:
            yield node


def _select(lowered: Lowered, inputs: list[str], outputs: list[str]
            ) -> tuple[list[Node], dict[str, Weight]]:
    """Return the nodes that the outputs need, in order, and the constants they read."""
    given = set(inputs)
    items: dict[tuple[str, ...], Item[Node]] = {}
    weights: dict[str, Weight] = {}
    for node in written_nodes(lowered.region.nodes):
        written = tuple(value.name for value in node.outputs if value is not None)
        reads = [value.name for value in node.inputs if value is not None]
        items.setdefault(written, Item(len(items), reads, written, node))
        _collect(weights, node.inputs)
        _collect(weights, node.outputs)
    _collect(weights, lowered.outputs)
    source = {name: item for item in items.values() for name in item.outputs}
    used: dict[int, Item[Node]] = {}
    constants: dict[str, Weight] = {}
    work, seen = outputs[::-1], set(given)
    while work:
        name = work.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in weights:
            constants[name] = weights[name]
            if weights[name].nbytes > LARGEST_CONSTANT:
                raise _error(lowered, f"constant '{name}' of {weights[name].nbytes} bytes is baked "
                                      f"in, the limit is {LARGEST_CONSTANT}; make it an input")
        elif name in source:
            used.setdefault(source[name].position, source[name])
            work.extend(reversed(source[name].reads))
        else:
            raise _error(lowered, f"reads '{name}', which is neither an input nor computed inside")
    ordered, left = order([used[k] for k in sorted(used)])
    if left:
        raise _error(lowered, f"its operators form a cycle at '{left[0].outputs[0]}'")
    return [item.content for item in ordered], constants


def _collect(weights: dict[str, Weight], values: Sequence[Value | None]) -> None:
    for value in values:
        if value is not None and value.weight is not None:
            weights[value.name] = value.weight


def _renamed(node: Node, names: Mapping[str, str]) -> onnx.NodeProto:
    proto = node_proto(node)
    for field in (proto.input, proto.output):
        for k, name in enumerate(field):
            if name:
                field[k] = names[name]
    for field in ("name", "doc_string", "metadata_props"):
        proto.ClearField(field)
    return proto


def _constant(name: str, weight: Weight, opset: int) -> list[onnx.NodeProto]:
    """Return the nodes that give a constant; opsets 7 and 8 allow floating-point ones only."""
    dtype = weight.dtype
    if opset < ANY_CONSTANT_OPSET and dtype is not None and dtype.numpy.kind != "f":
        array = weight.array()
        wide = array.astype(np.float64)
        if np.array_equal(wide.astype(object), array.astype(object)):
            tensor = onnx.numpy_helper.from_array(wide)
            return [helper.make_node("Constant", [], [f"{name}_f64"], value=tensor),
                    helper.make_node("Cast", [f"{name}_f64"], [name], to=dtype.onnx)]
    return [helper.make_node("Constant", [], [name], value=weight.tensor("", data=True))]


def _attribute(key: str, value: object) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, onnx.numpy_helper.from_array(value))
    if isinstance(value, (list, tuple)) and not value:
        return onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS)
    return helper.make_attribute(key, value)


def _error(lowered: Lowered, what: str) -> OnnxFusionError:
    return OnnxFusionError(f"region '{lowered.region.name}': {what}")
