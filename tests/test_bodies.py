"""Bodies of If, Loop and Scan are planned and fused, and mean what they meant."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime
import pytest
from bodies_models import BRANCHES, GROWING, HEAD, LOOP, NESTED, SCAN, feeds, nested_file, parse

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.errors import ModelError
from onnx_fusion.graph import scope


def fused(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    return api.optimize(model, policy="all", **options)


def fused_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in scope.every_node(model.graph) if node.domain == "onnx_fusion"]


def run(model: onnx.ModelProto, inputs: dict, library: bool | None = None) -> list[np.ndarray]:
    """Plain ONNX Runtime's results, or with `library` a session of this package."""
    if library is None:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"])
    else:
        session = onnx_fusion.session(model, library=library)
    return session.run(None, inputs)


def same(model: onnx.ModelProto, inputs: list[dict], **options: object) -> onnx.ModelProto:
    """The fused model, after it gave what the original gives, with the library and without."""
    made = fused(model, **options)
    onnx.checker.check_model(made)
    for given in inputs:
        wanted = run(model, given)
        for library in (True, False):
            for one, other in zip(wanted, run(made, given, library), strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    return made


def body_of(model: onnx.ModelProto, *way: str) -> onnx.GraphProto:
    graph = model.graph
    for step in way:
        graph = next(body for node in graph.node for name, _, body in scope.bodies(node)
                     if name == step)
    return graph


def shapes(model: onnx.ModelProto) -> dict[str, tuple]:
    """What the regions of the model read, and of which shapes."""
    plan = api.plan(model, policy="all")
    return {value.name: value.shape for region in plan.regions for value in region.inputs}


def kinds(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type.partition("_")[0] for node in graph.node]


@pytest.mark.parametrize(("text", "given"), [
    (BRANCHES, [{"c": True}, {"c": False}]),
    (NESTED, [{"c": a, "d": b} for a in (True, False) for b in (True, False)]),
    (LOOP, [{"m": m, "c": True} for m in (0, 1, 4)]),
    (GROWING, [{"m": m, "c": True} for m in (0, 1, 3)]),
    (SCAN, [{}]),
])
def test_same_results_as_the_original(text: str, given: list[dict]) -> None:
    model = parse(text)
    made = same(model, [feeds(model, **one) for one in given])
    assert fused_nodes(made)


def test_each_branch_is_one_node() -> None:
    made = fused(parse(BRANCHES))
    assert kinds(made.graph) == ["FusedRegion", "If"]
    assert kinds(body_of(made, "then_branch")) == ["FusedRegion"]
    assert kinds(body_of(made, "else_branch")) == ["FusedRegion"]
    assert list(body_of(made, "else_branch").node[0].input) == ["e", "w"]


def test_a_body_keeps_its_face() -> None:
    model = parse(LOOP)
    before = body_of(model, "body")
    before.doc_string = "what is repeated"
    after = body_of(fused(model), "body")
    for field in ("name", "input", "output", "doc_string"):
        assert getattr(after, field) == getattr(before, field)


def test_nothing_fused_nothing_changed() -> None:
    model = parse(BRANCHES)
    assert fused(model, skip=("If", "Exp")) == model


def test_no_region_crosses_a_border() -> None:
    plan = api.plan(parse(BRANCHES), policy="all")
    names = [{node.name for node in region.nodes} for region in plan.regions]
    assert names == [{"Exp_0"},
                     {f"pick/then_branch/{n}" for n in ("scale", "shift", "cut")},
                     {f"pick/else_branch/{n}" for n in ("turn", "round", "wide")}]


def test_names_tell_the_way() -> None:
    place = "outer/then_branch/inner/else_branch/"
    plan = api.plan(parse(NESTED), policy="all", skip=(f"{place}Sub_0",))
    told = {(refusal.producer, refusal.consumer): refusal.reason for refusal in plan.refusals}
    assert told[f"{place}Sub_0", f"{place}Sigmoid_1"] == "skipped by request"
    assert ("outer/then_branch/Exp_0", "outer/then_branch/inner") in told
    assert plan.opaque == {"If": 2, "Sub": 1}


def test_regions_are_numbered_through() -> None:
    made = fused(parse(NESTED))
    names = [node.name for node in fused_nodes(made)]
    assert len(names) == 4
    assert sorted(names) == [f"region_{k}" for k in range(4)]


def test_equal_regions_in_two_bodies_share_a_function() -> None:
    text = BRANCHES.replace("Neg (e)", "Mul (e, w)").replace("Tanh (n)", "Add (n, w)")
    made = fused(parse(text.replace("q = Mul (r, w)", "q = Relu (r)").replace("(s, b)", "(s, w)")))
    inner = [node.op_type for node in fused_nodes(made) if len(node.input) > 1]
    assert len(inner) == 2 and len(set(inner)) == 1


def test_a_skipped_node_keeps_its_bodies() -> None:
    plan = api.plan(parse(NESTED), policy="all", skip=("outer/then_branch/inner",))
    names = {node.name for region in plan.regions for node in region.nodes}
    assert names == {"outer/then_branch/Exp_0", "outer/else_branch/Neg_0",
                     "outer/else_branch/Relu_1"}


def test_a_carried_shape_that_stays_is_known() -> None:
    assert shapes(parse(LOOP))["v"] == (2, 3)


def test_a_carried_shape_that_grows_is_not_what_the_body_says() -> None:
    rows, columns = shapes(parse(GROWING))["v"]
    assert isinstance(rows, str) and columns == 3


def test_a_slice_has_no_scanned_axis() -> None:
    assert shapes(parse(SCAN)) == {"v": (4,), "xi": (4,)}


def test_a_folded_constant_stays_in_its_body() -> None:
    text = BRANCHES.replace("t = Add (s, b)", "bb = Mul (b, u)\n t = Add (s, bb)")
    text = text.replace("<float[3] w", "<float[3] u = {3, 4, 5}, float[3] w")
    made = same(parse(text), [feeds(parse(text), c=True)])
    body = body_of(made, "then_branch")
    assert [tensor.name for tensor in body.initializer] == ["bb"]
    assert kinds(body) == ["FusedRegion"]
    assert [tensor.name for tensor in made.graph.initializer] == ["w"]


def test_a_constant_outside_is_one_inside() -> None:
    text = BRANCHES.replace("e = Exp (x)", "e = Exp (x)\n k = Constant <value = int64[1] {0}> ()")
    text = text.replace("n = Neg (e)", "n0 = Unsqueeze (e, k)\n n = Squeeze (n0, k)")
    made = same(parse(text), [feeds(parse(text), c=False)])
    assert kinds(body_of(made, "else_branch")) == ["FusedRegion"]


def test_an_output_that_is_captured() -> None:
    """ONNX Runtime refuses such a body; it must come out as it went in."""
    text = BRANCHES.replace("q) {", "e) {")
    made = fused(parse(text))
    assert body_of(made, "else_branch").output[0].name == "e"
    assert "e" in {name for node in made.graph.node for name in node.output}


def test_a_name_defined_twice_leaves_the_body_alone() -> None:
    text = BRANCHES.replace("n = Neg (e)", "x = Neg (e)").replace("Tanh (n)", "Tanh (x)")
    plan = api.plan(parse(text), policy="all")
    told = [refusal for refusal in plan.refusals if refusal.consumer == "pick/else_branch"]
    assert [(one.producer, one.reason.partition(": ")[2]) for one in told] == [
        ("pick", "pick/else_branch: 'x' is defined outside already")]
    assert kinds(body_of(fused(parse(text)), "else_branch")) == ["Neg", "Tanh", "Mul"]


def test_a_fused_body_is_not_fused_again() -> None:
    made = fused(parse(BRANCHES), skip=("Exp",), fallback=False)
    with pytest.raises(ModelError, match=r"already optimized: node 'region_\d'"):
        api.plan(made)


def test_a_body_s_folded_constants_are_no_inputs_of_it_in_ir_3() -> None:
    """Below IR 4 an initializer is an input, and a Loop gives its body inputs of its own."""
    text = """<ir_version: 3, opset_import: ["" : 17]> g (float[4] x, int64 n) => (float[4] y)
        <int64 n = {2}> { y = Loop(n, , x) <body = body (int64 i, bool c, float[4] a)
            => (bool d, float[4] b) {
              d = Identity(c)
              w = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}>()
              v = Exp(w)
              s = Neg(a)
              b = Add(s, v)
            }> }"""
    made = fused(parse(text), fallback=False)
    assert made.ir_version == 3
    assert not body_of(made, "body").initializer
    x = {"x": np.arange(4, dtype=np.float32)}
    wanted, got = run(parse(text), x), run(made, x, True)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)


def test_equal_input_gives_equal_bytes() -> None:
    first, second = (fused(parse(NESTED)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_deep_nesting(tmp_path) -> None:
    (tmp_path / "m.onnx").write_bytes(nested_file(31))
    start = time.perf_counter()
    inputs = {"c": np.array(True), "x": np.ones(2, np.float32)}
    made = same(onnx.load(tmp_path / "m.onnx"), [inputs])
    assert time.perf_counter() - start < 20
    assert len(fused_nodes(made)) >= 1
    (tmp_path / "deeper.onnx").write_bytes(nested_file(100))
    with pytest.raises(ModelError, match="nested more than 31 deep"):
        api.plan(tmp_path / "deeper.onnx")


def test_deep_nesting_in_memory() -> None:
    model = parse(HEAD + "main (bool c, float[2] x) => (float[2] y) { y = If (c) }")
    graph = model.graph
    for _ in range(100):
        attribute = graph.node[0].attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.node.add(op_type="If", input=["c"], output=["y"])
    with pytest.raises(ModelError, match="nested more than 31 deep"):
        api.plan(model)


def test_a_round_of_rank_one() -> None:
    """ONNX Runtime gives it the rank that the body declares."""
    text = LOOP.replace("int64 i, bool on", "int64[1] i, bool on")
    text = text.replace("n = Neg (w)", "f = Cast <to = 1> (i)\n n = Mul (w, f)")
    model = parse(text)
    made = same(model, [feeds(model, m=m, c=True) for m in (1, 3)])
    assert shapes(model)["i"] == (1,)
    assert fused_nodes(made)


def test_carried_values_that_change_places() -> None:
    """What is known of one is known of the other a round later only."""
    model = parse(HEAD + """
    main (int64 m, bool c, float[2, 3] x, float[3] z) => (float y)
    {
        a, b = Loop (m, c, x, z) <
            body = step (int64 i, bool on, float[2, 3] v, float[3] w)
                => (bool go, float s, float t) {
                go = Identity (on)
                u = Exp (v)
                s = Neg (w)
                t = Tanh (u)
            }
        >
        p = ReduceSum <keepdims = 0> (a)
        q = ReduceMax <keepdims = 0> (b)
        y = Add (p, q)
    }
    """)
    same(model, [feeds(model, m=m, c=True) for m in (0, 1, 2, 3)])
    assert "v" not in shapes(model) or shapes(model)["v"] is None


def test_a_captured_extent_is_that_of_outside() -> None:
    """Symbols go inside: x and e are equally long there, so one kernel can take both."""
    text = BRANCHES.replace("n = Neg (e)", "n = Add (e, x)")
    made = same(parse(text), [feeds(parse(text), c=False)])
    assert kinds(body_of(made, "else_branch")) == ["FusedRegion"]
