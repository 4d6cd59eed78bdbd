"""BatchNormalization in weights gives ONNX Runtime's results, and only where it may."""

import numpy as np
import onnxruntime
import pytest
from graph_rebuild import rebuild
from onnx import helper, numpy_helper

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.graph.load import load
from onnx_fusion.ops.elementwise import is_scale_and_shift
from onnx_fusion.passes.pipeline import prepare

R = np.random.default_rng(3)


def network(op, weight, channels, x, bias=None, tail="", **attrs):
    """Return a model of `op` and a BatchNormalization after it."""
    inputs = ["x", "w"] + (["b"] if bias is not None else [])
    names = ["scale", "shift", "mean", "var"]
    nodes = [helper.make_node(op, inputs, ["y"], name="op", **attrs),
             helper.make_node("BatchNormalization", ["y", *names], ["z"], name="bn", epsilon=1e-3)]
    arrays = {"w": R.standard_normal(weight), "scale": R.uniform(-2, 2, channels),
              "shift": R.standard_normal(channels), "mean": R.standard_normal(channels),
              "var": R.uniform(0.01, 2, channels)}
    if bias is not None:
        arrays["b"] = R.standard_normal(bias)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("z", 1, None)],
        [numpy_helper.from_array(array.astype("f4"), name) for name, array in arrays.items()])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


CASES = {
    "Conv": ("Conv", (8, 3, 3, 3), 8, (2, 3, 7, 6), None, {}),
    "Conv with bias": ("Conv", (8, 3, 3, 3), 8, (2, 3, 7, 6), (8,), {"pads": [1, 1, 1, 1]}),
    "Conv in groups": ("Conv", (8, 2, 3), 8, (2, 4, 9), (8,), {"group": 2}),
    "depthwise": ("Conv", (6, 1, 3, 3), 6, (1, 6, 8, 8), None, {"group": 6, "strides": [2, 2]}),
    "Conv in 3-D": ("Conv", (4, 2, 2, 2, 2), 4, (1, 2, 4, 4, 4), (4,), {}),
    "ConvTranspose": ("ConvTranspose", (3, 8, 3, 3), 8, (2, 3, 5, 5), (8,), {"strides": [2, 2]}),
    "ConvTranspose in groups": ("ConvTranspose", (4, 3, 3), 6, (2, 4, 9), None, {"group": 2}),
    "Gemm": ("Gemm", (5, 7), 7, (3, 5), (7,), {}),
    "Gemm without C": ("Gemm", (5, 7), 7, (3, 5), None, {"alpha": 0.5}),
    "Gemm of all attributes": ("Gemm", (7, 5), 7, (5, 3), (1, 7),
                               {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}),
    "Gemm with one number": ("Gemm", (5, 7), 7, (3, 5), (1,), {"beta": 3.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_folded_is_what_both_compute(name):
    op, weight, channels, size, bias, attrs = CASES[name]
    proto = network(op, weight, channels, size, bias, **attrs)
    graph = prepare(load(proto))
    (node,) = graph.nodes
    assert (node.op_type, node.name, node.origin) == (op, "op", {0, 1})
    assert [part.name for part in node.parts] == ["op", "bn"] and not node.body_is_parts
    assert len(node.inputs) == 3 and all(value.weight for value in node.inputs[1:])
    assert graph.values["z"].producer is node and "y" not in graph.values
    x = R.standard_normal(size).astype("f4")
    want = run(proto, x)
    assert np.allclose(run(rebuild(graph, expand=False), x), want, rtol=1e-4, atol=1e-5)
    assert np.array_equal(run(rebuild(graph, expand=True), x), want)


def with_add(proto, shape, also=""):
    """Return the model with an Add of a constant between the two; `also` is read elsewhere."""
    proto.graph.initializer.append(numpy_helper.from_array(
        R.standard_normal(shape).astype("f4"), "more"))
    norm = proto.graph.node[1]
    norm.input[0] = "added"
    proto.graph.node.insert(1, helper.make_node("Add", ["more", "y"], ["added"], name="add"))
    if also:
        proto.graph.node.add(op_type="Neg", input=[also], output=["v"])
        proto.graph.output.add(name="v")
    return proto


@pytest.mark.parametrize("name, shape", [
    ("Conv", (1, 8, 1, 1)), ("Conv with bias", (8, 1, 1)), ("ConvTranspose", (1, 8, 1, 1)),
    ("ConvTranspose in groups", (6, 1)), ("Conv in 3-D", (1, 1, 1, 1, 1)),
])  # fmt: skip
def test_an_add_between_is_folded_too(name, shape):
    op, weight, channels, size, bias, attrs = CASES[name]
    proto = with_add(network(op, weight, channels, size, bias, **attrs), shape)
    graph = prepare(load(proto))
    (node,) = graph.nodes
    assert [part.name for part in node.parts] == ["op", "add", "bn"] and node.origin == {0, 1, 2}
    x = R.standard_normal(size).astype("f4")
    want = run(proto, x)
    assert np.allclose(run(rebuild(graph, expand=False), x), want, rtol=1e-4, atol=1e-5)
    assert np.array_equal(run(rebuild(graph, expand=True), x), want)


@pytest.mark.parametrize("shape, also", [
    ((1, 8, 7, 6), ""), ((1, 8, 1, 6), ""), ((8, 1, 1), "y"), ((8, 1, 1), "added"),
])  # fmt: skip
def test_an_add_of_more_than_channels_or_read_elsewhere_is_not_folded(shape, also):
    op, weight, channels, size, bias, attrs = CASES["Conv with bias"]
    proto = with_add(network(op, weight, channels, size, bias, **attrs), shape, also)
    assert "BatchNormalization" in [node.op_type for node in prepare(load(proto)).nodes]


def test_weights_are_rounded_once():
    proto = network("Conv", (4, 3, 1, 1), 4, (1, 3, 2, 2), (4,))
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype("f8")
              for tensor in proto.graph.initializer}
    (node,) = prepare(load(proto)).nodes
    factor = arrays["scale"] / np.sqrt(arrays["var"] + np.float64(np.float32(1e-3)))
    weight = (arrays["w"] * factor[:, None, None, None]).astype("f4")
    bias = ((arrays["b"] - arrays["mean"]) * factor + arrays["shift"]).astype("f4")
    assert np.array_equal(node.inputs[1].weight.array(), weight)
    assert np.array_equal(node.inputs[2].weight.array(), bias)


def ops(proto, **options):
    return [node.op_type for node in prepare(load(proto), **options).nodes]


def example():
    return network("Conv", (4, 3, 1, 1), 4, (1, 3, 2, 2))


def test_strict_folds_nothing():
    assert ops(example(), strict=True) == ["Conv", "BatchNormalization"]


def test_a_result_that_is_read_elsewhere_stays():
    proto = example()
    proto.graph.node.add(op_type="Neg", input=["y"], output=["v"])
    proto.graph.output.add(name="v")
    assert ops(proto) == ["Conv", "BatchNormalization", "Neg"]
    proto = example()
    proto.graph.output.add(name="y")
    assert ops(proto) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("name", ["w", "mean", "scale"])
def test_what_is_no_constant_is_not_folded(name):
    proto = example()
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, 1, list(tensor.dims)))
    assert ops(proto) == ["Conv", "BatchNormalization"]
    proto.ir_version = 3
    assert ops(proto) == ["Conv"]


def test_training_mode_is_left_alone():
    proto = example()
    proto.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    proto.graph.node[1].output.extend(["m", "v"])
    assert ops(proto) == ["Conv", "BatchNormalization"]


def test_a_factor_that_float32_does_not_hold_is_left_alone():
    proto = example()
    for tensor in proto.graph.initializer:
        if tensor.name == "var":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, -1, "f4"), "var"))
    assert ops(proto) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("tail", ["read elsewhere", "no contraction"])
def test_what_is_left_is_a_scale_and_a_shift(tail):
    """Statistics in float64, rounded once; the model's own kernels and functions compute it."""
    proto = example()
    if tail == "no contraction":
        proto.graph.node[0].CopyFrom(helper.make_node("Sigmoid", ["x"], ["y"], name="op"))
        del proto.graph.initializer[0]
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    else:
        proto.graph.output.add(name="y")
    norm = next(n for n in prepare(load(proto)).nodes if n.op_type == "BatchNormalization")
    assert is_scale_and_shift(norm) and norm.parts
    assert not any(is_scale_and_shift(n) for n in prepare(load(proto), strict=True).nodes
                   if n.op_type == "BatchNormalization")
    x = R.standard_normal((1, 4 if tail == "no contraction" else 3, 2, 2)).astype("f4")
    made = api.optimize(proto, policy="all")
    for library in (True, False):
        session = onnx_fusion.session(made, library=library)
        got = session.run(["z"], {"x": x})[0]
        np.testing.assert_allclose(got, run(proto, x), rtol=1e-5, atol=1e-5)
    program = next(one.program for one in api.plan_programs(proto, policy="all").lowered
                   if "z" in [v.name for v in one.outputs])
    assert "sqrt" not in program and "div" not in program
