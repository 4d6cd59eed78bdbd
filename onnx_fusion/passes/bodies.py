"""Makes a graph of each body inside a graph: If's branches, what Loop and Scan repeat.

    x[2, 3] --- Loop ---        v in the body: x's shape in the first round, and in the next one
          |  v -> f -> w  |     what f makes of it. [2, 3] again: then it is that in every round.
          +---------------+     [4, 3]: then v is [?, 3], and f is looked at once more.

What a body declares of its inputs is not believed: neither exporters nor ONNX Runtime keep it true.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import onnx

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ModelError
from onnx_fusion.graph import scope
from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import Around, Body, Dim, Graph, Node, Origin, Value, made_up
from onnx_fusion.graph.names import body_path
from onnx_fusion.graph.view import read_type, view
from onnx_fusion.passes.fold import read_constant
from onnx_fusion.passes.infer import infer

Type = tuple[DType | None, tuple[Dim, ...] | None]
Prepare = Callable[[Model], Graph]

_UNKNOWN: Type = (None, None)
BODY_IR = 4
"""The first IR version in which a body's initializers are no inputs of it."""
_MAX_ROUNDS = 4
_SCAN_WITHOUT_BATCH = 9


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """A body that stays as it is: the node that has it, the body, and why."""

    node: str
    body: str
    reason: str


def add_bodies(graph: Graph, prepare: Prepare, leave: Collection[str] = ()) -> list[Left]:
    """Give the graph, and the bodies inside it, their `bodies`; return those left out.

    `prepare` makes the graph of a body that is taken for a model. Bodies of nodes in `leave`, by
    op_type or name, are left without a word, and so are those of operators that do not just run
    them. `graph` must be prepared: what it knows of captured values holds in the body.
    """
    left: list[Left] = []
    work = [graph]
    while work:
        outer = work.pop()
        around = outer.model.around
        known = around.defined if around is not None else ()
        known = (*known, frozenset(scope.defined(outer.model.proto.graph)))
        for node in outer.nodes:
            if node.domain or node.op_type not in _INPUTS or node.op_type in leave:
                continue
            origin = _origin(outer, node)
            if origin is None or origin.name in leave:
                continue
            for attribute, position, proto in scope.bodies(node.proto):
                path = body_path(node, attribute, position)
                try:
                    body = prepare(_find_model(outer, known, node, proto, path))
                except ModelError as error:
                    left.append(Left(origin.name, path[:-1], str(error)))
                    continue
                outer.bodies.append(Body(int(origin), attribute, position or 0, body))
        work += [body.graph for body in reversed(outer.bodies)]
    return left


def _origin(graph: Graph, node: Node) -> Origin | None:
    """Return which of the input model's nodes has this node's bodies; an Identity may be part of
    it, too."""
    if node.proto is None or node.parts:
        return None
    written = graph.model.proto.graph.node
    found = [o for o in node.origin if written[int(o)].op_type == node.op_type]
    return found[0] if len(found) == 1 else None


def _find_model(
    outer: Graph, known: tuple[frozenset[str], ...], node: Node, proto: onnx.GraphProto, path: str
) -> Model:
    """Return the body as a model, with types for its inputs that hold in every round."""
    where = f"{outer.model.where}: {path[:-1]}"
    own = scope.defined(proto)
    for names in known:
        hidden = sorted(own & names)
        if hidden:
            raise ModelError(f"{where}: '{hidden[0]}' is defined outside already")
    captured = sorted(scope.free_names(proto))
    missing = [name for name in captured if name not in outer.values]
    if missing:
        raise ModelError(f"{where}: '{missing[0]}' is no longer there")
    whole = onnx.ModelProto(
        ir_version=max(outer.model.proto.ir_version, BODY_IR),
        opset_import=outer.model.proto.opset_import,
        functions=outer.model.proto.functions,
    )
    whole.graph.CopyFrom(proto)
    formal, repeated = _INPUTS[node.op_type](outer, node, proto)
    if len(formal) != len(proto.input):
        raise ModelError(
            f"{where}: has {len(proto.input)} inputs, and {node.op_type} gives {len(formal)}"
        )
    values = {name: _with_weight(outer.values[name]) for name in captured}
    place = Around(path, tuple(formal), values, outer.names, known)
    model = Model(whole, {}, None, where, False, place)
    return _settle(model, repeated) if repeated else model


def _with_weight(value: Value) -> Value:
    """Return a captured value; what a Constant writes stays in the graph, but is constant too."""
    node = value.producer
    if value.weight is not None or node is None or node.op_type != "Constant" or node.domain:
        return value
    return dataclasses.replace(value, weight=read_constant(node))


def _settle(model: Model, repeated: dict[int, int]) -> Model:
    """Return the model with inputs that are what they are said to be in every round.

    `repeated` says which output is which input of the next round. By induction: the first round's
    types are tried, and weakened until the outputs have them too.
    """
    names = [info.name for info in model.proto.graph.input]
    for _ in range(_MAX_ROUNDS):
        outputs = infer(view(model)).outputs
        formal = list(model.around.formal)
        for k, output in repeated.items():
            after = outputs[output].dtype, outputs[output].shape
            formal[k] = common(names[k], formal[k], after)
        if tuple(formal) == model.around.formal:
            return model
        model = _with_formal(model, formal)
    for k in repeated:
        formal[k] = formal[k][0], None
    return _with_formal(model, formal)


def _with_formal(model: Model, formal: list[Type]) -> Model:
    return dataclasses.replace(
        model, around=dataclasses.replace(model.around, formal=tuple(formal))
    )


def common(name: str, one: Type, other: Type) -> Type:
    """Return what holds of an input that is now of the one type, now of the other."""
    (dtype, shape), (_, other_shape) = one, other
    if shape is None or other_shape is None or len(shape) != len(other_shape):
        return dtype, None
    pairs = enumerate(zip(shape, other_shape, strict=True))
    return dtype, tuple(
        dim if dim == other_dim else made_up(name, axis) for axis, (dim, other_dim) in pairs
    )


def _if_inputs(
    outer: Graph, node: Node, body: onnx.GraphProto
) -> tuple[list[Type], dict[int, int]]:
    return [], {}


def _loop_inputs(
    outer: Graph, node: Node, body: onnx.GraphProto
) -> tuple[list[Type], dict[int, int]]:
    """Return the types of (round, condition, what is carried...), and the outputs carried on."""
    carried = [type_of(value) for value in node.inputs[2:]]
    formal = [_single(body, k) for k in range(2)] + carried
    return formal, {k + 1: k for k in range(min(len(carried) + 1, len(body.output)))}


def _single(body: onnx.GraphProto, k: int) -> Type:
    """Return the type of an input that ONNX Runtime makes itself, of rank 0 or 1 as declared."""
    if k >= len(body.input):
        return _UNKNOWN
    dtype, shape = read_type(body.input[k].type)
    return dtype, (1,) * len(shape) if shape is not None and len(shape) < 2 else None


def _scan_inputs(
    outer: Graph, node: Node, body: onnx.GraphProto
) -> tuple[list[Type], dict[int, int]]:
    """Return the types of (what is carried..., slices...), and the outputs carried on."""
    if outer.opsets.get("", 0) < _SCAN_WITHOUT_BATCH:
        return [_UNKNOWN] * len(body.input), {}
    count = len(node.inputs) - node.attrs["num_scan_inputs"]
    axes = node.attrs.get("scan_input_axes") or [0] * len(node.inputs[count:])
    formal = [type_of(value) for value in node.inputs[:count]]
    for value, axis in zip(node.inputs[count:], axes, strict=False):
        dtype, shape = type_of(value)
        if shape is not None and not -len(shape) <= axis < len(shape):
            shape = None
        formal.append(
            (dtype, shape and tuple(dim for k, dim in enumerate(shape) if k != axis % len(shape)))
        )
    return formal, {k: k for k in range(count)}


def type_of(value: Value | None) -> Type:
    """Return what is known of a value's type."""
    return _UNKNOWN if value is None else (value.dtype, value.shape)


_INPUTS = {"If": _if_inputs, "Loop": _loop_inputs, "Scan": _scan_inputs}
