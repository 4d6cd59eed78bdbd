"""What nodes are called towards the user: always as in the input model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from onnx_fusion.graph.model import Node


def node_name(proto: onnx.NodeProto, index: int) -> str:
    """Return the name of the node at `index` of its graph, `<op_type>_<index>` if it has none."""
    return proto.name or f"{proto.op_type}_{index}"


def input_names(node: Node, model: onnx.ModelProto | onnx.GraphProto) -> list[str]:
    """Return the names of the input model's nodes that `node` came from, in the model's order."""
    graph = model.graph if hasattr(model, "graph") else model
    return [node_name(graph.node[index], index) for index in sorted(node.origin)]


def all_names(nodes: Iterable[Node], model: onnx.ModelProto | onnx.GraphProto) -> list[str]:
    """Return the names of the input model's nodes behind `nodes`, each once, in its order."""
    graph = model.graph if hasattr(model, "graph") else model
    origin = sorted(frozenset().union(*(node.origin for node in nodes)))
    return [node_name(graph.node[index], index) for index in origin]
