"""Random graphs of the table's rows: fused, they compute what ONNX Runtime computes unfused."""

from __future__ import annotations

import numpy as np
import onnx
from graph_strategy import models
from hypothesis import HealthCheck, given, settings
from ops_run import fuse, plain, run

from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Graph
from onnx_fusion.lower import lower
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.program import interpret, parse_program


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
    compare(run(fused, feeds), wanted)


def compare(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for actual, right in zip(found, wanted, strict=True):
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


def whole(graph: Graph) -> Region:
    """Return the region of all nodes, which no mapping table would allow."""
    members = set(graph.nodes)
    read = (v for n in graph.nodes for v in n.inputs if v is not None and v.producer not in members)
    made = (v for n in graph.nodes for v in n.outputs if v is not None and v.is_output)
    inputs = tuple(dict.fromkeys(read))
    return Region("all", graph.nodes, MappingType.ONE_TO_ONE, None, None, inputs, tuple(made), 0)


@seriously(150)
@given(models(nodes=12))
def test_any_graph_is_one_program(made: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    """Lowering stores what it must, whatever meets: no composition is refused or wrong."""
    model, feeds = made
    graph = prepare(load(model))
    region = whole(graph)
    if not region.outputs:
        return
    wanted = dict(zip([v.name for v in graph.outputs], plain(model, feeds), strict=True))
    if any(np.abs(w).max(initial=0) > 1e6 for w in wanted.values() if w.dtype.kind == "f"):
        return
    one = lower(region, graph)
    given = [feeds[v.name] if v.weight is None else v.weight.array() for v in one.inputs]
    compare(interpret(parse_program(one.program), given), [wanted[v.name] for v in one.outputs])
