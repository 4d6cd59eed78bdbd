"""Makes a graph of each of the model's own functions whose inputs are known from all its calls.

A function is written once and called often. What is planned for it must be right for every call,
so an extent that differs between calls is unknown, and a type that differs ends the matter.

ONNX Runtime infers types inside a function from functions and ONNX's own operators only: what is
fused there must have a portable function too, or the model does not load (1.19 to 1.32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx

from onnx_fusion.errors import ModelError
from onnx_fusion.graph import scope
from onnx_fusion.graph.check import ONNX_DOMAINS, check_names
from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import LOCAL, Around, Body, Graph, Node, walk
from onnx_fusion.graph.names import function_path
from onnx_fusion.passes.bodies import BODY_IR, Left, Prepare, add_bodies, common, type_of

Key = tuple[str, str, str]
"""A function's domain, name and overload."""


def add_functions(graph: Graph, prepare: Prepare, leave: Collection[str] = ()) -> list[Left]:
    """Give the main graph its `functions`, and it and each of them their `bodies`; return what is
    left out, with the reason.

    Callers come before what they call, so that all calls of a function are known when it is made.
    """
    left = add_bodies(graph, prepare, leave)
    model = graph.model.proto
    wanted = Counter(map(_key, _every_node(model)))
    waiting = {_name(proto): k for k, proto in enumerate(model.functions) if wanted[_name(proto)]}
    calls: dict[Key, list[Node]] = {key: [] for key in waiting}
    fresh = list(walk(graph))
    while fresh:
        for one in fresh:
            for node in one.nodes:
                if node.domain.startswith(LOCAL) and node.proto is not None:
                    calls.get(_key(node.proto), []).append(node)
        fresh = []
        for key in [key for key in waiting if len(calls[key]) == wanted[key]]:
            index = waiting.pop(key)
            proto = model.functions[index]
            if proto.name in leave or any(node.name in leave for node in calls[key]):
                continue
            try:
                made = prepare(_find_model(graph, proto, calls[key]))
            except ModelError as error:
                left.append(Left(calls[key][0].name, function_path(proto)[:-1], str(error)))
                continue
            left += add_bodies(made, prepare, leave)
            graph.functions.append(Body(index, "", 0, made))
            fresh += walk(made)
    left += [Left(calls[key][0].name, function_path(model.functions[index])[:-1],
                  "what calls it is not planned everywhere")
             for key, index in waiting.items() if calls[key]]
    return left


def _find_model(graph: Graph, proto: onnx.FunctionProto, calls: list[Node]) -> Model:
    """Return the function as a model, with types for its inputs that hold at every call."""
    path = function_path(proto)
    where = f"{graph.model.where}: {path[:-1]}"
    for entry in proto.opset_import:
        domain = "" if entry.domain in ONNX_DOMAINS else entry.domain
        if graph.opsets.get(domain) != entry.version:
            raise ModelError(f"{where}: imports another opset of '{domain}' than the model")
    whole = onnx.ModelProto(ir_version=max(graph.model.proto.ir_version, BODY_IR),
                            opset_import=proto.opset_import,
                            functions=graph.model.proto.functions)
    inner = whole.graph
    inner.name = proto.name
    inner.node.extend(proto.node)
    inner.value_info.extend(proto.value_info)
    for name in proto.input:
        inner.input.add(name=name)
    for name in proto.output:
        inner.output.add(name=name)
    if any(attribute.ref_attr_name
           for node in scope.every_node(inner) for attribute in node.attribute):
        raise ModelError(f"{where}: depends on attributes of its calls")
    check_names(inner, set(), where)
    formal = []
    for k, name in enumerate(proto.input):
        types = [type_of(call.inputs[k] if k < len(call.inputs) else None) for call in calls]
        known = types[0]
        for other in types[1:]:
            if other[0] is not known[0]:
                raise ModelError(f"{where}: input '{name}' has different types in its calls")
            known = common(name, known, other)
        formal.append(known)
    around = Around(path, tuple(formal), {}, scope.all_names(inner), ())
    return Model(whole, {}, None, where, False, around)


def _name(proto: onnx.FunctionProto) -> Key:
    return "" if proto.domain in ONNX_DOMAINS else proto.domain, proto.name, proto.overload


def _key(node: onnx.NodeProto) -> Key:
    return "" if node.domain in ONNX_DOMAINS else node.domain, node.op_type, node.overload


def _every_node(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    nodes = list(scope.every_node(model.graph))
    for function in model.functions:
        for node in function.node:
            nodes.append(node)
            for body in scope.subgraphs(node):
                nodes += scope.every_node(body)
    return nodes
