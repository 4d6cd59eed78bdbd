"""Turns a model into a Graph: onnx-graphsurgeon's import, with indices into the model kept."""

from __future__ import annotations

import math
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnx_fusion.dtypes import DType, from_onnx
from onnx_fusion.graph import scope
from onnx_fusion.graph.check import OLDEST_OPSET, ONNX_DOMAINS
from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import LOCAL, MADE_UP, Around, Dim, Graph, Node, Origin, Value, made_up
from onnx_fusion.graph.names import node_name
from onnx_fusion.graph.weights import Weight, is_fixed_size

STAND_IN_BATCH = 1
"""What a symbol counts for in sizes if it is the first dimension."""
STAND_IN_EXTENT = 128
"""What a symbol counts for in sizes anywhere else."""

_FOREIGN = (MADE_UP, "unk__")
"""How names start that tools give to extents they know nothing about."""


def view(model: Model) -> Graph:
    """Return the model's graph: nodes in an order they can run in, each with a unique name.

    An initializer is constant unless it is also a graph input in IR >= 4 (ONNX spec, IR.md: its
    value is a default). Types and shapes are set for inputs and initializers only, and for what a
    body is given by the graphs around it: `passes.infer` finds the rest.
    """
    source, around = model.proto.graph, model.around
    surgeon = gs.import_onnx(_topology(model.proto))
    order, _ = scope.sort_nodes(source)
    values = {name: Value(name) for name in surgeon.tensors() if name}
    for info in [*source.input, *source.output]:
        values.setdefault(info.name, Value(info.name))
    inputs = []
    initial = {tensor.name for tensor in source.initializer}
    for info in source.input:
        value = values[info.name]
        value.dtype, shape = read_type(info.type)
        value.shape = shape and tuple(
            made_up(value.name, axis) if dim is None or str(dim).startswith(_FOREIGN) else dim
            for axis, dim in enumerate(shape))
        if model.proto.ir_version >= 4 or info.name not in initial:
            inputs.append(value)
    overridable = {value.name for value in inputs}
    if around is not None:
        inputs += _take_given(source, around, values)
    for tensor in source.initializer:
        value = values.setdefault(tensor.name, Value(tensor.name))
        weight = model.weights.get(tensor.name)
        if weight is None and is_fixed_size(tensor.data_type):
            weight = Weight.of_tensor(tensor)
        value.dtype, value.shape = from_onnx(tensor.data_type), tuple(tensor.dims)
        if tensor.name not in overridable:
            value.weight = weight
    for sparse in source.sparse_initializer:
        value = values.setdefault(sparse.values.name, Value(sparse.values.name))
        value.dtype, value.shape = from_onnx(sparse.values.data_type), tuple(sparse.dims)
    nodes = []
    local = {("" if function.domain in ONNX_DOMAINS else function.domain, function.name)
             for function in model.proto.functions}
    path = around.path if around is not None else ""
    taken = {node.name for node in source.node}
    seen: set[str] = set()
    for i in order:
        name = _unique(source.node[i], i, taken, seen)
        origin = Origin(i, path + node_name(source.node[i], i))
        nodes.append(_node(source.node[i], origin, path + name, surgeon.nodes[i], values, local))
    outputs = [values[info.name] for info in source.output]
    for value in outputs:
        value.is_output = True
    opsets = {"" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version
              for entry in model.proto.opset_import}
    graph = Graph(model, nodes, values, inputs, outputs, opsets)
    if around is None:
        graph.names = scope.all_names(source)
    else:
        graph.names, graph.path, graph.outer = around.names, path, frozenset(around.values)
    return graph


def _take_given(source: onnx.GraphProto, around: Around, values: dict[str, Value]) -> list[Value]:
    """Give a body's inputs their types, and add what it captures; return what of that may vary."""
    for info, (dtype, shape) in zip(source.input, around.formal, strict=True):
        values[info.name].dtype, values[info.name].shape = dtype, shape
    captured = []
    for name, outer in around.values.items():
        value = values.setdefault(name, Value(name))
        value.dtype, value.shape, value.weight = outer.dtype, outer.shape, outer.weight
        if value.weight is None:
            captured.append(value)
    return captured


def irs_bytes(value: Value) -> int:
    """Return the size of an intermediate result in bytes, 0 if its type or rank is unknown.

    A symbol counts as STAND_IN_BATCH in the first dimension and as STAND_IN_EXTENT in any other.
    """
    if value.dtype is None or value.shape is None:
        return 0
    stand_in = [STAND_IN_BATCH] + [STAND_IN_EXTENT] * len(value.shape)
    extents = (dim if isinstance(dim, int) else stand_in[axis]
               for axis, dim in enumerate(value.shape))
    return value.dtype.size * math.prod(extents)


def read_type(
    proto: onnx.TypeProto,
) -> tuple[DType | None, tuple[Dim | None, ...] | None]:
    """Return (element type, shape) of a value's declared type; (None, None) if it is no tensor.

    A dimension that is not declared at all comes as None.
    """
    if not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return from_onnx(tensor.elem_type), None
    dims: list[Dim | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return from_onnx(tensor.elem_type), tuple(dims)


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values, as `graph.model.Node` describes them."""
    return {attribute.name: _attribute(attribute) for attribute in node.attribute}


def _attribute(attribute: onnx.AttributeProto) -> Any:
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.TENSOR:
            return _array(attribute.t)
        case kinds.TENSORS:
            return [_array(tensor) for tensor in attribute.tensors]
        case kinds.STRING:
            return attribute.s.decode("utf-8", "surrogateescape")
        case kinds.STRINGS:
            return [text.decode("utf-8", "surrogateescape") for text in attribute.strings]
        case kinds.UNDEFINED:
            return None
    value = onnx.helper.get_attribute_value(attribute)
    return list(value) if attribute.type in (kinds.FLOATS, kinds.INTS, kinds.GRAPHS) else value


def _array(tensor: onnx.TensorProto) -> Any:
    if is_fixed_size(tensor.data_type):
        return Weight.of_tensor(tensor).array()
    return onnx.numpy_helper.to_array(tensor)


def _topology(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model's nodes and names alone: what onnx-graphsurgeon reads without any loss."""
    bare = onnx.ModelProto(ir_version=proto.ir_version)
    bare.opset_import.add(domain="", version=OLDEST_OPSET)
    graph = bare.graph
    graph.name = proto.graph.name
    for kind in ("input", "output"):
        for info in getattr(proto.graph, kind):
            getattr(graph, kind).add(name=info.name)
    for node in proto.graph.node:
        graph.node.add(name=node.name, op_type=node.op_type, domain=node.domain,
                       input=node.input, output=node.output)
    return bare


def _node(proto: onnx.NodeProto, origin: Origin, name: str, surgeon: gs.Node,
          values: dict[str, Value], local: set[tuple[str, str]]) -> Node:
    domain = "" if proto.domain in ONNX_DOMAINS else proto.domain
    if (domain, proto.op_type) in local:
        domain = LOCAL + domain
    node = Node(proto.op_type, domain, name,
                [values.get(tensor.name) for tensor in surgeon.inputs],
                [values.get(tensor.name) for tensor in surgeon.outputs],
                read_attributes(proto), frozenset((origin,)), proto)
    captured = set().union(*map(scope.free_names, scope.subgraphs(proto)))
    node.captures = tuple(values[name] for name in sorted(captured) if name in values)
    for value in node.captures:
        value.captured = True
    for value in dict.fromkeys(filter(None, (*node.inputs, *node.captures))):
        value.consumers.append(node)
    for value in filter(None, node.outputs):
        value.producer = node
    return node


def _unique(proto: onnx.NodeProto, index: int, taken: set[str], seen: set[str]) -> str:
    name = proto.name
    if not name or name in seen:
        name = f"{proto.name or proto.op_type}_{index}"
        while name in taken or name in seen:
            name += "_"
    seen.add(name)
    return name
