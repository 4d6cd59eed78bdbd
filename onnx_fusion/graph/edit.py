"""Small changes to a Graph that keep producers and consumers right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.weights import Weight


def remove(graph: Graph, nodes: Iterable[Node]) -> None:
    """Take nodes out of the graph; what they wrote loses its producer, and stays a value."""
    gone = set(nodes)
    graph.nodes[:] = [node for node in graph.nodes if node not in gone]
    disconnect(gone)


def disconnect(nodes: Iterable[Node]) -> None:
    """Take nodes out of their values' `producer` and `consumers`."""
    for node in nodes:
        for value in (*node.inputs, *node.captures):
            if value is not None and node in value.consumers:
                value.consumers.remove(node)
        for value in node.outputs:
            if value is not None and value.producer is node:
                value.producer = None


def replace(graph: Graph, old: Collection[Node], new: Node) -> None:
    """Put `new` where the last of the `old` nodes stands; it takes over the outputs it names."""
    swap(graph, {new: old})
    disconnect(old)
    connect(new)


def swap(graph: Graph, old: Mapping[Node, Collection[Node]]) -> None:
    """Put each new node where the last of its old ones stands; values are left as they are."""
    owner = {node: new for new, nodes in old.items() for node in nodes}
    last = {owner[node]: node for node in graph.nodes if node in owner}
    at = {node: new for new, node in last.items()}
    graph.nodes[:] = [at.get(n, n) for n in graph.nodes if n not in owner or n in at]


def connect(node: Node) -> None:
    """Enter a new node into its values' `producer` and `consumers`."""
    for value in dict.fromkeys(filter(None, (*node.inputs, *node.captures))):
        value.consumers.append(node)
    for value in filter(None, node.outputs):
        value.producer = node


def prune(graph: Graph) -> None:
    """Drop values that no node writes or reads, but for the graph's inputs and outputs."""
    kept = {*graph.inputs, *graph.outputs}
    graph.values = {name: value for name, value in graph.values.items()
                    if value.producer is not None or value.consumers or value in kept}


def fresh_name(graph: Graph, hint: str) -> str:
    """Return a value name that begins with `hint`, was not in use in the model, and now is."""
    name, count = hint, 1
    while name in graph.names or name in graph.values:
        name, count = f"{hint}_{count}", count + 1
    graph.names.add(name)
    return name


def add_constant(graph: Graph, hint: str, weight: Weight) -> Value:
    """Return a new constant value with a made-up name."""
    value = Value(fresh_name(graph, hint), weight.dtype, weight.shape, weight)
    graph.values[value.name] = value
    return value
