"""The smallest set that still fails, and the smallest model around some nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import onnx
from onnx import helper

from onnx_fusion.graph import scope
from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import Graph, Node, walk

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Return a subset for which `fails` holds, and for none of its subsets with one item less.

    `fails(items)` must hold. This is delta debugging (Zeller and Hildebrandt, 2002): parts are
    tried, then what remains without a part, with ever smaller parts; about log n tries if one item
    alone is at fault.
    """
    found, parts = list(items), 2
    while len(found) > 1:
        size = -(-len(found) // parts)
        cuts = [found[k : k + size] for k in range(0, len(found), size)]
        rests = [[x for x in found if x not in cut] for cut in cuts] if len(cuts) > 2 else []
        smaller = next((part for part in [*cuts, *rests] if fails(part)), None)
        if smaller is not None:
            parts = 2 if smaller in cuts else max(len(cuts) - 1, 2)
            found = smaller
        elif size == 1:
            break
        else:
            parts = min(2 * len(cuts), len(found))
    return found


def holders(model: Model, graph: Graph, nodes: Collection[Node]) -> set[int]:
    """Return the indices of the main graph's nodes behind these, or whose bodies have them.

    For a node of a function, those that call it, directly or in what they call.
    """
    wanted = set(nodes)
    found = {int(index) for node in wanted.intersection(graph.nodes) for index in node.origin}
    for body in graph.bodies:
        if any(wanted.intersection(inner.nodes) for inner in walk(body.graph)):
            found.add(body.index)
    functions = model.proto.functions
    called = {
        _key(functions[f.index])
        for f in graph.functions
        if any(wanted.intersection(inner.nodes) for inner in walk(f.graph))
    }
    for _ in functions:
        called |= {_key(f) for f in functions if any(map(_calls(called), f.node))}
    found |= {k for k, node in enumerate(model.proto.graph.node) if _calls(called)(node)}
    return found


def _key(function: onnx.FunctionProto) -> tuple[str, str]:
    return function.domain, function.name


def _calls(called: set[tuple[str, str]]) -> Callable[[onnx.NodeProto], bool]:
    """Return whether a node, or one in its bodies, is a call of these."""

    def test(node: onnx.NodeProto) -> bool:
        if (node.domain, node.op_type) in called:
            return True
        return any(map(test, (n for body in scope.subgraphs(node) for n in body.node)))

    return test


def cut_out(model: Model, graph: Graph, indices: Collection[int]) -> onnx.ModelProto:
    """Return a model of those nodes alone of the main graph (by their indices).

    What they read is an input, or an initializer if it is constant; all they write that is read
    elsewhere is an output. Values whose type is not known make it no valid model.
    """
    source = model.proto
    nodes = [source.graph.node[k] for k in sorted(indices)]
    written = {name for node in nodes for name in node.output if name}
    read = {name: None for node in nodes for name in scope.reads(node) if name not in written}
    declared = {info.name: info for info in source.graph.input}
    inputs, initializers = [], []
    for name in read:
        value = graph.values.get(name)
        weight = value.weight if value is not None and value.weight else model.weights.get(name)
        if weight is not None:
            initializers.append(weight.tensor(name, data=True))
        elif name in declared:
            inputs.append(declared[name])
        else:
            inputs.append(_info(name, graph))
    elsewhere = {info.name for info in source.graph.output}
    for index, node in enumerate(source.graph.node):
        if index not in indices:
            elsewhere |= scope.reads(node)
    names = {info.name: info for info in source.graph.output}
    outputs = [
        names.get(name) or _info(name, graph)
        for node in nodes
        for name in node.output
        if name in elsewhere
    ]
    made = onnx.ModelProto(ir_version=source.ir_version, opset_import=source.opset_import)
    made.functions.extend(source.functions)
    made.graph.CopyFrom(helper.make_graph(nodes, "minimal", inputs, outputs, initializers))
    if source.ir_version < 4:
        for tensor in initializers:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            made.graph.input.append(info)
    return made


def _info(name: str, graph: Graph) -> onnx.ValueInfoProto:
    value = graph.values.get(name)
    if value is None or value.dtype is None:
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, value.dtype.onnx, value.shape)
