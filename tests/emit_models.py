"""Small models, regions made by hand, and plain ONNX Runtime as the judge of what emit writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.emit import Emitted, emit
from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.load import Model, load
from onnx_fusion.graph.model import Graph, Node
from onnx_fusion.graph.view import read_type, view
from onnx_fusion.lower import Lowered
from onnx_fusion.ops.mapping import MappingType

RNG = np.random.default_rng(7)


def graph_of(model: Model) -> Graph:
    """The view, with the types that onnx's own shape inference finds."""
    graph = view(model)
    inferred = onnx.shape_inference.infer_shapes(model.proto).graph
    for info in (*inferred.value_info, *inferred.output):
        value = graph.values[info.name]
        value.dtype, value.shape = read_type(info.type)
    return graph


def region_of(name: str, nodes: list[Node], saved: int = 0) -> Region:
    made = {value for node in nodes for value in node.outputs if value}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value)
    outputs = [value for node in nodes for value in node.outputs if value and (
        value.is_output or value.captured or any(user not in nodes for user in value.consumers))]
    return Region(name, tuple(nodes), MappingType.ONE_TO_ONE, None, None,
                  tuple(value for value in read if value not in made), tuple(outputs), saved)


def lower(name: str, nodes: list[Node], baked: tuple[str, ...] = (), saved: int = 0) -> Lowered:
    """A lowered region whose program is never run; `baked` are the constants it holds."""
    region = region_of(name, nodes, saved)
    inputs = tuple(value for value in region.inputs if value.name not in baked)
    return Lowered(region, f"tile_program 1\n# {name}", inputs, region.outputs)


def pick(graph: Graph, *names: str) -> list[Node]:
    return [node for node in graph.nodes if node.name in names]


def whole(emitted: Emitted) -> onnx.ModelProto:
    """The emitted model with its weights in it."""
    proto = onnx.ModelProto()
    proto.CopyFrom(emitted.proto)
    attached = set()
    for tensor in proto.graph.initializer:
        if tensor.name in emitted.weights:
            assert not tensor.raw_data and not tensor.float_data
            tensor.raw_data = bytes(emitted.weights[tensor.name].raw())
            attached.add(tensor.name)
    assert attached == set(emitted.weights)
    return proto


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"]).run(None, feeds)


def feeds_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    feeds = {}
    initial = {tensor.name for tensor in proto.graph.initializer}
    for info in proto.graph.input:
        if info.name in initial:
            continue
        tensor = info.type.tensor_type
        shape = [dim.dim_value or 3 for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        draw = RNG.random(shape) > 0.5 if dtype == np.bool_ else RNG.standard_normal(shape)
        feeds[info.name] = np.asarray(draw, dtype)
    return feeds


def same(before: onnx.ModelProto, emitted: Emitted, feeds: dict[str, np.ndarray] | None = None
         ) -> onnx.ModelProto:
    """Check that what was emitted is a valid model with the same results, and return it."""
    after = whole(emitted)
    onnx.checker.check_model(after, full_check=True)
    onnx.shape_inference.infer_shapes(after, check_type=True, strict_mode=True, data_prop=True)
    feeds = feeds or feeds_of(before)
    for want, got in zip(run(before, feeds), run(after, feeds), strict=True):
        assert (want.dtype, want.shape) == (got.dtype, got.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return after


def fuse(proto: onnx.ModelProto, *regions: str, **options) -> onnx.ModelProto:
    """Emit with one region for each text of node names; check validity and results."""
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", pick(graph, *names.split())) for k, names in enumerate(regions)]
    return same(proto, emit(model, graph, fused, **options))


def body(proto: onnx.ModelProto, k: int = 0) -> list[str]:
    """The function's nodes as text."""
    return [f"{' '.join(node.output)} = {node.op_type} {' '.join(node.input)}".rstrip()
            for node in proto.functions[k].node]


def make(nodes, inputs, outputs, weights=(), *, opset=17, ir=8, **more) -> onnx.ModelProto:
    def info(entry):
        return helper.make_tensor_value_info(entry[0], TensorProto.FLOAT, entry[1])

    graph = helper.make_graph(
        [helper.make_node(kind, reads.split(), writes.split(), name=name, **attrs)
         for name, kind, reads, writes, attrs in nodes],
        "graph", [info(entry) for entry in inputs], [info(entry) for entry in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights])
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)],
                             **more)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def chain(**more) -> onnx.ModelProto:
    return make([("add", "Add", "x w", "a", {}), ("relu", "Relu", "a", "b", {}),
                 ("exp", "Exp", "b", "c", {}), ("neg", "Neg", "c", "y", {})],
                [("x", ["N", 4])], [("y", ["N", 4])], [("w", floats(4))], **more)


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]
