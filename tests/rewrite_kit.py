"""Models from a line of text, one rule applied, and ONNX Runtime as the judge."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.emit.function import node_proto, written_nodes
from onnx_fusion.graph.load import load
from onnx_fusion.graph.view import view
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer
from onnx_fusion.passes.rewrite import RULES
from onnx_fusion.passes.rewrite.engine import run as run_rules

DTYPES = {"float": np.float32, "int32": np.int32, "int64": np.int64}
BOOLS = ("b", "d")
SHAPES = {"u": "1, 1, M", "v": "2, N, M", "r": "1, M", "s": "1, M", "d": "N, M"}
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 3.4e38, -3.4e38, 1e-42, -1e-42,
                    0.5, 6.0], np.float32)
_TOKEN = re.compile(r"#(?:(i?)\[([^\]]*)\]([+]|=[01])?|(-?[\d.]+(?:e-?\d+)?))")


def build(text, seed=0, *, dtype="float", opset=20, shapes=()):
    """Return the model that a case's text describes; constants are of the model's element type."""
    rng = np.random.default_rng(seed)
    extents = dict(zip("NMK", rng.integers(2, 6, 3).tolist(), strict=True))
    constants = {}

    def size(dims):
        return [extents.get(d.strip()) or int(d) for d in dims.split(",") if d.strip()]

    def constant(match):
        index, dims, how, number = match.groups()
        name = f"const{len(constants)}"
        if number is not None:
            array = np.array(float(number), DTYPES[dtype])
        elif index:
            array = np.array(size(dims), np.int64)
        elif how in ("=0", "=1"):
            array = np.full(size(dims), int(how[1]), DTYPES[dtype])
        else:
            draw = rng.uniform(1, 3, size(dims)) * (1 if how else rng.choice([-1, 1], size(dims)))
            array = np.asarray(draw, DTYPES[dtype])
        constants[name] = array
        return name

    body = _TOKEN.sub(constant, text)
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
                                    f"g (float[1] zzz) => (float[1] out) {{ {body} }}")
    graph = proto.graph
    last = graph.node[-1].output[0]
    graph.node.append(helper.make_node("Identity", [last], ["out"]))
    for k, node in enumerate(graph.node):
        node.name = f"n{k}"
    del graph.input[:]
    del graph.output[:]
    written = {name for node in graph.node for name in node.output}
    for name in dict.fromkeys(n for node in graph.node for n in node.input if n not in written):
        if name in constants:
            graph.initializer.append(numpy_helper.from_array(constants[name], name))
            continue
        code = TensorProto.BOOL if name in BOOLS else helper.np_dtype_to_tensor_dtype(
            np.dtype(DTYPES[dtype]))
        dims = dict(shapes).get(name, SHAPES.get(name, "N, M"))
        graph.input.append(helper.make_tensor_value_info(name, code, size(dims)))
    graph.output.add(name="out")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    graph.output[0].CopyFrom(inferred.graph.output[0])
    return proto


def feeds(proto, seed, *, special=False, positive=False):
    """Return random inputs: of either sign around 1, all of SPECIAL, or any integers."""
    rng = np.random.default_rng(seed)
    result = {}
    for info in proto.graph.input:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if dtype == np.bool_:
            array = rng.random(shape) > 0.5
        elif np.issubdtype(dtype, np.integer):
            bounds = np.iinfo(dtype)
            array = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
            array[rng.random(shape) < 0.2] = bounds.min
        elif special:
            array = rng.choice(SPECIAL, shape)
        else:
            array = rng.uniform(0.5, 2, shape) * (1 if positive else rng.choice([-1, 1], shape))
        result[info.name] = np.asarray(array, dtype)
    return result


def prepared(proto):
    return infer(fold(infer(view(load(proto)))))


def apply(proto, name, *, strict=False, commute=True):
    """Return (graph, whether it changed) after the rule alone."""
    graph = prepared(proto)
    before = list(graph.nodes)
    reads = [list(node.inputs) for node in before]
    rules = [rule for rule in RULES if rule.name == name]
    assert rules
    run_rules(graph, rules, strict=strict, disabled=() if commute else ("commute",))
    changed = graph.nodes != before or [list(node.inputs) for node in graph.nodes] != reads
    return graph, changed


def rebuild(graph):
    """Return the graph as a model, as its portable function would have it."""
    source = graph.model.proto
    model = onnx.ModelProto(ir_version=10, opset_import=source.opset_import)
    model.graph.name = "g"
    model.graph.input.extend(source.graph.input)
    model.graph.output.extend(source.graph.output)
    values = {}
    for node in written_nodes(graph.nodes):
        model.graph.node.append(node_proto(node))
        values.update((v.name, v) for v in node.inputs if v is not None and v.weight is not None)
    model.graph.initializer.extend(v.weight.tensor(n, data=True) for n, v in values.items())
    return model


def run(proto, given):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    read = {info.name for info in proto.graph.input}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(None, {k: v for k, v in given.items() if k in read})


def same_bits(got, want):
    """True if equal to the bit, but for what a NaN holds."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.dtype.kind != "f":
        return bool((got == want).all())
    nan = np.isnan(got)
    return bool((nan == np.isnan(want)).all()) and got[~nan].tobytes() == want[~nan].tobytes()
