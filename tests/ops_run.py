"""Runs models as planned: tile programs by the interpreter, opaque nodes by onnx.reference."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import native_lib
import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from onnx_fusion.emit.function import node_proto, written_nodes
from onnx_fusion.fusion.grow import plan
from onnx_fusion.fusion.plan import Plan, Region
from onnx_fusion.fusion.target import Target
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.lower import Lowered, lower
from onnx_fusion.ops.tensor import Refused
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.program import interpret, parse_program
from onnx_fusion.runtime.machine import refusal

Execute = Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]
NEWEST_OPSET = 26


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """A planned model: its graph, plan and programs, and why single nodes were not lowered."""

    graph: Graph
    plan: Plan
    lowered: tuple[Lowered, ...]
    reasons: dict[Node, str]

    def op_types(self) -> set[str]:
        """Return the operators that are in some region."""
        return {node.op_type for region in self.plan.regions for node in region.nodes}


def fuse(model: onnx.ModelProto) -> Fused:
    """Return the model planned with a target that takes whatever can be lowered."""
    graph = prepare(load(model))
    reasons: dict[Node, str] = {}

    def accept(region: Region) -> str | None:
        try:
            lower(region, graph)
        except Refused as refused:
            if len(region.nodes) == 1:
                reasons[region.nodes[0]] = str(refused)
            return str(refused)
        return None

    made = plan(graph, Target(accept, leave_renames=False))
    return Fused(graph, made, tuple(lower(r, graph) for r in made.regions), reasons)


def run(
    fused: Fused, feeds: Mapping[str, np.ndarray], execute: Execute | None = None
) -> list[np.ndarray]:
    """Return the model's outputs; raises KeyError for an output that nothing computes.

    `execute` runs the programs, the interpreter if none is given.
    """
    graph = fused.graph
    data: dict[Value, np.ndarray] = {v: feeds[v.name] for v in graph.inputs if v.name in feeds}
    data |= {v: v.weight.array() for v in graph.values.values() if v.weight is not None}
    regions = {n: one for one in fused.lowered for n in one.region.nodes}
    left = list(dict.fromkeys(regions.get(node, node) for node in graph.nodes))
    while left:
        ready = [work for work in left if all(v in data for v in reads(work))]
        if not ready:
            raise AssertionError("regions and nodes wait for each other")
        for work in ready:
            if isinstance(work, Node):
                data.update(run_node(work, graph, data))
            else:
                given = [np.asarray(data[v]) for v in work.inputs]
                found = (execute or by_meaning)(work.program, given)
                data.update(zip(work.outputs, found, strict=True))
        left = [work for work in left if work not in ready]
    return [data[v] for v in graph.outputs]


def by_meaning(text: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return a program's outputs by the interpreter."""
    return interpret(parse_program(text), inputs)


def by_machine(text: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return a program's outputs by the native library, which must take it."""
    assert refusal(text) is None, f"{refusal(text)}\n{text}"
    return native_lib.run(text, inputs)


def reads(work: Node | Lowered) -> Sequence[Value]:
    """Return the values that a node or a region waits for."""
    if isinstance(work, Lowered):
        return work.inputs
    return [v for v in (*work.inputs, *work.captures) if v is not None]


def run_node(node: Node, graph: Graph, data: dict[Value, np.ndarray]) -> dict[Value, np.ndarray]:
    """Return what one node computes by onnx.reference."""
    parts = list(written_nodes([node]))
    protos = [node_proto(part) for part in parts]
    constants = [v for part in parts for v in part.inputs if v is not None and v.weight is not None]
    data = data | {v: v.weight.array() for v in constants}
    given = [*reads(node), *constants]
    outputs = [v for v in node.outputs if v is not None]
    body = onnx.helper.make_graph(
        protos, "one", [onnx.ValueInfoProto(name=v.name) for v in dict.fromkeys(given)],
        [onnx.ValueInfoProto(name=v.name) for v in outputs],
    )  # fmt: skip
    proto = graph.model.proto
    model = onnx.ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions,
        graph=body,
    )  # fmt: skip
    found = ReferenceEvaluator(model).run(None, {v.name: data[v] for v in given})
    return dict(zip(outputs, found, strict=True))


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = NEWEST_OPSET,
    symbols: Mapping[str, Sequence[int | str]] | None = None,
) -> onnx.ModelProto:
    """Return a model; `inputs` give types and shapes, `symbols` shapes with names in them."""
    shapes = {name: list(array.shape) for name, array in inputs.items()} | dict(symbols or {})
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), shapes[name]
            )
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)
    return onnx.shape_inference.infer_shapes(model)


def plain(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return what ONNX Runtime computes, without its optimizer."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {name: a for name, a in feeds.items() if name in names})


def compare(
    model: onnx.ModelProto,
    *runs: Mapping[str, np.ndarray],
    rtol: float = 1e-5,
    atol: float = 1e-6,
    regions: int | None = None,
) -> Fused:
    """Assert that all nodes are lowered, to what ONNX Runtime gives; `regions`: in how many.

    The programs are run by the interpreter and by the native library.
    """
    fused = fuse(model)
    assert not fused.reasons, f"refused: {fused.reasons}"
    if regions is not None:
        assert len(fused.plan.regions) == regions
    for feeds, execute in itertools.product(runs, (by_meaning, by_machine)):
        found = run(fused, feeds, execute)
        for actual, wanted in zip(found, plain(model, feeds), strict=True):
            try:
                same(actual, wanted, rtol, atol)
            except AssertionError as error:
                programs = "\n".join(one.program for one in fused.lowered)
                raise AssertionError(f"{error}\n{programs}") from error
    return fused


def pin(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model with these inputs made initializers."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    inputs = [i for i in pinned.graph.input if i.name not in values]
    del pinned.graph.input[:]
    pinned.graph.input.extend(inputs)
    for name, value in values.items():
        pinned.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return pinned


def same(actual: np.ndarray, wanted: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Assert equal type, shape, NaN positions and values within the tolerance."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.dtype == wanted.dtype, f"type {actual.dtype}, not {wanted.dtype}"
    assert actual.shape == wanted.shape, f"shape {actual.shape}, not {wanted.shape}"
    if actual.dtype.kind == "f":
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=atol, equal_nan=True)
    else:
        np.testing.assert_array_equal(actual, wanted)
