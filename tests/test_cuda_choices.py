"""What is tried and chosen of what libraries offer: by offer, with little memory, and where one is
wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_fake import cuda_session
from cuda_library import (
    DeviceKernel,
    aligned,
    inputs_of,
    is_used,
    model_of,
    results,
    run,
)
from cuda_programs import TOLERANCE
from op_models import FLOAT, fused, model
from test_cuda_blas import K, M, dense
from test_cuda_libraries import CONV, OTHER, TEXT, both

HEAD = """tile_program 1
input x f32[1, 32, 12, 10] order(0, 2, 3, 1)
input w f32[32, 32, 3, 3] row
"""
PAIR = f"""{HEAD}input v f32[64, 32, 3, 3] row
output y f32[1, 32, 12, 10] order(0, 2, 3, 1)
output z f32[1, 64, 12, 10] order(0, 2, 3, 1)
stage o: 32, j: 64, p: 12, q: 10, c: 32, r: 3, s: 3
%0 = load x (0, c, p + r - 1, q + s - 1) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (0, o, p, q) %2
%3 = load v (j, c, r, s)
%4 = dot %0 %3 over c, r, s
store z (0, j, p, q) %4
"""
MIXED = f"""{HEAD}input a f32[128, 128] row
input b f32[128, 128] row
output y f32[1, 32, 12, 10] order(0, 2, 3, 1)
output z f32[128, 128] row
stage o: 32, p: 12, q: 10, c: 32, r: 3, s: 3, i: 128, j: 128, k: 128
%0 = load x (0, c, p + r - 1, q + s - 1) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (0, o, p, q) %2
%3 = load a (i, k)
%4 = load b (k, j)
%5 = dot %3 %4 over k
store z (i, j) %5
"""
"""Stages of two groups of stores, which are an offer each."""


SIDE = 96


def calls_of_a_run(made, text: str, *libraries) -> list[int]:
    """Return how often each library is called by a run, after two others."""
    for _ in range(2):
        assert run(made, text) <= TOLERANCE["f32"]
    before = [library.calls() for library in libraries]
    assert run(made, text) <= TOLERANCE["f32"]
    return [library.calls() - b for library, b in zip(libraries, before, strict=True)]


@pytest.mark.parametrize(
    ("entries", "calls"),
    [({}, [1, 1]), ({"cuda_dnn": "0"}, [1, 0]), ({"cuda_blas": "0"}, [0, 1])],
)
def test_offers_of_one_stage_have_their_own_makers(dnn, blas, entries, calls):
    before = blas.calls(), dnn.calls()
    assert calls_of_a_run(cuda_session(model_of(MIXED), **entries), MIXED, blas, dnn) == calls
    assert [blas.calls() > before[0], dnn.calls() > before[1]] == [c > 0 for c in calls]


def test_of_one_stage_a_library_may_make_one_offer_and_not_the_other(dnn, blas, monkeypatch):
    assert calls_of_a_run(cuda_session(model_of(PAIR)), PAIR, dnn) == [2]
    monkeypatch.setenv("FAKE_CUDNN_WRONG", "1")
    assert calls_of_a_run(cuda_session(model_of(MIXED)), MIXED, blas, dnn) == [1, 0]


def cancelling(text: str) -> dict[str, np.ndarray]:
    """Return inputs whose channels cancel each other but for a millionth."""
    rng = np.random.default_rng(0)
    feed = inputs_of(text)
    x = rng.standard_normal(feed["x"].shape).astype("f")
    near = 1 + 1e-6 * rng.standard_normal(x[..., ::2].shape)
    x[..., 1::2] = x[..., ::2] * near.astype("f")
    feed["x"] = x
    feed["w"][:, 1::2] = -feed["w"][:, ::2]
    feed["c"][...] = 0
    return feed


def test_sums_that_cancel_leave_one_offer_to_our_kernel(dnn, capfd):
    made = cuda_session(model_of(TEXT))
    results(made, TEXT, cancelling(TEXT))
    told = capfd.readouterr().err
    assert (
        "something else than our kernel on a stand-in for a convolution of sizes 1, 1, 32" in told
    )
    assert "not used any more" not in told
    before = dnn.calls()
    for one in (made, cuda_session(model_of(TEXT))):  # remembered so
        assert not is_used(dnn, one, TEXT)
    assert dnn.calls() == before
    assert is_used(dnn, cuda_session(model_of(OTHER)), OTHER)


def test_a_library_that_is_wrong_leaves_the_other(dnn, blas, monkeypatch):
    monkeypatch.setenv("FAKE_CUDNN_WRONG", "1")
    text = both()
    made = cuda_session(model_of(text))
    assert is_used(blas, made, text) and not is_used(dnn, made, text)
    before = dnn.calls()
    again = cuda_session(model_of(text))  # remembered so
    assert is_used(blas, again, text) and dnn.calls() == before


def test_a_library_that_is_mostly_wrong_is_not_used_any_more(dnn, monkeypatch, capfd):
    settled = cuda_session(model_of(OTHER))
    assert is_used(dnn, settled, OTHER)
    monkeypatch.setenv("FAKE_CUDNN_WRONG", "1")
    for images in (1, 2, 3, 4):
        text = dataclasses.replace(CONV, images=images).text()
        assert not is_used(dnn, cuda_session(model_of(text)), text)
    assert capfd.readouterr().err.count("is not used any more by this process") == 1
    monkeypatch.delenv("FAKE_CUDNN_WRONG")
    before = dnn.calls()
    assert run(settled, OTHER) <= TOLERANCE["f32"]
    other = dataclasses.replace(CONV, rest="").text()
    assert not is_used(dnn, cuda_session(model_of(other)), other) and dnn.calls() == before


@pytest.mark.parametrize("change", [{"strict": True}, {"w": "last"}])
def test_what_decides_about_speed_is_in_the_key(dnn, fake, monkeypatch, change):
    assert is_used(dnn, cuda_session(model_of(OTHER)), OTHER)
    text = dataclasses.replace(CONV, rest="bias", **change).text()
    monkeypatch.setenv("FAKE_CUDNN_STRICT", str(int("strict" in change)))
    before = fake.calls("event")
    assert is_used(dnn, cuda_session(model_of(text)), text) and fake.calls("event") > before


def test_a_call_has_the_workspace_that_its_plan_needs(dnn, monkeypatch):
    kernel = DeviceKernel(TEXT)
    needed = [kernel.run(1 << 20) for _ in range(2)]
    assert dnn.calls() > 0 and max(needed) == 1024 and kernel.far() <= TOLERANCE["f32"]
    monkeypatch.setenv("FAKE_CUDNN_MS", "40")
    slow = DeviceKernel(dataclasses.replace(CONV, images=2).text())
    assert [slow.run(1 << 20) for _ in range(2)] == [0, 0]


def test_a_trial_without_memory_ends(dnn):
    kernel = DeviceKernel(TEXT)
    assert [kernel.run(0) for _ in range(10)] == [1024] * 8 + [0, 0]
    assert kernel.far() <= TOLERANCE["f32"]
    other = DeviceKernel(TEXT)  # nothing was settled for good
    assert other.run(1024) == 1024 and other.far() <= TOLERANCE["f32"]


SCRIPT = """
import os, sys
sys.path[:0] = [{tests!r}]
import onnxruntime as ort
from cuda_fake import cuda_session
from cuda_library import Library, model_of, run
from onnx_fusion.runtime.session import CUDA_PROVIDER, session
from test_cuda_libraries import TEXT

kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(memory, ort.OrtArenaCfg({{"max_mem": int(sys.argv[1])}}))
assert run(cuda_session(model_of(TEXT)), TEXT) <= 4e-6
options = ort.SessionOptions()
options.log_severity_level = 4
options.add_session_config_entry(CUDA_PROVIDER, "CPUExecutionProvider")
options.add_session_config_entry("session.use_env_allocators", "1")
made = session(model_of(TEXT), options=options)
dnn = Library(os.environ["ONNX_FUSION_CUDNN"], "cudnn")
before = dnn.calls()
assert run(made, TEXT) <= 4e-6
print(dnn.calls() - before)
"""


@pytest.mark.parametrize(("megabytes", "calls"), [(100, "1"), (16, "0")])
def test_a_choice_that_there_is_no_memory_for_is_our_kernel(dnn, monkeypatch, megabytes, calls):
    monkeypatch.setenv("FAKE_CUDNN_WORKSPACE", str(30 << 20))
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(megabytes << 20)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, calls), done.stderr


def test_what_a_graph_may_have_recorded_is_not_unloaded(blas, fake, monkeypatch):
    """Of a node, 64 signatures are known at a time."""
    text = dense("f32", "nn", "bias").replace(str(M), "R").replace(str(K), str(SIDE))
    shapes = {"x": (FLOAT, ["R", SIDE]), "w": (FLOAT, [SIDE] * 2), "c": (FLOAT, [SIDE]),
              "r": (FLOAT, ["R", SIDE])}  # fmt: skip
    made = cuda_session(model([fused(list(shapes), ["y"], text)], shapes, {"y": (FLOAT, None)}))

    def go(rows: int) -> None:
        feed = {"x": (rows, SIDE), "w": (SIDE, SIDE), "c": (SIDE,), "r": (rows, SIDE)}
        binding, kept = made.io_binding(), {k: aligned(np.ones(s, "f")) for k, s in feed.items()}
        kept["x"][...] = np.arange(rows)[:, None]
        for name, array in kept.items():
            binding.bind_input(name, "cpu", 0, FLOAT, array.shape, array.ctypes.data)
        out = aligned(np.empty((rows, SIDE), "f"))
        binding.bind_output("y", "cpu", 0, FLOAT, out.shape, out.ctypes.data)
        made.run_with_iobinding(binding)
        assert (out == np.arange(rows)[:, None] * SIDE + 1).all()

    go(120)
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    calls = blas.calls()
    go(120)
    assert blas.calls() == calls + 1
    monkeypatch.delenv("FAKE_CUDA_CAPTURING")
    objects, unloads = blas.objects(), fake.calls("unload")
    for rows in range(1, 66):  # too small for a trial
        go(rows)
    assert blas.objects() == objects > 0 and fake.calls("unload") == unloads


def test_what_is_forced_is_a_call_or_an_error(dnn, monkeypatch):
    """As scripts/gpu_check.py asks for it."""
    kernel, before = DeviceKernel(TEXT, forced=True), dnn.calls()
    assert kernel.run(1024) == 1024 and kernel.far() <= TOLERANCE["f32"]
    assert dnn.calls() == before + 1
    monkeypatch.setenv("FAKE_CUDNN_FAILS", "1")
    assert kernel.run(1024) == -1 and b"CUDNN_STATUS_EXECUTION_FAILED" in kernel.error.value
    monkeypatch.setenv("FAKE_CUDNN_ENGINES", "0")
    with pytest.raises(ValueError, match="no library has such an algorithm"):
        DeviceKernel(OTHER, forced=True)
    with pytest.raises(ValueError, match="nothing is offered"):
        DeviceKernel(dataclasses.replace(CONV, dtype="f16", rest="silu").text(), forced=True)
