"""The template "small": neighbouring regions whose kernels take less than their nodes' overhead become one.

A red cell of the mapping table keeps two many-to-many operators apart because one loop nest cannot run
both well. A region may hold several stages, though, and between kernels of a few microseconds (LeNet-5,
squeeze-and-excite, the heads of networks) what counts is the node itself: binding, dispatch, allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx_fusion.fusion import cost
from onnx_fusion.fusion.block import Block, Blocks
from onnx_fusion.graph.model import Node
from onnx_fusion.graph.view import irs_bytes

NAME = "small"
MOST_SECONDS = 10e-6
"""What the smaller of two regions may take to be merged."""
MOST_BYTES = 256 << 10
"""Intermediate results that may lie between them: what a second-level cache holds beside the weights."""


def merge(blocks: Blocks, fits: Callable[[Sequence[Node]], bool]) -> set[Block]:
    """Merge small neighbouring blocks, in the graph's order; return those that were made.

    `fits` says whether the target can run the nodes as one region.
    """
    made: set[Block] = set()
    work = sorted(set(blocks.of.values()), key=lambda b: min(map(blocks.position.get, b.nodes)))
    for block in work:
        if blocks.of[block.nodes[0]] is not block:
            continue
        while (other := next(_partners(blocks, block, fits), None)) is not None:
            block.absorb(other)
            for node in other.nodes:
                blocks.of[node] = block
            made.discard(other)
            made.add(block)
    return made


def _partners(blocks: Blocks, block: Block, fits: Callable[[Sequence[Node]], bool]):
    """Yield the blocks that read this one's results and may be merged into it."""
    seen = {block}
    for node in list(block.nodes):
        for value in node.outputs:
            for consumer in value.consumers if value is not None else ():
                other = blocks.of.get(consumer)
                if other is None or other in seen:
                    continue
                seen.add(other)
                if _is_small(block, other) and blocks.convex([*block.nodes, *other.nodes]):
                    if fits([*block.nodes, *other.nodes]):
                        yield other


def _is_small(first: Block, second: Block) -> bool:
    known = all(
        isinstance(d, int)
        for node in (*first.nodes, *second.nodes)
        for value in node.outputs
        if value is not None
        for d in value.shape or ("?",)
    )
    if not known:
        return False
    between = sum(
        irs_bytes(v)
        for node in first.nodes
        for v in node.outputs
        if v is not None and any(c in second.nodes for c in v.consumers)
    )
    seconds = min(cost.compute_seconds(b.nodes, cost.FUSED) for b in (first, second))
    return between <= MOST_BYTES and seconds <= MOST_SECONDS
