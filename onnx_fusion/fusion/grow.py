"""DNNFusion's fusion plan exploration (PLDI 2021, section 4.3 and listing 1), made legal on any
graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from onnx_fusion.fusion import cost, template
from onnx_fusion.fusion.block import Block, Blocks
from onnx_fusion.fusion.extent import REASON as IDLE
from onnx_fusion.fusion.extent import find_idle, find_spared
from onnx_fusion.fusion.move import hand_over
from onnx_fusion.fusion.plan import Plan, Refusal, Region
from onnx_fusion.fusion.table import Verdict, look_up
from onnx_fusion.fusion.target import Target
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.names import input_names
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.ops import peer, table
from onnx_fusion.ops.mapping import MappingType

COMES_BACK = "a path would leave the region and come back"


def plan(
    graph: Graph, target: Target, skip: Collection[str] = (), only: Collection[str] = ()
) -> Plan:
    """Return the regions of `graph`, and a reason for every pair of neighbours that stays apart.

    Seeds are the one-to-one operators with the smallest intermediate results, then all others,
    since a chain such as MatMul, Transpose, Reshape has no one-to-one operator (listing 1 never
    starts there). Ties go to the graph's order, so the plan is deterministic. `skip` names nodes or
    op_types to leave alone; if `only` names any, all others are.
    """
    return _Planner(graph, target, frozenset(skip), frozenset(only)).run()


class _Planner:
    def __init__(
        self, graph: Graph, target: Target, skip: frozenset[str], only: frozenset[str]
    ) -> None:
        self.graph = graph
        self.target = target
        self.blocks = Blocks(graph, target.rates, target.extents)
        self.mapping: dict[Node, MappingType] = {}
        self.why_not: dict[Node, str] = {}
        self.refused: dict[tuple[Node, Node], str] = {}
        self.regions: list[Region] = []
        for node in graph.nodes:
            self.classify(node, skip, only)
        if target.reads is not None:
            able = [node for node in graph.nodes if node not in self.why_not]
            self.blocks.spared = find_spared(able)
            idle = find_idle(graph, set(able), self.blocks.spared)
            self.why_not.update(dict.fromkeys(idle, IDLE))

    def classify(self, node: Node, skip: frozenset[str], only: frozenset[str]) -> None:
        """Find the node's mapping type, or why it takes no part."""
        row = table.find(node)
        self.mapping[node] = MappingType.OPAQUE
        if row.lower is None:
            self.why_not[node] = row.reason or f"{node.op_type} is opaque"
        elif self.is_named(node, skip):
            self.why_not[node] = "skipped by request"
        elif only and not self.is_named(node, only):
            self.why_not[node] = "not among what was asked for"
        else:
            reason = self.target.accept(region_of("alone", [node], self))
            if reason is None:
                self.mapping[node] = row.mapping_of(node)
            else:
                self.why_not[node] = f"{node.op_type}: {reason}"

    def is_named(self, node: Node, names: frozenset[str]) -> bool:
        """Return whether a set has the node's operator or one of its names."""
        return node.op_type in names or bool(names) and not names.isdisjoint(self.names(node))

    def names(self, node: Node) -> list[str]:
        """Return what the node is called in the input model."""
        return input_names(node, self.graph.model.proto)

    def run(self) -> Plan:
        """Return the plan."""
        for seed in self.seeds():
            if self.blocks.free(seed):
                self.close(self.grow(seed))
        self.apply_templates()
        if self.target.leave_renames:
            self.leave_renames()
        position = self.blocks.position
        self.regions.sort(key=lambda r: position[r.nodes[0]])
        named = tuple(
            dataclasses.replace(r, name=f"region_{k}") for k, r in enumerate(self.regions)
        )
        opaque: dict[str, int] = {}
        for node in self.graph.nodes:
            if node in self.why_not:
                opaque[node.op_type] = opaque.get(node.op_type, 0) + 1
        return Plan(named, tuple(self.refusals()), dict(sorted(opaque.items())))

    def apply_templates(self) -> None:
        """Join the blocks that the target's templates find, hand over what moves, and remake their
        regions."""

        def fits(nodes: Sequence[Node]) -> bool:
            if len(nodes) > self.target.max_nodes:
                return False
            region = region_of("try", nodes, self)
            if sum(v.weight is None for v in region.inputs) > self.target.max_inputs:
                return False
            return self.refusal(region) is None

        made = template.merge(self.blocks, self.target.templates, fits)
        moved = hand_over(self.blocks, self.mapping, fits)
        remade = {**dict.fromkeys(moved), **made}
        members = {node for block in remade for node in block.nodes}
        self.regions = [r for r in self.regions if r.nodes[0] not in members]
        for block, name in remade.items():
            region = region_of("try", block.nodes, self, block.mapping)
            self.regions.append(dataclasses.replace(region, template=name))

    def leave_renames(self) -> None:
        """Give up regions that would copy what ONNX Runtime does not even touch."""
        kept = []
        for region in self.regions:
            if all(map(peer.renames, region.nodes)):
                reason = "ONNX Runtime gives the value another shape without copying it"
                self.why_not.update(dict.fromkeys(region.nodes, reason))
                for node in region.nodes:
                    del self.blocks.of[node]
            else:
                kept.append(region)
        self.regions = kept

    def seeds(self) -> list[Node]:
        """Return the nodes to start from, in order."""
        able = [n for n in self.graph.nodes if n not in self.why_not]
        size = {n: sum(irs_bytes(v) for v in n.outputs if v is not None) for n in able}
        first = MappingType.ONE_TO_ONE
        return sorted(
            able, key=lambda n: (self.mapping[n] is not first, size[n], self.blocks.position[n])
        )

    def grow(self, seed: Node) -> Block:
        """Return the largest block around `seed` that the mapping table and the target allow.

        Consumers are tried before producers (listing 1). A neighbour joins only if the block stays
        convex: no path may leave it and come back, since the fused node would then wait for its own
        output. What could end either of two many-to-many operators goes to its producer, whose
        results it finds in registers; the consumer would compute it again for every window.
        """
        block = Block(seed, self.mapping[seed])
        self.fuse_successors(block, [seed], leave_epilogues=True)
        self.fuse_predecessors(block, seed)
        self.fuse_successors(block, block.nodes, leave_epilogues=False)
        return block

    def fuse_successors(self, block: Block, nodes: list[Node], leave_epilogues: bool) -> None:
        stack = [c for node in reversed(nodes) for c in reversed(successors(node))]
        while stack:
            consumer = stack.pop()
            if consumer in block.nodes:
                continue
            if leave_epilogues and self.is_epilogue(block, consumer):
                continue
            producer = next(p for p in predecessors(consumer) if p in block.nodes)
            if self.fuse(block, producer, consumer, consumer):
                stack.extend(reversed(successors(consumer)))

    def is_epilogue(self, block: Block, consumer: Node) -> bool:
        """Return whether the block could end a many-to-many operator rather than begin
        `consumer`."""
        many = MappingType.MANY_TO_MANY
        if self.mapping[consumer] is not many or block.mapping is many:
            return False
        return any(self.can_end(node, set(block.nodes)) for node in block.nodes)

    def can_end(self, node: Node, passed: set[Node]) -> bool:
        """Return whether free operators lead from a free many-to-many one to `node`."""
        many = MappingType.MANY_TO_MANY
        stack, seen = predecessors(node), set(passed)
        while stack:
            producer = stack.pop()
            if producer in seen or producer in self.why_not or not self.blocks.free(producer):
                continue
            if self.mapping[producer] is many:
                return True
            seen.add(producer)
            stack.extend(predecessors(producer))
        return False

    def fuse_predecessors(self, block: Block, node: Node) -> None:
        stack = [(p, node) for p in reversed(predecessors(node))]
        for member in list(block.nodes[1:]):
            stack = [(p, member) for p in reversed(predecessors(member))] + stack
        while stack:
            producer, consumer = stack.pop()
            if producer in block.nodes:
                continue
            many = MappingType.MANY_TO_MANY
            ends = block.mapping is many and self.mapping[producer] is not many
            if ends and self.can_end(producer, set(block.nodes)):
                continue
            if self.fuse(block, producer, consumer, producer):
                stack.extend((p, producer) for p in reversed(predecessors(producer)))

    def fuse(self, block: Block, producer: Node, consumer: Node, new: Node) -> bool:
        """Let `new`, one of the pair, join the block if nothing speaks against it."""
        reason = self.objection(block, consumer, new)
        if reason is not None:
            self.refused.setdefault((producer, consumer), reason)
            return False
        first, second = (
            (block.mapping, self.mapping[new])
            if new is consumer
            else (self.mapping[new], block.mapping)
        )
        block.join(new, look_up(first, second)[1])
        return True

    def objection(self, block: Block, consumer: Node, new: Node) -> str | None:
        """Return why `new` must stay apart, None if it need not: `consumer`, or what that reads."""
        if new in self.why_not:
            return self.why_not[new]
        if not self.blocks.free(new):
            return "already in another region"
        mine, theirs = block.mapping, self.mapping[new]
        first, second = (mine, theirs) if new is consumer else (theirs, mine)
        verdict, _ = look_up(first, second)
        if verdict is Verdict.RED:
            return f"{first.value} before {second.value} is never fused (mapping table)"
        asked = verdict is Verdict.YELLOW and not self.target.take_yellow
        if asked and not cost.pays(block.nodes, new, self.target.rates):
            return f"{first.value} before {second.value} is not expected to pay"
        if len(block.nodes) >= self.target.max_nodes:
            return f"the region has {self.target.max_nodes} nodes already"
        if not self.blocks.convex_after(block, new):
            return COMES_BACK
        if len(values_read([*block.nodes, new])) > self.target.max_inputs:
            return f"the region would read more than {self.target.max_inputs} values"
        return None

    def close(self, block: Block) -> None:
        """Make the block a region, without what joined last as long as the target cannot run it."""
        while True:
            region = region_of("try", block.nodes, self, block.mapping)
            reason = self.refusal(region)
            if reason is None:
                break
            if len(block.nodes) == 1:
                self.why_not[block.nodes[0]] = reason
                return
            last = block.drop()
            for other in block.nodes:
                if last in successors(other):
                    self.refused[other, last] = reason
                if other in successors(last):
                    self.refused[last, other] = reason
            while not connected(block.nodes):
                block.drop()
        for node in block.nodes:
            self.blocks.of[node] = block
        self.regions.append(region)

    def refusal(self, region: Region) -> str | None:
        """Return why the target cannot run the region, or would wait for itself; None if it can."""
        reason = self.target.accept(region)
        given = {v for node in region.nodes for v in self.blocks.spared.get(node, ())}
        if reason is not None or given.isdisjoint(region.inputs):
            return reason
        needed = [v.producer for v in self.target.reads(region) if v in given]
        starts = [node for node in needed if node is not None]
        if starts and self.blocks.reaches(set(region.nodes), starts):
            return COMES_BACK
        return None

    def refusals(self) -> list[Refusal]:
        """Return one refusal for each pair of neighbours that is not in one region."""
        found = []
        of = self.blocks.of
        for producer in self.graph.nodes:
            for consumer in successors(producer):
                if producer in of and of.get(consumer) is of[producer]:
                    continue
                reason = (
                    self.why_not.get(producer)
                    or self.why_not.get(consumer)
                    or self.refused.get((producer, consumer))
                    or "each is in a region of its own already"
                )
                found.append(Refusal(self.names(producer)[-1], self.names(consumer)[0], reason))
        return found


def successors(node: Node) -> list[Node]:
    """Return the nodes that read the node's outputs, each once."""
    return list(dict.fromkeys(c for v in node.outputs if v is not None for c in v.consumers))


def predecessors(node: Node) -> list[Node]:
    """Return the nodes whose outputs the node or its subgraphs read, each once."""
    values = (*node.inputs, *node.captures)
    found = (v.producer for v in values if v is not None and v.weight is None)
    return list(dict.fromkeys(p for p in found if p is not None))


def values_read(nodes: Sequence[Node]) -> set[Value]:
    """Return the values from outside that are not constant."""
    read = {v for node in nodes for v in node.inputs if v is not None and v.weight is None}
    return read.difference(*(node.outputs for node in nodes))


def connected(nodes: list[Node]) -> bool:
    """Return whether the nodes hang together."""
    members, seen, stack = set(nodes), {nodes[0]}, [nodes[0]]
    while stack:
        node = stack.pop()
        for other in (*successors(node), *predecessors(node)):
            if other in members and other not in seen:
                seen.add(other)
                stack.append(other)
    return len(seen) == len(members)


def region_of(
    name: str, nodes: Sequence[Node], planner: _Planner, mapping: MappingType | None = None
) -> Region:
    """Return the region of these nodes: what it reads, what leaves it, what it saves."""
    position: Callable[[Node], int] = planner.blocks.position.__getitem__
    ordered = sorted(nodes, key=position)
    members = set(ordered)
    inputs: dict[Value, None] = {}
    outputs: list[Value] = []
    saved = 0
    for node in ordered:
        for value in node.inputs:
            if value is not None and value.producer not in members:
                inputs[value] = None
        for value in node.outputs:
            if value is None:
                continue
            inside = [c for c in value.consumers if c in members]
            if value.is_output or value.captured or len(inside) < len(value.consumers):
                outputs.append(value)
            elif inside:
                saved += irs_bytes(value)
    anchor = next((n for n in ordered if planner.mapping.get(n) is MappingType.MANY_TO_MANY), None)
    return Region(
        name, tuple(ordered), mapping or MappingType.ONE_TO_ONE, anchor, None, tuple(inputs),
        tuple(outputs), saved,
    )  # fmt: skip
