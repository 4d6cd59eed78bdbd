"""Finds the type and shape of every value."""

from __future__ import annotations

from collections.abc import Container, Iterable, MutableSequence, Sequence

import onnx
from onnx.shape_inference import InferenceError, infer_shapes

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import scope
from onnx_fusion.graph.check import ONNX_DOMAINS
from onnx_fusion.graph.model import MADE_UP, Dim, Graph, Node, Value, made_up
from onnx_fusion.graph.view import read_attributes, read_type
from onnx_fusion.passes import contradiction
from onnx_fusion.passes.decided import taken
from onnx_fusion.passes.extent_rules import is_misjudged, output_extents
from onnx_fusion.passes.extents import Extents
from onnx_fusion.passes.stand_in import stand_in
from onnx_fusion.passes.windows import Extent, shrinks

_MAX_ROUNDS = 32
_WITH_DATA = 1024
"""Constants up to this many bytes are shown to onnx, which computes with shape tensors."""

Info = tuple[DType | None, tuple[Dim | None, ...] | None]


def infer(graph: Graph) -> Graph:
    """Set `dtype` and `shape` of every value as far as they can be known; return `graph`.

    onnx.shape_inference does the work, on protos without big data. Unknown extents get symbols that
    start with MADE_UP, and equal ones the same symbol where a rule in `extents` shows it. What the
    model says of its own inner values and outputs is used for types, for operators that onnx cannot
    infer, and, if every input is static, for extents: exporters and people who make inputs dynamic
    by hand leave declarations behind that are not true, and ONNX Runtime only warns. What onnx is
    known to get wrong is hidden from it.

    Raises ModelError if a node's input shapes contradict each other and ONNX Runtime thinks so too.
    """
    hidden = _misjudged(graph)
    proto = _skeleton(graph, hidden)
    try:
        found = _read(infer_shapes(proto, check_type=False, strict_mode=True, data_prop=True))
    except (InferenceError, RuntimeError, ValueError):
        found = _read(infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True))
        contradiction.check(graph, proto, found)
    given: dict[str, onnx.ValueInfoProto] = {}
    rounds = 0
    while rounds < _MAX_ROUNDS:
        _assign(graph, found)
        misjudged = _misjudged(graph) - hidden
        if not misjudged:  # else what follows from wrong extents would be learnt, and kept
            _unify(graph)
            misjudged = _misjudged(graph) - hidden
        if misjudged:
            hidden |= misjudged
            proto = _skeleton(graph, hidden)
            _declare(proto, given.values())
        else:
            hints = _hints(graph, given, hidden)
            if not hints:
                break
            given.update((hint.name, hint) for hint in hints)
            _declare(proto, hints)
            rounds += 1
        found = _read(infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True))
    return graph


def _declare(proto: onnx.ModelProto, hints: Iterable[onnx.ValueInfoProto]) -> None:
    outputs = {info.name: info for info in proto.graph.output}
    for hint in hints:
        if hint.name in outputs:
            outputs[hint.name].CopyFrom(hint)
        else:
            proto.graph.value_info.append(hint)


def has_room(graph: Graph) -> bool:
    """Return whether no window is longer than what it slides over, as far as a Slice follows.

    onnx takes that for granted: it ends the process where it slices an extent below 0. So nodes are
    shown to it up to the first Slice behind a window, then up to the next.
    """
    turns: dict[Value, int] = {}  # odd behind a window, even again behind the Slice that follows
    stages: list[list[Node]] = [[]]
    for node in graph.nodes:
        turn = max((turns.get(value, 0) for value in filter(None, node.inputs)), default=0)
        parts = node.parts or (node,)
        turn += turn % 2 if any(part.op_type == "Slice" for part in parts) else 0
        turn |= any(map(shrinks, parts))
        turns.update(dict.fromkeys(filter(None, node.outputs), turn))
        stages.extend([] for _ in range(len(stages), turn // 2 + 1))
        stages[turn // 2].append(node)
    shown: list[Node] = []
    for stage in stages[:-1]:
        shown += stage
        proto = _skeleton(graph, _misjudged(graph), shown)
        proto = infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        found = [info.type.tensor_type.shape for info in proto.graph.value_info]
        if any(dim.dim_value < 0 for shape in found for dim in shape.dim):
            return False
    return True


def _assign(graph: Graph, found: dict[str, Info]) -> None:
    """Set types and shapes to what inference found; unknown extents get made-up symbols."""
    declared = _declared(graph)
    static = _is_static(graph)
    symbols = {dim for value in graph.inputs for dim in value.shape or ()}
    renamed: dict[str, str] = {}
    for value in graph.values.values():
        if value.producer is None:
            continue
        dtype, shape = found.get(value.name, (None, None))
        told_dtype, told = declared.get(value.name, (None, None))
        value.dtype = dtype or told_dtype
        if shape is None or not static or told is None or len(told) != len(shape):
            told = (None,) * len(shape or ())
        value.shape = None if shape is None else tuple(
            _name(dim, told[axis], value, axis, symbols, renamed) for axis, dim in enumerate(shape))


def _is_static(graph: Graph) -> bool:
    return all(value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
               for value in graph.inputs)


def _unify(graph: Graph) -> None:
    """Give extents that the rules show to be equal one name, until nothing new is learnt."""
    extents = Extents()
    open_nodes = [node for node in graph.nodes if node.outputs and _is_open(node.outputs[0])]
    before = -1
    while before != extents.count():
        before = extents.count()
        for node in open_nodes:
            for value in filter(None, node.inputs):
                value.shape = value.shape and extents.shape(value.shape)
            extents.agree(node)
            found = output_extents(node) or ()
            output = node.outputs[0]
            if len(found) == len(output.shape):
                for dim, extent in zip(output.shape, found, strict=True):
                    extents.learn(dim, extent)
        for value in graph.values.values():
            if value.shape is not None:
                value.shape = extents.shape(value.shape)
    graph.products.update(extents.products())


def _is_open(value: Value | None) -> bool:
    return value is not None and value.shape is not None and any(
        isinstance(dim, str) for dim in value.shape)


def _name(dim: Dim | None, told: Dim | None, value: Value, axis: int, symbols: set[str],
          renamed: dict[str, str]) -> Dim:
    """Return an inferred extent, with onnx's symbols replaced by made-up ones that name a value."""
    if isinstance(dim, int) or dim in symbols:
        return dim
    if isinstance(told, int):
        return told
    if dim is None:
        return made_up(value.name, axis)
    return dim if dim.startswith(MADE_UP) else renamed.setdefault(dim, made_up(value.name, axis))


def _declared(graph: Graph) -> dict[str, Info]:
    source = graph.model.proto.graph
    return {info.name: read_type(info.type) for info in [*source.value_info, *source.output]}


def _hints(graph: Graph, given: Container[str], hidden: set[Node]) -> list[onnx.ValueInfoProto]:
    """Return what is known of values for which onnx found no type or no rank, and was not told yet.

    From Reshape, Expand and the like if their target is known in part, else from what the model
    declares, of which extents count only if every input is static. Only of values made from known
    ones, if there are any: the rest may then follow.
    """
    declared, static = _declared(graph), _is_static(graph)
    first, rest = [], []
    for node in graph.nodes:
        for value in filter(None, node.outputs):
            if value.name in given or _is_known(value):
                continue
            dtype, shape = declared.get(value.name, (None, None))
            dtype = value.dtype or dtype
            shape = shape and tuple(
                dim if static and isinstance(dim, int) else None for dim in shape)
            if node in hidden:
                dtype = node.inputs[0].dtype if value is node.outputs[0] else DType.I64
                shape = output_extents(node)
            elif value is node.outputs[0]:
                shape = output_extents(node) or shape
            if dtype is not None and (shape is not None or value.dtype is None):
                hints = first if all(map(_is_known, filter(None, node.inputs))) else rest
                hints.append(_value_info(value, dtype, shape))
    return first or rest


def _is_known(value: Value) -> bool:
    return value.dtype is not None and value.shape is not None


def _misjudged(graph: Graph) -> set[Node]:
    return {node for node in graph.nodes if is_misjudged(node, graph.opsets.get("", 0))}


def _skeleton(
    graph: Graph, hidden: set[Node], nodes: Iterable[Node] | None = None
) -> onnx.ModelProto:
    """Return the graph as inference sees it: constants without big data, nothing else declared.

    Without the hidden nodes, and only with `nodes`, if they are given. In bodies and functions,
    whose values are nowhere known, what attributes show to be misjudged is left out.
    """
    model = graph.model.proto
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import,
                            functions=model.functions)
    proto.graph.name = model.graph.name
    for value in graph.values.values():
        if value.weight is not None:
            small = value.weight.nbytes <= _WITH_DATA
            proto.graph.initializer.append(value.weight.tensor(value.name, data=small))
    for value in graph.values.values():
        if value.weight is None and value.producer is None:
            proto.graph.input.append(_given_info(graph, value))
    for node in graph.nodes if nodes is None else nodes:
        if node not in hidden:
            proto.graph.node.extend(
                [part.proto for part in node.parts] or stand_in(node) or [taken(node)])
    for value in graph.outputs:
        proto.graph.output.add(name=value.name)
    for node in proto.graph.node:
        for body in scope.subgraphs(node):
            _leave_out(body.node, graph.opsets.get("", 0))
    for function in proto.functions:
        opsets = [e.version for e in function.opset_import if e.domain in ONNX_DOMAINS]
        _leave_out(function.node, max(opsets, default=0))
    return proto


def _leave_out(nodes: MutableSequence[onnx.NodeProto], opset: int) -> None:
    """Take out what onnx gets wrong, in bodies inside too."""
    for k in reversed(range(len(nodes))):
        proto = nodes[k]
        unknown = [None] * len(proto.input), [None] * len(proto.output)
        domain = "" if proto.domain in ONNX_DOMAINS else proto.domain
        own = onnx.NodeProto(attribute=[a for a in proto.attribute if not a.ref_attr_name])
        node = Node(proto.op_type, domain, "", *unknown, read_attributes(own), frozenset())
        if is_misjudged(node, opset):
            del nodes[k]
            continue
        for body in scope.subgraphs(proto):
            _leave_out(body.node, opset)


def _given_info(graph: Graph, value: Value) -> onnx.ValueInfoProto:
    """Return an input's own declaration, which may be of a type that Value cannot say."""
    if value.dtype is not None:
        return _value_info(value, value.dtype, value.shape)
    for info in graph.model.proto.graph.input:
        if info.name == value.name:
            return info
    return onnx.ValueInfoProto(name=value.name)


def _value_info(value: Value, dtype: DType, shape: Sequence[Extent] | None) -> onnx.ValueInfoProto:
    """Return a declaration; extents that are no int or symbol get a made-up one."""
    info = onnx.ValueInfoProto(name=value.name)
    info.type.tensor_type.elem_type = dtype.onnx
    if shape is not None:
        info.type.tensor_type.shape.SetInParent()
        for axis, dim in enumerate(shape):
            entry = info.type.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            else:
                entry.dim_param = dim if isinstance(dim, str) else made_up(value.name, axis)
    return info


def _read(proto: onnx.ModelProto) -> dict[str, Info]:
    return {info.name: read_type(info.type)
            for info in [*proto.graph.value_info, *proto.graph.output]}
