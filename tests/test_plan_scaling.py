"""The planning benchmark: its model is what it says, and time grows with nodes, not with pairs."""

import sys
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import plan_scaling


def test_the_model_is_valid_and_has_the_nodes_asked_for():
    for nodes in (1, 50, 500):
        model = plan_scaling.transformer(nodes)
        onnx.checker.check_model(model, full_check=True)
        assert abs(len(model.graph.node) - nodes) <= 49


def test_steps_take_part_of_the_time():
    total, steps = plan_scaling.time_steps(plan_scaling.transformer(100), "all")
    assert set(steps) <= set(plan_scaling.STEPS) and len(steps) >= 7
    assert 0.5 * total < sum(steps.values()) <= total


def test_the_fit_is_the_exponent():
    assert abs(plan_scaling.fit([10, 20, 40], [1, 4, 16]) - 2) < 1e-9


def quickest(nodes):
    model = plan_scaling.transformer(nodes)
    return min(plan_scaling.time_steps(model, "all")[0] for _ in range(2))


def test_growth_and_speed():
    """Linear growth is a ratio of 8, quadratic 64; the bounds leave room for a busy machine."""
    plan_scaling.time_steps(plan_scaling.transformer(100), "all")
    small = quickest(500)
    large = quickest(4000)
    assert large < 20 * small
    assert large < 12
