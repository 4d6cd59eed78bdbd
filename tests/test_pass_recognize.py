"""Norms and softmax as primitives: found however they are written, and only if they are one."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from graph_rebuild import rebuild
from onnx import numpy_helper

from onnx_fusion.graph.load import load
from onnx_fusion.graph.view import view
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer
from onnx_fusion.passes.recognize import recognize

R = np.random.default_rng(5)
CONSTANTS = {
    "two": np.float32(2), "eps": np.float32(1e-3), "one": np.float32(1), "half": np.float32(-0.5),
    "last": np.array([-1]), "axis2": np.array([2]), "g": R.uniform(0.5, 2, 8).astype("f4"),
    "b": R.standard_normal(8).astype("f4"), "g3": R.uniform(0.5, 2, (1, 1, 8)).astype("f4"),
    "gc": R.uniform(0.5, 2, (1, 6, 1)).astype("f4"), "bc": R.standard_normal((6, 1)).astype("f4"),
    "three": np.float32(3), "inner": np.array([1, 2]), "k": np.float32(0.25),
    "groups": np.array([0, 3, -1]), "back": np.array([4, 6, 8]), "mixed": np.array([1, 12, -1]),
    "gg": R.uniform(0.5, 2, 3).astype("f4"), "bg": R.standard_normal(3).astype("f4"),
    "g12": R.uniform(0.5, 2, 12).astype("f4"),
}


def parse(body, opset=23, head="g (float[4, 6, 8] x) => (float[A, B, C] z)"):
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]>\n{head} {{ {body} }}')
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name)
                                   for name, array in CONSTANTS.items() if name in read)
    return proto


def recognized(proto, **options):
    return recognize(infer(fold(infer(view(load(proto))))), **options)


def run(proto, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agree(graph, proto):
    """Fail if the graph with its new nodes, or with their parts, computes something else."""
    feeds = {info.name: R.standard_normal((4, 6, 8)).astype("f4") * 3 + 1
             for info in proto.graph.input}
    want = run(proto, feeds)
    for expand in (True, False):
        for got, expected in zip(run(rebuild(graph, expand=expand), feeds), want, strict=True):
            assert np.allclose(got, expected, rtol=1e-4, atol=1e-5)


MEAN = "m = ReduceMean(x, last)  d = Sub(x, m)  "
VAR = "q = Mul(d, d)  v = ReduceMean(q, last)  e = Add(v, eps)  "
NORM = MEAN + VAR + "s = Sqrt(e)  "

LAYER_NORMS = {
    "PyTorch": MEAN + """q = Pow(d, two)  v = ReduceMean(q, last)  e = Add(v, eps)  s = Sqrt(e)
        n = Div(d, s)  t = Mul(n, g)  z = Add(t, b)""",
    "Mul for Pow, operands turned": MEAN + """q = Mul(d, d)  v = ReduceMean(q, last)
        e = Add(eps, v)  s = Sqrt(e)  n = Div(d, s)  t = Mul(g, n)  z = Add(b, t)""",
    "Reciprocal": NORM + "r = Reciprocal(s)  n = Mul(d, r)  t = Mul(n, g)  z = Add(t, b)",
    "Reciprocal first": NORM + "r = Reciprocal(s)  n = Mul(r, d)  t = Mul(n, g)  z = Add(t, b)",
    "one over": NORM + "r = Div(one, s)  n = Mul(d, r)  t = Mul(n, g)  z = Add(t, b)",
    "Pow -0.5": MEAN + VAR + "r = Pow(e, half)  n = Mul(d, r)  t = Mul(n, g)  z = Add(t, b)",
    "difference twice": NORM + "c = Sub(x, m)  n = Div(c, s)  t = Mul(n, g)  z = Add(t, b)",
    "mean twice": NORM + """o = ReduceMean(x, axis2)  c = Sub(x, o)  n = Div(c, s)  t = Mul(n, g)
        z = Add(t, b)""",
    "scale of rank 3": NORM + "n = Div(d, s)  t = Mul(n, g3)  z = Add(t, b)",
    "no bias": NORM + "n = Div(d, s)  z = Mul(n, g)",
    "neither": NORM + "z = Div(d, s)",
    "casts": "x1 = Cast <to = 1> (x)  m = ReduceMean(x1, last)  d = Sub(x1, m)  " + VAR + """
        e1 = Cast <to = 1> (e)  s = Sqrt(e1)  n = Div(d, s)  n1 = Cast <to = 1> (n)
        t = Mul(n1, g)  z = Add(t, b)""",
}


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_normalization(name):
    proto = parse(LAYER_NORMS[name])
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    graph = recognized(proto)
    (node,) = graph.nodes
    assert (node.op_type, node.domain, node.attrs["axis"]) == ("LayerNormalization", "", -1)
    assert node.attrs["epsilon"] == pytest.approx(1e-3)
    assert node.inputs[0] is graph.values["x"] and node.outputs == [graph.values["z"]]
    assert node.inputs[1].shape == (8,) and (len(node.inputs) == 2 or node.inputs[2].shape == (8,))
    assert [part.name for part in node.parts] == [n.name for n in proto.graph.node]
    assert node.origin == set(range(len(proto.graph.node))) and node.body_is_parts
    assert graph.values["z"].producer is node and graph.values["x"].consumers == [node]
    agree(graph, proto)


@pytest.mark.parametrize("opset, reduce", [(11, "ReduceMean <axes = [-1]> ({})"),
                                           (17, "ReduceMean <axes = [2], keepdims = 1> ({})"),
                                           (18, "ReduceMean({}, last)")])
def test_axes_as_attribute_or_input(opset, reduce):
    graph = recognized(parse(f"""m = {reduce.format("x")}  d = Sub(x, m)  q = Pow(d, two)
        v = {reduce.format("q")}  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  t = Mul(n, g)
        z = Add(t, b)""", opset=opset))
    assert [node.op_type for node in graph.nodes] == ["LayerNormalization"]


def test_a_norm_over_two_axes():
    body = NORM.replace("last", "inner") + "n = Div(d, s)  t = Mul(n, g)  z = Add(t, b)"
    graph = recognized(parse(body, head="g (float[4, N, 8] x) => (float[A, B, C] z)"))
    assert "LayerNormalization" not in [node.op_type for node in graph.nodes]
    proto = parse(body)
    graph = recognized(proto)
    assert [node.op_type for node in graph.nodes] == ["LayerNormalization", "Mul", "Add"]
    assert graph.nodes[0].attrs["axis"] == -2 and graph.nodes[0].inputs[1].shape == (6, 8)
    agree(graph, proto)


def test_instance_normalization():
    proto = parse(NORM + "n = Div(d, s)  t = Mul(n, gc)  z = Add(t, bc)")
    graph = recognized(proto)
    (node,) = graph.nodes
    assert node.op_type == "InstanceNormalization"
    assert [value.shape for value in node.inputs[1:]] == [(6,), (6,)]
    agree(graph, proto)


GROUPED = "o = Reshape(x, groups)  i = InstanceNormalization <epsilon = 0.001> (o, gg, bg)  "
GROUP_NORMS = {
    "PyTorch": GROUPED + "r = Reshape(i, back)  t = Mul(r, gc)  z = Add(t, bc)",
    "operands turned": GROUPED + "r = Reshape(i, back)  t = Mul(gc, r)  z = Add(bc, t)",
    "no scale": GROUPED + "r = Reshape(i, back)  z = Add(r, bc)",
    "no bias": GROUPED + "r = Reshape(i, back)  z = Mul(r, gc)",
    "neither": GROUPED + "z = Reshape(i, back)",
}


@pytest.mark.parametrize("name", GROUP_NORMS)
def test_group_normalization(name):
    proto = parse(GROUP_NORMS[name])
    graph = recognized(proto)
    (node,) = graph.nodes
    assert (node.op_type, node.attrs["num_groups"]) == ("GroupNormalization", 3)
    assert [value.shape for value in node.inputs[1:]] == [(6,), (6,)]
    agree(graph, proto)
    assert len(recognized(proto, strict=True).nodes) == len(proto.graph.node)


def test_a_group_scale_that_is_no_float32_stays_apart():
    """0 times each factor is 0; times their product, infinity, it would be NaN."""
    proto = parse(GROUP_NORMS["PyTorch"])
    for info in proto.graph.initializer:
        if info.name in ("gg", "gc"):
            huge = np.full_like(numpy_helper.to_array(info), 1e30)
            info.CopyFrom(numpy_helper.from_array(huge, info.name))
    types = [node.op_type for node in recognized(proto).nodes]
    assert types == ["GroupNormalization", "Mul", "Add"]


@pytest.mark.parametrize("body", [
    GROUPED + "r = Reshape(i, groups)  z = Mul(r, k)",
    GROUPED + "r = Reshape(i, back)  t = Exp(i)  z = Exp(r)  y = Exp(t)",
    "o = Reshape(x, mixed)  i = InstanceNormalization(o, g12, g12)  z = Reshape(i, back)",
])  # fmt: skip
def test_what_is_no_group_normalization(body):
    head = f"g (float[4, 6, 8] x) => (float[A, B, C] z{', float[D, E, F] y' * ('y =' in body)})"
    graph = recognized(parse(body, head=head))
    assert "InstanceNormalization" in [node.op_type for node in graph.nodes]


RMS_NORMS = {
    "Div": "q = Pow(x, two)  v = ReduceMean(q, last)  e = Add(v, eps)  s = Sqrt(e)  n = Div(x, s)",
    "Reciprocal": """q = Mul(x, x)  v = ReduceMean(q, last)  e = Add(v, eps)  s = Sqrt(e)
        r = Reciprocal(s)  n = Mul(x, r)""",
    "Llama": """x1 = Cast <to = 1> (x)  q = Pow(x1, two)  v = ReduceMean(q, last)  e = Add(v, eps)
        s = Sqrt(e)  r = Div(one, s)  n0 = Mul(x1, r)  n = Cast <to = 1> (n0)""",
}


@pytest.mark.parametrize("name", RMS_NORMS)
def test_rms_normalization(name):
    proto = parse(RMS_NORMS[name] + "  z = Mul(g, n)")
    graph = recognized(proto)
    (node,) = graph.nodes
    assert (node.op_type, node.attrs["axis"]) == ("RMSNormalization", -1)
    assert node.inputs == [graph.values["x"], graph.values["g"]]
    agree(graph, proto)


def test_a_bias_after_rms_normalization_is_its_own_node():
    proto = parse(RMS_NORMS["Div"] + "  t = Mul(n, g)  z = Add(t, b)")
    graph = recognized(proto)
    assert [node.op_type for node in graph.nodes] == ["RMSNormalization", "Add"]
    agree(graph, proto)


SOFTMAXES = {
    "Div": ("Softmax", -1, """m = ReduceMax(x, last)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(e, last)  z = Div(e, s)"""),
    "Reciprocal": ("Softmax", -1, """m = ReduceMax(x, last)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(e, last)  r = Reciprocal(s)  z = Mul(r, e)"""),
    "another axis": ("Softmax", -2, """m = ReduceMax(x, mid)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(e, mid)  z = Div(e, s)"""),
    "logarithm": ("LogSoftmax", -1, """m = ReduceMax(x, last)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(e, last)  l = Log(s)  z = Sub(d, l)"""),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax(name, monkeypatch):
    monkeypatch.setitem(CONSTANTS, "mid", np.array([1]))
    op_type, axis, body = SOFTMAXES[name]
    proto = parse(body)
    graph = recognized(proto)
    (node,) = graph.nodes
    assert (node.op_type, node.attrs, node.inputs) == (op_type, {"axis": axis}, [graph.values["x"]])
    agree(graph, proto)


def test_softmax_before_opset_13_flattens():
    body = """m = ReduceMax <axes = [{0}]> (x)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum <axes = [{0}]> (e)  z = Div(e, s)"""
    for axis, count in ((2, 1), (-1, 1), (1, 5)):
        assert len(recognized(parse(body.format(axis), opset=11)).nodes) == count


OTHERS = {
    "other exponent": NORM.replace("Mul(d, d)", "Pow(d, three)") + "z = Div(d, s)",
    "not the deviation": NORM + "z = Div(x, s)",
    "epsilon that varies": NORM.replace("Add(v, eps)", "Add(v, v)") + "z = Div(d, s)",
    "turned quotient": NORM + "z = Div(s, d)",
    "not kept": """m = ReduceMean(x, last)  d = Sub(x, m)  q = Mul(d, d)
        v = ReduceMean <keepdims = 0> (q, inner)  e = Add(v, eps)  s = Sqrt(e)
        s2 = Reshape(s, four)  z = Div(d, s2)""",
    "softmax without maximum": "e = Exp(x)  s = ReduceSum(e, last)  z = Div(e, s)",
    "softmax of another sum": """m = ReduceMax(x, last)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(d, last)  z = Div(e, s)""",
    "softmax over other axes": """m = ReduceMax(x, last)  d = Sub(x, m)  e = Exp(d)
        s = ReduceSum(e, inner)  z = Div(e, s)""",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_one_stays(name, monkeypatch):
    monkeypatch.setitem(CONSTANTS, "four", np.array([4, 1, 1]))
    graph = recognized(parse(OTHERS[name]))
    assert not any(node.parts for node in graph.nodes)


DIFFERENCES = {
    "other axes": NORM.replace("ReduceMean(q, last)", "ReduceMean(q, inner)") + "z = Div(d, s)",
    "turned difference": NORM.replace("Sub(x, m)", "Sub(m, x)") + "z = Div(d, s)",
    "mean of another": MEAN.replace("m = ReduceMean(x", "k0 = Neg(x)  m = ReduceMean(k0")
    + VAR + "s = Sqrt(e)  z = Div(d, s)",
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_norm_of_another_difference_is_an_rms_norm(name):
    proto = parse(DIFFERENCES[name])
    graph = recognized(proto)
    assert [node.op_type for node in graph.nodes[-3:]] == ["ReduceMean", "Sub", "RMSNormalization"]
    agree(graph, proto)


@pytest.mark.parametrize("name", ["m", "d", "q", "v", "e", "s"])
def test_an_inner_value_that_is_read_outside(name):
    body = NORM + f"n = Div(d, s)  t = Mul(n, g)  z = Add(t, b)  y = Neg({name})"
    proto = parse(body, head="g (float[4, 6, 8] x) => (float[A, B, C] z, float[D, E, F] y)")
    graph = recognized(proto)
    assert "LayerNormalization" not in [node.op_type for node in graph.nodes]
    agree(graph, proto)
    proto = parse(body, head=f"g (float[4, 6, 8] x) => (float[A, B, C] z, float[D, E, F] {name})")
    assert "LayerNormalization" not in [node.op_type for node in recognized(proto).nodes]


def test_a_step_that_is_read_outside_ends_the_norm():
    for name, count in (("n", 5), ("t", 3)):
        proto = parse(NORM + f"n = Div(d, s)  t = Mul(n, g)  u = Add(t, b)  y = Neg({name}) "
                      "z = Neg(u)",
                      head="g (float[4, 6, 8] x) => (float[A, B, C] z, float[D, E, F] y)")
        graph = recognized(proto)
        assert graph.nodes[0].op_type == "LayerNormalization"
        assert graph.nodes[0].outputs[0].name == name and len(graph.nodes) == count + (name == "t")
        agree(graph, proto)


def test_a_cast_input_that_is_read_outside_is_the_input():
    proto = parse("x1 = Cast <to = 1> (x)  m = ReduceMean(x1, last)  d = Sub(x1, m)  " + VAR + """
        s = Sqrt(e)  n = Div(d, s)  t = Mul(n, g)  u = Add(t, b)  z = Add(u, x1)""")
    graph = recognized(proto)
    assert [node.op_type for node in graph.nodes] == ["Cast", "LayerNormalization", "Add"]
    assert graph.nodes[1].inputs[0] is graph.values["x1"]
    agree(graph, proto)


def test_only_float32():
    proto = parse(LAYER_NORMS["neither"],
                  head="g (double[4, 6, 8] x) => (double[A, B, C] z)")
    for tensor in proto.graph.initializer:
        if tensor.name == "eps":
            tensor.CopyFrom(numpy_helper.from_array(np.float64(1e-3), "eps"))
    assert len(recognized(proto).nodes) == 7


def test_dynamic_rows():
    proto = parse(LAYER_NORMS["PyTorch"], head="g (float[N, S, 8] x) => (float[A, B, C] z)")
    graph = recognized(proto)
    assert [node.op_type for node in graph.nodes] == ["LayerNormalization"]
    agree(graph, proto)
