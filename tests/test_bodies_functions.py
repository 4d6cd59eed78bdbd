"""The model's own functions are planned and fused if all their calls agree."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from bodies_models import feeds, parse
from test_bodies import body_of, kinds, same

import onnx_fusion
from onnx_fusion import api

CALLS = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
main (float[N, 3] x, float[3, 4] w, bool c) => (float[N, 4] y) {
    a = Exp (x)
    b = mine.Twice (a)
    d = mine.Deep (b, w)
    y = If (c) <
        then_branch = t () => (float[N, 4] p) {
            p0 = mine.Twice (d)
            p1 = Tanh (p0)
            p = Neg (p1)
        },
        else_branch = u () => (float[N, 4] q) { q = Abs (d) }
    >
}
<domain: "mine", opset_import: ["" : 17]>
Twice (v) => (w) {
    k = Constant <value = float[1] {3.0}> ()
    k2 = Add (k, k)
    [times] t = Mul (v, k2)
    [bound] w = Tanh (t)
}
<domain: "mine", opset_import: ["" : 17, "mine" : 1]>
Deep (v, w) => (o) {
    [product] m = MatMul (v, w)
    [cut] r = Relu (m)
    [again] s = mine.Twice (r)
    [squash] q = Sigmoid (s)
    [gate] o = Mul (q, s)
}
"""

FOREIGN = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1, "com.microsoft" : 1]>
main (float[2, 3] x) => (float[2, 3] y) {
    a = Exp (x)
    b = com.microsoft.Gelu (a)
    d = mine.Scaled <by = 2.0> (b)
    y = Neg (d)
}
<domain: "com.microsoft", opset_import: ["" : 17]>
Gelu (v) => (w) { w = Mul (v, v) }
<domain: "mine", opset_import: ["" : 17]>
Scaled <by> (v) => (w) {
    k = Constant <value_float: float = @by> ()
    w = Mul (v, k)
}
"""


def function(model: onnx.ModelProto, name: str) -> onnx.FunctionProto:
    return next(entry for entry in model.functions if entry.name == name)


def left_of(model: onnx.ModelProto, function_name: str) -> list[str]:
    """Why the function stays as it is."""
    return [refusal.reason.rpartition(": ")[2]
            for refusal in api.plan(model, policy="all").refusals
            if refusal.consumer == function_name]


def test_functions_are_fused_inside() -> None:
    model = parse(CALLS)
    made = same(model, [feeds(model, c=c) for c in (True, False)])
    assert kinds(function(made, "Twice")) == ["FusedRegion"]
    assert kinds(function(made, "Deep")) == ["FusedRegion", "Twice", "FusedRegion"]
    assert kinds(made.graph) == ["FusedRegion", "Twice", "Deep", "If"]
    assert kinds(body_of(made, "then_branch")) == ["Twice", "FusedRegion"]


def test_nodes_are_named_by_their_function() -> None:
    plan = api.plan(parse(CALLS), policy="all")
    names = [[node.name for node in region.nodes] for region in plan.regions]
    assert ["mine::Deep/product", "mine::Deep/cut"] in names
    assert ["mine::Twice/times", "mine::Twice/bound"] in names
    told = {(refusal.producer, refusal.consumer) for refusal in plan.refusals}
    assert ("mine::Deep/cut", "mine::Deep/again") in told


def test_what_differs_between_calls_is_unknown() -> None:
    plan = api.plan(parse(CALLS), policy="all")
    (region,) = [one for one in plan.regions if one.nodes[-1].name == "mine::Twice/bound"]
    rows, columns = region.inputs[0].shape
    assert rows == "N" and isinstance(columns, str)


def test_kernels_run_inside_functions(tmp_path) -> None:
    """What ONNX Runtime has made of the model: calls are gone, fused nodes are there."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    onnx_fusion.session(api.optimize(parse(CALLS), policy="all"), options=options)
    seen = onnx.load(tmp_path / "m.onnx")
    assert "Twice" not in kinds(seen.graph) and "Deep" not in kinds(seen.graph)
    assert kinds(seen.graph).count("FusedRegion") == 5


def test_a_function_hides_the_operator_of_its_name() -> None:
    model = parse(FOREIGN)
    made = same(model, [feeds(model)])
    assert "Gelu" in kinds(made.graph)
    reasons = {(r.producer, r.consumer): r.reason for r in api.plan(model, policy="all").refusals}
    assert reasons["Exp_0", "Gelu_1"] == "Gelu is one of the model's own functions"


def test_attributes_of_calls_leave_a_function_alone() -> None:
    model = parse(FOREIGN)
    assert left_of(model, "mine::Scaled") == ["depends on attributes of its calls"]
    assert function(api.optimize(model, policy="all"), "Scaled") == function(model, "Scaled")


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("b = mine.Twice (a)", "n = Shape (x)\n n2 = mine.Twice (n)\n b = Exp (a)",
     "input 'v' has different types in its calls"),
    ('<domain: "mine", opset_import: ["" : 17]>', '<domain: "mine", opset_import: ["" : 16]>',
     "imports another opset of '' than the model"),
    ("t = Mul (v, k2)", "t = Mul (v, missing)",
     "node 'times' (Mul) reads 'missing', which nothing defines"),
])
def test_a_function_that_is_left(old: str, new: str, reason: str) -> None:
    model = parse(CALLS.replace(old, new))
    assert left_of(model, "mine::Twice") == [reason]


def test_a_caller_that_is_left_leaves_what_it_calls() -> None:
    text = CALLS.replace("Twice (r)", "Twice <by = 1.0> (r)").replace(
        "squash] q = Sigmoid (s)", "squash] q = LeakyRelu <alpha: float = @by> (s)").replace(
        "Deep (v, w)", "Deep <by> (v, w)").replace("Deep <by> (b, w)", "Deep (b, w)")
    text = text.replace("d = mine.Deep <by>", "d = mine.Deep").replace(
        "mine.Deep (b, w)", "mine.Deep <by = 0.5> (b, w)")
    assert left_of(parse(text), "mine::Deep") == ["depends on attributes of its calls"]
    assert left_of(parse(text), "mine::Twice") == ["what calls it is not planned everywhere"]


def test_without_fallback_functions_stay() -> None:
    model = parse(CALLS)
    made = api.optimize(model, policy="all", fallback=False)
    assert list(made.functions) == list(model.functions)
    assert kinds(body_of(made, "then_branch")) == ["Twice", "FusedRegion"]


def test_skipping_a_function_or_a_call() -> None:
    for skip in ("Twice", "mine::Deep/again"):
        names = [node.name for region in api.plan(parse(CALLS), policy="all", skip=(skip,)).regions
                 for node in region.nodes]
        assert "mine::Deep/cut" in names and "mine::Twice/bound" not in names
