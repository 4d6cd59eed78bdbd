"""The gate on plain arrays: what passes, what does not, and what is said."""

import numpy as np
import onnx
import pytest

from onnx_fusion.runtime import margin
from onnx_fusion.runtime.gate import compare, judge, lost_winners, spread, tolerance

F32 = np.float32


def test_the_tolerance_is_a_thousandth_and_a_hundred_thousandth_of_the_range() -> None:
    reference = np.array([0.0, 1.0, -3.0])
    assert np.allclose(tolerance(reference), [4e-5, 1e-3 + 4e-5, 3e-3 + 4e-5])


@pytest.mark.parametrize(("factor", "passed"), [(0.99, True), (1.01, False)])
@pytest.mark.parametrize("where", range(3))
def test_the_gate_opens_exactly_at_the_tolerance(factor: float, passed: bool, where: int) -> None:
    reference = np.array([0.0, 1.0, -3.0], F32)
    other = reference.copy()
    other[where] += factor * tolerance(reference.astype(float))[where]
    verdict = compare(reference, other)
    assert verdict.passed is passed
    assert verdict.max_error == pytest.approx(float(abs(other - reference)[where]))
    assert verdict.range_error == pytest.approx(verdict.max_error / 4)


def test_special_values_must_be_at_the_same_places() -> None:
    reference = np.array([1, np.nan, np.inf, -np.inf], F32)
    assert compare(reference, reference.copy()).passed
    for where, value in ((0, np.nan), (1, 0), (2, -np.inf), (3, 3e38)):
        other = reference.copy()
        other[where] = value
        verdict = compare(reference, other)
        assert not verdict.passed
        assert verdict.reason == "NaN or infinity at other places"


def test_types_and_shapes_must_agree() -> None:
    one = np.zeros((2, 3), F32)
    assert compare(one, one.astype(np.float64)).reason == "type float64 instead of float32"
    assert compare(one, one.T).reason == "shape [3, 2] instead of [2, 3]"


def test_integers_booleans_and_strings_must_be_equal() -> None:
    for array in (np.arange(4), np.array([True, False]), np.array(["a", "b"], object)):
        assert compare(array, array.copy()).passed
        other = array.copy()
        other[0] = array[1]
        verdict = compare(array, other)
        assert not verdict.passed
        assert verdict.reason == f"1 of {array.size} elements differ"


def test_half_floats_get_four_units_in_the_last_place() -> None:
    reference = np.array([1.0, 0.25], np.float16)
    assert compare(reference, reference * np.float16(1.003)).passed
    assert not compare(reference, reference * np.float16(1.006)).passed


def test_sequences_and_maps_are_compared_item_by_item() -> None:
    a, b = np.ones(2, F32), np.zeros(2, F32)
    assert compare([a, b], [a, b]).passed
    assert not compare([a, b], [b, a]).passed
    assert not compare([a, b], [a]).passed
    assert compare({"k": a}, {"k": a}).passed
    assert not compare({"k": a}, {"j": a}).passed


def test_the_range_leaves_out_what_is_not_finite() -> None:
    assert spread(np.array([1.0, np.inf, 4.0, np.nan])) == 3
    assert spread(np.array([5.0])) == 5
    assert spread(np.array([np.nan])) == 0
    assert compare(np.zeros((0, 3), F32), np.zeros((0, 3), F32)).passed


def test_a_clear_winner_may_not_change() -> None:
    reference = np.array([[1.0, 1.5], [1.0, 1.05]])
    other = reference[:, ::-1]
    assert lost_winners(reference, other, np.full((2, 2), 0.1)) == 1
    assert lost_winners(reference, reference, np.full((2, 2), 0.1)) == 0


def test_float64_decides_by_the_larger_error() -> None:
    truth = np.linspace(-1, 1, 50)
    plain = (truth + 0.01).astype(F32)
    assert not compare(plain, truth.astype(F32)).passed
    assert judge(truth, plain, truth.astype(F32)).passed
    assert judge(truth, plain, (truth - 0.0199).astype(F32)).passed
    verdict = judge(truth, plain, (truth - 0.021).astype(F32))
    assert not verdict.passed
    assert verdict.reason == "off float64 by 0.021, ONNX Runtime by 0.01"


def test_below_the_resolution_of_a_sigmoid_errors_do_not_count() -> None:
    truth = np.array([1.4e-8, 6.6e-8])
    plain = np.array([0.0, 8.9e-8], F32)
    other = np.array([0.0, 1.2e-7], F32)
    assert not judge(truth, plain, other).passed
    assert judge(truth, plain, other, 2.0**-23).passed
    assert not judge(truth, plain, other + F32(1e-7), 2.0**-23).passed


def test_only_sigmoids_have_a_resolution() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3] x) => (float[3, 2] a, float[2, 3] b, float[2, 3] x2) {
            s = Sigmoid(x)  a = Transpose(s)  b = Neg(s)  x2 = Identity(x) }""")
    assert [margin.resolution(proto, name) for name in ("a", "b", "x2")] == [2.0**-23, 0.0, 0.0]


def test_float64_does_not_excuse_other_nans() -> None:
    truth = np.linspace(-1, 1, 5)
    plain = truth.astype(F32)
    other = plain.copy()
    other[0] = np.nan
    assert not judge(truth, plain, other).passed
