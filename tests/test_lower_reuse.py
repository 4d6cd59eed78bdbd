"""Lowering a form once gives what lowering each region anew gives."""

import sys
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_fusion.fusion.grow import plan as plan_graph
from onnx_fusion.fusion.target import Target
from onnx_fusion.graph.load import load
from onnx_fusion.lower import Lowering, lower
from onnx_fusion.ops.tensor import Refused
from onnx_fusion.passes.pipeline import prepare

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import plan_scaling  # noqa: E402

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def anew(region, graph):
    try:
        made = lower(region, graph)
    except Refused as reason:
        return str(reason)
    return made.program, made.inputs, made.outputs


def both(model):
    """Return (reused, anew) for every region that planning asks about."""
    graph = prepare(load(model))
    lowering = Lowering(graph, lambda made: None)
    pairs = []

    def accept(region):
        reason = lowering.refusal(region)
        if reason is not None:
            pairs.append((reason, anew(region, graph)))
            return reason
        made = lowering.lower(region)
        assert made.region is region
        pairs.append(((made.program, made.inputs, made.outputs), anew(region, graph)))
        return None

    plan_graph(graph, Target(accept))
    return pairs


MODELS = sorted((ROOT / "models").glob("*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models(path):
    pairs = both(path)
    assert len(pairs) > 5
    for reused, new in pairs:
        assert reused == new


def test_a_transformer_is_lowered_block_by_block():
    pairs = both(plan_scaling.transformer(200))
    assert len(pairs) > 100
    assert len({str(new[0]) for _, new in pairs}) < len(pairs) / 2
    for reused, new in pairs:
        assert reused == new


def with_weights(text, **weights):
    model = onnx.parser.parse_model(HEAD + text)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def programs(model):
    graph = prepare(load(model))
    lowering = Lowering(graph, lambda made: None)
    made = plan_graph(graph, Target(lowering.refusal), skip=["Softmax"])
    return [lowering.lower(region).program for region in made.regions]


def test_contents_that_were_read_count():
    text = """g (float[4, 6] x) => (float[4, 6] y, float[4, 6] z) {
        a = Mul(x, c)  y = Softmax(a)  b = Mul(y, d)  z = Softmax(b) }"""
    one, other = programs(with_weights(text, c=np.float32(2), d=np.float32(3)))
    assert "2" in one and "3" in other and one != other
    one, other = programs(with_weights(text, c=np.float32(3), d=np.float32(3)))
    assert one == other


def test_contents_that_were_not_read_do_not_count():
    text = """g (float[4, 6] x) => (float[4, 6] y, float[4, 6] z) {
        a = Mul(x, c)  y = Softmax(a)  b = Mul(y, d)  z = Softmax(b) }"""
    rows = np.arange(6, dtype=np.float32)
    model = with_weights(text, c=rows, d=rows + 1)
    graph = prepare(load(model))
    asked = []
    lowering = Lowering(graph, lambda made: asked.append(made))
    made = plan_graph(graph, Target(lowering.refusal), skip=["Softmax"])
    assert len(made.regions) == 2 and len(asked) == 1
    inputs = [[v.name for v in lowering.lower(region).inputs] for region in made.regions]
    assert inputs == [["x", "c"], ["y", "d"]]


def test_attributes_and_symbols_count():
    text = """g (float[N, M, 6] x) => (float[A, B, 6] y, float[C, D, 6] z) {
        a = Transpose<perm = [1, 0, 2]>(x)  y = Softmax(a)
        b = Transpose<perm = [0, 1, 2]>(x)  z = Softmax(b) }"""
    model = with_weights(text)
    pairs = both(model)
    assert len({str(new) for _, new in pairs}) > 1
    for reused, new in pairs:
        assert reused == new


def test_a_verdict_is_asked_once_and_kept():
    text = """g (float[4, 6] x) => (float[4, 6] y, float[4, 6] z) {
        a = Relu(x)  y = Softmax(a)  b = Relu(y)  z = Softmax(b) }"""
    graph = prepare(load(with_weights(text)))
    asked = []

    def judge(made):
        asked.append(made)
        return "not today"

    made = plan_graph(graph, Target(Lowering(graph, judge).refusal))
    assert not made.regions
    assert {r.reason.partition(": ")[2] for r in made.refusals} == {"not today"}
    assert len(asked) == 2


@pytest.mark.parametrize("nodes", [300, 600])
def test_forms_do_not_grow_with_depth(nodes, monkeypatch):
    from onnx_fusion import api
    from onnx_fusion.lower import reuse

    lowered = []
    monkeypatch.setattr(reuse, "lower", lambda *a, **o: lowered.append(a) or lower(*a, **o))
    made = api.plan(plan_scaling.transformer(nodes), policy="all")
    assert len(made.regions) > nodes / 25
    assert len(lowered) < 45


def test_a_long_chain_is_lowered_whole():
    """Each operator is a few calls deeper: Python's own limit is met before the planner's."""
    body = " ".join(f"a{k + 1} = Exp(a{k})" for k in range(254))
    graph = prepare(load(with_weights(
        f"g (float[64] x) => (float[64] y) {{ a0 = Neg(x) {body} y = Neg(a254) }}"
    )))  # fmt: skip
    limit = sys.getrecursionlimit()
    lowering = Lowering(graph, lambda made: None)
    (region,) = plan_graph(graph, Target(lowering.refusal)).regions
    assert len(region.nodes) == 256
    assert lowering.lower(region).program.count("exp") == 254
    assert sys.getrecursionlimit() == limit


def test_a_shape_tensor_of_nothing():
    """A slice of extents behind their end, as exporters write for axes that are not there."""
    model = onnx.parser.parse_model(HEAD + """g (float[8, 4, N] x) => (int64[M] z)
        <int64[1] far = {8}, int64[1] end = {9}, int64[1] zero = {0}> {
        s = Shape (x)  z = Slice (s, far, end, zero) }""")
    pairs = both(model)
    assert pairs and all(reused == fresh for reused, fresh in pairs)
