"""Writes a Graph back as a model, node by node, so that tests can run it."""

from __future__ import annotations

import onnx

from onnx_fusion.emit.function import node_proto
from onnx_fusion.graph.model import Graph, Node


def rebuild(graph: Graph, *, expand: bool) -> onnx.ModelProto:
    """Return the graph as a model; nodes made of parts are written as those if `expand`.

    Every constant has its data in the model, so this is for small models, or big machines.
    """
    source = graph.model.proto
    model = onnx.ModelProto(ir_version=max(source.ir_version, 4), opset_import=source.opset_import,
                            functions=source.functions)
    model.graph.name = source.graph.name
    model.graph.input.extend(
        info for info in source.graph.input
        if graph.values[info.name].weight is None or source.ir_version >= 4)
    model.graph.output.extend(source.graph.output)
    model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    constants = {}
    for node in graph.nodes:
        for proto in _protos(node, expand):
            model.graph.node.append(proto)
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in graph.values.values() if value.captured or value.is_output}
    for value in graph.values.values():
        if value.weight is not None:
            constants[value.name] = value.weight
    for node in graph.nodes:
        for part in node.parts:
            for value in filter(None, part.inputs):
                if value.weight is not None:
                    constants[value.name] = value.weight
    for name, weight in constants.items():
        if name in read:
            model.graph.initializer.append(weight.tensor(name, data=True))
    for tensor in source.graph.initializer:
        if tensor.name not in constants and tensor.name in read:
            weight = graph.model.weights.get(tensor.name)
            model.graph.initializer.append(
                weight.tensor(tensor.name, data=True) if weight is not None else tensor)
    return model


def _protos(node: Node, expand: bool) -> list[onnx.NodeProto]:
    if node.parts and not expand:
        names = [[value.name if value is not None else "" for value in values]
                 for values in (node.inputs, node.outputs)]
        return [onnx.helper.make_node(node.op_type, *names, name=node.name, **node.attrs)]
    return [node_proto(part) for part in node.parts or (node,)]
