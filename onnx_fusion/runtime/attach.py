"""Weights that stay in the file where they are while ONNX Runtime reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from onnx_fusion.graph import wire

if TYPE_CHECKING:
    from onnx_fusion.graph.weights import Weight

NOWHERE = "given by the session's options"
"""Where initializers are said to lie that the options hold."""


def attach(
    skeleton: onnx.ModelProto,
    weights: Mapping[str, Weight],
    options: onnxruntime.SessionOptions,
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Return the model whose initializers `weights` has, for a session with these options, and what
    must be kept as long as that session runs.

    The options are given the large ones, as views of the file, so that nothing of them is copied or
    parsed; a type that NumPy does not have is copied into the model.
    """
    made = onnx.ModelProto()
    made.CopyFrom(skeleton)
    given: dict[str, onnxruntime.OrtValue] = {}
    kept: list[np.ndarray] = []
    for tensor in made.graph.initializer:
        weight = weights.get(tensor.name)
        if weight is None:
            continue
        array = weight.array()
        if array.nbytes > wire.DETACH_BYTES and can_share(tensor.data_type, array.dtype):
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=NOWHERE)
            kept.append(array)
            given[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        else:
            tensor.raw_data = bytes(weight.raw())
    if given:
        options.add_external_initializers(list(given), list(given.values()))
    return made, kept


def can_share(code: int, dtype) -> bool:
    """Return whether NumPy's type is the tensor's own."""
    try:
        return helper.np_dtype_to_tensor_dtype(dtype) == code
    except (KeyError, ValueError):
        return False
