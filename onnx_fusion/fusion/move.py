"""What only moves a value that is stored anyway belongs to the region that reads it.

A cache's keys leave the graph, and are transposed for the scores. Grown with its producer, the
Transpose is stored a second time; with its only reader it is an index map:

    {Concat, Transpose} ==> keys           {Concat} ==> keys
                        ==> turned keys            `--> {Transpose, MatMul, ...}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnx_fusion.fusion.block import Block, Blocks
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops.mapping import MappingType


def hand_over(
    blocks: Blocks, mapping: Mapping[Node, MappingType], fits: Callable[[Sequence[Node]], bool]
) -> list[Block]:
    """Move operators that shuffle from their producers' blocks to their readers', and return the
    blocks that changed. One that gives another shape stays: the reader's map would divide. `fits`
    says whether the target can run the nodes as one region."""
    changed: dict[Block, None] = {}
    for node in sorted(blocks.of, key=blocks.position.__getitem__, reverse=True):
        block = blocks.of[node]
        reader = _only_reader(node, blocks)
        if mapping[node] is not MappingType.SHUFFLE or reader is None:
            continue
        if not _is_stored(node, blocks):
            continue
        block.nodes.remove(node)
        reader.nodes.append(node)
        blocks.of[node] = reader
        nodes = reader.nodes
        if _connected(block.nodes) and blocks.convex(nodes) and fits(nodes) and fits(block.nodes):
            changed.update(dict.fromkeys((block, reader)))
            continue
        reader.nodes.remove(node)
        block.nodes.append(node)
        blocks.of[node] = block
    return list(changed)


def _only_reader(node: Node, blocks: Blocks) -> Block | None:
    """Return the other block that alone reads the node's result."""
    results = [v for v in node.outputs if v is not None]
    if len(results) != 1 or results[0].is_output or results[0].captured:
        return None
    readers = {blocks.of.get(c) for c in results[0].consumers}
    if len(readers) != 1 or blocks.of[node] in readers:
        return None
    return readers.pop()


def _is_stored(node: Node, blocks: Blocks) -> bool:
    """Return whether the node's only input but constants is made in its block and leaves it."""
    block = blocks.of[node]
    given = [v for v in node.inputs if v is not None and v.weight is None]
    if len(given) != 1 or given[0].producer not in block.nodes:
        return False
    return _leaves(given[0], block, blocks)


def _leaves(value: Value, block: Block, blocks: Blocks) -> bool:
    others = any(blocks.of.get(c) is not block for c in value.consumers)
    return value.is_output or bool(value.captured) or others


def _connected(nodes: Sequence[Node]) -> bool:
    """Return whether the nodes hang together."""
    members, seen, stack = set(nodes), set(nodes[:1]), list(nodes[:1])
    while stack:
        node = stack.pop()
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        near = [n for v in values for n in (v.producer, *v.consumers)]
        for other in members.intersection(n for n in near if n is not None) - seen:
            seen.add(other)
            stack.append(other)
    return bool(members) and len(seen) == len(members)
