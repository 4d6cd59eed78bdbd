"""What nodes are called towards the user: always as in the input model.

A node inside a body is called by its way there, `outer_if/then_branch/conv1`: the name of the node
that has the body, the attribute, the node. If the attribute is a list, the body's number follows
its name (`branches.2`). A node without a name is its op_type and index, `Conv_4`, and so is one
on the way that has the name of an earlier one (`loop_7`). In one of the model's own functions it
is `domain::function/conv1`, whoever calls it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from onnx_fusion.graph import scope
from onnx_fusion.graph.model import Origin

if TYPE_CHECKING:
    import onnx

    from onnx_fusion.graph.model import Node


def node_name(proto: onnx.NodeProto, index: int) -> str:
    """Return the name of the node at `index` of its graph, `<op_type>_<index>` if it has none."""
    return proto.name or f"{proto.op_type}_{index}"


def input_names(node: Node, model: onnx.ModelProto | onnx.GraphProto) -> list[str]:
    """Return the names of the input model's nodes that `node` came from, in the model's order."""
    return all_names((node,), model)


def all_names(nodes: Iterable[Node], model: onnx.ModelProto | onnx.GraphProto) -> list[str]:
    """Return the names of the input model's nodes behind `nodes`, each once, in its order."""
    graph = model.graph if hasattr(model, "graph") else model
    origin = sorted(frozenset().union(*(node.origin for node in nodes)))
    return [index.name if isinstance(index, Origin) else node_name(graph.node[index], index)
            for index in origin]


def function_path(proto: onnx.FunctionProto) -> str:
    """Return what the names of the nodes in a function begin with."""
    return f"{proto.domain}::{proto.name}{f'.{proto.overload}' if proto.overload else ''}/"


def is_inside(path: str, names: Collection[str]) -> bool:
    """True if the names of a graph's nodes, which begin with `path`, lead through one of `names`.

    A function counts by its name with its domain or without.
    """
    local = path.rpartition("::")[2] if "::" in path else path
    return any(way.startswith(f"{name}/") for name in names for way in (path, local))


def every_path(model: onnx.ModelProto) -> dict[str, Sequence[onnx.NodeProto]]:
    """Return the nodes of the model's graph (""), its functions and the bodies in these, by what
    their names begin with."""
    found = {"": model.graph.node, **{function_path(f): f.node for f in model.functions}}
    waiting = list(found.items())
    while waiting:
        path, nodes = waiting.pop()
        for index, node in enumerate(nodes):
            for attribute, position, body in scope.bodies(node):
                number = "" if position is None else f".{position}"
                inner = f"{path}{node_name(node, index)}/{attribute}{number}/"
                found[inner] = body.node
                waiting.append((inner, body.node))
    return found


def body_path(node: Node, attribute: str, position: int | None) -> str:
    """Return what the names of the nodes in a body begin with; `position` if it is in a list."""
    return f"{node.name}/{attribute}{'' if position is None else f'.{position}'}/"
