"""Computes what depends on constants only.

ONNX Runtime does the computing, so the numbers are those that an unfolded model gives; big
constants are fed to it where they lie. onnx-graphsurgeon's fold_constants runs it too, but on a
copy of the graph with every weight serialized (three times the model in memory), computes results
before it looks at their size, elides casts of shape arithmetic in ways that need not hold at run
time, and writes to stderr.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.graph.weights import Weight, is_fixed_size
from onnx_fusion.passes.elements import elements

MAX_BYTES = 64 << 20
"""No folded value is larger."""
SMALL_BYTES = 1 << 20
"""Up to this size a value is folded whatever it was made from."""
GROWTH = 2
"""Above it, a value may be at most so many times as large as the constants it was made from."""
_BATCH_BYTES = 32 << 20
_FEED_BYTES = 1 << 10

_CONTROL_FLOW = frozenset(("If", "Loop", "Scan", "SequenceMap"))
_KEPT = frozenset((
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli", "Dropout", *_CONTROL_FLOW,
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
"""Random, control flow, and the marks of quantised models, which ONNX Runtime looks for."""


def fold(graph: Graph) -> Graph:
    """Give every value that depends on constants only its weight, drop the nodes behind; return
    `graph`.

    Shapes must be inferred: what is computed from static extents is constant too, even if other
    extents of the same value are not. Values keep their names. Not folded: outputs of the graph,
    what control flow reads, results that are large (MAX_BYTES, GROWTH), whatever is in _KEPT, and
    types that NumPy does not have.
    """
    pinned = _find_pinned(graph)
    _fold_sources(graph, pinned)
    for batch in _batches(_choose(graph, pinned)):
        _evaluate(graph, batch)
    _remove_done(graph)
    edit.prune(graph)
    return graph


def _fold_sources(graph: Graph, pinned: set[Node]) -> None:
    """Fold what needs no computing: Constant, Identity of a constant, arithmetic on extents.

    A Constant that control flow reads is as constant there as a weight would be.
    """
    for node in graph.nodes:
        output = node.outputs[0] if node.outputs else None
        if node.domain or output is None or node in pinned and node.op_type != "Constant":
            continue
        if node.op_type == "Constant":
            weight = read_constant(node) if not output.is_output else None
        elif node.op_type == "Identity" and node.inputs[0] is not None:
            weight = node.inputs[0].weight
        else:
            weight = _extents(node, output)
        if weight is not None:
            _set_weight(output, weight)
    _remove_done(graph)


def read_constant(node: Node) -> Weight | None:
    """Return what a Constant node holds, None if it is of a kind that is no weight."""
    attribute = node.proto.attribute[0] if len(node.proto.attribute) == 1 else None
    if attribute is None:
        return None
    if attribute.name == "value" and is_fixed_size(attribute.t.data_type):
        return Weight.of_tensor(attribute.t)
    kinds = {"value_float": np.float32, "value_floats": np.float32,
             "value_int": np.int64, "value_ints": np.int64}
    if attribute.name in kinds:
        return Weight.of(np.array(node.attrs[attribute.name], kinds[attribute.name]))
    return None


def _extents(node: Node, output: Value) -> Weight | None:
    """Return what a node computes from static extents, None if it does not, or they are unknown."""
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    if node.op_type == "Size" and shape is not None:
        known = [math.prod(shape)] if all(isinstance(dim, int) for dim in shape) else None
    else:
        known = elements(output)
    if known is None or output.shape is None or not all(isinstance(dim, int) for dim in known):
        return None
    return Weight.of(np.array(known, output.dtype.numpy).reshape(() if output.shape == () else -1))


def _choose(graph: Graph, pinned: set[Node]) -> list[Node]:
    """Return the nodes to compute, in the graph's order."""
    constant = {value: value.weight.nbytes for value in graph.values.values()
                if value.weight is not None}
    chosen = []
    for node in graph.nodes:
        inputs = [value for value in node.inputs if value is not None]
        outputs = [value for value in node.outputs if value is not None]
        if node.domain or node.captures or node.op_type in _KEPT or not outputs or node.parts:
            continue
        if node in pinned or any(value not in constant for value in inputs):
            continue
        if any(value.dtype is None or value.dtype.text == "bf16" for value in (*inputs, *outputs)):
            continue
        if any(value.shape is None or not all(isinstance(dim, int) for dim in value.shape)
               for value in outputs):
            continue
        given = sum(constant[value] for value in inputs)
        size = max(irs_bytes(value) for value in outputs)
        if size > MAX_BYTES or size > SMALL_BYTES and size > GROWTH * given:
            continue
        chosen.append(node)
        constant.update((value, irs_bytes(value)) for value in outputs)
    return chosen


def _batches(nodes: list[Node]) -> Iterator[list[Node]]:
    """Yield the nodes in runs whose constants take a few megabytes each."""
    batch: list[Node] = []
    size = 0
    for node in nodes:
        need = sum(irs_bytes(value) for value in (*node.inputs, *node.outputs) if value is not None)
        if batch and size + need > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(node)
        size += need
    if batch:
        yield batch


def _evaluate(graph: Graph, nodes: list[Node]) -> None:
    """Set the weights of what `nodes` compute; one by one if ONNX Runtime refuses them together."""
    inside = set(nodes)
    if any(value.weight is None and value.producer not in inside
           for node in nodes for value in node.inputs if value is not None):
        return
    results = _run(graph, nodes)
    if results is None and len(nodes) > 1:
        for node in nodes:
            _evaluate(graph, [node])
        return
    for name, array in (results or {}).items():
        value = graph.values[name]
        if array.nbytes <= MAX_BYTES and array.dtype == value.dtype.numpy:
            _set_weight(value, Weight.of(array, value.dtype))


def _run(graph: Graph, nodes: list[Node]) -> dict[str, np.ndarray] | None:
    """Return what the nodes compute that is read elsewhere, None if it cannot be computed."""
    inside = set(nodes)
    proto = onnx.ModelProto(ir_version=max(graph.model.proto.ir_version, 4),
                            opset_import=graph.model.proto.opset_import)
    proto.graph.name = "constants"
    proto.graph.node.extend(node.proto for node in nodes)
    feeds = {}
    for value in dict.fromkeys(value for node in nodes for value in node.inputs):
        if value is None or value.weight is None:
            continue
        if value.weight.nbytes <= _FEED_BYTES:
            proto.graph.initializer.append(value.weight.tensor(value.name, data=True))
        else:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(value.name, value.dtype.onnx, value.shape))
            feeds[value.name] = value.weight.array()
    for node in nodes:
        for value in filter(None, node.outputs):
            if any(user not in inside for user in value.consumers):
                proto.graph.output.add(name=value.name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [info.name for info in proto.graph.output]
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception:  # ONNX Runtime has no common class of what it raises here
        return None


def _set_weight(value: Value, weight: Weight) -> None:
    value.weight = weight
    value.dtype, value.shape = weight.dtype, weight.shape


def _remove_done(graph: Graph) -> None:
    """Take out the nodes all of whose read outputs are constant, and those that only such nodes
    read.

    A node that nobody read in the first place stays.
    """
    gone: set[Node] = set()
    for node in reversed(graph.nodes):
        outputs = [value for value in node.outputs if value is not None]
        if outputs and all(_is_done(value, gone) for value in outputs) and any(
                value.weight is not None or value.consumers for value in outputs):
            gone.add(node)
    edit.remove(graph, gone)


def _find_pinned(graph: Graph) -> set[Node]:
    """Return the nodes that must stay: what writes outputs, and constants that control flow reads.

    ONNX Runtime inlines an If whose condition is constant, and may then refuse a model that it ran
    before. So the integer arithmetic that leads there stays as well, unless what it leads to
    depends on data: then folding a part of it makes nothing constant that was not.
    """
    settled = _find_settled(graph)
    leading: set[Node] = set()
    pinned: set[Node] = set()
    for node in reversed(graph.nodes):
        for value in filter(None, node.outputs):
            if value.is_output:
                pinned.add(node)
            if value in settled and (value.captured or any(
                    user.op_type in _CONTROL_FLOW or user in leading and _is_integer(user)
                    for user in value.consumers)):
                leading.add(node)
    return pinned | leading


def _find_settled(graph: Graph) -> set[Value]:
    """Return the values that folding would make constant if nothing were pinned, or some more."""
    settled = {value for value in graph.values.values() if value.weight is not None}
    for node in graph.nodes:
        output = node.outputs[0] if node.outputs else None
        if output is None or node.domain or node.op_type in _KEPT:
            continue
        if settled.issuperset(filter(None, node.inputs)) or _extents(node, output) is not None:
            settled.update(filter(None, node.outputs))
    return settled


def _is_integer(node: Node) -> bool:
    return all(value is None or value.dtype in (DType.I64, DType.I32, DType.BOOL)
               for value in node.outputs)


def _is_done(value: Value, gone: set[Node]) -> bool:
    if value.is_output:
        return False
    return value.weight is not None or all(user in gone for user in value.consumers)
