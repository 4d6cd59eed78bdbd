"""Applies rules: the largest drop in FLOPs first, until none is left (DNNFusion, section 4.2).

The paper cuts the graph at operators that are neither associative, distributive nor commutative,
and rewrites each part by itself. A pattern holds no such operator but at its root or its leaves, so
matches of two parts never overlap, and one queue for the graph gives the same result.

It ends because a measure falls with every step: the FLOPs of the graph, then its nodes, then the
values they read. A proposal that does not lessen it, compared in that order, is not taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from onnx_fusion.graph.model import Graph, Node
from onnx_fusion.passes.rewrite.model import (
    INTEGERS,
    Exactness,
    Proposal,
    Rule,
    Scene,
    cost_of,
)

COMMUTE = "commute"
_MAX_ROUNDS = 16

Entry = tuple[tuple[float, int, int], tuple[int, ...], int]


def run(graph: Graph, rules: Sequence[Rule], *, strict: bool = False,
        disabled: Collection[str] = ()) -> Graph:
    """Apply what pays of `rules` to `graph`, whose shapes must be inferred; return it."""
    scene = Scene(graph, commute=COMMUTE not in disabled)
    rules = [rule for rule in rules if rule.name not in disabled
             and not (strict and rule.exactness is Exactness.ROUNDING)]
    by_root: dict[str, list[int]] = {}
    for k, rule in enumerate(rules):
        for root in rule.roots:
            by_root.setdefault(root, []).append(k)
    engine = _Engine(scene, rules, by_root, strict)
    for _ in range(_MAX_ROUNDS):
        if not engine.round():
            break
    scene.finish()
    return graph


class _Engine:
    def __init__(self, scene: Scene, rules: Sequence[Rule], by_root: dict[str, list[int]],
                 strict: bool) -> None:
        self.scene, self.rules, self.by_root, self.strict = scene, rules, by_root, strict
        self.queue: list[tuple[Entry, int, Node]] = []
        self.serial = 0

    def round(self) -> int:
        """Try every rule at every node, and at what changed meanwhile; return how many fired."""
        for node in list(self.scene.place):
            self.offer(node)
        fired = 0
        while self.queue:
            entry, _, node = heapq.heappop(self.queue)
            if not self.scene.alive(node):
                continue
            found = self.propose(node, entry[2])
            if found is None:
                continue
            if found[0] != entry[0]:
                self.push((found[0], entry[1], entry[2]), node)
                continue
            for touched in self.scene.apply(found[1]):
                if self.scene.alive(touched):
                    self.offer(touched)
            fired += 1
        return fired

    def offer(self, node: Node) -> None:
        """Queue what the rules propose at a node."""
        if node.domain:
            return
        for k in self.by_root.get(node.op_type, ()):
            found = self.propose(node, k)
            if found is not None:
                self.push((found[0], self.scene.place[node], k), node)

    def push(self, entry: Entry, node: Node) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (entry, self.serial, node))

    def propose(self, node: Node, k: int) -> tuple[tuple[float, int, int], Proposal] | None:
        """Return what the rule would change here, and by how much the measure falls (negative)."""
        rule = self.rules[k]
        if self.strict and rule.exactness is Exactness.INTEGERS and any(
                value.dtype not in INTEGERS for value in node.outputs if value is not None):
            return None
        proposal = rule.propose(node, self.scene)
        if proposal is None or _reads_old(proposal):
            return None
        before, after = cost_of(proposal.old).key(), cost_of(proposal.new).key()
        change = tuple(b - a for a, b in zip(before, after, strict=True))
        return (change, proposal) if change < (0, 0, 0) else None


def _reads_old(proposal: Proposal) -> bool:
    """True if a leaf of the match is one of its inner values, as in -x - -x for y - -x."""
    old = set(proposal.old)
    read = [v for node in proposal.new for v in node.inputs if v is not None]
    return any(value.producer in old for value in (*read, *proposal.alias.values()))
