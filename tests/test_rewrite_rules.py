"""Each rewrite rule: fires, stays away where its condition fails, and keeps the results."""

import numpy as np
import onnx
import pytest
from rewrite_cases import CASES, INTEGERS
from rewrite_kit import apply, build, feeds, rebuild, run, same_bits

from onnx_fusion.passes.rewrite import list_rules

EXACTNESS = {rule.name: rule.exactness for rule in list_rules()}
FIRES = [(name, k) for name, case in CASES.items() for k in range(len(case.fires))]
STAYS = [(name, k) for name, case in CASES.items() for k in range(len(case.stays))]
SEEDS = range(4)


def options(case):
    return {"dtype": case.dtype, "opset": case.opset, "shapes": case.shapes}


def test_every_rule_has_a_case():
    assert set(EXACTNESS) == set(CASES) | {"commute", "sum-of-shift"}


@pytest.mark.parametrize("name, k", FIRES, ids=lambda v: str(v))
def test_it_fires_and_keeps_the_results(name, k):
    case = CASES[name]
    for seed in SEEDS:
        proto = build(case.fires[k], seed, **options(case))
        graph, changed = apply(proto, name)
        assert changed
        given = feeds(proto, seed, positive=case.positive)
        want, got = run(proto, given), run(rebuild(graph), given)
        assert want[0].shape == got[0].shape and want[0].dtype == got[0].dtype
        if want[0].dtype.kind == "f":
            np.testing.assert_allclose(got[0], want[0], rtol=2e-4, atol=2e-5)
        else:
            assert (got[0] == want[0]).all()


@pytest.mark.parametrize("name, k", [f for f in FIRES if EXACTNESS[f[0]] == "exact"],
                         ids=lambda v: str(v))
def test_exact_rules_keep_every_bit(name, k):
    case = CASES[name]
    for seed in SEEDS:
        proto = build(case.fires[k], seed, **options(case))
        graph, changed = apply(proto, name, strict=True)
        assert changed
        for special in (False, True):
            given = feeds(proto, seed, special=special)
            got, want = run(rebuild(graph), given)[0], run(proto, given)[0]
            if "Where" in case.fires[k]:
                # ONNX Runtime adds the two branches, each zero elsewhere: -0.0 becomes 0.0.
                got, want = got + np.float32(0), want + np.float32(0)
            assert same_bits(got, want)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_on_integers_every_bit_is_kept_when_they_wrap(name, dtype):
    case = CASES[name]
    texts = [text for text in case.fires
             if not any(word in text for word in ("Tanh", "Exp"))]
    for text in texts or [case.fires[0].replace("Tanh", "Abs")]:
        for seed in SEEDS:
            proto = build(text, seed, dtype=dtype, shapes=case.shapes)
            graph, changed = apply(proto, name, strict=True)
            assert changed
            given = feeds(proto, seed)
            assert same_bits(run(rebuild(graph), given)[0], run(proto, given)[0])


@pytest.mark.parametrize("name, k", STAYS, ids=lambda v: str(v))
def test_it_stays_away(name, k):
    case = CASES[name]
    _, changed = apply(build(case.stays[k], 1, **options(case)), name)
    assert not changed


@pytest.mark.parametrize("name, k", [f for f in FIRES if EXACTNESS[f[0]] != "exact"],
                         ids=lambda v: str(v))
def test_strict_leaves_floats_alone(name, k):
    case = CASES[name]
    _, changed = apply(build(case.fires[k], 0, **options(case)), name, strict=True)
    assert not changed


def test_a_norm_whose_product_with_the_weights_is_no_float32_stays():
    """ONNX Runtime multiplies small results by the large scale."""
    text = CASES["norm-after-conv"].fires[0]
    proto = build(text, **options(CASES["norm-after-conv"]))
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        big = np.full_like(array, 1e30 if array.ndim == 1 else 1e15)
        if array.ndim == 4 or array.any() and not (array == 1).all():
            tensor.CopyFrom(onnx.numpy_helper.from_array(big, tensor.name))
    assert not apply(proto, "norm-after-conv")[1]
