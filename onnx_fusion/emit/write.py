"""Which files an emitted model is written to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onnx_fusion.emit import naming
from onnx_fusion.graph.save import copy, save
from onnx_fusion.graph.scope import every_node

if TYPE_CHECKING:
    from onnx_fusion.emit.build import Emitted
    from onnx_fusion.graph.load import Model

LEAST_BYTES = 16 << 20
"""Of weights that fused nodes read, from which on the weights have a file of their own."""


def write(
    model: Model,
    emitted: Emitted,
    target: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    single_file: bool = False,
) -> list[str]:
    """Write what became of `model` to `target`; return the paths written, the model's first.

    Weights lie in a second file if fused nodes read many, if the model came with such files, or if
    it is above 2 GB: kernels pack their weights, and a session can give back the memory of what it
    mapped from a file, but not of what it read out of the model. With `single_file` they never do,
    and a model above 2 GB is a ModelError. An unchanged model in one file is copied. `home` is
    where the files will be moved to together, if not to `target`.
    """
    external: bool | None = False if single_file else None
    if not single_file and (model.external or fused_bytes(emitted) >= LEAST_BYTES):
        external = True
    unchanged = model.path is not None and emitted.proto == model.proto
    if unchanged and not model.external:
        copy(model.path, target)
        return [os.fspath(target)]
    return save(emitted.proto, emitted.weights, target, external=external, home=home)


def fused_bytes(emitted: Emitted) -> int:
    """Return how large the weights are that the fused nodes of the main graph and its bodies
    read."""
    nodes = every_node(emitted.proto.graph)
    names = {name for node in nodes if node.domain == naming.DOMAIN for name in node.input}
    return sum(emitted.weights[name].nbytes for name in names if name in emitted.weights)
