"""What is chosen where cuDNN is slower, wrong, fails or is not there, and beside cuBLASLt."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cuda_fake import cuda_session
from cuda_library import DeviceKernel, inputs_of, is_used, model_of, run
from cuda_programs import TOLERANCE, Writer, program
from test_cuda_dnn import BIG, Conv

from onnx_fusion.runtime.library import get_library_path
from onnx_fusion.runtime.machine import make_ptx

CONV = Conv(**BIG, rest="bias relu")
TEXT = CONV.text()
OTHER = dataclasses.replace(CONV, rest="bias").text()


def test_a_slower_library_is_not_chosen(dnn, monkeypatch):
    monkeypatch.setenv("FAKE_CUDNN_MS", "40")
    made = cuda_session(model_of(TEXT))
    before = dnn.calls()
    assert not is_used(dnn, made, TEXT) and dnn.calls() > before


@pytest.mark.parametrize(
    ("strict", "tf32", "engine"), [(False, "0", 7), (True, "1", 8), (False, "1", 6)]
)
def test_engines_are_used_whose_arithmetic_is_allowed(dnn, monkeypatch, strict, tf32, engine):
    """The stand-in counts any other as a mistake; of those the second is the faster one."""
    monkeypatch.setenv("FAKE_CUDNN_STRICT", str(int(strict)))
    monkeypatch.setenv("FAKE_CUDNN_TF32", str(int(tf32 == "1" and not strict)))
    text = dataclasses.replace(CONV, strict=strict).text()
    assert is_used(dnn, cuda_session(model_of(text), tf32=tf32), text)
    assert dnn.last().endswith(f"engine {engine}")


def test_a_library_that_fails_is_done_without(dnn, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_CUDNN_FAILS", "1")
    assert not is_used(dnn, cuda_session(model_of(TEXT)), TEXT)
    monkeypatch.delenv("FAKE_CUDNN_FAILS")
    made = cuda_session(model_of(OTHER))
    assert is_used(dnn, made, OTHER)
    monkeypatch.setenv("FAKE_CUDNN_FAILS", "1")  # later, in a run
    assert run(made, OTHER) <= TOLERANCE["f32"]
    told = "cudnnBackendExecute: CUDNN_STATUS_EXECUTION_FAILED (5000); our own kernels"
    assert told in capfd.readouterr().err
    monkeypatch.delenv("FAKE_CUDNN_FAILS")
    assert not is_used(dnn, made, OTHER)


@pytest.mark.parametrize("how", ["entry", "empty", "missing", "none", "old"])
def test_a_session_without_the_library_runs(dnn, monkeypatch, how):
    if how == "empty":
        monkeypatch.setenv("ONNX_FUSION_CUDNN", "")
    elif how == "missing":
        monkeypatch.setenv("ONNX_FUSION_CUDNN", "/nowhere/libcudnn.so.9")
    elif how == "none":
        monkeypatch.setenv("FAKE_CUDNN_ENGINES", "0")
    elif how == "old":
        monkeypatch.setenv("FAKE_CUDNN_VERSION", "8907")
    before = dnn.calls()
    made = cuda_session(model_of(TEXT), **({"cuda_dnn": "0"} if how == "entry" else {}))
    assert not is_used(dnn, made, TEXT) and dnn.calls() == before


def test_nothing_is_tried_while_a_stream_is_captured(dnn, monkeypatch, fake):
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    made = cuda_session(model_of(TEXT))
    before = dnn.calls(), fake.calls("wait")
    assert run(made, TEXT) <= TOLERANCE["f32"]
    assert (dnn.calls(), fake.calls("wait")) == before
    monkeypatch.delenv("FAKE_CUDA_CAPTURING")
    assert is_used(dnn, made, TEXT)
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    assert is_used(dnn, made, TEXT)  # a call can be captured


def test_a_call_that_fails_while_it_is_captured_is_replaced(dnn, monkeypatch):
    made = cuda_session(model_of(TEXT))
    assert is_used(dnn, made, TEXT)
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    monkeypatch.setenv("FAKE_CUDNN_FAILS", "1")
    before = dnn.calls()
    for _ in range(2):
        assert run(made, TEXT) <= TOLERANCE["f32"]
    assert dnn.calls() == before + 1


def test_each_stream_has_a_handle_up_to_eight(dnn, monkeypatch):
    """The stand-in counts a handle of two streams as a mistake."""
    kernel, before = DeviceKernel(TEXT), dnn.handles()
    while kernel.run(1 << 22, 64) > 1 << 22:
        pass
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    calls = dnn.calls()
    assert kernel.run(1 << 22, 128) >= 0 and kernel.far() <= TOLERANCE["f32"]
    assert dnn.calls() == calls  # none is made for a stream that is captured
    monkeypatch.delenv("FAKE_CUDA_CAPTURING")
    for k in range(1, 11):
        kernel.out[...] = 0
        assert kernel.run(1 << 22, 64 * k) >= 0 and kernel.far() <= TOLERANCE["f32"]
        assert dnn.calls() - calls == min(k, 8)
    assert dnn.handles() - before == 9  # and one that calls are prepared with


def test_threads_share_a_handle_in_turns(dnn):
    made = [cuda_session(model_of(text)) for text in (TEXT, OTHER)]
    for session, text in zip(made, (TEXT, OTHER), strict=True):
        assert is_used(dnn, session, text)
    far: list[float] = []

    def go(session, text: str) -> None:
        far.extend(run(session, text) for _ in range(4))

    threads = [
        threading.Thread(target=go, args=(session, text))
        for session, text in zip(made * 2, (TEXT, OTHER) * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(far) == 16 and max(far) <= TOLERANCE["f32"]


def both() -> str:
    """Return a convolution, and a product that reads its result."""
    w = Writer("f32")
    a = w.value("load x (0, c, p + r - 1) else 0")
    dot = w.value(f"dot {a} {w.load('w (o, c, r)')} over c, r")
    w.store("t (0, o, p)", w.value(f"add {dot} {w.load('c (o)')}"))
    first = w.lines
    w = Writer("f32")
    w.store("y (p, j)", w.value(f"dot {w.load('t (0, o, p)')} {w.load('v (o, j)')} over o"))
    return program(
        "input x f32[1, 64, 72] order(0, 2, 1)", "input w f32[128, 64, 3] row",
        "input c f32[128] row", "input v f32[128, 128] row",
        "temp t f32[1, 128, 72] order(0, 2, 1)", "output y f32[72, 128] row",
        "stage o: 128, p: 72, c: 64, r: 3", first, "stage p: 72, j: 128, o: 128", w.lines,
    )  # fmt: skip


def test_each_library_makes_its_part_of_a_region(dnn, blas, fake):
    text = both()
    made = cuda_session(model_of(text))
    assert is_used(dnn, made, text) and is_used(blas, made, text)
    before = dnn.calls(), blas.calls(), fake.calls("launch")
    assert run(made, text) <= TOLERANCE["f32"]
    after = dnn.calls(), blas.calls(), fake.calls("launch")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 0]


def test_ptx_in_the_model_has_what_follows_a_call(dnn, monkeypatch):
    text = dataclasses.replace(CONV, rest="bias silu").text()
    made = model_of(text)
    ptx = make_ptx(text, [list(a.shape) for a in inputs_of(text).values()])
    assert "library_rest_" in ptx
    made.graph.node[0].attribute.add(name="ptx", type=3, s=ptx.encode())
    monkeypatch.setenv("ONNX_FUSION_NVRTC", "/nowhere/libnvrtc.so")
    assert is_used(dnn, cuda_session(made, trust_ptx=True), text)


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
from cuda_fake import cuda_session
from cuda_library import Library, model_of, run
from test_cuda_libraries import TEXT
import ctypes, os
driver = ctypes.CDLL(os.environ["ONNX_FUSION_LIBCUDA"])
made = cuda_session(model_of(TEXT))
assert run(made, TEXT) <= 4e-6
tried = driver.fake_cuda_calls(b"event")
print(tried > 0, Library(os.environ["ONNX_FUSION_CUDNN"], "cudnn").calls() > 0)
"""


def test_choices_are_kept_on_disk(dnn):
    script = SCRIPT.format(tests=str(Path(__file__).parent))

    def go(**more: str) -> str:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                              check=True, env={**os.environ, **more})  # fmt: skip
        return done.stdout.strip()

    assert go() == "True True"
    assert go() == "False True"
    assert go(FAKE_CUDNN_VERSION="99999") == "True True"  # another version is tried anew


def test_nothing_of_the_library_is_left(dnn):
    before = dnn.objects()
    made = cuda_session(model_of(TEXT))
    assert is_used(dnn, made, TEXT) and dnn.objects() > before
    del made
    assert dnn.objects() == before


RELOADED = """
import gc, os, sys
sys.path[:0] = [{tests!r}]
import onnxruntime
from cuda_library import Library, model_of, run
from test_cuda_libraries import both
text = both()
data = model_of(text).SerializeToString()
for _ in range(3):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("onnx_fusion.cuda", "1")
    options.add_session_config_entry("onnx_fusion.cuda_provider", "CPUExecutionProvider")
    options.register_custom_ops_library(os.environ["OWN"])
    made = onnxruntime.InferenceSession(data, options)
    assert [run(made, text) < 1e-5 for _ in range(2)] == [True, True]
    del made, options
    gc.collect()
for name in ("cublaslt", "cudnn"):
    print(Library(os.environ["ONNX_FUSION_" + name.upper()], name).handles())
"""


def test_handles_outlive_the_sessions(dnn, blas):
    """ONNX Runtime unloads the library with its last session."""
    script = RELOADED.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "OWN": get_library_path()}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.split() == ["1", "2"]
