"""Sessions whose products and convolutions the stand-ins for cuBLASLt and cuDNN may make."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
from cuda_programs import TOLERANCE, random
from onnx import TensorProto
from op_models import fused, model
from test_cuda_schedules import difference

from onnx_fusion.program import interpret, parse_program

ONNX = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
VERSIONS = itertools.count(1)


class Library:
    """A stand-in, and what was asked of it."""

    def __init__(self, path, name: str) -> None:
        self.library = ctypes.CDLL(str(path))
        self.name = f"fake_{name}"

    def calls(self) -> int:
        return self._get("calls", ctypes.c_int)

    def objects(self) -> int:
        return self._get("objects", ctypes.c_int)

    def wrong(self) -> str:
        return self._get("wrong", ctypes.c_char_p).decode()

    def last(self) -> str:
        return self._get("last", ctypes.c_char_p).decode()

    def _get(self, what: str, kind):
        function = getattr(self.library, f"{self.name}_{what}")
        function.restype = kind
        return function()


def opened(monkeypatch, tmp_path, path, name: str) -> Library:
    """Return a stand-in with a name and version of this test's own, since what was chosen is kept
    in memory, and an empty cache."""
    monkeypatch.setenv("ONNX_FUSION_CACHE", str(tmp_path))
    own = tmp_path / f"lib{name}.so"
    own.symlink_to(path)
    monkeypatch.setenv(f"ONNX_FUSION_{name.upper()}", str(own))
    base = 90000 if name == "cudnn" else 0
    monkeypatch.setenv(f"FAKE_{name.upper()}_VERSION", str(base + next(VERSIONS)))
    return Library(path, name)


def inputs_of(text: str) -> dict[str, np.ndarray]:
    """Return random inputs in the shapes they have in memory."""
    found = {}
    for k, t in enumerate(parse_program(text).inputs):
        shape = t.physical([int(str(d)) for d in t.shape])
        found[t.name] = random(str(t.dtype), *shape, seed=k)
    return found


def model_of(text: str):
    parsed = parse_program(text)
    shapes = {
        t.name: (ONNX[str(t.dtype)], list(t.physical([int(str(d)) for d in t.shape])))
        for t in parsed.inputs
    }
    out = parsed.outputs[0]
    return model([fused(list(shapes), ["y"], text)], shapes, {"y": (ONNX[str(out.dtype)], None)})


def aligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    made = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def run(made, text: str, feed: dict | None = None) -> float:
    """Return how far a session's result lies from the interpreter's."""
    feed = feed or inputs_of(text)
    out_type = parse_program(text).outputs[0]
    dtype = str(out_type.dtype)
    want = np.asarray(interpret(parse_program(text), list(feed.values()))[0])
    binding = made.io_binding()
    kept = [aligned(array) for array in feed.values()]
    types = [str(t.dtype) for t in parse_program(text).inputs]
    for name, array, own in zip(feed, kept, types, strict=True):
        binding.bind_input(name, "cpu", 0, ONNX[own], array.shape, array.ctypes.data)
    out = aligned(np.empty(want.shape, want.dtype))
    binding.bind_output("y", "cpu", 0, ONNX[dtype], out.shape, out.ctypes.data)
    made.run_with_iobinding(binding)
    return difference(out, want, dtype)


def is_used(library: Library, made, text: str) -> bool:
    """Run twice, then say whether a run calls the library."""
    most = TOLERANCE[str(parse_program(text).outputs[0].dtype)]
    for _ in range(2):
        assert run(made, text) <= most
    before = library.calls()
    assert run(made, text) <= most
    return library.calls() > before
