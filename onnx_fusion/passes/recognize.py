"""Finds row norms and softmax that exporters wrote as primitives, and makes each one node.

    x -+- ReduceMean -+                    LayerNormalization; RMSNormalization if d is x itself
       |              |
       +----- Sub ----+- d -+- Pow 2 - ReduceMean - Add eps - Sqrt -+
                            |                                       |
                            +------------------ Div ----------------+- Mul scale - Add bias

    x -+- ReduceMax -+                     Softmax
       |             |
       +---- Sub ----+- Exp -+- ReduceSum -+
                             |             |
                             +---- Div ----+

    x - Reshape - InstanceNormalization - Reshape - Mul scale - Add bias     GroupNormalization

The mapping table would cut these apart at each reduction (DNNFusion, Table 3: many-to-many after
many-to-many is red), though one kernel runs them in one pass over a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.weights import Weight

_PER_ELEMENT_SOFTMAX = 13
"""The opset since which Softmax works along one axis (before, on the rest flattened)."""


@dataclasses.dataclass(slots=True)
class Match:
    """A norm or softmax found: what it is in ONNX's terms, and the nodes it was made of."""

    op_type: str
    attrs: dict
    inputs: list[Value | Weight]
    nodes: set[Node]
    output: Value


def recognize(graph: Graph, *, strict: bool = False) -> Graph:
    """Replace row norms and softmax written as primitives by one node each; return `graph`.

    The node has domain "", the attributes and inputs of ONNX's operator of that name, `parts` (the
    primitives, in order), and `body_is_parts`. Only float32, only if no inner value is used
    outside. Each is checked by structure: how it is written (Pow or Mul, Div or Mul by a
    reciprocal, order of operands, scale and bias there or not, axes as attribute or input) does not
    matter. Under `strict` no GroupNormalization is made: its sums are others.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    found: dict[Node, list[Node]] = {}
    for node in list(graph.nodes):
        if node not in position or node.domain:
            continue
        if strict and node.op_type == "InstanceNormalization":
            continue
        match = next(filter(None, (find(node) for find in _FINDERS.get(node.op_type, ()))), None)
        if match is None or not _take_casts(match) or not _is_closed(match):
            continue
        if match.op_type.endswith("oftmax") and not _softmax_has_axis(graph, match):
            continue
        parts = sorted(match.nodes, key=position.__getitem__)
        inputs = [edit.add_constant(graph, f"{match.output.name}_{name}", value)
                  if isinstance(value, Weight) else value
                  for name, value in zip(("x", "scale", "bias"), match.inputs, strict=False)]
        new = Node(match.op_type, "", parts[-1].name, inputs, [match.output], match.attrs,
                   frozenset().union(*(part.origin for part in parts)), None, tuple(parts), True)
        edit.disconnect(parts)
        edit.connect(new)
        found[new] = parts
        for part in parts:
            del position[part]
    edit.swap(graph, found)
    edit.prune(graph)
    return graph


def _take_casts(match: Match) -> bool:
    """Add the casts to the same type that lie between the nodes; False if x is read in two ways.

    A cast of x itself is taken in too, unless it is read outside: then what it writes is x.
    """
    x = match.inputs[0]
    boundary: set[Value] = set()
    for node in [*match.nodes]:
        for value in filter(None, node.inputs):
            while value not in match.inputs and _is_idle(value.producer):
                cast = value.producer
                if _source(value) is x and any(
                        user not in match.nodes and not _is_idle(user) for user in value.consumers):
                    boundary.add(value)
                    break
                match.nodes.add(cast)
                value = cast.inputs[0]
            if value is x:
                boundary.add(x)
    match.inputs[0] = next(iter(boundary), x)
    return len(boundary) == 1


def _is_idle(node: Node | None) -> bool:
    """True for a Cast to the type that its input has."""
    return (node is not None and node.op_type == "Cast" and not node.domain
            and node.inputs[0].dtype is not None
            and node.inputs[0].dtype is node.outputs[0].dtype)


def _source(value: Value) -> Value:
    """Return what `value` is a copy of, casts to the same type left out."""
    while _is_idle(value.producer):
        value = value.producer.inputs[0]
    return value


def _is_closed(match: Match) -> bool:
    """True if nothing outside reads an inner value."""
    for node in match.nodes:
        for value in filter(None, node.outputs):
            if value is not match.output and (
                    value.is_output or value.captured
                    or any(user not in match.nodes for user in value.consumers)):
                return False
    return True


def _softmax_has_axis(graph: Graph, match: Match) -> bool:
    return graph.opsets.get("", 0) >= _PER_ELEMENT_SOFTMAX or match.attrs["axis"] == -1


def _find_norm(node: Node) -> Match | None:
    """Match the division of a row norm: d / sqrt(mean(d * d) + eps)."""
    for top, root, used in _quotients(node):
        found = _deviation(root)
        if found is None:
            continue
        square_of, axes, epsilon, inner = found
        top = _source(top)
        nodes = used | inner
        rank = len(square_of.shape) if square_of.shape is not None else 0
        if square_of.dtype is not DType.F32 or not rank:
            continue
        centred = _centred(square_of, axes)
        same = top is square_of
        if centred is not None and not same:
            other = _centred(top, axes)
            if other is None or other[0] is not centred[0]:
                continue
            nodes |= other[1]
            same = True
        if not same:
            continue
        if centred is not None:
            return _norm("LayerNormalization", centred[0], axes, epsilon, nodes | centred[1],
                         node.outputs[0])
        return _norm("RMSNormalization", square_of, axes, epsilon, nodes, node.outputs[0])
    return None


def _norm(op_type: str, x: Value, axes: list[int], epsilon: float, nodes: set[Node],
          output: Value) -> Match | None:
    """Return the norm with the scale and bias that follow it, None if its axes are no row."""
    rank = len(x.shape)
    dims = x.shape[rank - len(axes):]
    row = axes == list(range(rank - len(axes), rank))
    per_channel = op_type == "LayerNormalization" and rank > 2 and axes == list(range(2, rank))
    scale = _step(output, "Mul")
    bias = _step(scale[1], "Add") if scale is not None else None
    if per_channel and isinstance(x.shape[1], int):
        factors = [_per_channel(step[0], rank, x.shape[1]) if step else None
                   for step in (scale, bias)]
        if len(axes) > 1 or factors[0] is not None:
            return _assemble("InstanceNormalization", {"epsilon": epsilon}, x, (x.shape[1],),
                             [scale, bias], factors, nodes, output)
    if not row:
        return None
    factors = [_per_row(step[0], dims) if step else None for step in (scale, bias)]
    attrs = {"axis": -len(axes), "epsilon": epsilon}
    if op_type == "RMSNormalization":
        return _assemble(op_type, attrs, x, dims, [scale], factors[:1], nodes, output)
    return _assemble(op_type, attrs, x, dims, [scale, bias], factors, nodes, output)


def _find_group_norm(node: Node) -> Match | None:
    """Match InstanceNormalization of channels that a Reshape put into groups, and the Reshape back.

        x - Reshape [N, G, -1] - InstanceNormalization - Reshape - Mul scale - Add bias
    """
    opened = _maker(node.inputs[0], "Reshape")
    closed = next((n for n in node.outputs[0].consumers if n.op_type == "Reshape"), None)
    factors = [value.weight for value in node.inputs[1:3]]
    if opened is None or closed is None or None in factors or node.inputs[0].shape is None:
        return None
    x, output = opened.inputs[0], closed.outputs[0]
    if x.dtype is not DType.F32 or x.shape is None or len(x.shape) < 3 or output.shape != x.shape:
        return None
    channels, groups = x.shape[1], node.inputs[0].shape[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return None
    if node.inputs[0].shape[0] != x.shape[0]:
        return None
    nodes = {opened, node, closed}
    scale, bias = (np.repeat(weight.array(), channels // groups) for weight in factors)
    for op_type in ("Mul", "Add"):
        step = _step(output, op_type)
        vector = _per_channel(step[0], len(x.shape), channels) if step is not None else None
        if vector is None:
            continue
        by = vector.array()
        with np.errstate(over="ignore", invalid="ignore"):
            joined = (scale * by, bias * by) if op_type == "Mul" else (scale, bias + by)
        if not all(np.isfinite(array).all() for array in joined):
            break
        scale, bias = joined
        output = step[1]
        nodes.add(step[2])
    attrs = {"epsilon": node.attrs.get("epsilon", 1e-5), "num_groups": groups}
    inputs = [x, Weight.of(scale), Weight.of(bias)]
    return Match("GroupNormalization", attrs, inputs, nodes, output)


def _assemble(op_type: str, attrs: dict, x: Value, dims: tuple, steps: list, factors: list,
              nodes: set[Node], output: Value) -> Match | None:
    """Return the match with as many of the following steps as have a fitting factor."""
    inputs: list[Value | Weight] = [x]
    nodes = set(nodes)
    for step, factor in zip(steps, factors, strict=True):
        if step is None or factor is None:
            break
        inputs.append(factor)
        nodes.add(step[2])
        output = step[1]
    wanted = 3 if op_type == "InstanceNormalization" else 2
    while len(inputs) < wanted:
        if not all(isinstance(dim, int) for dim in dims):
            return None
        make = np.ones if len(inputs) == 1 else np.zeros
        inputs.append(Weight.of(make(dims, np.float32)))
    return Match(op_type, attrs, inputs, nodes, output)


def _per_row(value: Value, dims: tuple) -> Value | Weight | None:
    """Return a scale or bias in the shape `dims`, None if it has another."""
    if value.shape == dims:
        return value
    if value.weight is None or value.shape is None or len(value.shape) < len(dims):
        return None
    lead = len(value.shape) - len(dims)
    if value.shape[lead:] != dims or any(dim != 1 for dim in value.shape[:lead]):
        return None
    return Weight.of(value.weight.array().reshape(dims))


def _per_channel(value: Value, rank: int, channels: int) -> Weight | None:
    """Return a constant [1, C, 1, ...] or [C, 1, ...] as [C], None if it is another."""
    shape = (1,) * (rank - len(value.shape)) + value.shape if value.shape is not None else None
    if value.weight is None or shape != (1, channels) + (1,) * (rank - 2):
        return None
    return Weight.of(value.weight.array().reshape(channels))


def _step(value: Value, op_type: str) -> tuple[Value, Value, Node] | None:
    """Return (other operand, result, node) if all that happens to `value` is one Mul or Add."""
    if value.is_output or value.captured or len(value.consumers) != 1:
        return None
    node = value.consumers[0]
    if _is_idle(node):
        return _step(node.outputs[0], op_type)
    if node.domain or node.op_type != op_type or len(node.inputs) != 2:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    output = node.outputs[0]
    return None if other is value or output.shape != value.shape else (other, output, node)


def _quotients(node: Node) -> Iterable[tuple[Value, Node, set[Node]]]:
    """Yield (a, node that computes sqrt, nodes used) for each way to read `node` as a /
    sqrt(...)."""
    if node.op_type == "Div":
        root = _maker(node.inputs[1], "Sqrt")
        if root is not None:
            yield node.inputs[0], root, {node}
        return
    for a, b in (node.inputs, node.inputs[::-1]):
        inverse = _source(b).producer if b is not None else None
        if inverse is None or inverse.domain:
            continue
        if inverse.op_type == "Reciprocal":
            root = _maker(inverse.inputs[0], "Sqrt")
        elif inverse.op_type == "Div" and _scalar(inverse.inputs[0]) == 1.0:
            root = _maker(inverse.inputs[1], "Sqrt")
        elif inverse.op_type == "Pow" and _scalar(inverse.inputs[1]) == -0.5:
            root = inverse
        else:
            continue
        if root is not None:
            yield a, root, {node, inverse}


def _deviation(root: Node) -> tuple[Value, list[int], float, set[Node]] | None:
    """Return (d, axes, epsilon, nodes) if `root` reads mean(d * d) + eps."""
    plus = _maker(root.inputs[0], "Add")
    if plus is None:
        return None
    for mean_square, eps in (plus.inputs, plus.inputs[::-1]):
        epsilon = _scalar(eps)
        mean = _maker(mean_square, "ReduceMean")
        if epsilon is None or mean is None:
            continue
        axes = _axes(mean)
        square = _source(mean.inputs[0]).producer
        if axes is None or square is None or square.domain:
            continue
        base = _source(square.inputs[0])
        if square.op_type == "Mul" and base is _source(square.inputs[1]) or (
                square.op_type == "Pow" and _scalar(square.inputs[1]) == 2.0):
            return base, axes, epsilon, {root, plus, mean, square}
    return None


def _centred(value: Value, axes: list[int]) -> tuple[Value, set[Node]] | None:
    """Return (x, nodes) if `value` is x - mean(x) over `axes`."""
    minus = _maker(value, "Sub")
    mean = _maker(minus.inputs[1], "ReduceMean") if minus is not None else None
    if mean is None or _axes(mean) != axes:
        return None
    x = _source(minus.inputs[0])
    return (x, {minus, mean}) if _source(mean.inputs[0]) is x else None


def _find_softmax(node: Node) -> Match | None:
    """Match the division of a softmax: e / sum(e), e = exp(x - max(x))."""
    if node.op_type == "Div":
        candidates = [(node.inputs[0], node.inputs[1], {node})]
    else:
        candidates = []
        for a, b in (node.inputs, node.inputs[::-1]):
            inverse = _maker(b, "Reciprocal")
            if inverse is not None:
                candidates.append((a, inverse.inputs[0], {node, inverse}))
    for top, bottom, used in candidates:
        exp, total = _maker(top, "Exp"), _maker(bottom, "ReduceSum")
        if exp is None or total is None or _source(total.inputs[0]) is not _source(top):
            continue
        found = _shifted(exp.inputs[0], _axes(total))
        if found is not None:
            x, axis, inner = found
            nodes = used | {exp, total} | inner
            return Match("Softmax", {"axis": axis}, [x], nodes, node.outputs[0])
    return None


def _find_log_softmax(node: Node) -> Match | None:
    """Match the subtraction of a log-softmax: d - log(sum(exp(d))), d = x - max(x)."""
    log = _maker(node.inputs[1], "Log")
    total = _maker(log.inputs[0], "ReduceSum") if log is not None else None
    exp = _maker(total.inputs[0], "Exp") if total is not None else None
    if exp is None or _source(exp.inputs[0]) is not _source(node.inputs[0]):
        return None
    found = _shifted(node.inputs[0], _axes(total))
    if found is None:
        return None
    x, axis, inner = found
    nodes = {node, log, total, exp} | inner
    return Match("LogSoftmax", {"axis": axis}, [x], nodes, node.outputs[0])


def _shifted(value: Value, axes: list[int] | None) -> tuple[Value, int, set[Node]] | None:
    """Return (x, axis, nodes) if `value` is x - max(x) over the one axis in `axes`."""
    minus = _maker(value, "Sub")
    highest = _maker(minus.inputs[1], "ReduceMax") if minus is not None else None
    if highest is None or axes is None or len(axes) != 1 or _axes(highest) != axes:
        return None
    x = _source(minus.inputs[0])
    if _source(highest.inputs[0]) is not x or x.dtype is not DType.F32:
        return None
    return x, axes[0] - len(x.shape), {minus, highest}


def _maker(value: Value | None, op_type: str) -> Node | None:
    """Return the node that writes `value`, casts to the same type left out, if it is `op_type`."""
    node = _source(value).producer if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _scalar(value: Value | None) -> float | None:
    """Return a constant's one element."""
    if value is None or value.weight is None or value.weight.size != 1 or value.dtype is None:
        return None
    return float(value.weight.array().reshape(-1)[0])


def _axes(node: Node) -> list[int] | None:
    """Return a reduction's axes, ascending and counted from 0; None if unknown or not kept."""
    shape = node.inputs[0].shape
    if shape is None or node.attrs.get("keepdims", 1) != 1:
        return None
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        weight = node.inputs[1].weight
        axes = weight.array().reshape(-1).tolist() if weight is not None else None
    return sorted(axis % len(shape) for axis in axes) if axes and shape else None


_FINDERS: dict[str, tuple[Callable[[Node], Match | None], ...]] = {
    "Div": (_find_norm, _find_softmax),
    "Mul": (_find_norm, _find_softmax),
    "Sub": (_find_log_softmax,),
    "InstanceNormalization": (_find_group_norm,),
}
