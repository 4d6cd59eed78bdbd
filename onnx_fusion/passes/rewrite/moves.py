"""Rules of data movement: chains composed, pairs cancelled, copies read through. All are exact."""

from __future__ import annotations

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.passes.rewrite.model import (
    Exactness,
    Proposal,
    Rule,
    Scene,
    array_of,
    broadcast,
    constant,
    make,
)
from onnx_fusion.passes.rewrite.pattern import alias

_RESHAPES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_BROADCASTING = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual",
    "Greater", "GreaterOrEqual", "Where", "Max", "Min", "Sum", "Mean", "PRelu"))
_SLICE_INPUT = 10


def before(node: Node, op_types: frozenset[str] | str, position: int = 0) -> Node | None:
    """Return the node that writes an input, if it is one of these and not constant."""
    names = (op_types,) if isinstance(op_types, str) else op_types
    value = node.inputs[position] if len(node.inputs) > position else None
    made = value.producer if value is not None and value.weight is None else None
    if made is None or made.domain or made.op_type not in names:
        return None
    return made if made.outputs[0] is value else None


def ints(node: Node, attribute: str, position: int) -> list[int] | None:
    """Return integers given by an attribute or a constant input."""
    if attribute in node.attrs:
        found = node.attrs[attribute]
        return [int(v) for v in found] if isinstance(found, (list, tuple)) else [int(found)]
    array = array_of(node.inputs[position]) if len(node.inputs) > position else None
    return None if array is None else [int(v) for v in array.reshape(-1)]


def _is_static(value: Value | None) -> bool:
    return value is not None and value.shape is not None and all(
        isinstance(dim, int) for dim in value.shape)


def _perm(node: Node) -> list[int] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    return list(node.attrs.get("perm") or range(len(shape) - 1, -1, -1))


def _same_reshape(node: Node, scene: Scene) -> Proposal | None:
    """A Reshape, Expand, Tile, Slice or Transpose that changes nothing."""
    x, output = node.inputs[0], node.outputs[0]
    if x is None or output is None or x.shape is None or x.shape != output.shape:
        return None
    if node.op_type == "Transpose":
        perm = _perm(node)
        moved = [axis for axis in perm if x.shape[axis] != 1]
        if moved != sorted(moved):
            return None
    if node.op_type == "Slice" and not _slices_all(node):
        return None
    if node.op_type == "Pad" and (not _is_static(x) or any(ints(node, "pads", 1) or [1])):
        return None
    return alias((node,), output, x, scene)


def _slices_all(node: Node) -> bool:
    """True if no step of a Slice goes backwards: with the shape kept, it then takes everything."""
    if len(node.inputs) <= 4 or node.inputs[4] is None:
        return True
    steps = ints(node, "steps", 4)
    return steps is not None and all(step > 0 for step in steps)


def _reshapes(node: Node, scene: Scene) -> Proposal | None:
    """Two reshapes: one, to the shape of the last."""
    first = before(node, _RESHAPES)
    output = node.outputs[0]
    if first is None or output is None or output.shape is None:
        return None
    x, old = first.inputs[0], (first, node)
    if x is None or x.shape is None:
        return None
    if x.shape == output.shape:
        return alias(old, output, x, scene)
    if not scene.is_closed(old, (output,)):
        return None
    symbols = [dim for dim in output.shape if not isinstance(dim, int)]
    if node.op_type == "Reshape" and len(node.inputs) > 1:
        target = array_of(node.inputs[1])
        keeps = node.attrs.get("allowzero", 0) == 0
        if target is None or keeps and (target == 0).any():
            target = None
    else:
        target = None
    if target is None:
        if len(symbols) > 1 or 0 in output.shape:
            return None
        target = np.array([-1 if dim in symbols else dim for dim in output.shape], np.int64)
    if (target == -1).any() and 0 in (dim for dim in output.shape if isinstance(dim, int)):
        return None
    shape = constant(np.array(target, np.int64), DType.I64)
    return Proposal(old, [make("Reshape", [x, shape], output, {}, node.name)])


def _transposes(node: Node, scene: Scene) -> Proposal | None:
    """Two Transposes: one, or none."""
    first = before(node, "Transpose")
    if first is None:
        return None
    inner, outer = _perm(first), _perm(node)
    if inner is None or outer is None:
        return None
    perm = [inner[axis] for axis in outer]
    x, output, old = first.inputs[0], node.outputs[0], (first, node)
    if perm == sorted(perm):
        return alias(old, output, x, scene)
    if not scene.is_closed(old, (output,)):
        return None
    return Proposal(old, [make("Transpose", [x], output, {"perm": perm}, node.name)])


def _expanded(node: Node, scene: Scene) -> Proposal | None:
    """Expand before an operator that broadcasts by itself; of a PRelu only the slope does."""
    output = node.outputs[0]
    if output is None or output.shape is None:
        return None
    for k in range(len(node.inputs)):
        expand = before(node, "Expand", k)
        if expand is None or not scene.is_closed((expand, node), (output,)):
            continue
        inputs = [expand.inputs[0] if v is expand.outputs[0] else v for v in node.inputs]
        if any(v is None or v.shape is None for v in inputs):
            continue
        if node.op_type == "PRelu" and inputs[0].shape != output.shape:
            continue
        if broadcast(v.shape for v in inputs) != output.shape:
            continue
        return Proposal((expand, node), [make(node.op_type, inputs, output, node.attrs, node.name)])
    return None


def _transposed_gemm(node: Node, scene: Scene) -> Proposal | None:
    """Gemm of a transposed matrix reads it transposed."""
    output = node.outputs[0]
    for k, flag in ((0, "transA"), (1, "transB")):
        turned = before(node, "Transpose", k)
        if turned is None or _perm(turned) != [1, 0] or node.inputs[0] is node.inputs[1]:
            continue
        if not scene.is_closed((turned, node), (output,)):
            continue
        inputs = [turned.inputs[0] if j == k else v for j, v in enumerate(node.inputs)]
        attrs = {**node.attrs, flag: 1 - node.attrs.get(flag, 0)}
        return Proposal((turned, node), [make("Gemm", inputs, output, attrs, node.name)])
    return None


def _sections(node: Node) -> list[tuple[int, int]] | None:
    """Return where along its axis each output of a Split, or input of a Concat, lies."""
    values = node.outputs if node.op_type == "Split" else node.inputs
    axis = node.attrs.get("axis", 0)
    sections, at = [], 0
    for value in values:
        if value is None or value.shape is None or not isinstance(value.shape[axis], int):
            return None
        sections.append((at, at + value.shape[axis]))
        at += value.shape[axis]
    return sections


def _axis(node: Node, value: Value) -> int | None:
    axis = node.attrs.get("axis", 0)
    return None if value.shape is None else axis % len(value.shape)


def _concat_of_split(node: Node, scene: Scene) -> Proposal | None:
    """Concat of all pieces of a Split, in order."""
    values = node.inputs
    split = values[0].producer if values and values[0] is not None else None
    if split is None or split.op_type != "Split" or split.domain or split.outputs != values:
        return None
    x = split.inputs[0]
    if x is None or _axis(node, x) != _axis(split, x):
        return None
    return alias((split, node), node.outputs[0], x, scene)


def _split_of_concat(node: Node, scene: Scene) -> Proposal | None:
    """Split into the pieces that a Concat was made of."""
    concat = before(node, "Concat")
    if concat is None or _axis(node, node.inputs[0]) != _axis(concat, node.inputs[0]):
        return None
    if _sections(node) is None or _sections(node) != _sections(concat):
        return None
    pairs = dict(zip(node.outputs, concat.inputs, strict=True))
    if any(old is None or old.is_output or old.captured or old.shape != new.shape
           or old.dtype is not new.dtype for old, new in pairs.items()):
        return None
    closed = scene.is_closed((concat, node), node.outputs)
    return Proposal((concat, node) if closed else (node,), [], pairs)


def _slice_bounds(node: Node) -> tuple[int, int, int] | None:
    """Return (axis, start, end) of a Slice of step 1 along one axis of known extent."""
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    starts, ends = ints(node, "starts", 1), ints(node, "ends", 2)
    axes = ints(node, "axes", 3) if "axes" in node.attrs or len(node.inputs) > 3 else [0]
    steps = ints(node, "steps", 4) if len(node.inputs) > 4 else [1]
    if any(b is None or len(b) != 1 for b in (starts, ends, axes, steps)) or steps != [1]:
        return None
    axis = axes[0] % len(x.shape)
    extent = x.shape[axis]
    if not isinstance(extent, int):
        return None
    start, end = (min(max(b + extent if b < 0 else b, 0), extent) for b in (starts[0], ends[0]))
    return (axis, start, end) if start < end else None


def _slice_of_concat(node: Node, scene: Scene) -> Proposal | None:
    """Slice that takes one piece of a Concat, or a part of one."""
    concat = before(node, "Concat")
    bounds = _slice_bounds(node)
    if concat is None or bounds is None or _axis(concat, node.inputs[0]) != bounds[0]:
        return None
    axis, start, end = bounds
    for piece, (first, last) in zip(concat.inputs, _sections(concat) or (), strict=False):
        if (first, last) == (start, end):
            return alias((concat, node), node.outputs[0], piece, scene)
    return None


def _slice_of_slice(node: Node, scene: Scene) -> Proposal | None:
    """Two Slices along one axis: one."""
    first = before(node, "Slice")
    if first is None or scene.opset < _SLICE_INPUT:
        return None
    inner, outer = _slice_bounds(first), _slice_bounds(node)
    if inner is None or outer is None or inner[0] != outer[0]:
        return None
    old, output = (first, node), node.outputs[0]
    if not scene.is_closed(old, (output,)):
        return None
    numbers = (inner[1] + outer[1], inner[1] + outer[2], inner[0])
    bounds = [constant(np.array([number], np.int64), DType.I64) for number in numbers]
    return Proposal(old, [make("Slice", [first.inputs[0], *bounds], output, {}, node.name)])


def _concats(node: Node, scene: Scene) -> Proposal | None:
    """Concat of a Concat along the same axis."""
    output = node.outputs[0]
    for k, value in enumerate(node.inputs):
        inner = before(node, "Concat", k)
        if inner is None or _axis(inner, value) != _axis(node, value):
            continue
        if node.inputs.count(value) != 1 or not scene.is_closed((inner, node), (output,)):
            continue
        inputs = [*node.inputs[:k], *inner.inputs, *node.inputs[k + 1:]]
        return Proposal((inner, node), [make("Concat", inputs, output, node.attrs, node.name)])
    return None


def _squeezed_reduction(node: Node, scene: Scene) -> Proposal | None:
    """A reduction that keeps its axes, then a Squeeze of them: one that does not keep them."""
    first = before(node, _REDUCTIONS)
    output = node.outputs[0]
    if first is None or first.attrs.get("keepdims", 1) != 1 or output is None:
        return None
    shape = first.inputs[0].shape
    reduced, gone = ints(first, "axes", 1), ints(node, "axes", 1)
    if shape is None or not reduced or gone is None:
        return None
    rank = len(shape)
    if sorted(a % rank for a in reduced) != sorted(a % rank for a in gone):
        return None
    if not scene.is_closed((first, node), (output,)):
        return None
    return Proposal((first, node), [make(first.op_type, first.inputs, output,
                                         {**first.attrs, "keepdims": 0}, node.name)])


_REDUCTIONS = frozenset(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"))


def _rule(name: str, roots: str | frozenset[str], propose, about: str) -> Rule:
    names = frozenset(roots.split()) if isinstance(roots, str) else roots
    return Rule(name, names, Exactness.EXACT, about, propose)


RULES = [
    _rule("move-nothing", "Reshape Flatten Squeeze Unsqueeze Expand Tile Slice Transpose Pad",
          _same_reshape, "a Reshape, Expand, Tile, Slice, Transpose or Pad that changes nothing"),
    _rule("reshapes", _RESHAPES, _reshapes, "two reshapes are one, or none"),
    _rule("transposes", "Transpose", _transposes, "two Transposes are one, or none"),
    _rule("expanded", _BROADCASTING, _expanded, "an operator that broadcasts needs no Expand"),
    _rule("transposed-gemm", "Gemm", _transposed_gemm, "Gemm reads a transposed matrix as it is"),
    _rule("concat-of-split", "Concat", _concat_of_split, "a Concat of all pieces of a Split"),
    _rule("split-of-concat", "Split", _split_of_concat, "a Split into the pieces of a Concat"),
    _rule("slice-of-concat", "Slice", _slice_of_concat, "a Slice that takes a piece of a Concat"),
    _rule("slice-of-slice", "Slice", _slice_of_slice, "two Slices along one axis are one"),
    _rule("concats", "Concat", _concats, "a Concat of a Concat along the same axis"),
    _rule("squeezed-reduction", "Squeeze", _squeezed_reduction,
          "a reduction drops its axes itself"),
]
