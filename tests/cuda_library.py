"""Sessions whose products and convolutions the stand-ins for cuBLASLt and cuDNN may make."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from cuda_programs import TOLERANCE, random
from onnx import TensorProto
from op_models import fused, model
from test_cuda_schedules import difference

from onnx_fusion.program import interpret, parse_program
from onnx_fusion.runtime.library import get_library_path

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

    def asked(self) -> int:
        return self._get("asked", ctypes.c_int)

    def handles(self) -> int:
        return self._get("handles", ctypes.c_int)

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
    made = {t.name: (ONNX[str(t.dtype)], None) for t in parsed.outputs}
    return model([fused(list(shapes), list(made), text)], shapes, made)


def aligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    made = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def results(made, text: str, feed: dict) -> list[np.ndarray]:
    """Return what a session makes of aligned inputs, in aligned outputs."""
    parsed = parse_program(text)
    binding = made.io_binding()
    kept = [aligned(array) for array in feed.values()]
    for t, array in zip(parsed.inputs, kept, strict=True):
        kind = ONNX[str(t.dtype)]
        binding.bind_input(t.name, "cpu", 0, kind, array.shape, array.ctypes.data)
    found = []
    for t in parsed.outputs:
        shape = t.physical([int(str(d)) for d in t.shape])
        found.append(aligned(np.empty(shape, t.dtype.numpy)))
        kind = ONNX[str(t.dtype)]
        binding.bind_output(t.name, "cpu", 0, kind, shape, found[-1].ctypes.data)
    made.run_with_iobinding(binding)
    return found


def run(made, text: str, feed: dict | None = None) -> float:
    """Return how far a session's results lie from the interpreter's."""
    feed = feed or inputs_of(text)
    parsed = parse_program(text)
    want = interpret(parsed, list(feed.values()))
    return max(
        difference(got, np.asarray(w), str(t.dtype))
        for got, w, t in zip(results(made, text, feed), want, parsed.outputs, strict=True)
    )


class DeviceKernel:
    """A program's kernels by the C interface, on aligned host memory."""

    def __init__(self, text: str, forced: bool = False) -> None:
        self.parsed = parse_program(text)
        self.feed = [aligned(a) for a in inputs_of(text).values()]
        shape = self.parsed.outputs[0].physical(
            [int(str(d)) for d in self.parsed.outputs[0].shape]
        )
        self.out = aligned(np.empty(shape, self.parsed.outputs[0].dtype.numpy))
        self.library = ctypes.CDLL(get_library_path())
        self.library.onnx_fusion_device_create.restype = ctypes.c_void_p
        self.library.onnx_fusion_device_run.restype = ctypes.c_int64
        self.error = ctypes.create_string_buffer(500)
        dims = [d for a in self.feed for d in a.shape]
        self.dims = (ctypes.c_int64 * len(dims))(*dims)
        self.handle = self.library.onnx_fusion_device_create(
            text.encode(), ctypes.c_size_t(len(text)), self.dims, b"", 0, int(forced), self.error,
            ctypes.c_size_t(500),
        )  # fmt: skip
        if not self.handle:
            raise ValueError(self.error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.onnx_fusion_device_destroy(ctypes.c_void_p(self.handle))

    def run(self, memory: int, stream: int = 0) -> int:
        """Return how many bytes of workspace a run needs that has so many."""
        workspace = aligned(np.empty(memory + 256, np.uint8))
        inputs, outputs = (
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
            for arrays in (self.feed, [self.out])
        )
        at = -(-workspace.ctypes.data // 256) * 256
        return self.library.onnx_fusion_device_run(
            ctypes.c_void_p(self.handle), inputs, self.dims, outputs, ctypes.c_void_p(at),
            ctypes.c_int64(memory), ctypes.c_void_p(stream), self.error, ctypes.c_size_t(500),
        )  # fmt: skip

    def far(self) -> float:
        """Return how far the last run's result lies from the interpreter's."""
        want = np.asarray(interpret(self.parsed, self.feed)[0])
        return difference(self.out, want, str(self.parsed.outputs[0].dtype))


def is_used(library: Library, made, text: str) -> bool:
    """Run twice, then say whether a run calls the library."""
    most = TOLERANCE[str(parse_program(text).outputs[0].dtype)]
    for _ in range(2):
        assert run(made, text) <= most
    before = library.calls()
    assert run(made, text) <= most
    return library.calls() > before


@pytest.fixture
def dnn(fake, monkeypatch, tmp_path):
    """Yield the stand-in for cuDNN, which must have seen nothing wrong."""
    found = opened(monkeypatch, tmp_path, fake.dnn, "cudnn")
    yield found
    assert found.wrong() == ""


@pytest.fixture
def blas(fake, monkeypatch, tmp_path):
    """Yield the stand-in for cuBLASLt, likewise."""
    found = opened(monkeypatch, tmp_path, fake.blas, "cublaslt")
    yield found
    assert found.wrong() == ""
