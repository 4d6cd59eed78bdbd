"""Writes a model anew with one node for each fused region; the rest is the input's own protos."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnx_fusion.emit import layout, naming
from onnx_fusion.emit.demand import Demand, find_demand, initializer_names
from onnx_fusion.emit.function import FUNCTION_IR, build_function, node_proto, plain_domain
from onnx_fusion.emit.live import find_read
from onnx_fusion.emit.order import Item, order
from onnx_fusion.emit.supply import write_constants
from onnx_fusion.errors import ModelError, OnnxFusionError
from onnx_fusion.graph import scope
from onnx_fusion.graph.model import walk

if TYPE_CHECKING:
    from onnx_fusion.dtypes import DType
    from onnx_fusion.fusion.plan import Region
    from onnx_fusion.graph.load import Model
    from onnx_fusion.graph.model import Body, Dim, Graph, Node, Value
    from onnx_fusion.graph.weights import Weight
    from onnx_fusion.lower import Lowered

    Fused = list[tuple[Lowered, str]]

CONSTANT_INITIALIZERS_IR = 4
"""The first IR version whose initializers need not be graph inputs; one that is, is a default."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """A model ready to save: `proto`, whose initializers named in `weights` have no data here.

    `left_out` are the regions for which there was no name left (naming.MOST distinct ones).
    """

    proto: onnx.ModelProto
    weights: dict[str, Weight]
    left_out: tuple[Region, ...] = ()


class NotConvexError(OnnxFusionError):
    """Raised if a region's inputs depend on its outputs, by way of other fused nodes or not."""

    def __init__(self, region: str) -> None:
        super().__init__(f"region '{region}': not convex: its inputs depend on its outputs")
        self.region = region


def emit(model: Model, graph: Graph, fused: Sequence[Lowered], *, fallback: bool = True) -> Emitted:
    """Return `model` with each region in `fused`, all disjoint and convex, as one node.

    A region is in `graph`, or in a body or function of it, and its node is written there. Nodes
    that only fed fused ones go, the others keep their protos and their order. With `fallback` each
    fused node has a model-local function, so that the model also runs without the native
    library; the IR version is then at least 8. Opsets never change. With nothing fused the result
    equals the input. Raises OnnxFusionError, naming the region, for what cannot be written.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    fused = find_read(graph, fused)
    if not fused:
        return Emitted(proto, dict(model.weights))
    if any(function.domain == naming.DOMAIN for function in proto.functions):
        raise ModelError(f"{model.where}: has {naming.DOMAIN} functions; start from the original")
    numbers: list[int | None] = [None] * len(fused)
    left_out: tuple[Region, ...] = ()
    if fallback:
        numbers = _add_functions(proto, fused)
        left_out = tuple(
            one.region for one, k in zip(fused, numbers, strict=True) if k >= naming.MOST
        )
        fused = [one for one in fused if one.region not in left_out]
    kinds = [naming.op_type(k) for k in numbers if k is None or k < naming.MOST]
    if all(entry.domain != naming.DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(naming.DOMAIN, naming.VERSION))
    where = _by_graph(graph, fused, kinds)
    folded = _fuse(proto, graph, where, proto.ir_version)
    for body in graph.functions:
        if body.graph in where:
            _fuse_function(proto.functions[body.index], body.graph, where, proto.ir_version)
    names = {tensor.name for tensor in proto.graph.initializer}
    weights = {name: weight for name, weight in model.weights.items() if name in names}
    return Emitted(proto, weights | folded, left_out)


def _by_graph(graph: Graph, fused: Sequence[Lowered], kinds: Sequence[str]) -> dict[Graph, Fused]:
    """Return, for each graph in which or in whose bodies something is fused, what is in itself.

    The main graph is among them."""
    owner = {node: inner for inner in walk(graph) for node in inner.nodes}
    outer = {
        body.graph: around for around in walk(graph) for body in (*around.bodies, *around.functions)
    }
    found: dict[Graph, Fused] = {graph: []}
    for one, kind in zip(fused, kinds, strict=True):
        here = owner.get(one.region.nodes[0], graph)
        found.setdefault(here, []).append((one, kind))
        while here in outer:
            here = outer[here]
            found.setdefault(here, [])
    return found


def _fuse(
    proto: onnx.ModelProto, graph: Graph, where: Mapping[Graph, Fused], ir: int
) -> dict[str, Weight]:
    """Write the fused nodes into `proto`, a copy of the graph's; return its new constants, which
    have no data yet. Bodies come first: what they no longer read may go from the graphs around.
    `ir` is the whole model's IR version."""
    source = graph.model.proto
    for body in graph.bodies:
        if body.graph not in where:
            continue
        if source is graph.model.proto:
            source = onnx.ModelProto()
            source.CopyFrom(graph.model.proto)
        inner = onnx.ModelProto()
        inner.CopyFrom(body.graph.model.proto)
        folded = _fuse(inner, body.graph, where, ir)
        if ir < CONSTANT_INITIALIZERS_IR:  # a body's inputs are what its node gives it
            write_constants(inner.graph, folded, graph.opsets)
            _keep(inner.graph.initializer, list(inner.graph.initializer),
                  lambda tensor, gone=folded: tensor.name not in gone)
        for tensor in inner.graph.initializer:
            if tensor.name in folded:
                tensor.raw_data = bytes(folded[tensor.name].raw())
        _body_proto(source.graph.node[body.index], body).CopyFrom(inner.graph)
    if source is not graph.model.proto:
        proto.graph.CopyFrom(source.graph)
    fused = [one for one, _ in where[graph]]
    demand = find_demand(source, graph, fused)
    names = _write_nodes(proto, source, graph, demand, where[graph])
    _write_initializers(proto, source, demand)
    _check_reads(proto, graph)
    _write_value_info(proto, source, fused, names)
    return demand.folded


def _fuse_function(
    function: onnx.FunctionProto, graph: Graph, where: Mapping[Graph, Fused], ir: int
) -> None:
    """Write the fused nodes into one of the model's own functions; constants become nodes there."""
    inner = onnx.ModelProto()
    inner.CopyFrom(graph.model.proto)
    write_constants(inner.graph, _fuse(inner, graph, where, ir), graph.opsets)
    del function.node[:]
    function.node.extend(inner.graph.node)
    if function.value_info:
        del function.value_info[:]
        function.value_info.extend(inner.graph.value_info)
    function.opset_import.append(helper.make_opsetid(naming.DOMAIN, naming.VERSION))


def _body_proto(node: onnx.NodeProto, body: Body) -> onnx.GraphProto:
    attribute = next(entry for entry in node.attribute if entry.name == body.attribute)
    is_list = attribute.type == onnx.AttributeProto.GRAPHS
    return attribute.graphs[body.position] if is_list else attribute.g


def _add_functions(proto: onnx.ModelProto, fused: Sequence[Lowered]) -> list[int]:
    """Add the regions' functions, raise the IR version to theirs; return the regions' numbers."""
    opsets = {plain_domain(entry.domain): entry.version for entry in proto.opset_import}
    functions = [build_function(one, opsets) for one in fused]
    bodies = [function.SerializeToString(deterministic=True) for function in functions]
    numbers = naming.number(bodies, [one.region.irs_bytes_saved for one in fused])
    for k, function in sorted(dict(zip(numbers, functions, strict=True)).items()):
        if k < naming.MOST:
            function.domain, function.name = naming.DOMAIN, naming.op_type(k)
            proto.functions.append(function)
    proto.ir_version = max(proto.ir_version, FUNCTION_IR)
    return numbers


def _write_nodes(
    proto: onnx.ModelProto, source: onnx.ModelProto, graph: Graph, demand: Demand, fused: Fused
) -> dict[Value, str]:
    """Write all nodes in order; return the names of the values that fused nodes have not as
    rows."""
    original = source.graph.node
    provided = {value.name for one, _ in fused for value in one.outputs} | set(demand.folded)
    provided |= {value.name for node in demand.extra for value in node.outputs if value is not None}
    taken = graph.names | scope.all_names(graph.model.proto.graph) | provided
    nodes = [
        (k, _without(demand.reread.get(k, original[k]), provided, taken))
        for k in sorted(demand.kept)
    ]
    regions = [one for one, _ in fused]
    called = {node.name for _, node in nodes}
    own = {one.region.name: layout.fresh(one.region.name, called) for one in regions}
    nodes += [(max(node.origin, default=-1), _called(node, called)) for node in demand.extra]
    names = layout.name_layouts(regions, taken)
    given = {tensor.name for tensor in source.graph.initializer}
    for one, kind in fused:
        node = helper.make_node(
            kind,
            layout.called(one.inputs, one, names),
            layout.called(one.outputs, one, names),
            own[one.region.name],
            domain=naming.DOMAIN,
            program=one.program,
            **({"ptx": one.ptx} if one.ptx else {}),
            **_schedule(one, given),
        )
        nodes.append((max(k for part in one.region.nodes for k in part.origin), node))
    results = [value.name for value in source.graph.output]
    written = [node for _, node in nodes]
    nodes += [(-1, node) for node in layout.bridges(written, regions, names, results)]
    items = [Item(position, scope.reads(node), node.output, node) for position, node in nodes]
    ordered, left = order(items)
    stuck = [item.content.name for item in _inner(left) if item.content.domain == naming.DOMAIN]
    if stuck:
        raise NotConvexError(stuck[0])
    del proto.graph.node[:]
    proto.graph.node.extend(item.content for item in ordered)
    return names


def _called(node: Node, taken: set[str]) -> onnx.NodeProto:
    """Return what is written of a node that a pass made, under a name of its own."""
    proto = node_proto(node)
    if proto.name:
        proto.name = layout.fresh(proto.name, taken)
    return proto


def _schedule(one: Lowered, given: Collection[str]) -> dict[str, str]:
    """Return the node's schedule: which inputs are initializers that a caller may replace."""
    kept = [str(k) for k, v in enumerate(one.inputs) if v.weight is None and v.name in given]
    return {"schedule": f"kept={','.join(kept)}"} if kept else {}


def _inner(left: Sequence[Item]) -> list[Item]:
    """Return those of the items on or behind cycles that others of them still wait for."""
    kept = list(left)
    while True:
        read = {name for item in kept for name in item.reads}
        some = [item for item in kept if read.intersection(item.outputs)]
        if len(some) == len(kept):
            return kept
        kept = some


def _check_reads(proto: onnx.ModelProto, graph: Graph) -> None:
    known = _defined(proto.graph) | {value.name for value in proto.graph.input} | graph.outer
    for node in proto.graph.node:
        for name in node.input if node.domain == naming.DOMAIN else ():
            if name not in known:
                raise OnnxFusionError(
                    f"region '{node.name}': reads '{name}', which nothing defines"
                )


def _without(node: onnx.NodeProto, provided: set[str], taken: set[str]) -> onnx.NodeProto:
    """Return the node, with other names for outputs that something else now provides."""
    if not any(name in provided for name in node.output):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for k, name in enumerate(node.output):
        if name in provided:
            copy.output[k] = layout.fresh(f"{name}_unfused", taken)
    return copy


def _write_initializers(proto: onnx.ModelProto, source: onnx.ModelProto, demand: Demand) -> None:
    """Drop the initializers that only removed nodes read, and add the folded constants.

    An initializer that is also a graph input is that input's default, and stays. Below IR 4, where
    every initializer is listed as an input, the lists change together.
    """
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    before = source.ir_version >= CONSTANT_INITIALIZERS_IR
    now = proto.ir_version >= CONSTANT_INITIALIZERS_IR
    names = initializer_names(graph)
    gone = {
        name
        for name in names - demand.needed
        if name in demand.needed_before and not (before and name in inputs)
    }
    _keep(graph.initializer, source.graph.initializer, lambda tensor: tensor.name not in gone)
    _keep(
        graph.sparse_initializer,
        source.graph.sparse_initializer,
        lambda sparse: sparse.values.name not in gone,
    )
    if not before:
        unlisted = names if now else gone
        _keep(graph.input, source.graph.input, lambda value: value.name not in unlisted)
    for name, weight in demand.folded.items():
        graph.initializer.append(weight.tensor(name, data=False))
        if not now:
            graph.input.append(helper.make_tensor_value_info(name, weight.code, weight.shape))


def _write_value_info(
    proto: onnx.ModelProto, source: onnx.ModelProto, fused: Sequence[Lowered],
    names: Mapping[Value, str],
) -> None:  # fmt: skip
    """Drop what describes values that are gone, and describe the fused nodes' outputs."""
    graph = proto.graph
    gone = _defined(source.graph) - _defined(graph)
    described = {
        value.name: value
        for value in (*source.graph.value_info, *source.graph.output, *source.graph.input)
    }
    symbols = {
        dim.dim_param
        for value in described.values()
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    outputs = {value.name for value in graph.output}
    new = {
        value.name: info
        for one in fused
        for value in one.outputs
        if not _describes(described.get(value.name), value)
        and value.name not in outputs
        and value not in one.layouts
        and (info := _describe(value.name, value.dtype, value.shape, symbols)) is not None
    }
    new |= {
        names[value]: info
        for one in fused
        for value in one.outputs
        if value in one.layouts
        and (
            info := _describe(
                names[value], value.dtype, layout.permuted(value, one.layouts[value]), symbols
            )
        )
    }
    _keep(
        graph.value_info,
        source.graph.value_info,
        lambda value: value.name not in gone and value.name not in new,
    )
    graph.value_info.extend(new.values())
    _keep(
        graph.quantization_annotation,
        source.graph.quantization_annotation,
        lambda annotation: annotation.tensor_name not in gone,
    )


def _describe(
    name: str, dtype: DType | None, shape: Sequence[Dim] | None, symbols: set[str]
) -> onnx.ValueInfoProto | None:
    """Return type and shape, without the symbols that the input model does not use."""
    if dtype is None:
        return None
    if shape is not None:
        shape = [dim if isinstance(dim, int) or dim in symbols else None for dim in shape]
    return helper.make_tensor_value_info(name, dtype.onnx, shape)


def _describes(info: onnx.ValueInfoProto | None, value: Value) -> bool:
    """Return whether type and rank are there, and no extent that inference does not find."""
    if info is None:
        return False
    tensor = info.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.UNDEFINED or not tensor.HasField("shape"):
        return False
    dims = tensor.shape.dim
    return (
        value.shape is None
        or len(dims) == len(value.shape)
        and all(
            not dim.HasField("dim_value") or dim.dim_value == known
            for dim, known in zip(dims, value.shape, strict=True)
        )
    )


def _defined(graph: onnx.GraphProto) -> set[str]:
    return initializer_names(graph) | {name for node in graph.node for name in node.output if name}


def _keep(field, source, keep) -> None:
    """Make a repeated field those entries of `source`, which it equals, that `keep` holds for."""
    entries = [entry for entry in source if keep(entry)]
    if len(entries) < len(field):
        del field[:]
        field.extend(entries)
