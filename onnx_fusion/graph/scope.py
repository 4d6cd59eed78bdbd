"""Which names a graph defines and reads, subgraphs included, and an order that runs it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, int | None, onnx.GraphProto]]:
    """Yield (attribute, number in it if it is a list, body) for the bodies of a node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, None, attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for position, body in enumerate(attribute.graphs):
                yield attribute.name, position, body


def defined(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph defines itself: its subgraphs' are not among them."""
    return (given(graph) | {name for node in graph.node for name in node.output}) - {""}


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the subgraphs inside it."""
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            yield node
            graphs += subgraphs(node)


def depth(graph: onnx.GraphProto) -> int:
    """Return how many subgraphs are inside each other at most, 0 if there is none."""
    level, graphs = -1, [graph]
    while graphs:
        level += 1
        graphs = [body for each in graphs for node in each.node for body in subgraphs(node)]
    return level


def given(graph: onnx.GraphProto) -> set[str]:
    """Return the names that are there before any node runs: inputs and initializers."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    return names


def free_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a subgraph's body reads from the graphs around it."""
    defined = given(graph)
    read = {value.name for value in graph.output}
    for node in graph.node:
        defined.update(node.output)
        read |= reads(node)
    return read - defined - {""}


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names a node reads, those captured by its bodies included."""
    names = set(node.input)
    for body in subgraphs(node):
        names |= free_names(body)
    names.discard("")
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Return every value name in a graph and in the subgraphs inside it."""
    names = given(graph) | {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for body in subgraphs(node):
            names |= all_names(body)
    return names


def sort_nodes(graph: onnx.GraphProto) -> tuple[list[int], list[int]]:
    """Return the nodes' indices in an order they can run in, and those that wait for each other.

    The order written is kept where it already works (ONNX demands it, ONNX Runtime does not).
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [{producer[name] for name in reads(node) if name in producer} for node in graph.node]
    users: list[list[int]] = [[] for _ in needs]
    for i, sources in enumerate(needs):
        for source in sources:
            users[source].append(i)
    waiting = [len(sources) for sources in needs]
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users[i]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    stuck = sorted(set(range(len(needs))) - set(order))
    return order, stuck
