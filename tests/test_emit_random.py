"""Fusing any convex sets of nodes leaves the results of plain ONNX Runtime as they were."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from emit_models import floats, graph_of, kinds, lower, make, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_fusion.emit import emit
from onnx_fusion.graph import scope
from onnx_fusion.graph.load import load
from onnx_fusion.passes.pipeline import prepare

MODELS = pathlib.Path(__file__).parent.parent / "models"
UNARY = ["Relu", "Tanh", "Neg", "Sigmoid", "Transpose", "Softmax", "Identity"]
BINARY = ["Add", "Sub", "Mul", "MatMul", "Max"]


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A graph over 4x4 matrices and halves of them, with constants, dead nodes, several outputs."""
    squares, halves, nodes = ["x", "w"], [], []
    for k in range(draw(st.integers(2, 14))):
        a, b = draw(st.sampled_from(squares)), draw(st.sampled_from(squares))
        made = f"v{k}"
        kind = draw(st.sampled_from(["unary", "binary", "split", "join", "reshape", "constant"]))
        if kind == "split":
            halves += [f"top{k}", f"low{k}"]
            nodes.append((f"n{k}", "Split", a, " ".join(halves[-2:]), {"axis": 0}))
            continue
        if kind == "join" and halves:
            pair = draw(st.sampled_from(halves)), draw(st.sampled_from(halves))
            nodes.append((f"n{k}", "Concat", " ".join(pair), made, {"axis": 0}))
        elif kind == "constant":
            value = numpy_helper.from_array(floats(4, 4))
            nodes.append((f"n{k}", "Constant", "", made, {"value": value}))
        elif kind == "reshape":
            nodes.append((f"n{k}", "Reshape", f"{a} shape", made, {}))
        elif kind == "binary":
            nodes.append((f"n{k}", draw(st.sampled_from(BINARY)), f"{a} {b}", made, {}))
        else:
            nodes.append((f"n{k}", draw(st.sampled_from(UNARY)), a, made, {}))
        squares.append(made)
    shapes = {name: [4, 4] for name in squares[2:]} | {name: [2, 4] for name in halves}
    outputs = draw(st.lists(st.sampled_from(list(shapes)), min_size=1, max_size=3, unique=True))
    return make(nodes, [("x", [4, 4])], [(name, shapes[name]) for name in outputs],
                [("w", floats(4, 4)), ("shape", np.array([4, 4]))], opset=13)


@st.composite
def cuts(draw: st.DrawFn, count: int, needs: list[set[int]]) -> list[list[int]]:
    """Runs of consecutive nodes in a random topological order: convex, also all together."""
    order: list[int] = []
    while len(order) < count:
        ready = [k for k in range(count) if k not in order and needs[k] <= set(order)]
        order.append(draw(st.sampled_from(ready)))
    ends = sorted(draw(st.sets(st.integers(0, count), min_size=2, max_size=6)))
    runs = [order[start:stop] for start, stop in zip(ends, ends[1:], strict=False)]
    return [sorted(run) for run in runs if draw(st.booleans())]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_convex_regions_keep_the_results(data: st.DataObject):
    proto = data.draw(models())
    source = {name: k for k, node in enumerate(proto.graph.node) for name in node.output}
    needs = [{source[name] for name in scope.reads(node) if name in source}
             for node in proto.graph.node]
    runs = data.draw(cuts(len(needs), needs))
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", [graph.nodes[i] for i in run]) for k, run in enumerate(runs)]
    fused = [one for one in fused if one.outputs]
    emitted = emit(model, graph, fused)
    after = same(proto, emitted)
    again = emit(model, graph, fused)
    assert again.proto.SerializeToString(deterministic=True) == emitted.proto.SerializeToString(
        deterministic=True)
    names = {node.name for one in fused for node in one.region.nodes}
    assert names.isdisjoint(node.name for node in after.graph.node)
    untouched = {node.name: node for node in proto.graph.node}
    assert all(untouched.get(node.name, node) == node for node in after.graph.node)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_runs_of_a_network_share_functions(size: int):
    """A deep chain: positions, order and numbering at a size where recursion would end."""
    count = 1500
    nodes = [(f"n{k}", "Relu" if k % 2 else "Neg", f"x{k}", f"x{k + 1}", {}) for k in range(count)]
    proto = make(nodes, [("x0", [3])], [(f"x{count}", [3])])
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", graph.nodes[k:k + 2 * size]) for k in range(0, count, 20)]
    after = same(proto, emit(model, graph, fused))
    assert len(after.functions) == 1
    assert kinds(after).count("FusedRegion_0") == count // 20


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_regions_of_whole_models_after_the_passes(path: pathlib.Path, seed: int):
    """With folded constants, folded statistics and recognised rows in the regions."""
    rng = np.random.default_rng(seed)
    model = load(path)
    graph = prepare(model)
    ends = sorted({0, len(graph.nodes), *rng.integers(0, len(graph.nodes), len(graph.nodes) // 5)})
    fused = []
    for k, (start, stop) in enumerate(zip(ends, ends[1:], strict=False)):
        nodes = graph.nodes[start:stop]
        small = tuple(value.name for node in nodes for value in node.inputs
                      if value is not None and value.weight is not None and value.weight.size < 8)
        fused.append(lower(f"r{k}", nodes, small))
    after = same(onnx.load(path), emit(model, graph, fused))
    assert len(after.graph.node) < len(model.proto.graph.node)
