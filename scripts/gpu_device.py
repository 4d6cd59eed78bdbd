"""Tile programs on a CUDA device by the native library's C interface, with torch for memory and
time.

Without a GPU, and with the stand-ins of the tests (tests/cuda_fake.py), the same code runs on host
memory: `Device("cpu")`.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from onnx_fusion.program import parse_program
from onnx_fusion.runtime.library import find_nvrtc, get_library_path

_ERROR = 1024
RUBBISH = 0xA5
ALIGNMENT = 256  # of the workspace


class DeviceError(Exception):
    """Why a program has no kernels on the device, or what the driver says."""


class Device:
    """Where tensors are ("cuda", or "cpu" for the stand-ins), and how time is taken there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.real = name == "cuda"

    def upload(self, array: np.ndarray) -> torch.Tensor:
        """Return the bytes of an array on the device."""
        flat = np.frombuffer(np.ascontiguousarray(array).tobytes() or bytes(16), np.uint8)
        return torch.from_numpy(flat.copy()).to(self.name)

    def rubbish(self, size: int) -> torch.Tensor:
        """Return so many bytes that no kernel wrote."""
        return torch.full((max(size, 16),), RUBBISH, dtype=torch.uint8, device=self.name)

    def stream(self) -> int:
        """Return the current stream."""
        return torch.cuda.current_stream().cuda_stream if self.real else 0

    def wait(self) -> None:
        """Return when all work is done."""
        if self.real:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], budget: float = 0.3) -> float:
        """Return the median time of a call, queued one after the other."""
        for _ in range(2):
            run()
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        once = max(time.perf_counter() - start, 1e-6)
        count = max(1, min(50, int(budget / 7 / once)))
        found = []
        for _ in range(7):
            start = time.perf_counter()
            if self.real:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
            for _ in range(count):
                run()
            if self.real:
                end.record()
            self.wait()
            whole = begin.elapsed_time(end) / 1e3 if self.real else time.perf_counter() - start
            found.append(whole / count)
        return statistics.median(found)


class DeviceProgram:
    """A tile program's kernels for inputs of known shapes."""

    def __init__(
        self,
        device: Device,
        text: str,
        shapes: Sequence[Sequence[int]],
        tf32: bool = False,
        forced: bool = False,
    ) -> None:
        self.device = device
        self.program = parse_program(text)
        self.library = ctypes.CDLL(get_library_path())
        self.library.onnx_fusion_device_create.restype = ctypes.c_void_p
        self.library.onnx_fusion_device_run.restype = ctypes.c_int64
        dims = [d for shape in shapes for d in shape]
        self.dims = (ctypes.c_int64 * max(len(dims), 1))(*dims)
        self.error = ctypes.create_string_buffer(_ERROR)
        data = text.encode()
        self.handle = self.library.onnx_fusion_device_create(
            data, ctypes.c_size_t(len(data)), self.dims, (find_nvrtc() or "").encode(), int(tf32),
            int(forced), self.error, ctypes.c_size_t(_ERROR),
        )  # fmt: skip
        if not self.handle:
            raise DeviceError(self.error.value.decode(errors="replace"))
        self.workspace = device.rubbish(ALIGNMENT)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.onnx_fusion_device_destroy(ctypes.c_void_p(self.handle))

    def start(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        """Queue one run; raise DeviceError if that fails."""
        pointers = [
            (ctypes.c_void_p * max(len(t), 1))(*(x.data_ptr() for x in t))
            for t in (inputs, outputs)
        ]
        while True:
            at = -(-self.workspace.data_ptr() // ALIGNMENT) * ALIGNMENT
            size = self.workspace.numel() - ALIGNMENT
            needed = self.library.onnx_fusion_device_run(
                ctypes.c_void_p(self.handle), pointers[0], self.dims, pointers[1],
                ctypes.c_void_p(at), ctypes.c_int64(size),
                ctypes.c_void_p(self.device.stream()), self.error, ctypes.c_size_t(_ERROR),
            )  # fmt: skip
            if needed < 0:
                raise DeviceError(self.error.value.decode(errors="replace"))
            if needed <= size:
                return
            self.workspace = self.device.rubbish(needed + ALIGNMENT)


def run(
    device: Device,
    text: str,
    inputs: Sequence[np.ndarray],
    like: Sequence[np.ndarray],
    tf32: bool = False,
    forced: bool = False,
) -> list[np.ndarray]:
    """Return the outputs of a program as arrays of the types and shapes of `like`.

    `forced`: cuBLASLt and cuDNN make all that is offered to them; what they cannot is an error.
    """
    made = DeviceProgram(device, text, [a.shape for a in inputs], tf32, forced)
    outputs = [device.rubbish(a.nbytes) for a in like]
    made.start([device.upload(a) for a in inputs], outputs)
    device.wait()
    return [
        np.frombuffer(o.cpu().numpy().tobytes()[: a.nbytes], a.dtype).reshape(a.shape)
        for o, a in zip(outputs, like, strict=True)
    ]
