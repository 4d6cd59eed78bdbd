"""ONNX's own backend node cases, as models that the installed ONNX Runtime's opset admits."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from onnx_fusion.ops.table import TABLE

OLDEST_OPSET, NEWEST_OPSET, NEWEST_IR = 7, 26, 11
NOT_REPEATABLE = {"RandomUniformLike", "RandomNormalLike", "Bernoulli", "Loop"}
"""Random operators, and Loop, whose scan outputs onnx.reference shapes wrongly."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One backend case: a model, its inputs by name, its outputs in order, its tolerance."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    rtol: float
    atol: float

    def variants(self) -> list[dict[str, np.ndarray]]:
        """Return which inputs to make initializers: none, integers and scalars, all but the first.

        The cases pass axes, shapes and bounds as inputs, where models have constants.
        """
        later = dict(list(self.inputs.items())[1:])
        small = {
            k: a for k, a in later.items() if a.dtype in (np.int64, np.int32, bool) or a.ndim == 0
        }
        found = {tuple(v): v for v in ({}, small, later)}
        return list(found.values())


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return the cases in which an operator that has a lowering occurs."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
    return tuple(c for c in map(read, loaded) if c is not None)


def read(test: onnx.backend.test.case.test_case.TestCase) -> Case | None:
    """Return the case, None if it is not for us."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    used = {n.op_type for n in model.graph.node if not n.domain}
    lowered = {op for (domain, op), row in TABLE.items() if not domain and row.lower}
    if not used & lowered or used & NOT_REPEATABLE:
        return None
    if "SpaceToDepth" in used and any(a.name == "mode" for a in model.graph.node[0].attribute):
        return None
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = min(max(entry.version, OLDEST_OPSET), NEWEST_OPSET)
    model.ir_version = min(model.ir_version, NEWEST_IR)
    given, wanted = test.data_sets[0]
    if not all(
        isinstance(a, np.ndarray | np.generic | onnx.TensorProto) for a in (*given, *wanted)
    ):
        return None
    names = [i.name for i in model.graph.input]
    inputs = dict(zip(names, map(array, given), strict=True))
    return Case(test.name, model, inputs, list(map(array, wanted)), test.rtol, test.atol)


def array(value: np.ndarray | np.generic | onnx.TensorProto) -> np.ndarray:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)
