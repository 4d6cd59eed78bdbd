"""All passes together: nodes of the input model stay nameable, protos untouched, results equal."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from graph_rebuild import rebuild
from onnx import numpy_helper

from onnx_fusion.graph.load import load
from onnx_fusion.passes.pipeline import prepare

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 12, 12] x) => (float[N, 8] z) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    n = BatchNormalization (c, scale, shift, mean, var)
    r = Relu(n)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    s = Shape(p)
    zero = Constant <value = int64 {0}> ()
    at = Constant <value = int64[1] {0}> ()
    k = Gather(s, zero)  k1 = Unsqueeze(k, at)
    rest = Constant <value = int64[1] {-1}> ()
    target = Concat <axis = 0> (k1, rest)
    f = Reshape(p, target)
    y = Gemm(f, fc, fb)
    m = ReduceMean <axes = [-1]> (y)  d = Sub(y, m)  two = Constant <value_float = 2.0> ()
    q = Pow(d, two)  v = ReduceMean <axes = [-1]> (q)  eps = Constant <value_float = 0.001> ()
    e = Add(v, eps)  root = Sqrt(e)  o = Div(d, root)  t = Mul(o, gamma)  z = Add(t, beta)
}"""


def network():
    proto = onnx.parser.parse_model(NETWORK)
    draw = np.random.default_rng(0)
    for name, shape in {"w": (4, 1, 3, 3), "scale": 4, "shift": 4, "mean": 4, "fc": (144, 8),
                        "fb": 8, "gamma": 8, "beta": 8}.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(draw.standard_normal(shape).astype("f4"), name))
    proto.graph.initializer.append(
        numpy_helper.from_array(draw.uniform(0.5, 1.5, 4).astype("f4"), "var"))
    return proto


@pytest.mark.parametrize("strict", [False, True])
def test_the_whole_way(strict):
    proto = network()
    model = load(proto)
    before = model.proto.SerializeToString(deterministic=True)
    graph = prepare(model, strict=strict)
    assert model.proto.SerializeToString(deterministic=True) == before
    head = ["Conv", "BatchNormalization"] if strict else ["Conv"]
    ops = [node.op_type for node in graph.nodes]
    assert ops == [*head, "Relu", "MaxPool", "Reshape", "Gemm", "LayerNormalization"]
    assert graph.values["f"].shape == ("N", 144) and graph.values["z"].shape == ("N", 8)
    covered = sorted(i for node in graph.nodes for i in node.origin)
    arithmetic = {"Constant", "Shape", "Gather", "Unsqueeze", "Concat"}
    gone = [i for i, node in enumerate(proto.graph.node) if node.op_type in arithmetic]
    assert sorted(covered + gone) == list(range(len(proto.graph.node)))
    for node in graph.nodes:
        parts = node.parts or (node,)
        assert {model.proto.graph.node[i].op_type for i in node.origin} == {
            part.proto.op_type for part in parts}
    x = {"x": np.random.default_rng(1).standard_normal((3, 1, 12, 12)).astype("f4")}
    want = run(proto, x)
    assert np.allclose(run(rebuild(graph, expand=True), x), want, rtol=1e-5, atol=1e-6)
    if not strict:
        assert np.allclose(run(rebuild(graph, expand=False), x), want, rtol=1e-4, atol=1e-5)


def run(proto, feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_the_same_model_gives_the_same_graph():
    def describe():
        graph = prepare(load(network()))
        return ([repr((node, node.inputs, node.outputs, sorted(node.origin))) for node in
                 graph.nodes], list(graph.values))

    assert describe() == describe()


def test_uses_and_producers_fit_together():
    graph = prepare(load(network()))
    for node in graph.nodes:
        for value in filter(None, node.inputs):
            assert graph.values[value.name] is value and value.consumers.count(node) == 1
            assert value.weight or value.producer in graph.nodes or value in graph.inputs
        for value in filter(None, node.outputs):
            assert graph.values[value.name] is value and value.producer is node
    for value in graph.values.values():
        assert all(node in graph.nodes for node in value.consumers)
        assert value.weight is None or value.producer is None
