"""How rules are applied: to the end, the same way each time, fast, and right on any graph."""

import time

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from rewrite_kit import apply, build, feeds, prepared, rebuild, run

from onnx_fusion import api
from onnx_fusion.graph.load import load
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.passes.rewrite import list_rules, rewrite, tidy
from onnx_fusion.passes.rewrite.model import Scene, cost_of

UNARY = ("Neg({})", "Abs({})", "Relu({})", "Tanh({})", "Sigmoid({})", "Mul({0}, {0})",
         "Pow({}, #2)", "Mul({}, #1)", "Add({}, #0)", "Mul({}, #0.5)", "Add({}, #[M])",
         "Sub({}, #2)", "Div({}, #[M]+)", "Sub(#1, {})", "Transpose({})", "Reshape({}, #i[M, -1])",
         "Reshape({}, #i[N, M])", "Identity({})", "Clip({}, #-1, #2)", "Unsqueeze({}, #i[0])",
         "Squeeze({}, #i[0])", "ReduceSum <keepdims = 1> ({}, #i[-1])", "Expand({}, #i[N, M])",
         "Slice({}, #i[0], #i[9], #i[0])", "Softmax({})")
BINARY = ("Add({}, {})", "Mul({}, {})", "Sub({}, {})", "Max({}, {})", "Min({}, {})",
          "Concat <axis = 0> ({}, {})", "Where(b, {}, {})")


def random_model(seed):
    """Return a model of random operators on few values, so that equal terms are frequent."""
    rng = np.random.default_rng(seed)
    names, body = ["x", "y", "w"], ""
    for k in range(18):
        pool = UNARY if rng.random() < 0.6 else BINARY
        term = pool[rng.integers(len(pool))].format(*rng.choice(names[-6:], 2))
        text = f"{body} t{k} = {term}"
        try:
            build(text, seed)
        except Exception:  # shapes that do not fit; onnx has several classes for that
            continue
        body, names = text, [*names, f"t{k}"]
    return build(body, seed)


def draw(seed):
    """Return a random model that runs, and inputs for it."""
    for attempt in range(20):
        proto = random_model(1000 * attempt + seed)
        given = feeds(proto, seed)
        try:
            return proto, given, run(proto, given)
        except Exception:  # a Reshape that inference did not see through
            continue
    raise AssertionError("no model runs")


def test_a_leaf_that_is_an_inner_value_stays():
    proto = build("n = Neg(x) z = Sub(n, n)")
    graph, changed = apply(proto, "minus-negative")
    assert not changed and len(graph.nodes) == 3


@pytest.mark.parametrize("seed", range(100))
def test_random_graphs_keep_their_results(seed):
    proto, given, want = draw(seed)
    for strict in (True, False):
        graph = prepare(load(proto), strict=strict)
        for got, expected in zip(run(rebuild(graph), given), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_partly_fused(seed):
    proto, given, want = draw(seed)
    kinds = sorted({node.op_type for node in proto.graph.node})
    rng = np.random.default_rng(seed)
    skip = [kind for kind in kinds if rng.random() < 0.4]
    made = api.optimize(proto, policy="all", skip=skip)
    onnx.checker.check_model(made)
    for got, expected in zip(run(made, given), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_each_step_lessens_the_measure_and_none_is_left(seed, monkeypatch):
    steps = []
    real = Scene.apply

    def spy(scene, proposal):
        before = cost_of(scene.place).key()
        touched = real(scene, proposal)
        steps.append((before, cost_of(scene.place).key()))
        return touched

    monkeypatch.setattr(Scene, "apply", spy)
    graph = prepared(random_model(seed))
    rewrite(graph)
    assert all(after < before for before, after in steps)
    steps.clear()
    nodes = list(graph.nodes)
    rewrite(graph)
    assert not steps and graph.nodes == nodes


def test_the_same_model_gives_the_same_graph():
    for seed in range(10):
        proto = random_model(seed)
        first, second = (rebuild(rewrite(prepared(proto))) for _ in range(2))
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(
            deterministic=True)


def test_the_largest_drop_comes_first():
    """Both could be done: 3 to 2 operations on [N, M], or on the larger [K, N, M]."""
    proto = build("l = Mul(x, u) r = Mul(x, v) z = Add(l, r)", shapes={"x": "N, M", "u": "1",
                                                                       "v": "2, N, M"}.items())
    graph, changed = apply(proto, "distribute")
    assert changed and [node.op_type for node in graph.nodes] == ["Add", "Mul", "Identity"]


def test_a_rule_can_be_disabled_and_so_can_the_order_of_operands():
    proto = build("a = Mul(x, #1) z = Tanh(a)")
    assert len(rewrite(prepared(proto)).nodes) == 2
    assert len(rewrite(prepared(proto), disabled=["times-one"]).nodes) == 3
    assert len(prepare(load(proto), disabled=["times-one"]).nodes) == 3
    turned = build("a = Mul(#1, x) z = Neg(a)")
    assert apply(turned, "times-one")[1] and not apply(turned, "times-one", commute=False)[1]


def test_rules_are_listed_once_the_papers_first():
    listed = list_rules()
    names = [rule.name for rule in listed]
    assert len(set(names)) == len(names) >= 50
    assert names[:10] == ["recip-product", "sqrt-product", "abs-product", "sum-product",
                          "distribute", "distribute-one", "square-minus-product", "commute",
                          "sum-of-shift", "product-of-exp"]
    assert {rule.exactness for rule in listed} == {
        "exact", "changes rounding", "exact on integers, changes rounding on floats"}
    assert all(rule.about for rule in listed)


SHIFT = """<ir_version: 10, opset_import: ["" : 20]>
g (uint32[3, 5] x) => (uint32[3, 1] z) {{
    k = Constant <value = uint32 {{{by}}}> ()
    axes = Constant <value = int64[1] {{-1}}> ()
    s = BitShift <direction = "{direction}"> (x, k)  z = ReduceSum <keepdims = 1> (s, axes) }}"""


def test_a_sum_of_shifts_is_a_shift_of_the_sum_even_when_it_wraps():
    proto = onnx.parser.parse_model(SHIFT.format(by=7, direction="LEFT"))
    graph, changed = apply(proto, "sum-of-shift", strict=True)
    assert changed and [node.op_type for node in graph.nodes] == ["ReduceSum", "BitShift"]
    x = np.random.default_rng(0).integers(0, 2 ** 32, (3, 5), np.uint32)
    want = (x << np.uint32(7)).sum(-1, keepdims=True, dtype=np.uint32)
    # ONNX Runtime does not sum unsigned integers on the CPU.
    assert (ReferenceEvaluator(rebuild(graph)).run(None, {"x": x})[0] == want).all()
    for by, direction in ((7, "RIGHT"), (32, "LEFT")):
        proto = onnx.parser.parse_model(SHIFT.format(by=by, direction=direction))
        assert not apply(proto, "sum-of-shift")[1]


def test_two_thousand_nodes_take_a_moment():
    body = "t0 = Neg(x)"
    for k in range(500):
        body += (f" a{k} = Mul(t{k}, #1) c{k} = Add(a{k}, #2) e{k} = Add(c{k}, #3)"
                 f" d{k} = Mul(e{k}, #0.5) t{k + 1} = Tanh(d{k})")
    graph = prepared(build(body))
    start = time.perf_counter()
    rewrite(tidy(graph))
    assert time.perf_counter() - start < 5
    assert len(graph.nodes) < 1600
