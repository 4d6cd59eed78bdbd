"""Which regions anything reads, when a pass made up the values between them.

    a, b, c --> (b + c) . a      R1 = {+}, whose result the input model does not have
                                 . stays unfused: written are its originals, a.b + a.c
                                 nothing reads R1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx_fusion.emit.function import written_nodes
from onnx_fusion.graph.model import walk

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Graph
    from onnx_fusion.lower import Lowered


def find_read(graph: Graph, fused: Sequence[Lowered]) -> list[Lowered]:
    """Return those of `fused` that give a value the input model has, or what leads to such a one.

    Unfused nodes are written as they were in the input model, so they read its values only.
    """
    known = {name for one in walk(graph) for node in one.model.proto.graph.node
             for name in node.output}
    source = {value: one for one in fused for value in one.outputs}
    read = [one for one in fused if any(value.name in known for value in one.outputs)]
    seen = set(map(id, read))
    work = [value for one in read for value in one.inputs]
    visited = set()
    while work:
        value = work.pop()
        one = source.get(value)
        if one is not None:
            if id(one) not in seen:
                seen.add(id(one))
                work += one.inputs
        elif value.producer is not None and value.name not in known and value not in visited:
            visited.add(value)
            work += [v for node in written_nodes([value.producer]) for v in node.inputs
                     if v is not None]
    return [one for one in fused if id(one) in seen]
