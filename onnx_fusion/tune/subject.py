"""What is timed, in words that mean the same on every machine and in every model.

The digest covers the original operators with their attributes, types, shapes and wiring, and the
programs that would replace them; names do not count, nor do contents of constants, except of small
ones. So the layers of a network, and networks with equal layers, share an entry.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from onnx_fusion.graph.model import Graph, Node, Value

if TYPE_CHECKING:
    from onnx_fusion.lower import Lowered

SMALL = 64
"""Bytes of a constant whose contents are part of what is timed: axes, shapes, bounds of a Clip."""
WHOLE = "whole model"
"""How the words for people begin for a whole model."""
MOST_NAMED = 4
"""Operators that the words for people name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What is timed: `digest` for machines, `what` for people; `dynamic` if sizes are not in it."""

    digest: str
    what: str
    dynamic: bool


def describe(graph: Graph, nodes: Sequence[Node], lowered: Sequence[Lowered]) -> Subject:
    """Return the subject of these nodes of a graph, replaced by these programs."""
    words = _Words()
    words.add(graph, nodes, lowered)
    return words.subject(nodes, lowered)


def describe_all(parts: Iterable[tuple[Graph, Sequence[Lowered]]]) -> Subject:
    """Return the subject of a whole model: its graphs, each with the programs chosen in it.

    It is another than that of a stretch, also if one stretch is all of it: what is written is timed
    once more, not chosen by the same measurement.
    """
    words = _Words()
    words.lines.append(WHOLE)
    every: list[Node] = []
    chosen: list[Lowered] = []
    for graph, lowered in parts:
        words.add(graph, graph.nodes, lowered)
        every += graph.nodes
        chosen += lowered
    subject = words.subject(every, chosen)
    return dataclasses.replace(subject, what=f"{WHOLE}: {subject.what}")


class _Words:
    def __init__(self) -> None:
        self.lines: list[str] = ["subject 1"]
        self.numbers: dict[int, str] = {}
        self.symbols: dict[str, str] = {}
        self.dynamic = False

    def add(self, graph: Graph, nodes: Sequence[Node], lowered: Sequence[Lowered]) -> None:
        """Describe nodes and programs."""
        proto = graph.model.proto.graph
        self.lines.append(f"graph {sorted(graph.opsets.items())}")
        inner = {index for node in nodes for index in node.origin}
        for index in sorted(inner):
            self.original(proto.node[index], graph.values)
        for one in lowered:
            self.lines.append(one.program)
            self.lines.append(self.list("reads", one.inputs))
            self.lines.append(self.list("writes", one.outputs))
        for node in nodes:
            for value in node.outputs:
                if value is not None and (value.is_output or value.captured):
                    self.lines.append(f"result {self.number(value.name, graph.values)}")

    def original(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> None:
        """Describe an operator of the input model."""
        attributes = sorted(_plain(node), key=lambda a: a.name)
        bits = hashlib.sha256()
        for attribute in attributes:
            bits.update(attribute.SerializeToString(deterministic=True))
        reads = " ".join(self.number(name, values) if name else "-" for name in node.input)
        writes = " ".join(self.number(name, values) if name else "-" for name in node.output)
        self.lines.append(
            f"{node.domain}:{node.op_type} {bits.hexdigest()[:16]} ({reads}) -> ({writes})"
        )

    def list(self, word: str, values: Iterable[Value]) -> str:
        """Return a line of values."""
        known = {value.name: value for value in values}
        return " ".join([word, *(self.number(name, known) for name in known)])

    def number(self, name: str, values: Mapping[str, Value]) -> str:
        """Return what a value is called here; a new one is described."""
        if name in self.numbers:
            return self.numbers[name]
        made = self.numbers[name] = f"v{len(self.numbers)}"
        value = values.get(name)
        if value is None:
            return made
        shape = "?"
        if value.shape is not None:
            shape = ",".join(self.extent(dim) for dim in value.shape)
        else:
            self.dynamic = True
        content = ""
        if value.weight is not None:
            content = " constant"
            if value.weight.nbytes <= SMALL:
                content += f" {bytes(value.weight.raw()).hex()}"
        self.lines.append(f"{made} {value.dtype and value.dtype.name}[{shape}]{content}")
        return made

    def extent(self, dim: int | str) -> str:
        """Return a dim; symbols are numbered as they are met."""
        if isinstance(dim, int):
            return str(dim)
        self.dynamic = True
        return self.symbols.setdefault(dim, f"D{len(self.symbols)}")

    def subject(self, nodes: Sequence[Node], lowered: Sequence[Lowered]) -> Subject:
        """Return what was described."""
        digest = hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:32]
        return Subject(digest, _summary(nodes, lowered), self.dynamic)


def _plain(node: onnx.NodeProto) -> Iterator[onnx.AttributeProto]:
    """Yield the attributes without what does not change what they mean."""
    for attribute in node.attribute:
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
        yield copy


def _summary(nodes: Sequence[Node], lowered: Sequence[Lowered]) -> str:
    counts = Counter(node.op_type for node in nodes)
    named = [
        f"{count} {kind}" if count > 1 else kind for kind, count in counts.most_common(MOST_NAMED)
    ]
    more = [f"{len(counts) - MOST_NAMED} more kinds"] if len(counts) > MOST_NAMED else []
    regions = f"{len(lowered)} region" + ("" if len(lowered) == 1 else "s")
    return f"{', '.join(named + more)} in {regions}"
