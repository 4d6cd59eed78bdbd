"""The float64 truth: a copy of a model with every float32 widened, run by onnx.reference.

ONNX Runtime's CPU provider has no double kernels for most operators, so the reference evaluator
runs them in NumPy, in a process of its own that is killed when its time is up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.graph import scope
from onnx_fusion.runtime.inputs import every_node

TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "output_datatype"))
"""Attributes that name an element type."""

FLOAT_BY_DEFAULT = {"ConstantOfShape": ("value", np.zeros(1))}
"""Operators that make float32 unless an attribute says otherwise, and what it must then say."""

FLOAT_CONSTANTS = frozenset(("value_float", "value_floats"))


ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""BLAS threads that wait for each other on a busy machine take ten times as long."""


class NoReference(Exception):
    """The reference gave no answer; the message says why."""


def evaluate(
    model: onnx.ModelProto,
    inputs: dict[str, np.ndarray],
    names: Sequence[str],
    *,
    base: str | None = None,
    seconds: float = 60.0,
) -> dict[str, np.ndarray]:
    """Return the values `names` of the widened model, computed in at most `seconds`.

    `base` is the folder of the model's external data. Raises NoReference if time is up, or if the
    reference evaluator does not know an operator.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, asked, answer = (Path(folder) / n for n in ("model.onnx", "in.npz", "out.npz"))
        given.write_bytes(leading_to(model, names).SerializeToString())
        np.savez(asked, *inputs.values(), names=np.array(list(inputs)), wanted=np.array(names))
        command = [sys.executable, "-m", "onnx_fusion.runtime.reference", given, asked, answer]
        path = os.pathsep.join(filter(None, (*sys.path, os.environ.get("PYTHONPATH"))))
        try:
            done = subprocess.run(
                [*command, base or folder],
                timeout=seconds,
                capture_output=True,
                text=True,
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoReference(f"the float64 reference gave up after {seconds:g} s") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NoReference(f"the float64 reference cannot run the model: {said[:200]}")
        with np.load(answer) as file:
            return {name: file[f"arr_{i}"] for i, name in enumerate(names)}


def leading_to(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy with the nodes that the named values depend on, and with those as outputs."""
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= scope.reads(node) - {""}
            nodes.append(node)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.output[:]
    made.graph.node.extend(reversed(nodes))
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    kept = [tensor for tensor in made.graph.initializer if tensor.name in wanted]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made


def main(argv: Sequence[str]) -> None:
    """Read a model and its inputs, and write the values asked for (arguments: four paths)."""
    from onnx.reference import ReferenceEvaluator

    from onnx_fusion.runtime.reference_ops import RESTATED

    given, asked, answer, base = argv
    model = onnx.load(given, load_external_data=False)
    onnx.load_external_data_for_model(model, base)
    with np.load(asked) as file:
        wanted = file["wanted"].tolist()
        feeds = {name: file[f"arr_{i}"] for i, name in enumerate(file["names"].tolist())}
    widen(model)
    session = ReferenceEvaluator(model, new_ops=list(RESTATED))
    with np.errstate(all="ignore"):
        values = session.run(None, widen_inputs(feeds), intermediate=True)
    np.savez(answer, *(np.asarray(values[name]) for name in wanted))


def widen_inputs(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs with float32 arrays as float64."""
    return {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in inputs.items()
    }


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, changed in place: every float32 type, weight and constant is float64."""
    for graph in every_graph(model.graph):
        for tensor in graph.initializer:
            widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            widen_type(value.type)
    bodies = [node for function in model.functions for node in function.node]
    inner = [node for outer in bodies for graph in graphs_of(outer) for node in every_node(graph)]
    for node in (*every_node(model.graph), *bodies, *inner):
        name, array = FLOAT_BY_DEFAULT.get(node.op_type, (None, None))
        if name and all(item.name != name for item in node.attribute):
            node.attribute.append(helper.make_attribute(name, numpy_helper.from_array(array)))
        for item in node.attribute:
            if item.name in TYPE_ATTRIBUTES and item.i == TensorProto.FLOAT:
                item.i = TensorProto.DOUBLE
            elif item.name in FLOAT_CONSTANTS:
                value = np.float64(item.f if item.name == "value_float" else list(item.floats))
                item.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
            elif item.type == onnx.AttributeProto.TENSOR:
                widen_tensor(item.t)
    return model


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for inner in graphs_of(node):
            yield from every_graph(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of a node."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


def widen_tensor(tensor: onnx.TensorProto) -> None:
    """Make a float32 tensor a float64 one, in place."""
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def widen_type(kind: onnx.TypeProto) -> None:
    """Make float32 float64 in a type, in place."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, which)
        if tensor.elem_type == TensorProto.FLOAT:
            tensor.elem_type = TensorProto.DOUBLE
    elif which in ("sequence_type", "optional_type"):
        widen_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        widen_type(kind.map_type.value_type)


if __name__ == "__main__":
    main(sys.argv[1:])
