"""Random graphs of the table's rows: fused, they compute what ONNX Runtime computes unfused."""

from __future__ import annotations

import numpy as np
import onnx
from graph_strategy import models
from hypothesis import HealthCheck, given, settings
from ops_run import fuse, plain, run


def seriously(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


def check(made: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    """Regions are disjoint and run in some order, the plan is the same twice, numbers are right."""
    model, feeds = made
    if not model.graph.output:
        return
    wanted = plain(model, feeds)
    if any(np.abs(w).max(initial=0) > 1e6 for w in wanted if w.dtype.kind == "f"):
        return
    fused, again = fuse(model), fuse(model)
    assert [one.program for one in fused.lowered] == [one.program for one in again.lowered]
    members = [n.name for region in fused.plan.regions for n in region.nodes]
    assert len(members) == len(set(members))
    for actual, right in zip(run(fused, feeds), wanted, strict=True):
        assert actual.dtype == right.dtype
        assert actual.shape == right.shape
        if actual.dtype.kind == "f":
            noise = 1e-5 * float(np.abs(right).max(initial=0)) + 1e-6
            np.testing.assert_allclose(actual, right, 1e-3, noise)
        else:
            np.testing.assert_array_equal(actual, right)


@seriously(250)
@given(models())
def test_graphs(made: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    check(made)


@seriously(40)
@given(models(nodes=20))
def test_large_graphs(made: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    check(made)


@seriously(120)
@given(models(symbolic=True))
def test_graphs_of_any_size(made: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    check(made)
