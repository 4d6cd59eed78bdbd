"""verify on pairs of small models: each gate, each refusal, each note."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_fusion.errors import VerifyError
from onnx_fusion.runtime.surgery import find_decisions
from onnx_fusion.runtime.verify import verify


def model(body: str, signature: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Return an opset 17 model from the text of its nodes."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}'
    made = parser.parse_model(text)
    for name, array in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def same(left: onnx.ModelProto, right: onnx.ModelProto, inputs=None, **options):
    """Return the report on two models without the native library."""
    return verify(left, right, inputs, library=False, **options)


FLOATS = "(float[2,8] x) => (float[2,8] y)"
TINY = {"one": np.float32(1), "k": np.float32(1 + 4e-4), "far": np.float32(1 + 4e-3)}


def test_a_model_equals_itself() -> None:
    report = same(model("y = Relu(x)", FLOATS), model("y = Relu(x)", FLOATS))
    assert report.passed
    assert report.outputs[0].gate == "fp32"
    assert report.max_error == 0
    assert report.failure() == "passed"


def test_a_small_difference_passes_and_is_told() -> None:
    report = same(model("y = Exp(x)", FLOATS), model("t = Exp(x) y = Mul(t, k)", FLOATS, **TINY))
    assert report.passed
    assert 1e-4 < report.max_error < 1e-3


def test_a_large_one_fails_and_names_the_first_node_that_differs() -> None:
    left = model("a = Exp(x) b = Neg(a) y = Abs(b)", FLOATS)
    right = model("a = Exp(x) [bad] b = Mul(a, far) y = Abs(b)", FLOATS, **TINY)
    report = same(left, right)
    assert not report.passed
    assert report.fault == "node 'bad' makes the first value that differs, 'b'"
    assert report.failure().startswith("output 'y': off float64 by ")
    assert report.failure().endswith("; " + report.fault)


LARGE = {"big": np.float32(2**14)}


def test_what_is_nearer_to_float64_than_onnx_runtime_passes() -> None:
    rough = model("a = Add(x, big) y = Sub(a, big)", FLOATS, **LARGE)
    exact = model("y = Identity(x)", FLOATS)
    report = same(rough, exact)
    assert report.passed
    assert report.outputs[0].gate == "float64"
    assert report.max_error > 1e-5


def test_what_is_farther_from_float64_fails() -> None:
    rough = model("a = Add(x, big) y = Sub(a, big)", FLOATS, **LARGE)
    exact = model("y = Identity(x)", FLOATS)
    report = same(exact, rough)
    assert not report.passed
    assert report.outputs[0].gate == "float64"


def test_without_time_for_float64_it_fails_and_says_so() -> None:
    rough = model("a = Add(x, big) y = Sub(a, big)", FLOATS, **LARGE)
    report = same(rough, model("y = Identity(x)", FLOATS), seconds=0.01)
    assert not report.passed
    assert report.outputs[0].gate == "fp32"
    assert report.notes == ("the float64 reference gave up after 0.01 s",)


ARGMAX = "(float[2,8] x) => (int64[2,1] y)"
CLOSE = np.array([[0, 1, 1 - 1e-6, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]], np.float32)
SHIFT = np.zeros(8, np.float32)
SHIFT[2] = 2e-6


@pytest.mark.parametrize(("name", "gate"), [("a", "cut at a"), ("b", "margin")])
def test_a_close_decision_may_fall_either_way(name: str, gate: str) -> None:
    """`a` is in both models and is compared; where it is not, the original's margin decides."""
    left = model("a = Add(x, zero) y = ArgMax<axis=1>(a)", ARGMAX, zero=np.float32(0))
    right = model(f"{name} = Add(x, s) y = ArgMax<axis=1>({name})", ARGMAX, s=SHIFT)
    report = same(left, right, {"x": CLOSE})
    assert report.passed, report
    assert report.outputs[0].gate == gate


@pytest.mark.parametrize(("name", "gate"), [("a", "cut at a"), ("b", "equal")])
def test_a_clear_decision_may_not(name: str, gate: str) -> None:
    left = model("a = Add(x, zero) y = ArgMax<axis=1>(a)", ARGMAX, zero=np.float32(0))
    right = model(f"{name} = Add(x, s) y = ArgMax<axis=1>({name})", ARGMAX, s=1000000 * SHIFT)
    report = same(left, right, {"x": CLOSE - np.float32(0.5) * (SHIFT > 0)})
    assert not report.passed
    assert report.outputs[0].gate == gate


@pytest.mark.parametrize(("apart", "passed"), [(1e-7, True), (0.5, False)])
def test_comparisons_inside_a_region_are_excused_by_their_margin(
    apart: float, passed: bool
) -> None:
    signature = "(float[4] x) => (bool[4] y)"
    left = model("a = Exp(x) y = Greater(a, one)", signature, **TINY)
    right = model(
        "b = Exp(x) c = Add(b, s) y = Greater(c, one)", signature, s=np.float32(2 * apart), **TINY
    )
    report = same(left, right, {"x": np.array([-apart, 1, 2, -3], np.float32)})
    assert report.passed is passed
    assert report.outputs[0].gate == ("margin" if passed else "equal")


SELECT = "(float[6] x) => (float[n] y, int64[1,n] i)"
PICK = "i = NonZero(b) t = Transpose(i) y = GatherND(a, t)"
NEAR = np.array([0.5, 1e-8, 2, -3, 1e-8, 4], np.float32)


def test_what_is_behind_a_selection_is_settled_by_cutting_before_it() -> None:
    """The optimized model keeps another element, so the outputs have other shapes."""
    left = model(f"a = Add(x, zero) b = Relu(a) {PICK}", SELECT, zero=np.float32(0))
    shift = np.float32([0, -2e-8, 0, 0, 0, 0])
    right = model(f"a = Add(x, s) b = Relu(a) {PICK}", SELECT, s=shift)
    report = same(left, right, {"x": NEAR})
    assert report.passed, report
    assert [output.gate for output in report.outputs] == ["cut at b", "cut at b"]


def test_a_difference_behind_the_cut_is_real() -> None:
    left = model(f"a = Add(x, zero) b = Relu(a) {PICK}", SELECT, zero=np.float32(0))
    wrong = PICK.replace("y = GatherND(a, t)", "c = Neg(a) y = GatherND(c, t)")
    shift = np.float32([0, -2e-8, 0, 0, 0, 0])
    right = model(f"a = Add(x, s) b = Relu(a) {wrong}", SELECT, s=shift)
    report = same(left, right, {"x": NEAR})
    assert [output.passed for output in report.outputs] == [False, True]


def test_a_difference_before_the_cut_is_named() -> None:
    left = model(f"a = Add(x, zero) b = Relu(a) {PICK}", SELECT, zero=np.float32(0))
    right = model(f"a = Add(x, s) b = Relu(a) {PICK}", SELECT, s=np.float32(-1))
    report = same(left, right, {"x": NEAR})
    assert not report.passed
    assert report.outputs[1].reason.startswith("'b', which decides it: off float64 by ")


def test_decisions_are_levelled_and_shapes_decide_nothing() -> None:
    made = model(
        "v, i = TopK<axis=0>(x, k) n = Shape(x) w, j = TopK<axis=0>(v, k2) y = Gather(v, j)",
        "(float[6] x) => (float[n] y)",
        k=np.array([4], np.int64),
        k2=np.array([2], np.int64),
    )
    found = find_decisions(onnx.shape_inference.infer_shapes(made), ["y"])
    assert [(d.node.op_type, d.floats, d.level) for d in found] == [
        ("TopK", ("x",), 0),
        ("TopK", ("v",), 1),
    ]


CHOICE = """b = Exp(a) z = Neg(b)
  k = If (c) <then_branch = t () => (int64[n] p) { o, p = TopK<axis=0>(z, four) },
              else_branch = e () => (int64[n] q) { r, q = TopK<axis=0>(a, four) }>
  m = Cast<to=1>(k)"""


def test_control_flow_decides_by_what_its_bodies_choose_from() -> None:
    signature = "(float[6] x, bool c) => (float[n] m)"
    four = np.array([4], np.int64)
    left = model(f"a = Add(x, zero) {CHOICE}", signature, zero=np.float32(0), four=four)
    found = find_decisions(onnx.shape_inference.infer_shapes(left), ["m"])
    assert [(d.node.op_type, d.floats, d.level) for d in found] == [("If", ("a", "z"), 0)]
    shift = np.float32([0, -2e-8, 0, 0, 0, 0])
    inputs = {"x": NEAR, "c": np.array(False)}
    right = model(f"a = Add(x, s) {CHOICE}", signature, s=shift, four=four)
    report = same(left, right, inputs)
    assert report.passed and report.outputs[0].gate.startswith("cut at")
    wrong = CHOICE.replace("m = Cast<to=1>(k)", "l = Add(k, four) m = Cast<to=1>(l)")
    assert not same(
        left, model(f"a = Add(x, s) {wrong}", signature, s=shift, four=four), inputs
    ).passed


def test_models_with_other_outputs_are_refused() -> None:
    with pytest.raises(VerifyError) as error:
        same(model("y = Relu(x)", FLOATS), model("z = Relu(x)", FLOATS.replace("y", "z")))
    assert str(error.value) == "the model: has outputs z; the model has y"


def test_a_model_that_does_not_run_is_told() -> None:
    signature = "(float[n] x) => (float[2,m] y)"
    made = model("y = Reshape(x, s)", signature, s=np.array([2, 7], np.int64))
    with pytest.raises(VerifyError, match="^the model: does not run on the inputs: .*; give"):
        same(made, made)


def test_outputs_that_are_nowhere_finite_are_noted() -> None:
    made = model("a = Abs(x) b = Neg(a) y = Sqrt(b)", FLOATS)
    assert same(made, made).notes == (
        "output 'y' is nowhere finite on these inputs, so it says nothing",
    )
