"""Rewritten graphs through the optimizer: the results stay, and no trace of what is unfused."""

import numpy as np
import onnx
import pytest
from rewrite_cases import CASES
from rewrite_kit import build, feeds, run

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.runtime.library import get_library_path

PIPELINE = sorted(set(CASES) - {"log-sum", "exp-log", "log-exp", "square-sqrt", "sqrt-square"})


def fused_of(model):
    return [node for node in model.graph.node if node.domain == "onnx_fusion"]


def check(proto, made, seed=0):
    """Fail if the optimized model gives something else, or has a fused node that nobody reads."""
    onnx.checker.check_model(made)
    read = {name for node in made.graph.node for name in node.input}
    read |= {value.name for value in made.graph.output}
    for node in fused_of(made):
        assert read.intersection(node.output)
    given = feeds(proto, seed)
    names = {info.name for info in proto.graph.input}
    given = {name: array for name, array in given.items() if name in names}
    (want,) = run(proto, given)
    results = [run(made, given)[0]]
    if get_library_path():
        results.append(onnx_fusion.session(made).run(None, given)[0])
    for got in results:
        np.testing.assert_allclose(got, want, rtol=5e-4, atol=5e-5)


@pytest.mark.parametrize("name", PIPELINE)
def test_all_of_it_fused(name):
    case = CASES[name]
    proto = build(case.fires[0], 3, dtype=case.dtype, opset=case.opset, shapes=case.shapes)
    check(proto, api.optimize(proto, policy="all"), 3)


@pytest.mark.parametrize("name", PIPELINE)
def test_with_each_operator_left_unfused(name):
    case = CASES[name]
    proto = build(case.fires[0], 3, dtype=case.dtype, opset=case.opset, shapes=case.shapes)
    for kind in sorted({node.op_type for node in proto.graph.node}):
        made = api.optimize(proto, policy="all", skip=[kind])
        check(proto, made, 3)
        before = {node.SerializeToString() for node in proto.graph.node}
        for node in made.graph.node:
            if node.domain != "onnx_fusion" and node.op_type == kind and fused_of(made) == []:
                assert node.SerializeToString() in before


def test_nothing_fused_leaves_no_trace():
    proto = build("l = Mul(x, y) r = Mul(x, w) a = Add(l, r) m = Mul(a, #1) z = Pow(m, #2)")
    kinds = {node.op_type for node in proto.graph.node}
    assert api.optimize(proto, policy="all", skip=[*kinds, "Sub"]) == proto


def test_a_made_up_value_that_only_an_unfused_node_would_read_is_not_computed():
    proto = build("l = Mul(x, y) r = Mul(x, w) a = Add(l, r) z = Tanh(a)")
    made = api.optimize(proto, policy="all", skip=["Mul", "Tanh", "Identity"])
    assert fused_of(made) == []
    check(proto, made)


def test_a_made_up_node_that_stays_unfused_is_written_where_a_region_reads_it():
    proto = build("l = Mul(x, y) r = Mul(x, w) a = Add(l, r) z = Tanh(a)")
    made = api.optimize(proto, policy="all", skip=["Add", "Identity"])
    assert len(fused_of(made)) == 1
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    check(proto, made)


def test_an_unfused_node_does_not_wait_for_what_its_rewrite_does_not_need():
    """p reads x alone once the Slice is seen through; as it was it waits for e, which is in one
    region with t, which waits for p."""
    proto = build(
        "e = Exp(y) c = Concat <axis = 0> (x, e) s = Slice(c, #i[0], #i[N], #i[0]) "
        "p = Tanh(s) t = Add(p, e) q = Tanh(e) z = Sub(t, q)"
    )
    made = api.optimize(proto, policy="all", skip=["Tanh", "Identity"])
    check(proto, made)
    left = [node.op_type for node in made.graph.node if node.domain != "onnx_fusion"]
    assert left == ["Tanh", "Tanh", "Identity"]
    assert len(fused_of(api.optimize(proto, policy="all"))) == 1


def test_an_unfused_node_reads_through_what_a_rewrite_sees_through():
    proto = build("m = Mul(x, #1) t = Tanh(m) e = Exp(x) z = Add(t, e)")
    made = api.optimize(proto, policy="all", skip=["Tanh", "Identity"])
    check(proto, made)
    assert [n.op_type for n in made.graph.node if n.domain != "onnx_fusion"] == ["Tanh", "Identity"]
    assert len(fused_of(made)) == 1


def test_of_shapes_given_one_after_the_other_one_is_written():
    proto = build("u = Unsqueeze(x, #i[0]) v = Unsqueeze(u, #i[0]) z = Exp(v)")
    made = api.optimize(proto, policy="all", skip=["Unsqueeze", "Reshape", "Identity"])
    check(proto, made)
    assert [n.op_type for n in made.graph.node if n.domain != "onnx_fusion"] == [
        "Reshape",
        "Identity",
    ]
