"""The CUDA kernels by the C interface: streams, workspaces, and sessions whose buffers grow."""

from __future__ import annotations

import concurrent.futures
import ctypes

import numpy as np
import pytest
from cuda_fake import cuda_session
from op_models import FLOAT, fused, model

from onnx_fusion.cli.main import main
from onnx_fusion.runtime.library import get_library_path

TWO_PASSES = """tile_program 1
input x0 f32[M, 24] row
temp t0 f32[24, M] row
output y0 f32[M, M] row
stage i: M, j: 24
%0 = load x0 (i, j)
%1 = exp %0
store t0 (j, i) %1
stage i: M, k: M, j: 24
%0 = load t0 (j, i)
%1 = load t0 (j, k)
%2 = dot %0 %1 over j
store y0 (i, k) %2
"""
rng = np.random.default_rng(3)


def want_of(x):
    e = np.exp(x.astype(np.float64))
    return e @ e.T


class Kernel:
    """TWO_PASSES for `rows` rows, on host memory."""

    def __init__(self, rows: int) -> None:
        self.library = ctypes.CDLL(get_library_path())
        self.library.onnx_fusion_device_create.restype = ctypes.c_void_p
        self.library.onnx_fusion_device_run.restype = ctypes.c_int64
        self.dims, self.error = (ctypes.c_int64 * 2)(rows, 24), ctypes.create_string_buffer(500)
        text = TWO_PASSES.encode()
        self.handle = self.library.onnx_fusion_device_create(
            text, ctypes.c_size_t(len(text)), self.dims, b"", 0, 0, self.error, ctypes.c_size_t(500)
        )
        assert self.handle, self.error.value

    def __del__(self) -> None:
        self.library.onnx_fusion_device_destroy(ctypes.c_void_p(self.handle))

    def run(self, x, y, workspace, stream) -> int:
        inputs, outputs = ((ctypes.c_void_p * 1)(a.ctypes.data) for a in (x, y))
        return self.library.onnx_fusion_device_run(
            ctypes.c_void_p(self.handle), inputs, self.dims, outputs,
            ctypes.c_void_p(workspace.ctypes.data), ctypes.c_int64(workspace.nbytes),
            ctypes.c_void_p(stream), self.error, ctypes.c_size_t(500),
        )  # fmt: skip


def test_launches_go_to_the_stream_and_need_their_workspace(fake):
    driver = ctypes.CDLL(str(fake.driver))
    driver.fake_cuda_last_stream.restype = ctypes.c_void_p
    kernel = Kernel(20)
    x, y = rng.standard_normal((20, 24)).astype(np.float32), np.zeros((20, 20), np.float32)
    before = fake.calls("launch")
    needed = kernel.run(x, y, np.zeros(1, np.uint8), 64)
    assert needed >= 20 * 24 * 4 and fake.calls("launch") == before
    for stream in (64, 128):
        assert kernel.run(x, y, np.full(needed, 0xA5, np.uint8), stream) == needed
        assert driver.fake_cuda_last_stream() == stream
        np.testing.assert_allclose(y, want_of(x), rtol=1e-5)


def test_a_session_has_one_buffer_that_grows(fake):
    made = cuda_session(
        model([fused(["x"], ["y"], TWO_PASSES)], {"x": (FLOAT, ["M", 24])}, {"y": (FLOAT, None)})
    )

    def work(rows):
        x = rng.standard_normal((rows, 24)).astype(np.float32)
        np.testing.assert_allclose(made.run(None, {"x": x})[0], want_of(x), rtol=1e-5)

    for rows in (16, 48, 32, 16):
        work(rows)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (16, 48, 32, 16, 48, 32)))


def test_ptx_is_for_models_that_run_on_a_device(tmp_path, capsys):
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    assert main(["optimize", source, target, "--embed-ptx"]) == 1
    assert "--embed-ptx needs --target cuda or both" in capsys.readouterr().err


def test_a_program_that_is_none_is_refused(fake):
    library = ctypes.CDLL(get_library_path())
    library.onnx_fusion_device_create.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(500)
    dims = (ctypes.c_int64 * 1)(0)
    text = b"tile_program 1\nnothing\n"
    assert not library.onnx_fusion_device_create(
        text, ctypes.c_size_t(len(text)), dims, b"", 0, 0, error, ctypes.c_size_t(500)
    )
    assert error.value.startswith(b"line 2: ")


@pytest.mark.parametrize("path", ["", "/nowhere/libnvrtc.so"])
def test_a_compiler_is_found_by_the_session_entry(fake, monkeypatch, path):
    monkeypatch.delenv("ONNX_FUSION_NVRTC")
    made = model([fused(["x"], ["y"], TWO_PASSES.replace("M", "18"))], {"x": (FLOAT, [18, 24])},
                 {"y": (FLOAT, None)})  # fmt: skip
    if path:
        with pytest.raises(Exception, match=f"{path}: NVRTC cannot be loaded"):
            cuda_session(made, nvrtc=path)
    else:
        compiled = fake.compiled()
        cuda_session(made, nvrtc=str(fake.nvrtc))
        assert fake.compiled() == compiled + 1
