"""The portable function: a fused node's own operators, run where the native library is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from onnx_fusion.emit.layout import called, transpose, transpose_back
from onnx_fusion.emit.order import Item, order
from onnx_fusion.emit.supply import (
    ANY_CONSTANT_OPSET,
    constant_nodes,
    extent_nodes,
    reshape_nodes,
)
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.passes.elements import MAX_ELEMENTS

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Node, Value
    from onnx_fusion.graph.weights import Weight
    from onnx_fusion.lower import Lowered

FUNCTION_IR = 8
"""The first IR version with model-local functions."""

LARGEST_CONSTANT = 4096
"""Bytes; anything larger belongs to the inputs, where functions and sessions can share it."""


def build_function(lowered: Lowered, opsets: Mapping[str, int]) -> onnx.FunctionProto:
    """Return the region's operators as a function without a name.

    Its inputs and outputs are the fused node's, in order. Every value is renamed by position and
    nodes carry neither names nor documentation, so equal regions give equal functions. Constants
    and shape tensors that the program does not read are made inside; so is the row of an input or
    output that is none in memory, by a Transpose. Raises OnnxFusionError if
    the operators do not compute the outputs from the inputs, or a constant is too large.
    """
    inside = {value: f"{value.name}\0memory" for value in lowered.layouts}
    inputs = called(lowered.inputs, lowered, inside)
    outputs = called(lowered.outputs, lowered, inside)
    nodes = _Body(lowered, opsets.get("", ANY_CONSTANT_OPSET), inside).nodes(inputs, outputs)
    names = {name: f"i{k}" for k, name in enumerate(inputs)}
    names.update((name, f"o{k}") for k, name in enumerate(outputs))
    inner = dict.fromkeys(name for node in nodes for name in node.output if name)
    names.update((name, f"v{k}") for k, name in enumerate(n for n in inner if n not in names))
    body = [_renamed(node, names) for node in nodes]
    function = onnx.FunctionProto(input=[names[name] for name in inputs],
                                  output=[names[name] for name in outputs], node=body)
    for domain in sorted({plain_domain(node.domain) for node in body}):
        function.opset_import.append(helper.make_opsetid(domain, opsets[domain]))
    return function


def refusal(lowered: Lowered, opsets: Mapping[str, int]) -> str | None:
    """Return None if the region can have a function, else the reason."""
    try:
        build_function(lowered, opsets)
    except OnnxFusionError as error:
        return str(error).partition(": ")[2]
    return None


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


class _Body:
    """The nodes of one function, found from its outputs backwards, with the graph's names."""

    def __init__(self, lowered: Lowered, opset: int, inside: Mapping[Value, str]) -> None:
        self.lowered = lowered
        self.opset = opset
        self.values: dict[str, Value] = {}
        self.source: dict[str, Item[list[onnx.NodeProto]]] = {}
        for value in lowered.outputs:
            self.values[value.name] = value
        self.add(lowered.region.nodes)
        self.add_transposes(inside)

    def add(self, nodes: Sequence[Node]) -> None:
        """Make these nodes known, after those that are."""
        for node in written_nodes(nodes):
            if any(value is not None and value.name in self.source for value in node.outputs):
                continue
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    self.values[value.name] = value
            self.offer([node_proto(node)], len(self.source))

    def add_transposes(self, inside: Mapping[Value, str]) -> None:
        """Make the inputs that are no rows known as rows, and the outputs in memory's order."""
        for value, layout in self.lowered.layouts.items():
            memory = inside[value]
            self.values[value.name] = self.values[memory] = value
            if value in self.lowered.inputs:
                self.offer([transpose_back(memory, value.name, layout)], -1)
            else:
                self.offer([transpose(value.name, memory, layout)], len(self.source))

    def offer(self, nodes: list[onnx.NodeProto], position: int) -> None:
        """Make nodes known that stand together, in order; later ones replace earlier ones."""
        inner = dict.fromkeys(name for node in nodes for name in node.output if name)
        reads = dict.fromkeys(name for node in nodes for name in node.input if name)
        item = Item(position, [name for name in reads if name not in inner], list(inner), nodes)
        for name in inner:
            self.source[name] = item

    def nodes(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """Return the nodes that make the outputs of the inputs, in order."""
        used: dict[int, Item[list[onnx.NodeProto]]] = {}
        work, seen = list(reversed(outputs)), set(inputs)
        while work:
            name = work.pop()
            if name in seen:
                continue
            seen.add(name)
            self.supply(name)
            item = self.source[name]
            used[id(item)] = item
            work += reversed(item.reads)
        ordered, left = order(sorted(used.values(), key=lambda item: item.position))
        if left:
            raise self.error(f"its operators form a cycle at '{left[0].outputs[0]}'")
        return [node for item in ordered for node in item.content]

    def supply(self, name: str) -> None:
        """See to it that `source` has `name`: computed inside, constant, or made anew."""
        value = self.values[name]
        item = self.source.get(name)
        made = [self.values[output] for output in item.outputs] if item is not None else []
        if value.weight is not None and all(other.weight is not None for other in made):
            self.offer(self.constant(name, value.weight), -1)
        elif item is None:
            extents = extent_nodes(value, self.lowered.inputs, self.opset)
            if extents:
                self.offer(extents, -1)
            elif value.producer is not None and _is_small(value):
                self.add([value.producer])
            if name not in self.source:
                raise self.error(f"reads '{name}', which is neither an input nor computed inside")

    def constant(self, name: str, weight: Weight) -> list[onnx.NodeProto]:
        nodes = reshape_nodes(name, weight, self.lowered.inputs, self.opset)
        if not nodes and weight.nbytes > LARGEST_CONSTANT:
            raise self.error(f"constant '{name}' of {weight.nbytes} bytes is baked in, "
                             f"the limit is {LARGEST_CONSTANT}; make it an input")
        return nodes or constant_nodes(name, weight, self.opset)

    def error(self, what: str) -> OnnxFusionError:
        return OnnxFusionError(f"region '{self.lowered.region.name}': {what}")


def _is_small(value: Value) -> bool:
    """True for what shape arithmetic works on: computing it again costs nothing."""
    dims = value.shape
    return dims is not None and all(isinstance(dim, int) for dim in dims) and (
        math.prod(dims) <= MAX_ELEMENTS)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return the node, which the caller gives away, with other names and no documentation."""
    for field in (node.input, node.output):
        for k, name in enumerate(field):
            if name:
                field[k] = names[name]
    for field in ("name", "doc_string", "metadata_props"):
        node.ClearField(field)
    return node


def _attribute(key: str, value: object) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, onnx.numpy_helper.from_array(value))
    if isinstance(value, (list, tuple)) and not value:
        return onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS)
    return helper.make_attribute(key, value)

