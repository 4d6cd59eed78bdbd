"""Finds the node whose input shapes contradict each other, after shape inference has complained."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx.shape_inference import InferenceError, infer_shapes

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ModelError
from onnx_fusion.graph.model import Dim, Graph, Node, Value

_MAX_BYTES = 1 << 26
_SMALL = 1 << 10
"""Up to so many bytes of a constant may be a shape, an axis or a size, which decide."""
_ACCEPTED: set[tuple] = set()
"""What nodes were seen as when they were accepted: each is looked at after every pass, and at every
size that is tried."""
_MOST = 1 << 15
Info = tuple[DType | None, tuple[Dim | None, ...] | None]


def check(graph: Graph, proto: onnx.ModelProto, found: dict[str, Info]) -> None:
    """Raise ModelError at the first node that neither onnx nor ONNX Runtime accepts on its own.

    onnx alone is no judge: it complains about models that run. Returns if ONNX Runtime accepts them
    all.
    """
    if len(_ACCEPTED) > _MOST:
        _ACCEPTED.clear()
    accepted = set() if proto.functions else _ACCEPTED
    for node in graph.nodes:
        if node.proto is None or node.parts or node.captures:
            continue
        seen = (graph.opsets.get(node.domain), *_seen(node, found))
        if seen in accepted:
            continue
        alone = _alone(graph, node, proto, found)
        reason = "" if alone is None or _infers(alone) else _refusal(alone)
        if not reason:
            accepted.add(seen)
        else:
            shapes = ", ".join(
                "-" if value is None else _show(value.name, found, graph) for value in node.inputs
            )
            version = graph.opsets.get(node.domain, "?")
            raise ModelError(
                f"{graph.model.where}: node {node.name!r} ({node.op_type}, opset "
                f"{version}): {reason}; its inputs have the shapes {shapes}"
            )


def _seen(node: Node, found: dict[str, Info]) -> tuple:
    """Return what inference sees of a node: equal ones are accepted or refused alike."""
    inputs = []
    for value in node.inputs:
        if value is None:
            inputs.append(None)
        elif value.weight is not None:
            weight = value.weight
            small = weight.array().tobytes() if weight.nbytes <= _SMALL else b""
            inputs.append((weight.dtype, weight.shape, small))
        elif _is_constant(value):
            inputs.append(tuple(a.SerializeToString() for a in value.producer.proto.attribute))
        elif value.producer is None:
            inputs.append((value.dtype, value.shape))
        else:
            dtype, shape = found.get(value.name, (None, None))
            inputs.append((dtype, shape and _numbers(shape)))
    attributes = tuple(a.SerializeToString() for a in node.proto.attribute)
    return node.domain, node.op_type, attributes, tuple(inputs), len(node.outputs)


def _alone(
    graph: Graph, node: Node, proto: onnx.ModelProto, found: dict[str, Info]
) -> onnx.ModelProto | None:
    """Return a model of this node and the Constants it reads, None if a type it reads is not
    known."""
    alone = onnx.ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import,
        functions=graph.model.proto.functions,  # whole, for ONNX Runtime
    )  # fmt: skip
    alone.graph.name = "one node"
    declared = {info.name: info for info in proto.graph.input}
    for value in dict.fromkeys(filter(None, node.inputs)):
        if value.weight is not None:
            if value.weight.nbytes > _MAX_BYTES:
                return None
            alone.graph.initializer.append(value.weight.tensor(value.name, data=True))
        elif value.name in declared:
            alone.graph.input.append(declared[value.name])
        elif _is_constant(value):
            alone.graph.node.append(value.producer.proto)
        else:
            dtype, shape = found.get(value.name, (None, None))
            if dtype is None:
                return None
            dims = shape and _numbers(shape)
            alone.graph.input.append(
                onnx.helper.make_tensor_value_info(value.name, dtype.onnx, dims)
            )
    alone.graph.node.append(node.proto)
    for value in filter(None, node.outputs):
        alone.graph.output.add(name=value.name)
    return alone


def _numbers(shape: tuple[Dim | None, ...]) -> tuple[int | None, ...]:
    """Return the extents that are known in numbers."""
    return tuple(dim if isinstance(dim, int) else None for dim in shape)


def _is_constant(value: Value) -> bool:
    node = value.producer
    return node is not None and node.op_type == "Constant" and not node.domain


def _infers(alone: onnx.ModelProto) -> bool:
    try:
        infer_shapes(alone, check_type=False, strict_mode=True, data_prop=True)
    except (InferenceError, RuntimeError, ValueError):
        return False
    return True


def _refusal(alone: onnx.ModelProto) -> str:
    """Return why ONNX Runtime finds the shapes wrong, "" if it does not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(
            alone.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime has no common class of what it raises here
        text = str(error)
        if "ShapeInferenceError]" in text or "TypeInferenceError]" in text:
            return text.rsplit("InferenceError]", 1)[1].strip().splitlines()[0].rstrip(".").lower()
    return ""


def _show(name: str, found: dict[str, Info], graph: Graph) -> str:
    value = graph.values[name]
    shape = value.shape if value.producer is None else found.get(name, (None, None))[1]
    return "unknown" if shape is None else str([dim if dim is not None else "?" for dim in shape])
