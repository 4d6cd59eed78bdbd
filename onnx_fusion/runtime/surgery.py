"""Copies of a model that show more, take more, or run less through kernels: what verify tries."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fusion.graph import scope
from onnx_fusion.runtime.inputs import every_node

DOMAIN = "onnx_fusion"
PLAIN = "onnx_fusion.plain"
"""A domain the library knows nothing of, so that its nodes run as the functions they name."""

SELECTS = frozenset(("NonMaxSuppression", "TopK", "NonZero", "Unique", "Multinomial"))
"""Operators after which a small difference may change the order or the number of elements."""

COMPARES = frozenset(
    ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin", "Cast")
)
"""Operators that may make a choice of floats; of the types inside bodies nothing is known."""

ASKS_SHAPE = frozenset(("Shape", "Size"))
"""Operators whose results do not depend on the elements they are given."""

FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that can be changed."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def show(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy with further values as graph outputs."""
    made = copy(model)
    known = {value.name: value for value in made.graph.value_info}
    present = {value.name for value in made.graph.output}
    for name in names:
        if name not in present:
            made.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return made


def given(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy that takes these values as inputs instead of computing them."""
    made = copy(model)
    for node in made.graph.node:
        for index, name in enumerate(node.output):
            if name in arrays:
                node.output[index] = f"{name}/computed"
    kept = [value for value in made.graph.value_info if value.name not in arrays]
    del made.graph.value_info[:]
    made.graph.value_info.extend(kept)
    for name, array in arrays.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        made.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    outputs = {value.name for value in made.graph.output}
    for name in outputs & arrays.keys():
        # An output that is given is passed on under its name by nobody; the caller has its value.
        index = next(i for i, value in enumerate(made.graph.output) if value.name == name)
        del made.graph.output[index]
    return made


def fused_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the fused nodes, in order, also those inside bodies."""
    return [node for node in every_node(model.graph) if node.domain == DOMAIN]


def has_functions(model: onnx.ModelProto) -> bool:
    """Return whether every fused node has its portable function."""
    functions = {(f.domain, f.name) for f in model.functions}
    return all((node.domain, node.op_type) in functions for node in fused_nodes(model))


def only(model: onnx.ModelProto, kernels: Collection[int]) -> onnx.ModelProto:
    """Return a copy in which only these fused nodes (by position) run as kernels."""
    made = copy(model)
    plain = set()
    for index, node in enumerate(fused_nodes(made)):
        if index not in kernels:
            node.domain = PLAIN
            plain.add(node.op_type)
    functions = [f for f in made.functions if f.domain == DOMAIN and f.name in plain]
    for function in functions:
        twin = made.functions.add()
        twin.CopyFrom(function)
        twin.domain = PLAIN
    made.opset_import.append(helper.make_opsetid(PLAIN, 1))
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A node where floats become a choice: `floats` decide, after `level` earlier choices."""

    node: onnx.NodeProto
    floats: tuple[str, ...]
    level: int


def float_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float tensors of the main graph, as far as ONNX can infer them."""
    small = copy(model)
    for tensor in small.graph.initializer:
        if tensor.data_type in FLOATS and tensor.ByteSize() > 4096:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    try:
        small = onnx.shape_inference.infer_shapes(small)
    except Exception:
        small = model
    graph = small.graph
    return {
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type in FLOATS
    }


def find_decisions(model: onnx.ModelProto, outputs: Sequence[str]) -> list[Decision]:
    """Return the decisions that the named outputs depend on, in the graph's order.

    A node decides if it reads floats and makes none, or if it selects elements; control flow
    decides if something inside it may, by what it reads and captures.
    """
    floats = float_names(model)
    fixed = {tensor.name for tensor in model.graph.initializer}
    wanted, before = set(outputs), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= reads(node)
            before.append(node)
    level: dict[str, int] = {}
    found = []
    for node in reversed(before):
        depth = max((level.get(name, 0) for name in reads(node)), default=0)
        inside = operators_inside(node)
        read = sorted(reads(node)) if inside else node.input
        decides = tuple(n for n in read if n in floats and n not in fixed)
        if node.op_type in ASKS_SHAPE:
            continue
        chooses = not floats & set(node.output) or not inside.isdisjoint(COMPARES)
        if decides and (chooses or selects(node)):
            found.append(Decision(node, decides, depth))
            depth += 1
        level.update(dict.fromkeys(node.output, depth))
    return found


def operators_inside(node: onnx.NodeProto) -> set[str]:
    """Return the operators in a node's bodies."""
    return {inner.op_type for body in scope.subgraphs(node) for inner in every_node(body)}


def selects(node: onnx.NodeProto) -> bool:
    """Return whether the node, or one inside it, selects elements."""
    return node.op_type in SELECTS or not SELECTS.isdisjoint(operators_inside(node))


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names a node reads, also inside its bodies."""
    names = set(node.input)
    for item in node.attribute:
        for body in (item.g, *item.graphs):
            for inner in every_node(body):
                names.update(inner.input)
    return names - {""}
