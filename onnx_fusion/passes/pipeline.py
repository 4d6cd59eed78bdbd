"""The passes before planning, in their order."""

from __future__ import annotations

from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import Graph
from onnx_fusion.graph.view import view
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.fold_batchnorm import fold_batchnorm
from onnx_fusion.passes.infer import infer
from onnx_fusion.passes.recognize import recognize

_MAX_ROUNDS = 8


def prepare(model: Model, *, strict: bool = False) -> Graph:
    """Return the graph that is planned: shapes inferred, constants folded, row norms recognised.

    Under `strict` nothing that changes a rounding is done: BatchNormalization stays as it is.
    """
    graph = infer(view(model))
    for _ in range(_MAX_ROUNDS):
        before = _state(graph)
        infer(fold(graph))
        if _state(graph) == before:
            break
    recognize(graph)
    return graph if strict else fold_batchnorm(graph)


def _state(graph: Graph) -> tuple[int, int]:
    """Return what grows or shrinks as long as folding and inference still help each other."""
    static = sum(value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
                 for value in graph.values.values())
    return len(graph.nodes), static
