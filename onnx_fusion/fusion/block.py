"""Blocks while they grow, and what keeps them legal on any graph.

The paper's listing 1 has no test for convexity. Fusing `a` with `c` here would make the fused node
wait for its own output:

        a ---> b        {a, c} is not convex: a -> b -> c leaves it and comes back.
         \\      \\
          `-----> c

Finished blocks count as one node each, so that two blocks cannot wait for each other either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx_fusion.fusion import cost
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.ops.mapping import MappingType

COMPLEXITY = (
    MappingType.ONE_TO_ONE,
    MappingType.REORGANIZE,
    MappingType.SHUFFLE,
    MappingType.ONE_TO_MANY,
    MappingType.MANY_TO_MANY,
)


class Blocks:
    """All blocks of a graph: which node is in which, and the order of nodes.

    `rates` are those of the machine's kernels; `bound` has each node with numbers for the graph's
    symbols, at the usual size and at a small one if `extents` says any; `spared` has the values
    that a node need not wait for once it is in a block.
    """

    def __init__(
        self,
        graph: Graph,
        rates: cost.Rates = cost.FUSED,
        extents: Sequence[Mapping[str, int]] = (),
    ) -> None:
        self.rates = rates
        self.bound = [cost.bind(graph.nodes, one) for one in extents[:2] or ({},)]
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.of: dict[Node, Block] = {}
        self.spared: dict[Node, frozenset[Value]] = {}

    def free(self, node: Node) -> bool:
        """Return whether the node is in no block."""
        return node not in self.of

    def group(self, node: Node) -> tuple[Node, ...] | list[Node]:
        """Return the nodes that run with this one."""
        block = self.of.get(node)
        return (node,) if block is None else block.nodes

    def all(self) -> list[Block]:
        """Return the blocks, in the order of their first nodes."""
        return sorted(set(self.of.values()), key=self.place)

    def place(self, block: Block) -> int:
        """Return the position of the block's first node."""
        return min(self.position[node] for node in block.nodes)

    def after(self, block: Block) -> list[Block]:
        """Return the blocks that read this one's results, in the order of the readers."""
        found = (
            self.of.get(consumer)
            for node in block.nodes
            for value in node.outputs
            if value is not None
            for consumer in value.consumers
        )
        return [b for b in dict.fromkeys(found) if b is not None and b is not block]

    def before(self, block: Block) -> list[Block]:
        """Return the blocks whose results this one reads."""
        found = (
            self.of.get(value.producer)
            for node in block.nodes
            for value in node.inputs
            if value is not None and value.producer is not None
        )
        return [b for b in dict.fromkeys(found) if b is not None and b is not block]

    def reaches(self, sources: set[Node], starts: list[Node]) -> bool:
        """Return whether a path leads from any of `sources` to any of `starts` (or one is the
        other)."""
        lowest = min(self.position[n] for n in sources)
        stack, seen = list(starts), set(starts)
        while stack:
            node = stack.pop()
            if node in sources:
                return True
            members = self.group(node)
            if max(self.position[m] for m in members) < lowest:
                continue
            for member in members:
                for value in (*member.inputs, *member.captures):
                    producer = value.producer if value is not None else None
                    if producer is not None and node in self.of and self.spares(member, value):
                        continue
                    if producer is not None and producer not in seen:
                        seen.add(producer)
                        stack.append(producer)
        return False

    def spares(self, node: Node, value: Value) -> bool:
        """Return whether the node, in a block, need not wait for a value that it reads."""
        return node in self.spared and value in self.spared[node]

    def convex_after(self, block: Block, node: Node) -> bool:
        """Return whether `block` with `node` has no path that leaves it and comes back."""
        return self.convex([*block.nodes, node])

    def convex(self, nodes: list[Node]) -> bool:
        """Return whether no path leaves the nodes and comes back."""
        members = set(nodes)
        outside = []
        for member in members:
            for value in (*member.inputs, *member.captures):
                producer = value.producer if value is not None else None
                if producer is None or producer in members or self.spares(member, value):
                    continue
                outside.append(producer)
        return not outside or not self.reaches(members, list(dict.fromkeys(outside)))


class Block:
    """A growing region: nodes in the order they joined, and the block's own mapping type."""

    def __init__(self, seed: Node, mapping: MappingType) -> None:
        self.nodes = [seed]
        self.mapping = mapping
        self.types = [mapping]

    def join(self, node: Node, mapping: MappingType) -> None:
        """Add a node; `mapping` is the type of the block with it."""
        self.nodes.append(node)
        self.mapping = mapping
        self.types.append(mapping)

    def absorb(self, other: Block) -> None:
        """Take all nodes of another block in; the more complex type is that of both (Table 2)."""
        self.nodes.extend(other.nodes)
        self.mapping = max(self.mapping, other.mapping, key=COMPLEXITY.index)
        self.types.extend([self.mapping] * len(other.nodes))

    def drop(self) -> Node:
        """Remove the node that joined last."""
        self.types.pop()
        self.mapping = self.types[-1]
        return self.nodes.pop()
