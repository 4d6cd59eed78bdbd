"""One of the two models that verify compares: what it declares, and what it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from onnx_fusion.errors import VerifyError
from onnx_fusion.runtime.attach import attach
from onnx_fusion.runtime.inputs import needed, read_proto
from onnx_fusion.runtime.reference import NoReference, evaluate
from onnx_fusion.runtime.session import session
from onnx_fusion.runtime.surgery import given

if TYPE_CHECKING:
    from onnx_fusion.graph.load import Model

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
PACK_NOTHING = "session.disable_prepacking", "1"
SILENT = 4


class Side:
    """A model, the file or proto it came from, and how to run it and changed copies of it.

    What was `loaded` of the file before is not read again, and runs without being made fast.
    """

    def __init__(
        self,
        source: str | os.PathLike | onnx.ModelProto,
        *,
        library: bool,
        threads: int | None,
        loaded: Model | None = None,
    ) -> None:
        self.source = source
        self.proto = read_proto(source) if loaded is None else loaded.proto
        self.weights = None if loaded is None else loaded.weights
        from_file = not isinstance(source, onnx.ModelProto)
        self.base = str(Path(source).resolve().parent) if from_file else None
        self.label = str(source) if from_file else "the model"
        self.library = library
        self.threads = threads
        self.inputs = [value.name for value in needed(self.proto)]
        self.outputs = [value.name for value in self.proto.graph.output]

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        names: Sequence[str] | None = None,
        model: onnx.ModelProto | None = None,
    ) -> list[Any]:
        """Return the outputs, or those named, of this model or of a changed copy of it."""
        if names is not None and not names:
            return []
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        kept: list[np.ndarray] = []
        if self.weights is not None:
            model, kept = attach(model or self.proto, self.weights, options)
            options.add_session_config_entry(*PACK_NOTHING)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        elif self.base and model is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER, self.base)
        source = self.source if model is None else model
        made = session(source, library=self.library, threads=self.threads, options=options)
        wanted = {value.name for value in made.get_inputs()}
        feeds = {name: array for name, array in inputs.items() if name in wanted}
        try:
            return made.run(list(names) if names is not None else None, feeds)
        except Exception as error:
            said = " ".join(str(error).split())
            raise VerifyError(f"{self.label}: does not run on the inputs: {said}") from None
        finally:
            kept.clear()  # until here: the session reads what is in them


class Truth:
    """The float64 values of a model, computed when asked for, once; none where time is up."""

    def __init__(self, side: Side, inputs: Mapping[str, np.ndarray], seconds: float) -> None:
        self.side, self.inputs, self.seconds = side, dict(inputs), seconds
        self.notes: list[str] = []
        self.known: dict[tuple[str, ...], dict[str, np.ndarray]] = {}

    def values(
        self, names: Sequence[str], arrays: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the named values, with `arrays` given instead of computed; {} if time is up."""
        key = tuple(names)
        if not arrays and key in self.known:
            return self.known[key]
        found = self.compute(names, arrays)
        if not arrays:
            self.known[key] = found
        return found

    def compute(
        self, names: Sequence[str], arrays: Mapping[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        """Return what `values` does, computed."""
        if self.seconds <= 0:
            return {}
        model = given(self.side.proto, arrays) if arrays else self.side.proto
        try:
            return evaluate(
                model,
                {**self.inputs, **(arrays or {})},
                names,
                base=self.side.base,
                seconds=self.seconds,
            )
        except NoReference as error:
            self.notes.append(str(error))
            return {}
