"""Which of the original nodes stay once regions are fused.

    a = Shape(x)      only R reads it: goes            R = {c, d}
    b = Relu(x)       something kept reads it: stays
    c = Reshape(b, a) in R: goes, unless something kept reads what R does not give out
    d = Exp(c)        in R: goes

Names are followed backwards from what must be there: graph outputs, the fused nodes' inputs, and
nodes that led nowhere even in the input model, which stay as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnx_fusion.emit.function import written_nodes
from onnx_fusion.emit.reread import find_reread
from onnx_fusion.graph import scope

if TYPE_CHECKING:
    import onnx

    from onnx_fusion.graph.model import Graph, Node
    from onnx_fusion.graph.weights import Weight
    from onnx_fusion.lower import Lowered


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What is written beside the fused nodes.

    `kept` holds indices of original nodes; `extra` the nodes that a pass invented and fused nodes
    read from; `reread` those original nodes that read other names than they did; `folded` constants
    that become initializers; `needed` every name that is read, and `needed_before` every name that
    the input model read.
    """

    kept: frozenset[int]
    reread: dict[int, onnx.NodeProto]
    extra: tuple[Node, ...]
    folded: dict[str, Weight]
    needed: frozenset[str]
    needed_before: frozenset[str]


def find_demand(now: onnx.ModelProto, graph: Graph, fused: Sequence[Lowered]) -> Demand:
    """Return what must be written beside the fused nodes `fused`.

    `now` is the graph's proto, but for bodies in which something is fused: they may read less.
    """
    model = graph.model.proto
    proto = model.graph
    before = [scope.reads(node) for node in proto.node]
    reads = list(before) if now is model else [scope.reads(node) for node in now.graph.node]
    source = {name: k for k, node in enumerate(proto.node) for name in node.output if name}
    given = scope.given(proto) | graph.outer
    members = {node for one in fused for node in one.region.nodes}
    results = [value.name for value in proto.output] + _other_reads(model)

    alive, _ = _follow(results, before, source, ())
    source = {name: k for name, k in source.items() if name not in graph.restated}
    covered = {k for node in members for k in node.origin}
    spared = [k for k in range(len(reads)) if k not in alive and k not in covered]
    wanted = [value for one in fused for value in one.inputs]
    provided = {value.name for one in fused for value in one.outputs}
    folded = {
        value.name: value.weight
        for value in wanted
        if value.weight is not None
        and value.name not in given
        and value.name not in provided
        and not (value.is_output and value.name in source)
    }
    folded.update(_decided(graph, members, proto, before, given | provided))
    known = source.keys() | given | provided | folded.keys() | graph.restated.keys()
    reread, constants = find_reread(now, graph, members, known)
    folded.update((value.name, value.weight) for value in constants)
    for k, node in reread.items():
        reads[k] = scope.reads(node)
    provided |= set(folded)
    roots = results + [value.name for value in wanted]
    roots += [name for k in spared for name in reads[k]]
    invented = _invented(graph, source, given | provided)
    extra: dict[int, Node] = {}
    while True:
        kept, needed = _follow(roots, reads, source, provided)
        new = {
            id(invented[name]): invented[name]
            for name in sorted(needed)
            if name in invented and id(invented[name]) not in extra
        }
        if not new:
            break
        extra.update(new)
        for node in new.values():
            read = [value for value in node.inputs if value is not None]
            roots += [value.name for value in read]
            made = {
                value.name: value.weight
                for value in read
                if value.weight is not None and value.name not in given and value.name not in source
            }
            folded.update(made)
            provided.update(made)
            provided |= {value.name for value in node.outputs if value is not None}
    return Demand(
        frozenset(kept | set(spared)),
        reread,
        tuple(extra.values()),
        folded,
        frozenset(needed),
        frozenset(results).union(*before),
    )


def _decided(
    graph: Graph,
    members: Collection[Node],
    proto: onnx.GraphProto,
    reads: Sequence[Collection[str]],
    known: Collection[str],
) -> dict[str, Weight]:
    """Return the constants that unfused nodes read, and that the input model computes from what is
    fused.

    The size of a Resize may be the extents of a convolution's result: computed as they were, they
    would keep the convolution beside the region that has it.
    """
    covered = {k for node in members for k in node.origin}
    behind: set[str] = set()
    for k, node in enumerate(proto.node):
        if k in covered or not behind.isdisjoint(reads[k]):
            behind.update(node.output)
    return {
        value.name: value.weight
        for node in graph.nodes
        if node not in members
        for value in node.inputs
        if value is not None
        and value.weight is not None
        and value.name in behind
        and not value.is_output
        and value.name not in known
    }


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the graph's initializers, dense and sparse."""
    names = {tensor.name for tensor in graph.initializer}
    return names | {sparse.values.name for sparse in graph.sparse_initializer}


def _other_reads(model: onnx.ModelProto) -> list[str]:
    """Return the names that neither a node nor a graph output reads: quantization and training."""
    names = [
        entry.value
        for annotation in model.graph.quantization_annotation
        for entry in annotation.quant_parameter_tensor_names
    ]
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            names += sorted(scope.free_names(graph))
        names += [binding.key for binding in training.update_binding]
    return [name for name in names if name]


def _follow(
    roots: Iterable[str],
    reads: Sequence[Collection[str]],
    source: Mapping[str, int],
    provided: Collection[str],
) -> tuple[set[int], set[str]]:
    """Return the original nodes behind the names in `roots`, and all names on the way."""
    nodes: set[int] = set()
    names: set[str] = set()
    work = list(roots)
    while work:
        name = work.pop()
        if name in names:
            continue
        names.add(name)
        k = source.get(name)
        if k is not None and k not in nodes and name not in provided:
            nodes.add(k)
            work += reads[k]
    return nodes, names


def _invented(graph: Graph, source: Mapping[str, int], known: Collection[str]) -> dict[str, Node]:
    """Return, by output name, the nodes that define values the input model does not have, or those
    that it defines otherwise."""
    restated = itertools.chain.from_iterable(graph.restated.values())
    return {
        value.name: node
        for node in (*written_nodes(graph.nodes), *restated)
        for value in node.outputs
        if value is not None and value.name not in source and value.name not in known
    }
