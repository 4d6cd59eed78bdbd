"""Folding: what depends on constants only is a constant, the numbers stay, as does the rest."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from graph_rebuild import rebuild
from onnx import numpy_helper

from onnx_fusion.graph.load import load
from onnx_fusion.graph.view import view
from onnx_fusion.passes import fold as fold_module
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer


def parse(body, opset=17, ir=8, **arrays):
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


def folded(proto, rounds=1):
    graph = infer(view(load(proto)))
    for _ in range(rounds):
        infer(fold(graph))
    return graph


def run(proto, **feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def ops(graph):
    return [node.op_type for node in graph.nodes]


def test_constant_arithmetic_has_onnx_runtime_numbers():
    proto = parse("""g (float[2, 3] x) => (float[2, 3] z) {
        k = Constant <value_float = 0.7> ()  e = Erf(w)  s = Mul(e, k)  t = Transpose(s)
        z = Add(x, t) }""", w=np.linspace(-2, 2, 6, dtype="f4").reshape(3, 2))
    graph = folded(proto)
    assert ops(graph) == ["Add"]
    assert graph.values.keys() == {"x", "t", "z"}
    x = np.ones((2, 3), "f4")
    constant = run(parse("g () => (float[2, 3] t) { e = Erf(w)  s = Mul(e, k)  t = Transpose(s) }",
                         w=np.linspace(-2, 2, 6, dtype="f4").reshape(3, 2),
                         k=np.float32(0.7)))[0]
    assert np.array_equal(graph.values["t"].weight.array(), constant)
    assert np.array_equal(run(rebuild(graph, expand=True), x=x)[0], run(proto, x=x)[0])


@pytest.mark.parametrize("text, value", [
    ("value = int64[2] {3, 4}", np.array([3, 4])), ("value_int = 3", np.array(3)),
    ("value_ints = [3, 4]", np.array([3, 4])), ("value_float = 0.5", np.array(0.5, "f4")),
    ("value_floats = [0.5, 1.5]", np.array([0.5, 1.5], "f4")),
])
def test_constant_nodes(text, value):
    graph = folded(parse(f"g (float[2] x) => (float[2] z, int64[N] y) "
                         f"{{ k = Constant <{text}> ()  y = Shape(k)  z = Neg(x) }}"))
    assert graph.values["k"].weight is not None
    got = graph.values["k"].weight.array()
    assert got.dtype == value.dtype and np.array_equal(got, value) and got.shape == value.shape


def test_strings_and_sparse_constants_stay():
    graph = folded(parse('g (float[2] x) => (float[2] z, string[N] y) '
                         '{ k = Constant <value_strings = ["a"]> ()  y = Identity(k) z = Neg(x) }'))
    assert ops(graph) == ["Constant", "Identity", "Neg"]


STATIC = """g (float[2, 6, 4] x) => (float[A, B, C] z) {
    s = Shape(x)  zero = Constant <value = int64 {0}> ()  b = Gather(s, zero)
    at = Constant <value = int64[1] {0}> ()  b1 = Unsqueeze(b, at)
    r = Constant <value = int64[2] {-1, 8}> ()  target = Concat <axis = 0> (b1, r)
    y = Reshape(x, target)  z = Relu(y) }"""


def test_shape_arithmetic_of_static_models():
    graph = folded(parse(STATIC))
    assert ops(graph) == ["Reshape", "Relu"]
    assert graph.values["target"].weight.array().tolist() == [2, -1, 8]
    assert graph.values["z"].shape == (2, 3, 8)


def test_static_extents_of_values_that_have_others():
    body = STATIC.replace("[2, 6, 4] x", "[N, 6, 4] x").replace("int64 {0}", "int64 {1}")
    graph = folded(parse(body.replace("{-1, 8}", "{-1, 2}")))
    assert ops(graph) == ["Reshape", "Relu"]
    assert graph.values["target"].weight.array().tolist() == [6, -1, 2]
    assert ops(folded(parse(STATIC.replace("[2, 6, 4] x", "[N, 6, 4] x")))) == [
        "Shape", "Gather", "Unsqueeze", "Concat", "Reshape", "Relu"]


@pytest.mark.parametrize("attributes, want", [
    ("", [2, 3, 4]), ("<start = 1>", [3, 4]), ("<start = -2, end = -1>", [3]),
    ("<end = 9>", [2, 3, 4]),
])
def test_shape_with_bounds(attributes, want):
    graph = folded(parse("g (float[2, 3, 4] x) => (int64[N] z, float[2, 3, 4] y) "
                         "{ s = Shape " + attributes + " (x)  z = Neg(s)  y = Neg(x) }"))
    assert graph.values["s"].weight.array().tolist() == want


def test_extents_that_overflow_are_left_alone():
    graph = folded(parse("""g (float[2] x) => (int64[1] z) {
        s = Shape(x)  p = Mul(s, k)  q = Mul(p, k)  r = Mul(q, k)  z = Neg(r) }""",
                         k=np.array([2**40])))
    proto = rebuild(graph, expand=True)
    assert run(proto, x=np.ones(2, "f4"))[0].tolist() == [0]


def test_control_flow_random_and_quantisation_are_not_folded():
    graph = folded(parse("""g (float[4] x) => (float[4] z, float[4] y, float[4] v, float[4] t) {
        r = RandomNormal <shape = [4], seed = 1.0> ()  z = Add(x, r)
        q = QuantizeLinear(w, s)  d = DequantizeLinear(q, s)  y = Add(x, d)
        i = If (c) <then_branch = a () => (float[4] p) { p = Neg(w) },
                    else_branch = b () => (float[4] o) { o = Exp(w) }>
        v = Add(x, i)
        k = Dropout(w)  t = Add(x, k) }""",
                         w=np.ones(4, "f4"), s=np.float32(0.1), c=np.array(True)))
    assert set(ops(graph)) - {"Add"} == {
        "RandomNormal", "QuantizeLinear", "DequantizeLinear", "If", "Dropout"}


def test_what_control_flow_reads_stays_computed():
    graph = folded(parse("""g (float[4] x) => (float[4] z) {
        n = Size(x)  four = Constant <value = int64 {4}> ()  c = Equal(n, four)
        k = Neg(w)
        z = If (c) <then_branch = a () => (float[4] p) { p = Add(x, k) },
                    else_branch = b () => (float[4] o) { o = Exp(x) }> }""", w=np.ones(4, "f4")))
    assert ops(graph) == ["Size", "Equal", "Neg", "If"]


def test_what_leads_to_control_flow_beside_data_is_folded():
    proto = parse("""g (float[4] x, bool c) => (float z) {
        n = Size(x)  half = Div(n, two)
        i = ArgMax <axis = 0, keepdims = 0> (x)  k = Mod(i, half)
        z = If (c) <then_branch = a () => (float p) { p = Gather(x, k) },
                    else_branch = b () => (float o) { o = Gather(x, n) }> }""", two=np.int64(2))
    graph = folded(proto)
    assert ops(graph) == ["Size", "ArgMax", "Mod", "If"]
    assert graph.values["half"].weight.array() == 2


def test_outputs_identities_and_overridable_initializers_stay():
    proto = parse("""g (float[4] x, float[4] o) => (float[4] z, float[4] y, float[4] v) {
        i = Identity(x)  z = Relu(i)  y = Neg(w)  n = Neg(o)  v = Add(x, n) }""",
                  w=np.ones(4, "f4"), o=np.ones(4, "f4"))
    assert ops(folded(proto)) == ["Identity", "Relu", "Neg", "Neg", "Add"]
    proto.ir_version = 3
    assert ops(folded(proto)) == ["Identity", "Relu", "Neg", "Add"]


def test_an_identity_of_a_weight_is_that_weight():
    graph = folded(parse("g (float[4] x) => (float[4] z) { i = Identity(w)  z = Add(x, i) }",
                         w=np.arange(4, dtype="f4")))
    assert ops(graph) == ["Add"]
    assert graph.values["i"].weight.array().tolist() == [0, 1, 2, 3]


def test_large_results_are_not_folded(monkeypatch):
    body = """g (float[800, 400] x) => (float[800, 400] z) {
        s = Constant <value = int64[2] {800, 400}> ()  e = Expand(w, s)  z = Add(x, e) }"""
    assert ops(folded(parse(body, w=np.ones((1, 400), "f4")))) == ["Expand", "Add"]
    body = "g (float[800, 400] x) => (float[800, 400] z) { e = Transpose(w)  z = Add(x, e) }"
    proto = parse(body, w=np.ones((400, 800), "f4"))
    assert ops(folded(proto)) == ["Add"]
    monkeypatch.setattr(fold_module, "MAX_BYTES", 1 << 20)
    assert ops(folded(proto)) == ["Transpose", "Add"]


def test_a_node_nobody_reads_stays():
    graph = folded(parse("g (float[4] x) => (float[4] z) { a = Exp(x)  z = Neg(x) }"))
    assert ops(graph) == ["Exp", "Neg"]


def test_a_node_onnx_runtime_cannot_run_does_not_stop_the_others():
    graph = folded(parse("""g (float[2] x) => (float[2] z, float[2] y) {
        a = Neg(w)  z = Add(x, a)  b = Gather(w, i)  y = Add(x, b) }""",
                         w=np.arange(2, dtype="f4"), i=np.array([7, 7])))
    assert ops(graph) == ["Add", "Gather", "Add"]


def test_batches_of_big_constants(monkeypatch):
    monkeypatch.setattr(fold_module, "_BATCH_BYTES", 100)
    graph = folded(parse("""g (float[9] x) => (float[9] z) {
        a = Neg(w)  b = Exp(a)  c = Add(a, b)  d = Mul(c, b)  z = Add(x, d) }""",
                         w=np.linspace(0, 1, 9, dtype="f4")))
    assert ops(graph) == ["Add"]
    a = -np.linspace(0, 1, 9, dtype="f4")
    assert np.allclose(graph.values["d"].weight.array(), (a + np.exp(a)) * np.exp(a), rtol=1e-6)


def test_fold_changes_no_proto():
    model = load(parse(STATIC))
    before = model.proto.SerializeToString(deterministic=True)
    infer(fold(infer(view(model))))
    assert model.proto.SerializeToString(deterministic=True) == before
